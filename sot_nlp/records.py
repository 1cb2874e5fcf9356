"""Records, one JSON file per run: settings, versions, scores, timings. Tables and cards read only this."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable
from sot_nlp.files import write_json

FORMAT_VERSION = 1
NAME = "record.json"
RUNNING, FINISHED, INTERRUPTED, FAILED = "running", "finished", "interrupted", "failed"
# The `kind` of a record that an evaluation left; a training's has none.
EVALUATION = "evaluation"
PACKAGES = (
    "sot-nlp",
    "torch",
    "transformers",
    "datasets",
    "evaluate",
    "accelerate",
    "scikit-learn",
    "scipy",
    "numpy",
    "tokenizers",
    "peft",
)


def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that shape a result."""
    installed = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def git_state() -> dict[str, Any] | None:
    """Return this checkout's commit, and whether it was changed; None for an installed wheel."""
    checkout = Path(__file__).resolve().parent.parent
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        changed = _git(checkout, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *words], capture_output=True, text=True, timeout=5, check=True
    )
    return done.stdout.strip()


def environment(accelerator: Any) -> dict[str, Any]:
    """Return what the run ran on: device, number of processes, precision, threads."""
    import torch

    device = accelerator.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    return {
        "device": device.type,
        "device_name": name or platform.machine(),
        "processes": accelerator.num_processes,
        "distributed_type": str(accelerator.distributed_type.value),
        "mixed_precision": accelerator.mixed_precision,
        "threads": torch.get_num_threads(),
        "platform": sys.platform,
    }


def write(folder: Path, record: dict[str, Any]) -> None:
    """Write the record of the run in `folder`, whole or not at all."""
    write_json(folder / NAME, record)


def read(folder: str | Path) -> dict[str, Any]:
    """Read the record of the run in `folder`. UserError where there is none or it is unreadable."""
    path = Path(folder) / NAME
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{printable(folder)}: no {NAME} here, so this is not a run's folder") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{printable(path)}: cannot be read as JSON: {printable(error)}") from None
    if not isinstance(record, dict) or "format_version" not in record:
        raise UserError(f"{printable(path)}: not a run's record (no format_version)")
    if record["format_version"] != FORMAT_VERSION:
        raise UserError(
            f"{printable(path)}: format_version {printable(record['format_version'])}; "
            f"this version of sot-nlp reads {FORMAT_VERSION}"
        )
    return record
