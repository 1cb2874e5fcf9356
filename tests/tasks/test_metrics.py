import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest

from sot_nlp.errors import UserError
from sot_nlp.tasks import metric_modules
from sot_nlp.tasks.metrics import (
    METRICS,
    compute,
    default_metrics,
    higher_is_better,
    register_metric,
    traits,
)
from sot_nlp.tasks.spec import read_task

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
        probabilities = [[1.0 - probability, probability] for probability in predictions]
        value = compute(name, predictions, references, probabilities=probabilities)[name]
    assert type(value) is float
    json.dumps(value, allow_nan=False)
    if name in ("matthews_correlation", "pearson", "spearman"):
        assert value == METRICS[name].no_skill == 0.0


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
        ("accuracy", [[1, 0]], [[1, 0]], "one value per example"),
        ("micro_f1", [[1, 0], [1]], [[1, 0], [1, 0]], "same count"),
        ("micro_f1", [[2, 0]], [[1, 0]], "0 or 1 per label"),
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


@pytest.fixture
def own():
    """Registers metrics that are gone after the test."""
    before = dict(METRICS)
    yield register_metric
    METRICS.clear()
    METRICS.update(before)


def example(name):
    """Predictions that the metric takes: probabilities for those that read them."""
    if METRICS[name].reads == "probabilities":
        return [[0.25, 0.75] if label else [0.5, 0.5] for label in PREDICTIONS]
    return PREDICTIONS


def test_errors_by_hand():
    scores = compute(["mse", "rmse", "mae"], [1, 2, 5], [1, 4, 4])
    assert scores == {
        "mse": pytest.approx(5 / 3),
        "rmse": pytest.approx(math.sqrt(5 / 3)),
        "mae": pytest.approx(1),
    }
    assert not any(higher_is_better(name) for name in scores)
    loss = compute("log_loss", [0, 1], [0, 1], probabilities=[[0.5, 0.5], [0.75, 0.25]])["log_loss"]
    assert loss == pytest.approx((math.log(2) + math.log(4)) / 2)
    certain = compute("log_loss", [0], [1], probabilities=[[1.0, 0.0]])["log_loss"]
    assert certain == pytest.approx(15 * math.log(10))


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (None, "probability of each class"),
        ([0.5, 0.5], "probability of each class"),
        ([[0.5, 0.5]], "shape"),
        ([[1.0], [1.0]], "shape"),
        ([[0.5, math.nan], [0.5, 0.5]], "within 0 to 1"),
        ([[1.5, 0], [0.5, 0.5]], "within 0 to 1"),
    ],
)
def test_probabilities_that_cannot_be_scored_are_refused(probabilities, message):
    with pytest.raises(UserError, match=message):
        compute("log_loss", [0, 1], [0, 1], probabilities=probabilities)


def test_an_own_metric_is_named_by_a_task_and_computed(own, tmp_path):
    own("cost", lambda p, r: 10 * float((p != r).mean()), kinds="classification", higher_is_better=False)
    path = tmp_path / "mine.yaml"
    path.write_text("text_columns: [a]\nlabel_column: b\nmetrics: [cost, accuracy]\nfiles: {train: x.csv}")
    spec = read_task(path)
    assert (spec.main_metric, higher_is_better(spec.main_metric)) == ("cost", False)
    expected = {"cost": pytest.approx(3), "accuracy": 0.7}
    assert compute(spec.metrics, PREDICTIONS, REFERENCES) == expected
    assert metric_modules.compute(spec.metrics, PREDICTIONS, REFERENCES) == expected
    assert traits("cost").times == 1
    # A later definition, as in a notebook, takes its place.
    own("cost", lambda p, r: 1.0, kinds="classification")
    assert metric_modules.compute(["cost"], PREDICTIONS, REFERENCES) == {"cost": 1.0}
    assert higher_is_better("cost")


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("accuracy", {}, "of that name exists"),
        ("loss", {}, "none of loss"),
        ("a b", {}, "letters"),
        ("x", {"kinds": "classfication"}, "did you mean classification"),
        ("x", {"kinds": ()}, "at least one kind"),
        ("x", {"reads": "logits"}, "probabilities"),
        ("x", {"kinds": "regression", "reads": "probabilities"}, "probabilities"),
    ],
)
def test_what_cannot_be_registered_is_refused(own, name, given, message):
    with pytest.raises(UserError, match=message):
        own(name, lambda p, r: 0.0, **{"kinds": "classification", **given})
    assert name not in METRICS or METRICS[name].title == "Accuracy"


def test_an_own_metric_that_returns_no_number_is_refused(own):
    own("x", lambda p, r: [1, 2], kinds="classification")
    with pytest.raises(UserError, match="expected a number"):
        compute("x", [1], [1])


def test_traits_of_a_metric_that_is_not_registered_here_come_from_the_record():
    kept = {"title": "Cost", "higher_is_better": False, "times": 1}
    record = {"main_metric": "cost", "main_metric_traits": kept}
    assert traits("cost", record).to_dict() == kept
    assert traits("accuracy", {}).to_dict() == {"title": "Accuracy", "higher_is_better": True, "times": 100}
    assert traits("cost").higher_is_better


@pytest.mark.parametrize("name", METRICS)
def test_an_evaluate_module_gives_what_compute_gives_under_its_name(name, tmp_path, monkeypatch):
    # Nothing is written: not even where the cache would be.
    monkeypatch.setattr(metric_modules.evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    module = metric_modules.module(name)
    assert module.name == name
    given = example(name)
    result = module.compute(predictions=given, references=REFERENCES)
    assert result == compute(name, given, REFERENCES, probabilities=given)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", ["micro_f1", "macro_f1"])
def test_an_evaluate_module_takes_several_labels_per_example(name):
    predictions, references = [[1, 0], [1, 1]], [[1, 0], [0, 1]]
    result = metric_modules.module(name).compute(predictions=predictions, references=references)
    assert result == compute(name, predictions, references)


def test_evaluate_modules_combine_over_batches(tmp_path):
    import evaluate

    names = ["matthews_correlation", "accuracy"]
    both = evaluate.combine([metric_modules.module(name, cache_dir=str(tmp_path)) for name in names])
    for start in range(0, 10, 4):
        part = slice(start, start + 4)
        both.add_batch(predictions=PREDICTIONS[part], references=REFERENCES[part])
    assert both.compute() == compute(names, PREDICTIONS, REFERENCES)
