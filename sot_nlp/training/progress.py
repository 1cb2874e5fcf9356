"""Track a run's progress: counters, log lines, time, and skipped updates."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from accelerate import Accelerator

from sot_nlp.errors import UserError, worded
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.checkpointing.folders import Progress
from sot_nlp.training.logs import RunLog, finite, tracker_values
from sot_nlp.training.updates import Outcome

logger = logging.getLogger(__name__)

SHOWN_EXAMPLES = 64
# Where so many updates in a row overflow in fp16, no loss scale will help.
MOST_OVERFLOWS = 50


class ProgressTracker:
    """Keep `progress`, write what is logged, and stop the run at numbers that are not finite.

    `positions` (n,) are to be the training examples' places in their file, `on_log` gets each line of the
    training on the main process. The clock counts training alone: whoever does something else stops it.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        arguments: Arguments,
        log: RunLog,
        *,
        on_log: Callable[[dict[str, Any]], None],
        updates_per_epoch: int,
    ):
        self.accelerator, self.arguments, self.log, self.on_log = accelerator, arguments, log, on_log
        self.updates_per_epoch, self.positions = updates_per_epoch, np.zeros(0, dtype=np.int64)
        self.progress = Progress()
        self.warnings: list[str] = []
        self.overflows = 0
        self.running_since: float | None = None

    def resume(self, progress: Progress) -> None:
        """Resume from a checkpoint's progress."""
        self.progress = progress
        self.warnings += map(_skipped, progress.skipped)
        self.log.line(f"resumed from update {progress.step}")
        if self.accelerator.is_main_process:
            for entry in progress.log_history:
                self.on_log(entry)

    def record_update(self, outcome: Outcome, *, last_good: Callable[[], str]) -> None:
        """Record an update. Raises UserError where its numbers end the run."""
        if outcome.applied:
            self.overflows = 0
            self._log(outcome)
        elif self._overflowed(outcome):
            self._log(outcome)
        else:
            self._skip_or_stop(outcome, last_good)

    def record_scores(self, scores: dict[str, Any], main_metric: str, sign: float) -> None:
        """Record an evaluation: `sign * main_metric` above all earlier ones makes it the best."""
        progress = self.progress
        entry = finite({"epoch": self.epoch(progress.step), "step": progress.step, **scores})
        progress.evaluations.append(entry)
        progress.evaluated = True
        value, best = entry[main_metric], progress.best["value"] if progress.best else None
        if progress.best is None or (value is not None and (best is None or sign * value > sign * best)):
            progress.best = {
                "metric": main_metric,
                "value": value,
                "epoch": entry["epoch"],
                "step": progress.step,
            }
            progress.evaluations_without_gain = 0
        else:
            progress.evaluations_without_gain += 1
        self.publish(entry)

    def publish(self, entry: dict[str, Any]) -> None:
        """Write a line of numbers to the log files and the trackers."""
        self.log.metrics(entry)
        if self.arguments.with_tracking:
            self.accelerator.log(tracker_values(entry), step=entry["step"])

    def warn(self, message: str) -> None:
        """Say it now, in the log, and in the result."""
        self.warnings.append(message)
        self.log.line(message)
        logger.warning(worded(message))

    def epoch(self, step: int) -> float:
        """Return how many epochs `step` updates are."""
        return round(step / self.updates_per_epoch, 4)

    def start_clock(self) -> None:
        """Start counting training time."""
        self.running_since = time.perf_counter()

    def stop_clock(self) -> None:
        """Stop counting training time."""
        if self.running_since is not None:
            self.progress.train_seconds += time.perf_counter() - self.running_since
        self.running_since = None

    def _log(self, outcome: Outcome) -> None:
        progress, window = self.progress, self.progress.window
        window["loss"] += outcome.loss
        window["updates"] += 1
        if outcome.step % self.arguments.logging_steps:
            return
        self.stop_clock()
        self.start_clock()
        entry = {
            "step": outcome.step,
            "epoch": self.epoch(outcome.step),
            "loss": window["loss"] / window["updates"],
            "learning_rate": outcome.learning_rate,
            "grad_norm": outcome.grad_norm,
            "examples_per_second": progress.examples / max(progress.train_seconds, 1e-9),
        }
        progress.window = {"loss": 0.0, "updates": 0}
        progress.log_history.append(finite(entry))
        self.publish(progress.log_history[-1])
        if self.accelerator.is_main_process:
            self.on_log(progress.log_history[-1])
        self.log.progress(entry["loss"], entry["learning_rate"], entry["examples_per_second"])

    def _overflowed(self, outcome: Outcome) -> bool:
        """Return whether fp16's scaler skipped the update to lower its scale, which it does now and then."""
        if self.accelerator.scaler is None or not math.isfinite(outcome.loss):
            return False
        self.overflows += 1
        return self.overflows <= MOST_OVERFLOWS

    def _skip_or_stop(self, outcome: Outcome, last_good: Callable[[], str]) -> None:
        progress, arguments = self.progress, self.arguments
        update = {
            "step": outcome.step,
            "epoch": self.epoch(outcome.step),
            "loss": str(outcome.loss),
            "grad_norm": str(outcome.grad_norm),
            "examples": self.positions[outcome.examples].tolist(),
        }
        progress.skipped.append(update)
        if arguments.on_nan == "skip" and len(progress.skipped) <= arguments.max_nan_skips:
            self.warn(_skipped(update))
            return
        what = _described(update)
        self.log.line(f"stopped at {what}")
        limit = (
            f"--max_nan_skips {arguments.max_nan_skips} is used up"
            if arguments.on_nan == "skip"
            else "a lower --learning_rate may help; --on_nan skip skips such updates"
        )
        raise UserError(f"not a finite number at {what}; {last_good()}; {limit}")


def _skipped(update: dict[str, Any]) -> str:
    return f"skipped {_described(update)}"


def _described(update: dict[str, Any]) -> str:
    """Return an entry of `Progress.skipped` in words."""
    examples = update["examples"]
    shown = ", ".join(map(str, examples[:SHOWN_EXAMPLES]))
    more = ", ..." if len(examples) > SHOWN_EXAMPLES else ""
    return (
        f"update {update['step']} (epoch {update['epoch']:.2f}): loss {update['loss']}, gradient norm "
        f"{update['grad_norm']}; its examples, by position in the training data: {shown}{more}"
    )
