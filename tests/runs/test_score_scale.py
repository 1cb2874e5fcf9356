"""Regressions on scores of any scale: trained standardised, saved with the scores' own."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from sot_nlp import AutoSoTForSequenceClassification, load, records
from sot_nlp.cli import main
from sot_nlp.runs.run_record import fingerprint
from sot_nlp.runs.score_scale import ScoreScale
from tests.support import tiny

TEXTS = tiny.sentences(100, seed=3, low=2, high=9)
SCORES = np.array([2.0 * ("wug" in text) - ("dax" in text) + len(text.split()) / 9 for text in TEXTS])


def scored(path: Path, scores: np.ndarray) -> Path:
    lines = ["text,score", *(f"{text},{score:.6f}" for text, score in zip(TEXTS, scores, strict=True))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def command(backbone: Path, file: Path, out: Path, *flags: str) -> list[str]:
    words = f"train --train_file {file} --model_name_or_path {backbone} --output_dir {out} --seed 1"
    quick = "--num_train_epochs 4 --learning_rate 1e-3 --head_learning_rate 1e-2 --disable_tqdm --cpu"
    rest = f"--mixed_precision no --head.dropout 0 --cache_dir {file.parent}/cache"
    return [*f"{words} {quick} {rest}".split(), *flags]


def predictions(folder: Path) -> np.ndarray:
    return np.array([row["prediction"] for row in json.loads((folder / "predictions.json").read_text())])


@pytest.mark.parametrize("head", ["mapped_moments", "stock", "text"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_folded_outputs_give_the_scores_and_the_inverse_the_way_back(family: str, head: str) -> None:
    torch.manual_seed(0)
    config = tiny.config(family)
    model = AutoSoTForSequenceClassification.from_config(config, head=head, num_labels=1).eval()
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        ids = torch.randint(5, 60, (4, 7))
        before = model(ids).logits
        biased = any(output.bias is not None for output in model.classifier.outputs)
        scale = ScoreScale(mean=50.0 if biased else 0.0, deviation=12.0)
        weights = {name: value.clone() for name, value in model.state_dict().items()}
        scale.fold_into(model)
        torch.testing.assert_close(model(ids).logits, before * 12 + scale.mean, atol=1e-4, rtol=1e-5)
        scale.inverse().fold_into(model)
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, weights[name], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("flags", [(), ("--lora_r", "2"), ("--freeze_backbone",)])
def test_scores_on_another_scale_give_the_same_model_on_that_scale(flags, backbone_folder, tmp_path):
    if "--lora_r" in flags:
        pytest.importorskip("peft")
    outs = []
    for name, scores in (("own", SCORES), ("moved", 40 + 15 * SCORES)):
        outs.append(tmp_path / name)
        file = scored(tmp_path / f"{name}.csv", scores)
        assert main(command(backbone_folder("bert"), file, outs[-1], *flags)) == 0
    own, moved = map(predictions, outs)
    np.testing.assert_allclose(moved, 40 + 15 * own, rtol=2e-3)
    labels = [row["label"] for row in json.loads((outs[1] / "predictions.json").read_text())]
    assert np.mean((moved - labels) ** 2) < np.var(labels)
    record = records.read(outs[1])
    assert record["score_scale"]["deviation"] == pytest.approx(15 * np.std(SCORES), rel=0.1)  # of nine tenths
    model = torch.nn.Linear(1, 1)  # a checkpoint of another scale is not gone on from
    assert fingerprint(record, model) != fingerprint({**record, "score_scale": None}, model)
    # What is saved gives what was scored.
    rows = json.loads((outs[1] / "predictions.json").read_text())
    texts = [TEXTS[row["index"]] for row in rows]
    np.testing.assert_allclose(load(outs[1]).predict(texts).labels, moved, rtol=1e-4)


@pytest.mark.parametrize("flags", [(), ("--lora_r", "2")])
def test_what_is_pushed_behind_an_evaluation_has_the_scores_own_scale(
    flags, backbone_folder, tmp_path, monkeypatch
):
    if flags:
        pytest.importorskip("peft")
    pushed = []

    def push(folder, **settings):
        pushed.append(load_file(folder / "model.safetensors"))
        return "url"

    monkeypatch.setattr("sot_nlp.publishing.hub.push", push)
    words = (
        "--push_to_hub",
        "--hub_token",
        "hf_any",
        "--hub_model_id",
        "me/it",
        "--hub_strategy",
        "every_save",
    )
    file = scored(tmp_path / "a.csv", 40 + 15 * SCORES)
    words = command(backbone_folder("bert"), file, tmp_path / "o", *words, *flags, "--num_train_epochs", "1")
    assert main(words) == 0
    behind, last = pushed
    assert abs(last["classifier.word_output.bias"].item() - 40 - 15 * SCORES.mean()) < 15
    for name, weight in last.items():
        torch.testing.assert_close(behind[name], weight, atol=1e-6, rtol=1e-6)


def test_trained_outputs_go_on_from_where_they_were(backbone_folder, tmp_path):
    file, first, second = (
        scored(tmp_path / "a.csv", 40 + 15 * SCORES),
        tmp_path / "first",
        tmp_path / "second",
    )
    assert main(command(backbone_folder("bert"), file, first, "--head", "stock")) == 0
    still = ("--learning_rate", "1e-12", "--head_learning_rate", "1e-12", "--num_train_epochs", "1")
    assert main(command(first, file, second, "--head", "stock", *still)) == 0
    np.testing.assert_allclose(predictions(second), predictions(first), rtol=1e-3)


def test_an_interrupted_regression_resumes_as_if_it_had_run_through(backbone_folder, tmp_path, monkeypatch):
    from sot_nlp.runs.scoring import Scorer

    file = scored(tmp_path / "a.csv", 40 + 15 * SCORES)
    assert main(command(backbone_folder("bert"), file, tmp_path / "whole")) == 0
    call = Scorer.__call__

    def interrupt(scorer, model):
        os.kill(os.getpid(), signal.SIGTERM)
        return call(scorer, model)

    words = command(backbone_folder("bert"), file, tmp_path / "parts")
    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "__call__", interrupt)
        assert main(words) != 0
    assert main(words) == 0
    assert records.read(tmp_path / "parts")["resumed_from"]
    assert (predictions(tmp_path / "parts") == predictions(tmp_path / "whole")).all()
