"""Runs on a stream: the same model however often they were stopped, nothing stored, everything told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sot_nlp import records
from sot_nlp.cli import main
from sot_nlp.training.checkpointing.folders import step_folders
from tests.support import tiny


@pytest.fixture(autouse=True)
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sot_nlp.data.stream.WINDOW", 10)


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """30 training and 12 validation texts, two of which are in both."""
    texts = tiny.sentences(40, seed=5, low=2, high=9)
    files = {"train": texts[:30], "validation": [*texts[30:], *texts[:2]]}
    for name, part in files.items():
        rows = [{"text": text, "label": "yes" if "wug" in text else "no"} for text in part]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {name: tmp_path / f"{name}.jsonl" for name in files}


def command(data: dict[str, Path], backbone: Path, out: Path, *flags: str) -> list[str]:
    words = (
        f"train --train_file {data['train']} --validation_file {data['validation']} --streaming "
        f"--model_name_or_path {backbone} --output_dir {out} --cache_dir {out}-cache --max_train_steps 9 "
        "--per_device_train_batch_size 4 --learning_rate 1e-3 --lr_scheduler_type constant --logging_steps 1 "
        "--max_length 8 --disable_tqdm --cpu --mixed_precision no --checkpointing_steps 2"
    )
    return [*words.split(), *flags]


def comparable(out: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    record = records.read(out)
    lines = [{k: v for k, v in line.items() if k != "examples_per_second"} for line in record["log_history"]]
    kept = {name: record[name] for name in ("best", "evaluations", "data")}
    return load_file(out / "model.safetensors"), {**kept, "log": lines}


def test_windows_are_trained_and_told(
    data: Any, backbone_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--label_smoothing", "0.1")
    assert main(command(data, backbone_folder("bert"), tmp_path / "run", *flags)) == 0
    record = records.read(tmp_path / "run")
    # Windows of 12: three of them are 36 examples, of which the last 6 are the first again.
    assert [e["step"] for e in record["evaluations"]] == [3, 6, 9]
    found = record["data"]["splits"]["train"]
    assert (found["windows"], found["examples"]) == (3, 36)
    assert found["leaked"] == {"train_examples": 4, "dropped": False}
    assert sum(found["labels"].values()) == 36
    assert found["truncated"] > 0
    out = capsys.readouterr().out
    assert "train.jsonl window by window, and not stored" in out
    assert "train, as read: 36 examples of " in out
    assert f"train, as read: {found['truncated']} examples were cut at 8 tokens" in out
    assert "train, as read: 4 examples occur in the validation data too" in out
    headers = [json.loads(path.read_text()) for path in (tmp_path / "run-cache").rglob("header.json")]
    assert [header["arrays"]["indices"]["shape"] for header in headers] == [[12]]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    data: Any, backbone_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sot_nlp.training.updates import Updater

    backbone = backbone_folder("bert")
    assert main(command(data, backbone, tmp_path / "whole")) == 0
    run = Updater.run

    def dying(self: Updater, examples: Any, step: int) -> Any:
        if step == 5:  # in the middle of the second window, behind the checkpoint of update 4
            raise KeyboardInterrupt
        return run(self, examples, step)

    with monkeypatch.context() as patch:
        patch.setattr(Updater, "run", dying)
        main(command(data, backbone, tmp_path / "parts"))
    assert records.read(tmp_path / "parts")["status"] == records.INTERRUPTED
    assert main(command(data, backbone, tmp_path / "parts")) == 0
    assert records.read(tmp_path / "parts")["resumed_from"][0]["step"] == 4
    weights, record = comparable(tmp_path / "parts")
    expected, reference = comparable(tmp_path / "whole")
    assert record == reference
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def test_other_data_behind_a_checkpoint_is_refused(
    data: Any, backbone_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backbone, out = backbone_folder("bert"), tmp_path / "run"
    assert main(command(data, backbone, out, "--max_train_steps", "4")) == 0
    lines = data["train"].read_text().splitlines()
    data["train"].write_text("\n".join([*lines[:14], lines[3], *lines[15:]]) + "\n")
    checkpoint = str(step_folders(out / "checkpoints")[-1])
    assert main(command(data, backbone, tmp_path / "on", "--resume_from_checkpoint", checkpoint)) == 2
    assert "the training data has changed since" in capsys.readouterr().err


def test_class_weights_are_refused(
    data: Any, backbone_folder: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--class_weights", "balanced")
    assert main(command(data, backbone_folder("bert"), tmp_path / "run", *flags)) == 2
    assert "--class_weights: scaled by each label's frequency" in capsys.readouterr().err
