"""A run's live output: `train.log`, `metrics.jsonl`, the progress bar and the trackers."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any, TextIO

from tqdm.auto import tqdm

from sot_nlp.errors import UserError
from sot_nlp.files import write_atomic, writing
from sot_nlp.settings.arguments import Arguments

METRICS_NAME = "metrics.jsonl"
LOG_NAME = "train.log"
# What trackers call a run, and the folder in `logs` that has its events.
PROJECT = "sot-nlp"


def finite(value: Any) -> Any:
    """Return `value` with None for every float in it that JSON can't express (NaN and the infinities)."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunLog:
    """The log files of one run folder and its progress bar. Only the main process makes them.

    Every line is flushed, so that a crash can be read. Use as a context manager.
    """

    def __init__(self, run_folder: Path, *, active: bool, total_steps: int, show_progress: bool):
        self.active = active
        self.run_folder = run_folder
        self.show_progress = show_progress and active
        self.total_steps = total_steps
        self.bar: Any = None
        self._log: TextIO | None = None
        self._metrics: TextIO | None = None

    def __enter__(self) -> RunLog:
        if self.active:
            self._log = self._open(LOG_NAME)
            self._metrics = self._open(METRICS_NAME)
            self.bar = tqdm(
                total=self.total_steps, disable=not self.show_progress, unit="update", dynamic_ncols=True
            )
        return self

    def _open(self, name: str) -> TextIO:
        path = self.run_folder / name
        with writing(path):  # which another user may have made
            return path.open("a", encoding="utf-8", buffering=1)

    def __exit__(self, *error: object) -> None:
        for part in (self.bar, self._log, self._metrics):
            if part is not None:
                part.close()

    def rewind(self, step: int) -> None:
        """Drop the metrics of updates after `step`: a run that was killed wrote them, and they come again."""
        if self._metrics is None:
            return
        self._metrics.close()
        path = self.run_folder / METRICS_NAME
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):
                continue  # torn by a crash, or damaged on the disk
        write_atomic(path, "".join(kept))
        self._metrics = self._open(METRICS_NAME)
        self.bar.update(step - self.bar.n)

    def metrics(self, entry: dict[str, Any]) -> None:
        """Append one JSON line to `metrics.jsonl`, and its numbers to `train.log`."""
        if self._metrics is None:
            return
        self._metrics.write(json.dumps(finite(entry), allow_nan=False) + "\n")
        self.line("  ".join(f"{key} {_short(value)}" for key, value in entry.items()))

    def line(self, text: str) -> None:
        """Append a line with the time to `train.log`."""
        if self._log is not None:
            self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}\n")

    def progress(self, loss: float, rate: float, speed: float) -> None:
        """Show loss, learning rate and speed beside the bar."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {loss:.4f}, lr {rate:.2e}, {speed:.0f} examples/s", refresh=False)

    def advance(self) -> None:
        """Advance the progress bar by one update."""
        if self.bar is not None:
            self.bar.update(1)


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def tracker_names(arguments: Arguments) -> list[str] | None:
    """Return the trackers for `Accelerator(log_with=...)`; None without `--with_tracking` or for `none`.

    Raises UserError for none, and for one that accelerate doesn't know or that is not installed.
    """
    if not arguments.with_tracking or arguments.report_to is None:
        return None
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    installed = sorted(str(getattr(name, "value", name)) for name in get_available_trackers())
    known = sorted(str(name) for name in LOGGER_TYPE_TO_CLASS)
    wanted = [name.strip() for name in arguments.report_to.split(",") if name.strip()]
    if not wanted:
        raise UserError(f"--report_to names no tracker; known: {', '.join(known)}, or all")
    if wanted == ["all"]:
        if not installed:
            raise UserError(f"--with_tracking: no tracker is installed; install one of {', '.join(known)}")
        return installed
    for name in wanted:
        if name not in known:
            raise UserError(f"--report_to {name!r}: unknown tracker; known: {', '.join(known)}")
        if name not in installed:
            raise UserError(f"--report_to {name}: that package is not installed")
    return wanted


def tracker_config(arguments: Arguments) -> dict[str, Any]:
    """Return the settings as every tracker accepts them: a flat dict of numbers, booleans and texts."""
    return {
        key: value if isinstance(value, (int, float, bool, str)) else str(value)
        for key, value in arguments.to_dict().items()
    }


def tracker_values(entry: dict[str, Any]) -> dict[str, float]:
    """Return the numbers of a line of `metrics.jsonl` as trackers name their curves.

    Those of the training are `train/loss`, `train/learning_rate`, ...; those of an evaluation are
    `<split>/<metric>` of each of its splits, such as `validation/loss`. `epoch` is shared by both.
    """
    splits = entry.get("splits") or {entry.get("split", "train"): entry}
    values = {
        f"{split}/{name}": value
        for split, scores in splits.items()
        for name, value in scores.items()
        if isinstance(value, (int, float)) and name not in ("step", "epoch")
    }
    return {"epoch": entry["epoch"], **values}
