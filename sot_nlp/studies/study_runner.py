"""Run a study: its cells, several at once, each with its log and its record.

A folder of a study holds `study.json` (the plan), `runs/<cell>/` (ordinary runs), `runs/<cell>.failed.json`
(why a cell failed), `logs/` and the lock of whoever runs it (`sharding`). Nothing else is needed to continue
after a kill: a finished cell is one whose record says so.
"""

from __future__ import annotations

import contextlib
import shutil
import signal
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from sot_nlp import records
from sot_nlp.errors import UserError
from sot_nlp.files import make_folder, write_json
from sot_nlp.studies.growth import Growth
from sot_nlp.studies.sharding import WHOLE, Shard, study_lock
from sot_nlp.studies.study import StudyCell
from sot_nlp.studies.workers import (
    PATIENCE_SECONDS,
    Process,
    Start,
    end_run,
    failure_reason,
    lost_device,
    start_run,
)
from sot_nlp.training.run_lock import is_held, owner
from sot_nlp.training.signals import handled_signals

POLL_SECONDS = 0.2
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Of a finished run only these are needed for the study; its model is by far the largest part.
WEIGHTS = ("*.safetensors", "checkpoints", "*.bin")


class Display(Protocol):
    """What a running study reports to."""

    def update(self, state: State) -> None:
        """Handle a possible change of the state."""

    def event(self, text: str) -> None:
        """Show that a cell began or ended."""


@dataclass
class State:
    """A study's state: every cell's status by its folder's name."""

    cells: Sequence[StudyCell]
    finished: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)  # since when
    elsewhere: dict[str, str] = field(default_factory=dict)  # by whom
    seconds: list[float] = field(default_factory=list)  # of the cells that ended here

    @property
    def open(self) -> int:
        """Cells that are neither finished nor failed."""
        return len(self.cells) - len(self.finished) - len(self.failed)


@dataclass
class Worker:
    """A cell at work."""

    cell: StudyCell
    process: Process
    slot: Mapping[str, str]


class Stopped(Exception):  # noqa: N818 - asked for, not an error
    """A signal ended the study: which, and how far it was."""

    def __init__(self, signum: int, progress: str = ""):
        super().__init__(signum, progress)
        self.signum = signum
        self.progress = progress


class StudyRunner:
    """Runs the cells of a study in `folder`, as many at once as there are `slots`.

    A slot is the environment of its processes: a GPU of its own, or a number of threads. `keep_models` keeps
    the weights of finished runs; `start` starts a run (default: as a process of this machine). `cells` are
    those of `shard`; `growth` adds slots on GPUs. Raises UserError where the folder can't be written or
    another program runs it.
    """

    def __init__(
        self,
        cells: Sequence[StudyCell],
        folder: Path,
        *,
        slots: Sequence[Mapping[str, str]],
        display: Display,
        keep_models: bool = False,
        start: Start | None = None,
        shard: Shard = WHOLE,
        growth: Growth | None = None,
    ):
        self.folder = folder
        self.display = display
        self.keep_models = keep_models
        self.start = start or start_run
        self.shard = shard
        self.growth = growth
        self.surplus: Counter[str] = Counter()
        self.free = list(slots)
        self.state = State(cells)
        self.workers: list[Worker] = []
        self.signum = 0
        self.ending = False
        self.losses: Counter[str] = Counter()

    def run(self) -> State:
        """Run what is not finished; returns what became of every cell. Raises `Stopped` after a signal."""
        for name in ("runs", "logs"):
            make_folder(self.folder / name, "--output_dir")
        with study_lock(self.folder, self.shard), handled_signals(SIGNALS, self._note):
            waiting = deque(cell for cell in self.state.cells if not self._is_finished(cell))
            if self.growth is not None and self.growth.width > 1 and waiting:
                self.display.event(f"{self.growth.width} runs per GPU at first")
            try:
                while (waiting or self.workers) and not self.signum:
                    self._start_cells(waiting)
                    self._collect()
                    self.display.update(self.state)
                    if waiting or self.workers:
                        time.sleep(POLL_SECONDS)
            finally:
                self._end_workers()
        if self.signum:
            done = f"{len(self.state.finished)} of {len(self.state.cells)} runs are finished"
            raise Stopped(self.signum, done)
        self.display.update(self.state)
        return self.state

    def _start_cells(self, waiting: deque[StudyCell]) -> None:
        """Give the free slots to cells; one whose run outlived a killed study waits for it."""
        for _ in range(len(waiting)):
            if not self.free:
                return
            cell = waiting.popleft()
            run = self.folder / "runs" / cell.folder
            if is_held(run):
                self.state.elsewhere[cell.folder] = owner(run)
                waiting.append(cell)
                continue
            outlived = self.state.elsewhere.pop(cell.folder, None) is not None
            if not self._is_finished(cell):
                self._launch(cell)
            elif outlived and not self.keep_models:
                drop_weights(run)

    def _is_finished(self, cell: StudyCell) -> bool:
        if self._status(cell) != records.FINISHED:
            return False
        self.state.finished.add(cell.folder)
        return True

    def _log(self, cell: StudyCell) -> Path:
        return self.folder / "logs" / f"{cell.folder}.log"

    def _failure_path(self, cell: StudyCell) -> Path:
        return self.folder / "runs" / f"{cell.folder}.failed.json"

    def _status(self, cell: StudyCell) -> str | None:
        folder = self.folder / "runs" / cell.folder
        if not (folder / records.NAME).exists():
            return None
        try:
            return str(records.read(folder).get("status"))
        except UserError:
            return None

    def _launch(self, cell: StudyCell) -> None:
        run = self.folder / "runs" / cell.folder
        if run.exists() and not (run / records.NAME).exists():
            # Killed before it had a record: there is nothing in it to resume.
            shutil.rmtree(run)
        self._failure_path(cell).unlink(missing_ok=True)
        slot = self.free.pop(0)
        process = self.start(cell.command(run), slot, self._log(cell))
        self.state.running[cell.folder] = time.monotonic()
        self.workers.append(Worker(cell, process, slot))

    def _collect(self) -> None:
        for worker in list(self.workers):
            if worker.process.poll() is not None:
                self._finish(worker)

    def _finish(self, worker: Worker) -> None:
        """Note what became of a cell whose process has ended."""
        cell, code = worker.cell, worker.process.wait()
        seconds = time.monotonic() - self.state.running.pop(cell.folder)
        self.workers.remove(worker)
        reason = ""
        # Asked to end just after its record was written, a run is finished whatever it exits with.
        if self._status(cell) == records.FINISHED:
            self.state.finished.add(cell.folder)
            self.state.seconds.append(seconds)
            if not self.keep_models:
                drop_weights(self.folder / "runs" / cell.folder)
            self.display.event(f"{cell.title}: finished in {seconds:.0f} s")
            self._grow(seconds)
        elif not self.ending:
            reason = failure_reason(code, self._log(cell))
            write_json(self._failure_path(cell), {"reason": reason, "exit_code": code})
            self.state.failed[cell.folder] = reason
            self.display.event(f"{cell.title}: failed: {reason}")
        self._free_slot(worker.slot, reason)

    def _grow(self, seconds: float) -> None:
        """Let more runs per GPU in, or some out, by what the cells so far took."""
        change = self.growth.cell_ended(seconds) if self.growth is not None else 0
        if self.growth is None or change == 0:
            return
        self.display.event(f"{self.growth.width} runs per GPU from here on")
        self.free += self.growth.places * change
        for device in self.growth.devices:
            self.surplus[device] += max(0, -change)

    def _free_slot(self, slot: Mapping[str, str], reason: str) -> None:
        """Use the slot for another cell; a GPU that is lost gets none, as long as there is another place."""
        device = slot.get("CUDA_VISIBLE_DEVICES")
        if device is not None and self.surplus[device]:
            self.surplus[device] -= 1
            return
        if device is not None and lost_device(reason):
            self.losses[device] += 1
            places = [*self.free, *(worker.slot for worker in self.workers)]
            others = any(place.get("CUDA_VISIBLE_DEVICES") != device for place in places)
            # (the first loss may be that of one process alone)
            if self.losses[device] > 1 and others:
                self.display.event(f"GPU {device}: failed: lost; its runs go to the other GPUs")
                return
        self.free.append(slot)

    def _end_workers(self) -> None:
        """Ask the runs to end, and wait for their checkpoints."""
        self.ending = True
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for worker in list(self.workers):
            end_run(worker.process, deadline - time.monotonic())
            self._finish(worker)

    def _note(self, signum: int) -> None:
        self.signum = signum


def drop_weights(run: Path) -> None:
    """Delete the weights and checkpoints of a finished run; its record and predictions stay."""
    for pattern in WEIGHTS:
        for path in run.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
