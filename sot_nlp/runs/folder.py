"""A run's folder: where it is, who may write in it, and the model that it keeps."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

from sot_nlp import records
from sot_nlp.errors import UserError, printable
from sot_nlp.files import make_folder, sync_folder, write_atomic, writing
from sot_nlp.runs.method import folder_word
from sot_nlp.runs.own_files import INSIDE, own_paths
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.checkpointing.folders import FOLDER

BESIDE = ".model-"


def default_folder(task: str, arguments: Arguments) -> Path:
    """Return `runs/<task>-<model>-<head>-seed<seed>`, with the training method for a head that it sets."""
    model = model_label(arguments.model_name_or_path)
    parts = (safe_name(task) or "_", model, safe_name(folder_word(arguments)), f"seed{arguments.seed}")
    return Path("runs") / "-".join(parts)


def model_label(name_or_path: str) -> str:
    """Return a short name of a backbone that every file system takes."""
    return safe_name(short_name(name_or_path)) or "model"


def short_name(name_or_path: str) -> str:
    """Return the name of a model or task in folders and tables: the last part of a path or of a Hub name.

    A folder called `model` has its parent's name before it; a file loses its `.yaml`.
    """
    parts = [part for part in re.split(r"[/\\]+", name_or_path) if part not in ("", ".", "..")]
    if not parts:
        return name_or_path
    return "-".join(parts[-2:]) if parts[-1] == "model" else re.sub(r"\.ya?ml$", "", parts[-1])


def safe_name(text: str) -> str:
    """Return `text` reduced to what every file system takes in a name: letters, digits, . _ -."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text).strip(".-")


def claim(folder: Path, arguments: Arguments) -> dict[str, Any] | None:
    """Check that a run may use `folder`; return the record of the unfinished run that it resumes.

    A run that is to be replaced stays until `clear` deletes it.

    Raises UserError for a folder with a finished run (unless `--overwrite_output_dir`), one that holds
    something else, or one that can't be written.
    """
    source = Path(arguments.model_name_or_path)
    if source.is_dir() and folder.exists() and source.resolve() == folder.resolve():
        raise UserError(f"--output_dir {printable(folder)}: is the folder of --model_name_or_path itself")
    make_folder(folder, "--output_dir")
    with writing(folder, "--output_dir"):
        entries = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if not entries:
        return None
    if (folder / records.NAME).exists():
        record = records.read(folder)
        if arguments.overwrite_output_dir:
            if arguments.resume_from_checkpoint is not None:
                raise UserError(
                    f"--output_dir {printable(folder)}: --overwrite_output_dir deletes its run and "
                    "checkpoints; omit it to continue with --resume_from_checkpoint, or give another folder"
                )
            return None
        if record.get("status") == records.FINISHED:
            raise UserError(
                f"--output_dir {printable(folder)}: holds a finished run; give another folder, "
                "or --overwrite_output_dir to replace it"
            )
        return record
    raise UserError(
        f"--output_dir {printable(folder)}: is not empty and not a run's folder "
        f"(it holds {', '.join(printable(name) for name in entries[:3])}"
        f"{', ...' if len(entries) > 3 else ''}); give a new or empty one"
    )


def claim_for_evaluation(folder: Path, arguments: Arguments) -> None:
    """Check that an evaluation may use `folder`, which holds no training and no model.

    An earlier evaluation that is to be replaced stays until `clear` deletes it. Raises UserError.
    """
    trained = (folder / records.NAME).exists() and records.read(folder).get("kind") != records.EVALUATION
    if trained or any((folder / name).exists() for name in ("config.json", FOLDER)):
        raise UserError(
            f"--output_dir {printable(folder)}: holds a training or a model, which an evaluation does not "
            "replace; give another folder"
        )
    claim(folder, arguments)


def clear(folder: Path) -> None:
    """Delete what a run wrote to `folder`, and nothing else.

    The record comes last: a run that is killed meanwhile leaves a folder that still is a run's.
    """
    for path in own_paths(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    for name in INSIDE:
        with contextlib.suppress(OSError):  # where it is missing, or holds something else
            (folder / name).rmdir()
    (folder / records.NAME).unlink(missing_ok=True)


def save_model(
    folder: Path, model: Any, tokenizer: Any, *, remote_code: bool, weights: dict[str, Any] | None = None
) -> None:
    """Save model and tokenizer into `folder`: beside it first, then renamed file by file, weights last.

    `weights` replace the model's own where no process has them all.
    """
    for left_behind in folder.glob(f"{BESIDE}*"):  # by a run that was killed here
        shutil.rmtree(left_behind, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=BESIDE) as beside:
        model.save_pretrained(beside, save_remote_code=remote_code, state_dict=weights)
        tokenizer.save_pretrained(beside)
        files = sorted(Path(beside).rglob("*"), key=lambda path: path.suffix == ".safetensors")
        mode = stat.S_IMODE((Path(beside) / "config.json").stat().st_mode)
        for file in files:
            if not file.is_file():
                continue
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            file.chmod(mode)  # safetensors gives its files to their owner alone
            target = folder / file.relative_to(beside)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    sync_folder(folder)


def write_predictions(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write predictions as JSON, one line per example, so that two runs can be compared with diff."""
    lines = ",\n".join(json.dumps(row, ensure_ascii=False, allow_nan=False) for row in rows)
    write_atomic(path, f"[\n{lines}\n]\n")
