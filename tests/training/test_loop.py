"""The loop: what an update is, which weights are kept, what is logged, and what stops it."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.training.batching import epoch_updates
from sot_nlp.training.loop import create_accelerator
from sot_nlp.training.run_lock import run_lock
from tests.support.training_case import PAD, Split, run, settings, tiny_model


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def assert_close(a: Any, b: Any, tolerance: float = 2e-6) -> None:
    for name, tensor in weights(a).items():
        torch.testing.assert_close(
            tensor, weights(b)[name], atol=tolerance, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
        )


def scripted(scores: list[float | None]) -> Any:
    """An `evaluate` that gives these accuracies one after the other, and remembers the models' weights."""
    seen: list[dict[str, torch.Tensor]] = []

    def evaluate(model: Any) -> dict[str, Any]:
        seen.append(weights(model))
        return {"accuracy": scores[len(seen) - 1]}

    evaluate.seen = seen  # type: ignore[attr-defined]
    return evaluate


def test_the_loop_is_plain_adamw(tmp_path: Path) -> None:
    """Against a loop written out: the same batches, torch's AdamW, clipping and linear decay."""
    arguments = settings(learning_rate=1e-3, weight_decay=0.1, max_grad_norm=0.3, warmup_steps=4)
    split = Split()
    model, _ = run(
        tmp_path, arguments, model=tiny_model(dropout=0.0), split=split, evaluate=scripted([0.0, 1.0])
    )

    plain = tiny_model(dropout=0.0).train()
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=1e-3
    )
    step = 0
    for epoch in (0, 1):
        for update in epoch_updates(split.lengths, seed=42, epoch=epoch, update_size=4):
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (step / 4 if step < 4 else (20 - step) / 16)
            plain(**split.collate(update, pad_token_id=PAD)).loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.3)
            optimizer.step()
            optimizer.zero_grad()
            step += 1

    assert_close(model, plain)


@pytest.mark.parametrize(
    ("cut", "weighted"),
    [
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, False),
        ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}, True),
        ({"per_device_train_batch_size": 1, "gradient_accumulation_steps": 6}, False),
        ({"per_device_train_batch_size": 6, "max_tokens_per_batch": 14}, False),
    ],
)
def test_however_an_update_is_cut_it_is_the_same(cut: dict[str, int], weighted: bool, tmp_path: Path) -> None:
    # 40 = 6 x 6 + 4: the last update of an epoch is smaller, and its shares uneven.
    given = {"class_weights": [1.0, 3.0] if weighted else None, "evaluate": scripted([0.0, 1.0] * 2)}
    results = []
    for name, changes in (("big", {"per_device_train_batch_size": 6}), ("small", cut)):
        arguments = settings(label_smoothing=0.1 * weighted, **changes)
        model = tiny_model(head="vision" if weighted else None, dropout=0.0)
        results.append(run(tmp_path / name, arguments, model=model, **given))
    (big, whole), (small, parts) = results

    assert_close(big, small)
    assert len(whole.log_history) == len(parts.log_history) == 4
    for a, b in zip(whole.log_history, parts.log_history, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=2e-6)
        assert a["learning_rate"] == b["learning_rate"]


def test_number_of_updates(tmp_path: Path) -> None:
    def steps(**overrides: Any) -> int:
        arguments = settings(checkpointing_steps=None, **overrides)
        return run(tmp_path / str(overrides), arguments, evaluate=lambda model: {"accuracy": 0.5})[1].steps

    assert steps(num_train_epochs=1.0) == 10
    assert steps(num_train_epochs=0.3) == 3
    assert steps(num_train_epochs=1.01) == 11
    assert steps(max_train_steps=7) == 7
    assert steps(num_train_epochs=1.0, per_device_train_batch_size=16) == 3
    assert steps(num_train_epochs=1.0, per_device_train_batch_size=100) == 1


def test_the_best_weights_are_kept_and_loaded(tmp_path: Path) -> None:
    evaluate = scripted([0.1, 0.7, 0.7, 0.3])
    model, result = run(tmp_path, settings(num_train_epochs=4.0), evaluate=evaluate)

    assert result.best == {"metric": "accuracy", "value": 0.7, "epoch": 2.0, "step": 20}
    assert all(torch.equal(tensor, evaluate.seen[1][name]) for name, tensor in weights(model).items())
    assert [path.name for path in (tmp_path / "checkpoints").glob("best-*")] == ["best-00000020"]
    assert [(e["epoch"], e["step"], e["accuracy"]) for e in result.evaluations] == [
        (1.0, 10, 0.1),
        (2.0, 20, 0.7),
        (3.0, 30, 0.7),
        (4.0, 40, 0.3),
    ]


def test_a_score_that_is_no_number_is_the_worst(tmp_path: Path) -> None:
    evaluate = scripted([math.nan, -0.5, math.nan])
    _, result = run(tmp_path, settings(num_train_epochs=3.0), evaluate=evaluate)

    assert result.best is not None
    assert (result.best["value"], result.best["step"]) == (-0.5, 20)
    assert [entry["accuracy"] for entry in result.evaluations] == [None, -0.5, None]


def test_early_stopping(tmp_path: Path) -> None:
    given = settings(num_train_epochs=5.0, early_stopping_patience=2)
    _, result = run(tmp_path, given, evaluate=scripted([0.5, 0.6, 0.6, 0.4, 0.9]))

    assert result.steps == 40
    assert result.best is not None
    assert result.best["step"] == 20


def test_of_a_metric_that_falls_the_lowest_is_kept_and_patience_counts_rises(tmp_path: Path) -> None:
    evaluate = scripted([0.5, 0.2, 0.3, 0.2, 0.1])
    given = settings(num_train_epochs=5.0, early_stopping_patience=2)
    model, result = run(tmp_path, given, evaluate=evaluate, higher_is_better=False)

    assert result.best == {"metric": "accuracy", "value": 0.2, "epoch": 2.0, "step": 20}
    assert result.steps == 40
    assert all(torch.equal(tensor, evaluate.seen[1][name]) for name, tensor in weights(model).items())


def test_a_resumed_run_keeps_the_lowest_of_both_parts(tmp_path: Path) -> None:
    epochs = {"num_train_epochs": 4.0, "checkpointing_steps": "epoch"}
    scores = [0.5, 0.2, 0.4, 0.3]
    whole, expected = run(
        tmp_path / "whole", settings(**epochs), evaluate=scripted(list(scores)), higher_is_better=False
    )
    folder = tmp_path / "cut"

    def stopped(model: Any) -> dict[str, Any]:
        if len(stopped.given) == 3:  # type: ignore[attr-defined]
            raise RuntimeError("cut")
        stopped.given.append(scores[len(stopped.given)])  # type: ignore[attr-defined]
        return {"accuracy": stopped.given[-1]}  # type: ignore[attr-defined]

    stopped.given = []  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="cut"):
        run(folder, settings(**epochs), evaluate=stopped, higher_is_better=False)
    model, result = run(
        folder,
        settings(**epochs, resume_from_checkpoint="latest"),
        evaluate=scripted(scores[3:]),
        higher_is_better=False,
    )
    assert result.best == expected.best
    assert result.best is not None
    assert result.best["value"] == 0.2
    assert all(torch.equal(tensor, weights(whole)[name]) for name, tensor in weights(model).items())


def test_evaluation_after_the_last_epoch_alone(tmp_path: Path) -> None:
    every_epoch = scripted([0.9, 0.6, 0.4])
    last = scripted([0.4])
    run(tmp_path / "each", settings(num_train_epochs=3.0), evaluate=every_epoch)
    model, result = run(tmp_path / "last", settings(num_train_epochs=3.0, eval_strategy="no"), evaluate=last)

    assert [(e["epoch"], e["step"], e["accuracy"]) for e in result.evaluations] == [(3.0, 30, 0.4)]
    assert result.best == {"metric": "accuracy", "value": 0.4, "epoch": 3.0, "step": 30}
    # The updates are those of the run that was evaluated on the way.
    assert all(torch.equal(tensor, every_epoch.seen[2][name]) for name, tensor in weights(model).items())


def test_a_run_that_ends_earlier_than_its_checkpoint_expected_is_evaluated(tmp_path: Path) -> None:
    given = {"eval_strategy": "no", "checkpointing_steps": "epoch"}
    run(tmp_path, settings(num_train_epochs=4.0, **given), evaluate=scripted([0.4]))
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000040")
    _, result = run(tmp_path, settings(num_train_epochs=3.0, **given), evaluate=scripted([0.5]))

    assert [(e["step"], e["accuracy"]) for e in result.evaluations] == [(30, 0.5)]


def test_the_model_comes_back_as_it_was_given(tmp_path: Path) -> None:
    model, result = run(tmp_path, settings(mixed_precision="bf16"))

    assert result.model is model
    assert "forward" not in vars(model)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())


def test_logs(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    _, result = run(tmp_path, settings(), on_log=seen.append)

    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [entry for entry in lines if "accuracy" not in entry] == result.log_history == seen
    assert [entry for entry in lines if "accuracy" in entry] == result.evaluations
    assert [entry["step"] for entry in result.log_history] == [3, 6, 9, 12, 15, 18]
    # The rate of the last update of each line: update k (from 0) of 20 has 1 - k / 20 of it.
    assert [entry["learning_rate"] for entry in result.log_history] == pytest.approx(
        [1e-3 * (1 - k / 20) for k in (2, 5, 8, 11, 14, 17)]
    )
    assert result.train_examples_per_second == pytest.approx(80 / result.train_seconds)
    assert "accuracy" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("name", ["train.log", "metrics.jsonl"])
def test_a_log_that_can_not_be_written_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=f"{name}: cannot be written: Is a directory"):
        run(tmp_path)


def test_a_resumed_log_has_no_line_twice(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 3}\n{"step": 900}\nno json\n\xff\xfe\x00\n{"torn": 1')
    run(tmp_path, settings(num_train_epochs=1.0))

    steps = [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert steps == [3, 6, 9, 10]


# --- parts of the model ---


def state_names(folder: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(folder / "checkpoints" / "step-00000020" / "optimizer.safetensors", "pt") as file:
        return {key.rpartition("/")[0] for key in file.keys()}  # noqa: SIM118


def test_a_frozen_backbone_does_not_change_and_has_no_state(tmp_path: Path) -> None:
    before = weights(tiny_model())
    model, _ = run(tmp_path, settings(freeze_backbone=True))

    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"} == state_names(tmp_path)


def test_trainable_layers(tmp_path: Path) -> None:
    before = weights(tiny_model())
    model, _ = run(tmp_path, settings(trainable_layers=1))

    changed = {name for name, tensor in weights(model).items() if not torch.equal(tensor, before[name])}
    # (the bias of a key adds the same to all scores of a softmax: its gradient is nothing but rounding)
    wanted = {
        name for name in before if name.startswith(("bert.encoder.layer.1.", "bert.pooler", "classifier"))
    }
    assert wanted - {"bert.encoder.layer.1.attention.self.key.bias"} <= changed <= wanted
    assert state_names(tmp_path) == wanted
    with pytest.raises(UserError, match="--trainable_layers 3: the backbone has 2 layers"):
        run(tmp_path / "x", settings(trainable_layers=3))


def test_frozen_parts_draw_no_dropout(tmp_path: Path) -> None:
    from sot_nlp.training.model_setup import freeze, train_mode

    model = tiny_model(dropout=0.5)
    freeze(model, freeze_backbone=True, trainable_layers=None)
    train_mode(model)
    batch = Split().collate(np.arange(4), pad_token_id=PAD)
    batch.pop("labels")
    features = [model.bert(**batch).last_hidden_state for _ in range(2)]

    assert torch.equal(*features)
    assert model.dropout.training


# --- numbers that go wrong ---


class Poisoned(Split):
    """A split in which some updates have a loss that is not a number."""

    def __init__(self, *updates: int):
        super().__init__()
        self.updates = updates

    def collate(self, indices: Any, **settings: Any) -> dict[str, torch.Tensor]:
        batch = super().collate(indices, **settings)
        if len(self.collated) in self.updates:
            batch["inputs_embeds"] = torch.full((*batch.pop("input_ids").shape, 32), math.nan)
        return batch


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        run(tmp_path, settings(), split=Poisoned(7))

    message = str(error.value)
    update = epoch_updates(Split().lengths, seed=42, epoch=0, update_size=4)[6]
    assert "update 7 (epoch 0.70): loss nan" in message
    assert ", ".join(str(index + 100) for index in update) in message
    assert "last good checkpoint" in message
    assert "step-00000004" in message
    assert "stopped at update 7" in (tmp_path / "train.log").read_text()


@pytest.mark.parametrize("head", [None, "text"])
def test_skipping_leaves_everything_as_it_was(head: str | None, tmp_path: Path) -> None:
    arguments = settings(on_nan="skip", max_train_steps=2, logging_steps=1)
    seen = scripted([0.0])
    model, result = run(tmp_path, arguments, model=tiny_model(head=head), split=Poisoned(2), evaluate=seen)
    once = settings(max_train_steps=1)
    # One update at the same rate: what came before the skipped one, BatchNorm's statistics included.
    reference, _ = run(tmp_path / "one", once, model=tiny_model(head=head), evaluate=scripted([0.0]))

    assert all(torch.equal(tensor, weights(reference)[name]) for name, tensor in weights(model).items())
    (skipped,) = result.skipped_updates
    assert (skipped["step"], skipped["loss"]) == (2, "nan")
    assert len(skipped["examples"]) == 4
    assert any("skipped update 2" in warning for warning in result.warnings)
    assert [entry["step"] for entry in result.log_history] == [1]
    # A run that resumes behind it says so, too.
    _, resumed = run(tmp_path, replace(arguments, max_train_steps=3), model=tiny_model(head=head))
    assert [line for line in result.warnings if "skipped update 2" in line] == [
        line for line in resumed.warnings if "skipped" in line
    ]


def test_too_many_skips_stop_the_run(tmp_path: Path) -> None:
    run(tmp_path / "two", settings(on_nan="skip", max_nan_skips=2), split=Poisoned(3, 5))
    with pytest.raises(UserError, match=r"--max_nan_skips 2 is used up"):
        run(tmp_path / "three", settings(on_nan="skip", max_nan_skips=2), split=Poisoned(3, 5, 6))


# --- what is refused at the start ---


def test_what_can_not_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="training split is empty"):
        run(tmp_path, split=Split(0))
    with pytest.raises(UserError, match="--max_tokens_per_batch 5: the longest example has 12 tokens"):
        run(tmp_path, settings(max_tokens_per_batch=5))
    with pytest.raises(UserError, match="--mixed_precision fp16: a CPU has no fp16"):
        create_accelerator(settings(mixed_precision="fp16"))


@pytest.mark.parametrize(
    ("report_to", "message"),
    [
        ("tensorbord", r"^--report_to 'tensorbord': unknown tracker; known: .*tensorboard"),
        ("\x1b[31m", r"^--report_to '\\x1b\[31m': unknown tracker"),
        ("tensorboard, aim", r"^--report_to aim: that package is not installed$"),
        (" , ", r"^--report_to names no tracker; known: "),
    ],
)
def test_trackers_that_are_not_there_are_refused(
    report_to: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(UserError, match=message):
        create_accelerator(settings(with_tracking=True, report_to=report_to))


def test_none_is_no_tracker() -> None:
    assert create_accelerator(settings(with_tracking=True, report_to=None)).trackers == []


def test_one_run_at_a_time_in_a_folder(tmp_path: Path) -> None:
    with run_lock(tmp_path), run_lock(tmp_path):
        run(tmp_path, settings(num_train_epochs=0.1))  # the same process may
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written: Not a directory"),
        run_lock(tmp_path / "file" / "run"),
    ):
        pass
    # What goes wrong inside has nothing to do with the lock.
    with pytest.raises(FileNotFoundError), run_lock(tmp_path), run_lock(tmp_path):
        (tmp_path / "nowhere").read_text()


def test_compilation_that_fails_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any, **settings: Any) -> Any:
        raise RuntimeError("no working C++ compiler")

    monkeypatch.setattr(torch, "compile", broken)
    _, result = run(tmp_path, settings(torch_compile=True, num_train_epochs=0.2))

    assert any("not compiled" in w and "no working C++ compiler" in w for w in result.warnings)
    assert result.steps == 2
