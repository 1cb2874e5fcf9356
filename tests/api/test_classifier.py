"""`sot_nlp.load`: what a saved model says from Python is what its commands say."""

import csv
import json
import math
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

import sot_nlp
from sot_nlp import records
from sot_nlp.api.classifier import _TURN
from sot_nlp.cli import main
from tests.support.saved_runs import LABELS, TEXTS, save_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def classifier(folder):
    return sot_nlp.load(folder)


def test_it_predicts_what_the_command_predicts(classifier, folder, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS) + "\n")
    out = tmp_path / "out.csv"
    assert main(["predict", str(folder), "--file", str(tmp_path / "texts.txt"), "-o", str(out)]) == 0
    with out.open() as file:
        rows = list(csv.DictReader(file))
    predictions = classifier.predict(TEXTS)
    assert predictions.labels == [row["label"] for row in rows]
    expected = [[float(row[f"probability_{name}"]) for name in LABELS] for row in rows]
    np.testing.assert_allclose(predictions.probabilities, expected, atol=1e-6)
    assert len(set(predictions.labels)) > 1
    assert predictions[0].label == rows[0]["label"]
    assert list(predictions[0].probabilities) == list(LABELS)
    assert [p.label for p in predictions[1:3]] == predictions.labels[1:3]


def test_order_and_batch_size_change_nothing(classifier):
    whole = classifier.predict(TEXTS)
    single = classifier.predict(TEXTS[::-1], batch_size=1)
    np.testing.assert_allclose(whole.probabilities, single.probabilities[::-1], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("predict_proba", r"has no 'predict_proba': predict\(texts\)\.probabilities"),
        ("score", r"evaluate\(\(texts, labels\)\)"),
        ("save_pretrained", "sot-nlp push FOLDER"),
        ("nonsense", "has no 'nonsense'$"),
    ],
)
def test_names_of_other_libraries_are_answered(classifier, name, hint):
    assert not hasattr(classifier, name)
    with pytest.raises(AttributeError, match=hint):
        getattr(classifier, name)


def test_threads_take_turns(classifier):
    """A server answers requests at once: texts that are cut among others, explained and predicted."""
    requests = [TEXTS[:3], [" ".join(TEXTS) * 5]] * 6
    cut, whole = classifier.predict(requests[1]), classifier.predict(requests[0])
    scores = classifier.explain(requests[0])[0].scores

    def answer(texts):
        np.testing.assert_allclose(classifier.explain(requests[0])[0].scores, scores, atol=1e-5)
        return classifier.predict(texts)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(answer, requests))
    assert cut.cut == 1
    for number, predictions in enumerate(answers):
        expected = cut if number % 2 else whole
        assert predictions.cut == expected.cut
        np.testing.assert_allclose(predictions.probabilities, expected.probabilities, atol=1e-6)


def test_open_classifiers_keep_their_precision_whatever_is_opened_after(tmp_path):
    folder = save_run(tmp_path / "run")
    AcceleratorState._reset_state()  # as in a process that has had no accelerator
    single = sot_nlp.load(folder, mixed_precision="no", cpu=True)
    before = single.predict(TEXTS).probabilities, single.explain(TEXTS)[0].logits
    half = sot_nlp.load(folder, mixed_precision="bf16", cpu=True)
    with pytest.raises(sot_nlp.UserError, match="a CPU has no fp16"):
        sot_nlp.load(folder, mixed_precision="fp16", cpu=True)
    for _ in range(2):
        np.testing.assert_array_equal(single.predict(TEXTS).probabilities, before[0])
        np.testing.assert_array_equal(single.explain(TEXTS)[0].logits, before[1])
        assert abs(half.predict(TEXTS).probabilities - before[0]).max() > 1e-7  # rounded to bf16
        assert abs(half.explain(TEXTS)[0].logits - before[1]).max() > 1e-7
        single.evaluate((TEXTS, [LABELS[0]] * len(TEXTS)))  # which has an accelerator of its own
        assert AcceleratorState._shared_state == {}
    mine = Accelerator(mixed_precision="bf16", cpu=True)  # a Trainer's, or a loop's of one's own
    sot_nlp.load(folder, mixed_precision="no", cpu=True)
    assert mine.mixed_precision == AcceleratorState().mixed_precision == "bf16"


def test_evaluations_take_turns_with_predictions(classifier, monkeypatch):
    def evaluate(arguments):
        with ThreadPoolExecutor(1) as other:
            assert not other.submit(_TURN.acquire, blocking=False).result()
        return {"validation": {"loss": 0.5}}

    monkeypatch.setattr("sot_nlp.inference.evaluate.evaluate_saved", evaluate)
    assert classifier.evaluate((TEXTS, [LABELS[0]] * len(TEXTS))) == {"loss": 0.5}
    with ThreadPoolExecutor(1) as other:  # and the turn is over
        assert other.submit(classifier.predict, TEXTS).result().labels


def test_a_table_and_a_notebook_show_them(classifier):
    predictions = classifier.predict(["<b>zorp</b>", "wug"])
    frame = predictions.to_pandas()
    assert list(frame.columns) == ["text", "label", *(f"probability_{name}" for name in LABELS)]
    assert frame["label"].tolist() == predictions.labels
    shown = predictions._repr_html_()
    assert "&lt;b&gt;zorp" in shown
    assert "<b>" not in shown


def test_pairs_several_labels_and_scores(tmp_path):
    pairs = sot_nlp.load(save_run(tmp_path / "pairs", text_columns=("a", "b")))
    assert pairs.predict([("wug", "dax")]).labels == pairs.predict(["wug"], ["dax"]).labels
    with pytest.raises(sot_nlp.UserError, match="trained on 2 text"):
        pairs.predict(["wug"])
    several = sot_nlp.load(save_run(tmp_path / "several", problem_type="multi_label_classification"))
    predicted = several.predict(TEXTS)
    for labels, row in zip(predicted.labels, predicted.probabilities, strict=True):
        assert labels == [name for name, share in zip(LABELS, row, strict=True) if share > 0.5]
    scores = sot_nlp.load(save_run(tmp_path / "scores", labels=None, problem_type="regression"))
    predicted = scores.predict(TEXTS)
    assert predicted.probabilities is None
    assert all(isinstance(label, float) for label in predicted.labels)


def test_explanations_sum_to_the_logits(classifier):
    first, second = classifier.explain(TEXTS[:2])
    for explanation in (first, second):
        total = explanation.scores.sum(0) + explanation.class_token + explanation.base
        np.testing.assert_allclose(total, explanation.logits, atol=1e-5)
    assert classifier.labels[first.predicted] == classifier.predict(TEXTS[:1]).labels[0]
    with pytest.raises(sot_nlp.UserError, match="method='exakt': did you mean exact"):
        classifier.explain(TEXTS[:1], method="exakt")


def test_evaluation_counts_what_is_right(classifier, tmp_path):
    predicted = classifier.predict(TEXTS).labels
    rows = [{"text": text, "label": label} for text, label in zip(TEXTS, predicted, strict=True)]
    assert classifier.evaluate(rows)["accuracy"] == 1.0
    wrong = [{**row, "label": LABELS[(LABELS.index(row["label"]) + 1) % 3]} for row in rows]
    assert classifier.evaluate([*rows[:-5], *wrong[-5:]])["accuracy"] == pytest.approx(1 - 5 / len(rows))


def test_lists_need_no_names_of_columns(tmp_path):
    folder = save_run(tmp_path / "run", text_columns=("premise", "claim"))
    record = records.read(folder)
    record["task_spec"]["label_column"] = "verdict"
    records.write(folder, record)
    classifier = sot_nlp.load(folder)
    pairs = list(zip(TEXTS, TEXTS[::-1], strict=True))
    scores = classifier.evaluate((pairs, classifier.predict(pairs).labels))
    assert scores["accuracy"] == 1


def test_outputs_that_are_no_numbers_are_no_predictions(folder, tmp_path, capsys):
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.word_output.bias"][1] = math.nan
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    (tmp_path / "a.csv").write_text("text,label\na zorp,no\na wug,yes\n")
    page = ["explain", str(broken), "--text", "a zorp"]
    predict = ["predict", str(broken), "--file", str(tmp_path / "a.csv"), "--output", str(tmp_path / "o.csv")]
    evaluate = ["evaluate", str(broken), "--validation_file", str(tmp_path / "a.csv")]
    for words in (page, predict, evaluate):
        assert main(words) == 2
        assert "the model's output for example 1 is not a finite number" in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()


@pytest.mark.parametrize("size", [0, -1, 1.5, "8"])
def test_a_batch_has_whole_examples(classifier, size):
    with pytest.raises(sot_nlp.UserError, match=r"batch_size=.*: must be a whole number, at least 1"):
        classifier.predict(TEXTS, batch_size=size)


def test_what_is_no_classifier_is_refused(tmp_path, backbone_folder):
    with pytest.raises(sot_nlp.UserError, match="no such folder"):
        sot_nlp.load(tmp_path / "nowhere")
    with pytest.raises(sot_nlp.UserError, match=r"no config\.json"):
        sot_nlp.load(tmp_path)
    with pytest.raises(sot_nlp.UserError, match="not a SoT classifier"):
        sot_nlp.load(backbone_folder("bert"))
    with pytest.raises(sot_nlp.UserError, match="mixed_precision"):
        sot_nlp.load(save_run(tmp_path / "run"), mixed_precision="bf15")
    for value, kind in ((123, "int"), (None, "NoneType"), (b"run", "bytes")):
        message = f"^name_or_path: expected the folder of a run or a name on the Hub; got {kind}$"
        with pytest.raises(sot_nlp.UserError, match=message):
            sot_nlp.load(value)


def test_the_record_of_a_run_evaluates_again(tmp_path, backbone_folder):
    data = [{"text": text, "label": str(len(text) % 2)} for text in TEXTS * 2]
    run = sot_nlp.train(
        data,
        model_name_or_path=str(backbone_folder("bert")),
        output_dir=tmp_path / "out",
        cache_dir=tmp_path / "cache",
        max_length=16,
        num_train_epochs=1,
        disable_tqdm=True,
    )
    again = sot_nlp.load(run.folder).evaluate()
    assert again == pytest.approx(run.scores, abs=1e-6)
    assert json.loads((run.folder / "record.json").read_text())["status"] == "finished"
