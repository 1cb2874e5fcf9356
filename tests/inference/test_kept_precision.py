"""evaluate, predict and explain compute in the precision of the training, and so give its scores again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sot_nlp
from sot_nlp import records
from sot_nlp.cli import main
from sot_nlp.runs.scoring import shortest
from sot_nlp.settings import launcher
from sot_nlp.training.speed import precision
from sot_nlp.training.speed.precision import as_trained
from tests.support import tiny

QUICK = "--max_train_steps 12 --learning_rate 3e-3 --cpu --mixed_precision bf16 --disable_tqdm"


@pytest.fixture(scope="module")
def run(backbone_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in bf16 on own data, with its validation file beside it."""
    folder = tmp_path_factory.mktemp("kept")
    for name, seed in (("train", 1), ("dev", 2)):
        texts = tiny.sentences(40, seed=seed, low=3)
        lines = [f"{text},{'good' if text < 'p' else 'bad'}" for text in texts]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    words = (
        f"train --model_name_or_path {backbone_folder('bert')} --output_dir {folder / 'run'} --train_file "
        f"{folder / 'train.csv'} --validation_file {folder / 'dev.csv'} --cache_dir {folder / 'cache'} "
        + QUICK
    )
    assert main(words.split()) == 0
    return folder / "run"


def probabilities(path: Path) -> np.ndarray:
    return np.array([row["probabilities"] for row in json.loads(path.read_text())])


def test_evaluate_gives_the_runs_predictions_again(run, tmp_path, capsys):
    expected = probabilities(run / "predictions.json")
    command = ["evaluate", str(run), "--cpu", "--disable_tqdm", "--output_dir"]
    assert main([*command, str(tmp_path / "same")]) == 0
    assert "precision bf16, as in training (--mixed_precision overrides it)" in capsys.readouterr().out
    assert np.array_equal(probabilities(tmp_path / "same/predictions.json"), expected)
    assert main([*command, str(tmp_path / "other"), "--mixed_precision", "no"]) == 0
    assert "as in training" not in capsys.readouterr().out
    assert not np.array_equal(probabilities(tmp_path / "other/predictions.json"), expected)
    assert records.read(tmp_path / "other")["environment"]["mixed_precision"] == "no"


@pytest.mark.parametrize(("bf16_units", "mode"), [(False, "no"), (True, "bf16")])
def test_a_precision_that_is_not_here_is_replaced_in_words(
    run, tmp_path, capsys, monkeypatch, bf16_units, mode
):
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: bf16_units)
    monkeypatch.setattr(precision, "bf16_problem", lambda: None)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    record = records.read(run)
    records.write(other, record | {"environment": record["environment"] | {"mixed_precision": "fp16"}})
    line = f"precision {mode}, for the training's fp16 does not run here: scores may differ slightly"
    assert main(["evaluate", str(other), "--cpu", "--disable_tqdm"]) == 0
    assert line in capsys.readouterr().out
    file = str(run.parent / "dev.csv")
    assert main(["predict", str(other), "--cpu", "--file", file, "-o", str(tmp_path / "o.csv")]) == 0
    assert f"; {line}" in capsys.readouterr().err
    assert main(["explain", str(other), "--text", "the zorp runs ."]) == 0
    # (an explanation is in fp32 where it can't be in the training's)
    assert f"other: {line.replace(mode, 'no', 1)}" in capsys.readouterr().err


def test_predict_and_explain_compute_as_the_training_did(run, tmp_path, capsys):
    expected = probabilities(run / "predictions.json")
    file = str(run.parent / "dev.csv")
    by_mode = {}
    for mode in ("auto", "no"):
        output = tmp_path / f"{mode}.jsonl"
        words = ["predict", str(run), "--file", file, "--output", str(output), "--mixed_precision", mode]
        assert main([*words, "--cpu"]) == 0
        assert ("; precision bf16, as in training" in capsys.readouterr().err) == (mode == "auto")
        rows = [json.loads(line)["probabilities"] for line in output.read_text().splitlines()]
        by_mode[mode] = np.array([list(row.values()) for row in rows])
    np.testing.assert_allclose(by_mode["auto"], expected, atol=1e-6)
    assert np.abs(by_mode["no"] - expected).max() > 1e-5
    for mode in ("auto", "no"):
        output = tmp_path / f"{mode}.json"
        words = ["explain", str(run), "--file", file, "--json", str(output), "--mixed_precision", mode]
        assert main(words) == 0
        assert ("run: precision bf16, as in training" in capsys.readouterr().err) == (mode == "auto")
        logits = torch.tensor([text["logits"] for text in json.loads(output.read_text())])
        # One by one, so that bf16's rounding differs from that of predict's batches.
        shares = logits.double().softmax(-1).numpy()
        other = "no" if mode == "auto" else "auto"
        assert np.abs(shares - by_mode[mode]).mean() < np.abs(shares - by_mode[other]).mean() / 4


def test_python_computes_as_the_training_did(run):
    expected = probabilities(run / "predictions.json")
    lines = (run.parent / "dev.csv").read_text().splitlines()[1:]
    texts = [line.rpartition(",")[0] for line in lines]
    by_mode = {}
    for mode in (None, "no"):
        classifier = sot_nlp.load(run, mixed_precision=mode, cpu=True)
        shares = by_mode[mode] = classifier.predict(texts).probabilities
        logits = torch.tensor(np.array([explanation.logits for explanation in classifier.explain(texts)]))
        assert np.abs(logits.double().softmax(-1).numpy() - shares).max() < (0.03 if mode is None else 1e-5)
    np.testing.assert_allclose(by_mode[None], expected, atol=1e-6)
    assert np.abs(by_mode["no"] - expected).max() > 1e-5
    record = records.read(run)
    (kept,) = (e["loss"] for e in record["evaluations"] if e["step"] == record["best"]["step"])
    assert sot_nlp.load(run, cpu=True).evaluate()["loss"] == kept
    assert sot_nlp.load(run, cpu=True, mixed_precision="no").evaluate()["loss"] != kept


def test_what_the_launcher_was_told_counts_where_a_model_is_scored(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "launcher_settings", lambda: {"mixed_precision": "no"})
    line = "precision no, asked for by accelerate launch; the training's was bf16"
    assert main(["evaluate", str(run), "--cpu", "--disable_tqdm", "--output_dir", str(tmp_path / "e")]) == 0
    assert line in capsys.readouterr().out
    assert records.read(tmp_path / "e")["environment"]["mixed_precision"] == "no"
    file = str(run.parent / "dev.csv")
    assert main(["predict", str(run), "--cpu", "--file", file, "-o", str(tmp_path / "o.csv")]) == 0
    assert line in capsys.readouterr().err
    assert main(["explain", str(run), "--text", "the zorp runs ."]) == 0
    assert line in capsys.readouterr().err
    words = ["evaluate", str(run), "--cpu", "--disable_tqdm", "--mixed_precision", "bf16"]
    assert main([*words, "--output_dir", str(tmp_path / "own")]) == 0
    assert records.read(tmp_path / "own")["environment"]["mixed_precision"] == "bf16"
    expected = probabilities(run / "predictions.json")
    assert np.array_equal(probabilities(tmp_path / "own/predictions.json"), expected)


def test_a_precision_that_this_machine_lacks_is_not_kept():
    environment = {"environment": {"mixed_precision": "bf16"}}
    assert as_trained(environment, cpu=True) == "bf16"
    assert as_trained({"environment": {"mixed_precision": "fp16"}}, cpu=True) is None
    assert as_trained({"environment": {"mixed_precision": "fp8"}}, cpu=True) is None
    assert as_trained({"environment": {"mixed_precision": ["bf16"]}}, cpu=True) is None
    assert as_trained({"environment": "gone"}, cpu=True) is None
    assert as_trained({}, cpu=True) is None


def test_predictions_are_written_without_the_tails_of_float32(run):
    text = (run / "predictions.json").read_text()
    numbers = [number for row in json.loads(text) for number in row["probabilities"]]
    assert all(float(str(np.float32(number))) == number for number in numbers)
    values = np.array([0.1, 0.009053, 1e-9, 1.0], dtype=np.float32)
    assert json.dumps(shortest(values)) == "[0.1, 0.009053, 1e-09, 1.0]"
    assert np.array_equal(np.array(shortest(values), dtype=np.float32), values)
    assert shortest(np.array([[2, 0]])) == [[2, 0]]
