"""Checkpoints: whole or not at all, every damage noticed and named, nothing unpickled."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.training.checkpointing import folders, tensor_files
from sot_nlp.training.checkpointing.folders import CheckpointError, Progress
from tests.support.training_case import run, settings, tiny_model


def make(folder: Path, step: int, *, best: int | None = None) -> Path:
    """A small checkpoint of `step`, and the best model that it names."""
    progress = Progress(step=step, best=None if best is None else {"value": 0.5, "step": best})

    def fill(target: Path) -> None:
        tensor_files.save_tensors(target / folders.MODEL, {"w": torch.full((3,), float(step))})
        progress.write(target)

    folders.save_folder(folders.step_folder(folder, step), fill)
    if best is not None and best != step:
        folders.save_folder(
            folders.best_folder(folder, best),
            lambda target: tensor_files.save_tensors(target / folders.MODEL, {"w": torch.zeros(3)}),
        )
    return folders.step_folder(folder, step)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def unlink(path: Path) -> None:
    path.unlink()


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "truncated": (truncate, folders.MODEL, r"model.safetensors: \d+ bytes instead of \d+"),
    "flipped bit": (flip, folders.MODEL, r"model.safetensors: its content has changed"),
    "missing": (unlink, folders.MODEL, r"model.safetensors: missing"),
    "progress changed": (flip, folders.PROGRESS, r"progress.json: its content has changed"),
    "no manifest": (unlink, folders.MANIFEST, r"manifest.json: cannot be read"),
    "half a manifest": (truncate, folders.MANIFEST, r"manifest.json: cannot be read|content"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_named_and_the_checkpoint_before_taken(damage: str, tmp_path: Path) -> None:
    spoil, name, message = DAMAGES[damage]
    make(tmp_path, 10)
    newest = make(tmp_path, 20)
    spoil(newest / name)
    if damage == "half a manifest":  # (its last byte is a newline)
        truncate(newest / name)
    warnings: list[str] = []

    checkpoint = folders.find("latest", tmp_path, warnings.append)

    assert checkpoint is not None
    assert (checkpoint[0].name, checkpoint[1].step) == ("step-00000010", 10)
    (warning,) = warnings
    assert warning.startswith(f"checkpoint skipped: {newest}: ")
    with pytest.raises(CheckpointError, match=message):
        folders.open_checkpoint(newest)
    with pytest.raises(UserError, match=r"--resume_from_checkpoint .*step-00000020: "):
        folders.find(str(newest), tmp_path, warnings.append)


def test_a_file_that_can_not_be_read_is_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, 10)
    newest = make(tmp_path, 20)
    digest = folders.sha256

    def on_a_broken_disk(path: Path) -> str:
        if path == newest / folders.MODEL:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return digest(path)

    monkeypatch.setattr(folders, "sha256", on_a_broken_disk)
    warnings: list[str] = []
    checkpoint = folders.find(None, tmp_path, warnings.append)
    assert checkpoint is not None
    assert checkpoint[1].step == 10
    assert "step-00000020: model.safetensors: cannot be read: Input/output error" in warnings[0]


def test_all_damages_of_a_checkpoint_are_named(tmp_path: Path) -> None:
    folder = make(tmp_path, 10)
    unlink(folder / folders.PROGRESS)
    flip(folder / folders.MODEL)

    with pytest.raises(CheckpointError, match=r"model.safetensors: its content .*; progress.json: missing"):
        folders.verify(folder)


def test_a_damaged_best_model_spoils_the_checkpoints_that_name_it(tmp_path: Path) -> None:
    make(tmp_path, 10, best=10)
    make(tmp_path, 20, best=15)
    flip(tmp_path / "best-00000015" / folders.MODEL)
    warnings: list[str] = []

    checkpoint = folders.find(None, tmp_path, warnings.append)
    assert checkpoint is not None
    assert checkpoint[1].step == 10
    assert "its best model best-00000015: model.safetensors: its content has changed" in warnings[0]


def test_without_a_whole_checkpoint_nothing_is_overwritten(tmp_path: Path) -> None:
    for step in (10, 20):
        flip(make(tmp_path, step) / folders.MODEL)

    broken = r"no checkpoint is whole: .*00000020: .*00000010: .*start from scratch"
    with pytest.raises(UserError, match=broken):
        folders.find(None, tmp_path, lambda message: None)


def test_none_where_there_is_none(tmp_path: Path) -> None:
    assert folders.find(None, tmp_path / "nowhere", pytest.fail) is None
    assert folders.find("latest", tmp_path, pytest.fail) is None


def test_the_precision_of_the_run_that_is_gone_on_with(tmp_path: Path) -> None:
    folder = tmp_path / folders.FOLDER
    assert folders.precision("latest", folder) is None
    make(tmp_path / "other", 10)
    assert folders.precision(None, tmp_path / "other") is None  # (its fingerprint is empty)
    run(tmp_path, settings(mixed_precision="bf16", num_train_epochs=1.0, save_total_limit=None))
    newest = folders.step_folders(folder)[-1]
    for wanted in (None, "latest", str(tmp_path), str(folder), str(newest)):
        assert folders.precision(wanted, folder) == "bf16"
    (newest / folders.PROGRESS).unlink()
    assert folders.precision(None, folder) == "bf16"
    # Killed between the last write of its first save and the name: what was whole is finished first.
    for path in folders.step_folders(folder)[1:]:
        shutil.rmtree(path)
    (only,) = folders.step_folders(folder)
    only.rename(folder / f".unfinished-{only.name}")
    assert folders.precision(None, folder) == "bf16"


def test_rotation(tmp_path: Path) -> None:
    for step, best in ((10, 5), (20, 5), (30, 25), (40, 25)):
        make(tmp_path, step, best=best)
    (tmp_path / ".unfinished-step-00000050").mkdir()

    def names() -> list[str]:
        return sorted(path.name.replace("0000", "") for path in tmp_path.iterdir())

    folders.rotate(tmp_path, 40, None)
    assert names() == ["best-0005", "best-0025", "step-0010", "step-0020", "step-0030", "step-0040"]
    folders.rotate(tmp_path, 40, 3)
    assert names() == ["best-0005", "best-0025", "step-0020", "step-0030", "step-0040"]
    # A run that went on from 20 has left 30 and 40 behind.
    make(tmp_path, 25, best=5)
    folders.rotate(tmp_path, 25, 2)
    assert names() == ["best-0005", "step-0020", "step-0025"]


def test_a_save_that_was_cut_off_leaves_nothing_or_is_finished(tmp_path: Path) -> None:
    whole = make(tmp_path, 20)
    whole.rename(tmp_path / ".unfinished-step-00000020")  # all there, but for its name
    make(tmp_path, 30).rename(tmp_path / ".unfinished-step-00000030")
    unlink(tmp_path / ".unfinished-step-00000030" / folders.MANIFEST)

    folders.recover(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000020"]
    folders.verify(whole)


def test_a_checkpoint_may_be_written_again(tmp_path: Path) -> None:
    make(tmp_path, 10, best=5)
    folder = make(tmp_path, 10)

    assert folders.open_checkpoint(folder).best is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best-00000005", "step-00000010"]


@pytest.mark.parametrize("when", ["model", "manifest", "rename"])
def test_a_full_disk_leaves_the_older_checkpoint(
    when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, 10)

    def full(*args: Any, **settings: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    target = {"model": (tensor_files, "save_file"), "manifest": (folders, "write_json")}.get(when)
    if target:
        monkeypatch.setattr(*target, full)
    else:
        monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(UserError, match=r"step-00000020 could not be written: No space left on device; "):
        make(tmp_path, 20)

    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000010"]
    folders.verify(tmp_path / "step-00000010")


# --- tensors ---


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    shared = torch.randn(4, 4)
    state = {
        "shared": shared,
        "again": shared,
        "row": shared[1],
        "transposed": torch.randn(2, 3).T,
        "half": torch.randn(3).to(torch.bfloat16),
        "nan": torch.tensor([float("nan"), float("-inf"), -0.0]),
        "count": torch.tensor(2**40),
        "empty": torch.zeros(0, 2),
    }
    tensor_files.save_tensors(tmp_path / "t", state)
    into = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    tensor_files.load_tensors(tmp_path / "t", into, "model")

    for name, tensor in state.items():
        assert torch.equal(into[name].nan_to_num(7), tensor.nan_to_num(7)), name
        assert into[name].dtype == tensor.dtype
    assert (tmp_path / "t").stat().st_size < 900


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("b"), "has b"),
        (lambda state: state.update(c=torch.zeros(1)), "lacks c"),
        (lambda state: state.update(b=torch.zeros(3)), r"b is \(2,\) torch.float32, expected \(3,\)"),
        (lambda state: state.update(b=torch.zeros(2).half()), "b is .* expected .* torch.float16"),
    ],
)
def test_tensors_of_another_model_are_refused(change: Any, message: str, tmp_path: Path) -> None:
    tensor_files.save_tensors(tmp_path / "t", {"a": torch.ones(1), "b": torch.ones(2)})
    into = {"a": torch.zeros(1), "b": torch.zeros(2)}
    change(into)

    with pytest.raises(CheckpointError, match=message):
        tensor_files.load_tensors(tmp_path / "t", into, "model")


# --- nothing that is read back runs code ---


class Payload:
    """Unpickling this makes a file: the sign that code ran."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


def resign(folder: Path) -> None:
    """Write the manifest that fits the files, as whoever planted them would."""
    shutil.move(folder, folder.with_name("planted"))
    (folder.with_name("planted") / folders.MANIFEST).unlink()
    folders.seal(folder.with_name("planted"), folder)


@pytest.mark.parametrize("name", [folders.MODEL, folders.OPTIMIZER, folders.PROGRESS, "rng.pkl"])
@pytest.mark.parametrize("writer", [torch.save, lambda obj, path: Path(path).write_bytes(pickle.dumps(obj))])
def test_a_planted_pickle_does_not_run(name: str, writer: Any, tmp_path: Path) -> None:
    run(tmp_path, settings(num_train_epochs=0.5), evaluate=lambda model: {"accuracy": 0.5})
    (newest,) = folders.step_folders(tmp_path / folders.FOLDER)[-1:]
    sign = tmp_path / "code-ran"
    writer(Payload(sign), newest / name)
    resign(newest)

    goes_on = settings(num_train_epochs=1.0, resume_from_checkpoint=str(newest))
    if name == "rng.pkl":
        run(tmp_path, goes_on)
    else:
        with pytest.raises(UserError, match=name):
            run(tmp_path, goes_on)
    assert not sign.exists()


def test_a_manifest_can_not_reach_outside(tmp_path: Path) -> None:
    folder = make(tmp_path, 10)
    secret = tmp_path / "secret"
    secret.write_text("x")
    manifest = json.loads((folder / folders.MANIFEST).read_text())
    manifest["files"]["../secret"] = {"bytes": 1, "sha256": "?"}
    manifest["files"]["\x1b[31mred"] = {"bytes": 1, "sha256": "?"}
    (folder / folders.MANIFEST).write_text(json.dumps(manifest))

    with pytest.raises(CheckpointError) as error:
        folders.verify(folder)
    assert "../secret: is outside the checkpoint" in str(error.value)
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize(
    "progress",
    [
        "[]",
        "{}",
        '{"format_version": 1, "nonsense": 2}',
        '{"format_version": 2}',
        '{"format_version": 1, "best": {"step": "../../x"}}',
        '{"format_version": 1, "best": 7}',
        '{"format_version": 1, "fingerprint": []}',
        '{"format_version": 1, "step": "3"}',
        '{"format_version": 1, "train_seconds": null}',
        "\xff",
    ],
)
def test_progress_that_is_none_is_refused(progress: str, tmp_path: Path) -> None:
    (tmp_path / folders.PROGRESS).write_bytes(progress.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"^progress.json: "):
        Progress.read(tmp_path)


def test_progress_comes_back_as_it_was(tmp_path: Path) -> None:
    progress = Progress(epoch=2, updates=3, step=23, evaluated=True, best={"step": 20, "value": 0.1 + 0.2})
    progress.window = {"loss": 1 / 3, "updates": 2}
    progress.write(tmp_path)

    assert Progress.read(tmp_path) == progress


def test_the_optimizer_comes_back_bit_for_bit(tmp_path: Path) -> None:
    from sot_nlp.training.optimization import create_optimizer, parameter_groups

    def build(seed: int) -> tuple[Any, list[list[str]]]:
        model = tiny_model(seed=seed)
        groups = parameter_groups(model, settings(weight_decay=0.1))
        return create_optimizer(groups, settings()), [group["names"] for group in groups]

    first, names = build(0)
    for _ in range(3):
        for group in first.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.randn_like(parameter)
        first.step()
    tensor_files.save_optimizer(tmp_path / "o", first, names)
    second, names = build(1)
    tensor_files.load_optimizer(tmp_path / "o", second, names)

    for group, other in zip(first.param_groups, second.param_groups, strict=True):
        for a, b in zip(group["params"], other["params"], strict=True):
            assert first.state[a].keys() == second.state[b].keys() == {"step", "exp_avg", "exp_avg_sq"}
            for kind, tensor in first.state[a].items():
                assert torch.equal(tensor, second.state[b][kind])
                assert tensor.stride() == second.state[b][kind].stride()
    assert float(second.state[b]["step"]) == 3
    with pytest.raises(CheckpointError, match="is not trained in this run"):
        tensor_files.load_optimizer(tmp_path / "o", second, [[f"x{n}" for n in group] for group in names])
