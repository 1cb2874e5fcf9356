"""A run that was stopped and gone on with is, bit for bit, the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training import loop
from sot_nlp.training.checkpointing import folders
from sot_nlp.training.checkpointing.fingerprint import changes
from sot_nlp.training.signals import Interrupted
from sot_nlp.training.updates import Outcome, Updater
from tests.support.training_case import Split, run, settings, tiny_model

TIMINGS = {"examples_per_second", "train_seconds"}


class Killed(BaseException):
    """Stands for a kill: nothing in the loop may catch it."""


class DeadlySplit(Split):
    """A split whose `collate` kills the run at its nth call."""

    deadly_call = 10**9

    def collate(self, indices: Any, **settings: Any) -> dict[str, torch.Tensor]:
        if len(self.collated) == self.deadly_call:
            raise Killed
        return super().collate(indices, **settings)


def deadly(call: int) -> DeadlySplit:
    split = DeadlySplit()
    split.deadly_call = call
    return split


def untimed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if key not in TIMINGS}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def trace(folder: Path, model: Any, result: Any) -> dict[str, Any]:
    """All that a run leaves, to the bit."""
    last = folders.step_folders(folder / folders.FOLDER)[-1]
    progress = json.loads((last / folders.PROGRESS).read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "checkpoint": [(last / name).read_bytes() for name in (folders.MODEL, folders.OPTIMIZER)],
        "progress": untimed({k: v for k, v in progress.items() if k not in ("resumed_from", "fingerprint")}),
        "evaluations": result.evaluations,
        "best": result.best,
        "log": untimed(result.log_history),
        "metrics": [untimed(json.loads(line)) for line in lines],
    }


def assert_same(a: dict[str, Any], b: dict[str, Any]) -> None:
    for key in ("evaluations", "best", "log", "metrics", "progress"):
        assert a[key] == b[key], key
    for name, tensor in a["weights"].items():
        assert torch.equal(tensor, b["weights"][name]), name
    assert a["checkpoint"] == b["checkpoint"]


CASES: dict[str, tuple[str | None, dict[str, Any]]] = {
    "stock BERT": (None, {}),
    "BatchNorm in the head": ("text", {}),
    "bf16": ("text", {"mixed_precision": "bf16"}),
    "accumulation": ("text", {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}),
    "random order, each epoch": (
        None,
        {
            **{"group_by_length": False, "lr_scheduler_type": "cosine", "warmup_steps": 3},
            **{"checkpointing_steps": "epoch", "save_total_limit": 1},
        },
    ),
    "parts, token budget": (
        "vision",
        {
            **{"trainable_layers": 1, "layerwise_lr_decay": 0.9, "head_learning_rate": 1e-2},
            **{"max_tokens_per_batch": 30, "data_seed": 7},
        },
    ),
    "part of an epoch, recomputed": (
        None,
        {"num_train_epochs": 1.55, "weight_decay": 0.1, "gradient_checkpointing": True},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_is_uninterrupted(case: str, tmp_path: Path) -> None:
    head, overrides = CASES[case]
    arguments = settings(**overrides)
    whole = trace(tmp_path / "whole", *run(tmp_path / "whole", arguments, model=tiny_model(head=head)))
    steps = arguments.gradient_accumulation_steps

    # Killed in the second epoch, then once more soon after; with accumulation inside an update.
    for call in (13 * steps + steps // 2, 3 * steps + steps // 2):
        with pytest.raises(Killed):
            run(tmp_path / "killed", arguments, model=tiny_model(head=head), split=deadly(call))
    model, result = run(tmp_path / "killed", arguments, model=tiny_model(head=head, seed=99))

    # The last start had other weights: all that counts came from the checkpoint.
    assert_same(whole, trace(tmp_path / "killed", model, result))
    assert len(result.resumed_from) >= 1


class Delayed(Updater):
    """An updater that gives its outcomes three updates later, as on a GPU."""

    def run(self, examples: Any, step: int) -> list[Outcome]:
        self.held: list[Outcome] = [*getattr(self, "held", []), *super().run(examples, step)]
        return [self.held.pop(0)] if len(self.held) > 3 else []

    def drain(self) -> list[Outcome]:
        held, self.held = self.held, []
        return held


class SignallingSplit(Split):
    """A split whose 13th `collate` gets a signal."""

    def collate(self, indices: Any, **settings: Any) -> dict[str, torch.Tensor]:
        if len(self.collated) == 12:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().collate(indices, **settings)


def test_a_signal_loses_no_outcome_that_is_read_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "Updater", Delayed)
    arguments = settings(logging_steps=2)
    whole = trace(tmp_path / "whole", *run(tmp_path / "whole", arguments))
    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", arguments, split=SignallingSplit())
    last = folders.step_folders(tmp_path / "stopped" / folders.FOLDER)[-1]
    assert last.name == "step-00000016"  # the update that saw the signal, and three more

    assert_same(whole, trace(tmp_path / "stopped", *run(tmp_path / "stopped", arguments)))


def test_dropout_differs_between_updates_and_seeds(tmp_path: Path) -> None:
    losses = {}
    for seed in (1, 2):
        arguments = settings(seed=seed, data_seed=5, learning_rate=1e-12, logging_steps=1)
        _, result = run(tmp_path / str(seed), arguments, model=tiny_model(dropout=0.5))
        losses[seed] = [entry["loss"] for entry in result.log_history]

    assert len(set(losses[1])) == len(losses[1])
    assert set(losses[1]).isdisjoint(losses[2])


def test_data_seed_alone_orders_the_data(tmp_path: Path) -> None:
    orders = []
    for seed, data_seed in ((1, 5), (2, 5), (1, 6), (5, None)):
        split = Split()
        arguments = settings(seed=seed, data_seed=data_seed, num_train_epochs=1.0)
        run(tmp_path / f"{seed}-{data_seed}", arguments, split=split)
        orders.append(split.collated)

    assert orders[0] == orders[1] == orders[3]
    assert orders[0] != orders[2]


def resumed(folder: Path, first: Arguments, second: Arguments, **settings: Any) -> Any:
    with pytest.raises(Killed):
        run(folder, first, split=deadly(13))
    return run(folder, second, **settings)[1]


def test_other_settings_are_refused_each_named(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        resumed(
            tmp_path,
            settings(),
            settings(learning_rate=2e-3, data_seed=3, weight_decay=0.1, logging_steps=7),
        )

    message = str(error.value)
    assert "arguments.learning_rate 0.001 there, 0.002 here" in message
    assert "arguments.data_seed null there, 3 here" in message
    assert "arguments.weight_decay 0.0 there, 0.1 here" in message
    assert "logging_steps" not in message
    assert "--output_dir" in message


def test_other_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, settings(), split=deadly(13), fingerprint={"data": {"train": "abc"}})
    with pytest.raises(UserError, match=r"data\.train abc there, xyz here"):
        run(tmp_path, settings(), fingerprint={"data": {"train": "xyz"}})
    with pytest.raises(UserError, match=r"training\.examples 40 there, 44 here"):
        run(tmp_path, settings(), split=Split(44), fingerprint={"data": {"train": "abc"}})


def test_what_may_change_is_recorded(tmp_path: Path) -> None:
    result = resumed(tmp_path, settings(), settings(num_train_epochs=3.0, logging_steps=5))

    (entry,) = result.resumed_from
    assert entry["step"] == 12
    assert entry["checkpoint"] == "step-00000012"
    assert entry["changed"]["arguments.num_train_epochs"] == [2.0, 3.0]
    assert entry["changed"]["arguments.logging_steps"] == [3, 5]
    assert result.steps == 30
    assert any("num_train_epochs" in warning for warning in result.warnings)


def test_data_files_may_lie_elsewhere() -> None:
    def of(path: str, digest: str) -> dict[str, Any]:
        return {"arguments": {"train_file": path}, "data": {"train": {"sha256": digest}}}

    assert changes(of("a.csv", "1"), of("b.csv", "1")) == {"arguments.train_file": ["a.csv", "b.csv"]}
    with pytest.raises(UserError, match=r"other settings: data\.train\.sha256 1 there, 2 here"):
        changes(of("a.csv", "1"), of("a.csv", "2"))


def test_a_batch_may_be_cut_otherwise_on_resuming(tmp_path: Path) -> None:
    halves = settings(per_device_train_batch_size=2, gradient_accumulation_steps=2)
    result = resumed(tmp_path, settings(), halves)
    assert "arguments.gradient_accumulation_steps" in result.resumed_from[0]["changed"]

    with pytest.raises(UserError, match=r"training\.examples_per_update 4 there, 8 here"):
        run(tmp_path, settings(per_device_train_batch_size=8))


def test_going_on_from_a_named_checkpoint_leaves_the_later_ones(tmp_path: Path) -> None:
    arguments = settings(save_total_limit=None)
    model, result = run(tmp_path, arguments)
    whole = trace(tmp_path, model, result)
    folder = tmp_path / folders.FOLDER
    names = [path.name for path in folders.step_folders(folder)]
    assert names == [f"step-{step:08d}" for step in (4, 8, 12, 16, 20)]

    arguments = settings(save_total_limit=None, resume_from_checkpoint=str(folder / "step-00000008"))
    with pytest.raises(Killed):
        run(tmp_path, arguments, split=deadly(5))
    assert [path.name for path in folders.step_folders(folder)][-1] == "step-00000012"

    # Now as the run's own unfinished state, and from another folder.
    model, result = run(tmp_path, settings(save_total_limit=None))
    assert_same(whole, trace(tmp_path, model, result))
    elsewhere = settings(save_total_limit=None, resume_from_checkpoint=str(tmp_path))
    model, result = run(tmp_path / "other", elsewhere)
    assert result.best == whole["best"]
    assert all(torch.equal(tensor, whole["weights"][name]) for name, tensor in model.state_dict().items())


def test_latest_without_a_checkpoint_starts_anew(tmp_path: Path) -> None:
    result = run(tmp_path, settings(resume_from_checkpoint="latest", num_train_epochs=0.5))[1]

    assert result.steps == 5
    assert any("no checkpoint yet" in warning for warning in result.warnings)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_path_without_a_checkpoint_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="--resume_from_checkpoint"):
        run(tmp_path / "run", settings(resume_from_checkpoint=str(tmp_path / name)))


def test_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, settings(), split=deadly(13))
    with pytest.raises(UserError, match=r"model.safetensors: not the model of this run: lacks"):
        run(tmp_path, settings(), model=tiny_model(layers=3))
