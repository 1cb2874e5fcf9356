"""A training's state on disk: save, verify, find, rotate and restore checkpoints.

A checkpoint is a folder `step-00000123` of safetensors and JSON with a manifest of every file's size and
SHA-256. It is filled under another name and renamed once complete, so a folder of that name is whole, or was
damaged later, which the manifest shows. Nothing in it is unpickled. The best model so far is kept separately,
in `best-00000100`, as long as a checkpoint refers to it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from sot_nlp.errors import UserError, printable
from sot_nlp.files import sha256, sync_folder, system_error, write_json

FORMAT_VERSION = 1
FOLDER = "checkpoints"
MANIFEST, PROGRESS, MODEL, OPTIMIZER = (
    "manifest.json",
    "progress.json",
    "model.safetensors",
    "optimizer.safetensors",
)
STEP_NAME = re.compile(r"step-(\d{8,})")
BEST_NAME = re.compile(r"best-(\d{8,})")
UNFINISHED = ".unfinished-"


class CheckpointError(Exception):
    """A checkpoint that can't be used: the message says which file and what is wrong with it."""


@dataclass
class Progress:
    """A run's progress, JSON-able: with the tensors of model and optimizer it is the run's whole state.

    `updates` counts the updates done in `epoch`, `step` those of the run; `evaluated` says whether this point
    has been evaluated. `window` holds the sums since the last log line, `scaler` fp16's loss scale, `stream`
    what was found in the windows of a streamed training split, each of which is an epoch.
    """

    epoch: int = 0
    updates: int = 0
    step: int = 0
    evaluated: bool = False
    best: dict[str, Any] | None = None
    evaluations_without_gain: int = 0
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    log_history: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, Any]] = field(default_factory=list)
    resumed_from: list[dict[str, Any]] = field(default_factory=list)
    window: dict[str, float] = field(default_factory=lambda: {"loss": 0.0, "updates": 0})
    scaler: dict[str, Any] | None = None
    train_seconds: float = 0.0
    examples: int = 0
    fingerprint: dict[str, Any] = field(default_factory=dict)
    stream: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """Read the progress from a checkpoint's folder. Raises CheckpointError."""
        try:
            values = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
            version = values.pop("format_version")
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{PROGRESS}: format_version {printable(version)}, not {FORMAT_VERSION}"
                )
            progress = cls(**values)
            for name, default in vars(cls()).items():
                value = getattr(progress, name)
                kinds: Any = type(default)
                if default is None:
                    kinds = (dict, type(None))
                elif default == 0.0:
                    kinds = (int, float)
                if not isinstance(value, kinds):
                    raise TypeError(f"{name} is {value!r}")
            if progress.best is not None:
                progress.best["step"] = int(progress.best["step"])
            return progress
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{PROGRESS}: cannot be read: {printable(error)}") from None

    def write(self, folder: Path) -> None:
        """Write it to `folder`."""
        write_json(folder / PROGRESS, {"format_version": FORMAT_VERSION, **asdict(self)})


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint at update `step`."""
    return checkpoints / f"step-{step:08d}"


def best_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the best model, seen at update `step`."""
    return checkpoints / f"best-{step:08d}"


# --- whole folders ---------------------------------------------------------------------------------------


def unfinished(target: Path) -> Path:
    """Create an empty folder beside `target`, to be filled and then passed to `seal`."""
    folder = target.parent / f"{UNFINISHED}{target.name}"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    return folder


def seal(folder: Path, target: Path) -> None:
    """Write the manifest of a filled `folder`, make all of it durable, and rename it to `target`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in files
    }
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
    write_json(folder / MANIFEST, {"format_version": FORMAT_VERSION, "files": manifest})
    for path in [*(p for p in folder.rglob("*") if p.is_dir()), folder]:
        sync_folder(path)
    aside = unfinished(target.with_name(f"replaced-{target.name}")) if target.exists() else None
    if aside:
        target.rename(aside)
    folder.rename(target)
    sync_folder(target.parent)
    if aside:
        shutil.rmtree(aside, ignore_errors=True)


def save_folder(target: Path, fill: Callable[[Path], None]) -> None:
    """Make `target` a folder that `fill` fills, whole or not at all.

    Raises UserError where it can't be written (a full disk, a quota, no rights); what was there stays.
    """
    try:
        folder = unfinished(target)
        try:
            fill(folder)
            seal(folder, target)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
    except (OSError, SafetensorError) as error:
        raise UserError(not_written(target, error)) from None


def not_written(target: Path, error: BaseException) -> str:
    """Return the message for a checkpoint that could not be written because of `error`."""
    number = system_error(error)
    reason = printable(error) if number is None else os.strerror(number)
    older = [path for path in step_folders(target.parent) if path != target] if target.parent.is_dir() else []
    kept = (
        f"the checkpoint before it is whole: {printable(older[-1])}" if older else "there is none before it"
    )
    return f"checkpoint {printable(target)} could not be written: {reason}; {kept}"


def verify(folder: Path) -> None:
    """Check every file of a sealed folder against its manifest. Raises CheckpointError: what is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        files = {str(name): (entry["bytes"], entry["sha256"]) for name, entry in manifest["files"].items()}
        version = manifest["format_version"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{MANIFEST}: cannot be read: {printable(error)}") from None
    if version != FORMAT_VERSION:
        raise CheckpointError(f"{MANIFEST}: format_version {printable(version)}, not {FORMAT_VERSION}")
    problems = [problem for name, entry in files.items() if (problem := _check_file(folder, name, *entry))]
    if problems:
        raise CheckpointError("; ".join(problems))


def _check_file(folder: Path, name: str, size: int, digest: str) -> str | None:
    path = folder / name
    shown = printable(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        return f"{shown}: is outside the checkpoint"
    if not path.is_file():
        return f"{shown}: missing"
    if (actual := path.stat().st_size) != size:
        return f"{shown}: {actual} bytes instead of {printable(size)}"
    try:
        same = sha256(path) == digest
    except OSError as error:  # no rights, or a disk that fails
        return f"{shown}: cannot be read: {error.strerror}"
    return None if same else f"{shown}: its content has changed (SHA-256 differs)"


# --- which one -------------------------------------------------------------------------------------------


def step_folders(checkpoints: Path) -> list[Path]:
    """Return the sealed checkpoints, oldest first."""
    return _numbered(checkpoints, STEP_NAME)


def _numbered(checkpoints: Path, pattern: re.Pattern[str]) -> list[Path]:
    if not checkpoints.is_dir():
        return []
    numbered = [path for path in checkpoints.iterdir() if pattern.fullmatch(path.name) and path.is_dir()]
    return sorted(numbered, key=lambda path: int(path.name.split("-")[1]))


def open_checkpoint(folder: Path) -> Progress:
    """Verify a checkpoint, and the best model that it refers to; its progress. Raises CheckpointError."""
    verify(folder)
    progress = Progress.read(folder)
    if progress.best and progress.best["step"] != progress.step:
        best = best_folder(folder.parent, progress.best["step"])
        try:
            verify(best)
        except CheckpointError as error:
            raise CheckpointError(f"its best model {best.name}: {error}") from None
    return progress


def find(wanted: str | None, checkpoints: Path, warn: Callable[[str], None]) -> tuple[Path, Progress] | None:
    """Find the checkpoint to resume from: the newest whole one for None or "latest", else that at `wanted`.

    Broken ones are skipped with a warning (`warn`); `wanted` may also be a run's folder. None where there is
    no checkpoint. Raises UserError where checkpoints exist and none of them is whole.
    """
    if wanted in (None, "latest"):
        candidates = step_folders(checkpoints)
    else:
        path = Path(str(wanted))
        shown = f"--resume_from_checkpoint {printable(wanted)}"
        if not path.is_dir():
            raise UserError(f"{shown}: no such folder; give 'latest' or the folder of a checkpoint")
        if (path / MANIFEST).exists() or STEP_NAME.fullmatch(path.name):
            try:
                return path, open_checkpoint(path)
            except CheckpointError as error:
                raise UserError(f"{shown}: {error}; give an older checkpoint, or 'latest'") from None
        candidates = step_folders(path) or step_folders(path / FOLDER)
        if not candidates:
            raise UserError(f"{shown}: holds no checkpoint (a folder like step-00000100)")
    broken = []
    for path in reversed(candidates):
        try:
            return path, open_checkpoint(path)
        except CheckpointError as error:
            broken.append(f"{printable(path)}: {error}")
            warn(f"checkpoint skipped: {broken[-1]}")
    if broken:
        raise UserError(
            "no checkpoint is whole: " + "; ".join(broken) + "; delete them (or give --overwrite_output_dir) "
            "to start from scratch"
        )
    return None


def precision(wanted: str | None, checkpoints: Path) -> str | None:
    """Return the precision of the run whose checkpoint `find` would find; None where none records it.

    Reads no tensors and checks no hash: a run has the same precision in all of its checkpoints.
    """
    recover(checkpoints)
    folders = [checkpoints] if wanted in (None, "latest") else [Path(str(wanted)), Path(str(wanted)) / FOLDER]
    paths = [path for folder in folders for path in (folder, *reversed(step_folders(folder)))]
    for path in paths:
        with contextlib.suppress(CheckpointError):
            training: Any = Progress.read(path).fingerprint.get("training")
            return str(training["precision"]) if training else None
    return None


def rotate(checkpoints: Path, current: int, limit: int | None) -> None:
    """Delete what is no longer needed once checkpoint `current` is whole.

    Kept are the newest `limit` checkpoints up to `current` (all with None) and the best models that they
    refer to. Checkpoints after `current` belong to a future that was left by resuming from an older one.
    """
    folders = step_folders(checkpoints)
    past = [path for path in folders if int(path.name.split("-")[1]) <= current]
    keep = set(past if limit is None else past[-limit:])
    for path in folders:
        if path not in keep:
            shutil.rmtree(path, ignore_errors=True)
    remove_old_best(checkpoints)
    remove_unfinished(checkpoints)


def remove_old_best(checkpoints: Path, current: int | None = None) -> None:
    """Delete the best models that no checkpoint refers to, other than that of update `current`."""
    needed = {best_folder(checkpoints, current)} if current is not None else set()
    for path in step_folders(checkpoints):
        with contextlib.suppress(CheckpointError):
            if best := Progress.read(path).best:
                needed.add(best_folder(checkpoints, best["step"]))
    for path in _numbered(checkpoints, BEST_NAME):
        if path not in needed:
            shutil.rmtree(path, ignore_errors=True)


def recover(checkpoints: Path) -> None:
    """Clean up after a run that was killed during a save: finish what was whole, delete what was not."""
    for path in checkpoints.glob(f"{UNFINISHED}*"):
        target = path.with_name(path.name.removeprefix(UNFINISHED))
        named = STEP_NAME.fullmatch(target.name) or BEST_NAME.fullmatch(target.name)
        if named and not target.exists():
            with contextlib.suppress(CheckpointError):
                verify(path)
                path.rename(target)
    remove_unfinished(checkpoints)


def remove_unfinished(checkpoints: Path) -> None:
    """Delete what a save left behind that did not come to its end."""
    for path in checkpoints.glob(f"{UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)
