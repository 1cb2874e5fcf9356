import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from sot_nlp.errors import UserError
from sot_nlp.tasks.metrics import METRICS, compute, default_metrics, higher_is_better

# 3 true positives, 1 false positive, 2 false negatives, 4 true negatives.
REFERENCES = [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]
PREDICTIONS = [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]


def test_binary_scores_by_hand():
    scores = compute(["matthews_correlation", "accuracy", "f1"], PREDICTIONS, REFERENCES)
    assert list(scores) == ["matthews_correlation", "accuracy", "f1"]
    assert scores["matthews_correlation"] == pytest.approx((3 * 4 - 1 * 2) / math.sqrt(4 * 5 * 5 * 6))
    assert scores["accuracy"] == 0.7
    assert scores["f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 2))


def test_correlations_by_hand():
    # Deviations of x: -2 -1 0 1 2, of y: -1.2 -0.2 -2.2 0.8 2.8; ranks of y: 2 3 1 4 5.
    scores = compute(["pearson", "spearman"], [1, 2, 3, 4, 5], [2, 3, 1, 4, 6])
    assert scores["pearson"] == pytest.approx(9 / math.sqrt(10 * 14.8))
    assert scores["spearman"] == pytest.approx(1 - 6 * (1 + 1 + 4) / (5 * 24))


def test_macro_and_micro_f1_of_three_classes_by_hand():
    # Class 0: 2 right of 2 predicted and 3 there; class 1: 1 of 2 and 2; class 2: 1 of 2 and 1.
    scores = compute(["macro_f1", "micro_f1"], [0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 2])
    assert scores["macro_f1"] == pytest.approx((4 / 5 + 2 / 4 + 2 / 3) / 3)
    assert scores["micro_f1"] == pytest.approx(4 / 6)


def test_macro_and_micro_f1_of_several_labels_by_hand():
    predictions = [[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]]
    references = [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 1, 0]]
    scores = compute(["micro_f1", "macro_f1"], predictions, references)
    assert scores["micro_f1"] == pytest.approx(2 * 3 / (2 * 3 + 1 + 1))
    assert scores["macro_f1"] == pytest.approx((2 / 4 + 1 + 0) / 3)  # the third label never occurs: 0


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_matthews_is_the_covariance_of_one_hot_classes(classes):
    rng = np.random.default_rng(classes)
    references = rng.integers(classes, size=400)
    predictions = np.where(rng.random(400) < 0.4, references, rng.integers(classes, size=400))
    p, r = np.eye(classes)[predictions], np.eye(classes)[references]
    p, r = p - p.mean(0), r - r.mean(0)
    expected = (p * r).sum() / math.sqrt((p * p).sum() * (r * r).sum())
    assert compute("matthews_correlation", predictions, references)["matthews_correlation"] == pytest.approx(
        expected, abs=1e-12
    )


def test_spearman_is_the_pearson_of_mean_ranks():
    rng = np.random.default_rng(1)
    x, y = rng.integers(6, size=200).astype(np.float32), rng.normal(size=200).astype(np.float32)
    ranks = [np.array([(v < a).sum() + (v == a).sum() / 2 for a in v]) for v in (x, y)]
    expected = np.corrcoef(*ranks)[0, 1]
    assert compute("spearman", x, y)["spearman"] == pytest.approx(expected, abs=1e-12)
    assert compute("pearson", x, y)["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-6)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize(
    ("predictions", "references"),
    [
        ([1, 1, 1], [0, 1, 1]),
        ([0, 1, 1], [1, 1, 1]),
        ([1, 1], [1, 1]),
        ([0, 0], [1, 1]),
        ([1], [1]),
        ([0], [0]),
    ],
)
def test_constant_sides_give_finite_scores_without_a_warning(name, predictions, references):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value = compute(name, predictions, references)[name]
    assert type(value) is float
    json.dumps(value, allow_nan=False)
    if name in ("matthews_correlation", "pearson", "spearman"):
        assert value == 0.0


def test_sides_that_vary_by_less_than_rounding_give_a_finite_correlation():
    predictions = np.array([2.5, 2.5, np.nextafter(2.5, 3)])
    assert -1 <= compute("pearson", predictions, [1, 2, 3])["pearson"] <= 1
    tiny = np.array([0, 1e-320, 2e-320])
    assert math.isfinite(compute("pearson", tiny, [1, 2, 3])["pearson"])


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("accuracy", [], [], "no examples"),
        ("pearson", np.zeros(0), np.zeros(0), "no examples"),
        ("accuracy", [1, 0], [1], "shape"),
        ("pearson", [1.0, math.nan], [1, 2], "predictions 1 is nan"),
        ("pearson", [1.0, 2.0], [math.inf, 2], "references 0 is inf"),
        ("accuracy", [0.5, 1], [0, 1], "predictions 0 is 0.5"),
        ("accuracy", [1, -1], [0, 1], "predictions 1 is -1"),
        ("accuracy", ["a"], ["a"], "must be numbers"),
        ("accuracy", [[1, 0]], [[1, 0]], "one value for each example"),
        ("micro_f1", [[1, 0], [1]], [[1, 0], [1, 0]], "same count"),
        ("micro_f1", [[2, 0]], [[1, 0]], "0 or 1 for each label"),
        ("f1", [0, 2], [0, 1], "use macro_f1"),
        ("acuracy", [0], [0], "did you mean accuracy"),
    ],
)
def test_what_cannot_be_scored_is_refused(name, predictions, references, message):
    with pytest.raises(UserError, match=message):
        compute([name], predictions, references)


def test_which_way_is_better():
    assert higher_is_better("matthews_correlation")
    assert not higher_is_better("loss")
    with pytest.raises(UserError, match="did you mean f1"):
        higher_is_better("f2")


@pytest.mark.parametrize("kind", ["classification", "regression", "multi_label"])
def test_the_default_metrics_are_of_their_kind(kind):
    assert all(kind in METRICS[name].kinds for name in default_metrics(kind))


def test_importing_the_metrics_imports_no_heavy_library():
    code = "import sys, sot_nlp.tasks.metrics, sot_nlp.tasks.spec; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "torch",
        "transformers",
        "datasets",
        "evaluate",
        "sklearn",
        "scipy",
        "numpy",
    }


@pytest.fixture(scope="module")
def modules():
    from sot_nlp.tasks import metric_modules

    found = vars(metric_modules).values()
    return {c.metric: c for c in found if isinstance(c, type) and hasattr(c, "metric")}


@pytest.mark.parametrize("name", METRICS)
def test_an_evaluate_module_gives_what_compute_gives_under_its_name(modules, name, tmp_path):
    module = modules[name](cache_dir=str(tmp_path))
    assert module.name == name
    result = module.compute(predictions=PREDICTIONS, references=REFERENCES)
    assert result == compute(name, PREDICTIONS, REFERENCES)


@pytest.mark.parametrize("name", ["micro_f1", "macro_f1"])
def test_an_evaluate_module_takes_several_labels_an_example(modules, name, tmp_path):
    predictions, references = [[1, 0], [1, 1]], [[1, 0], [0, 1]]
    result = modules[name](cache_dir=str(tmp_path)).compute(predictions=predictions, references=references)
    assert result == compute(name, predictions, references)


def test_evaluate_modules_combine_over_batches(modules, tmp_path):
    import evaluate

    names = ["matthews_correlation", "accuracy"]
    both = evaluate.combine([modules[name](cache_dir=str(tmp_path)) for name in names])
    for start in range(0, 10, 4):
        part = slice(start, start + 4)
        both.add_batch(predictions=PREDICTIONS[part], references=REFERENCES[part])
    assert both.compute() == compute(names, PREDICTIONS, REFERENCES)
