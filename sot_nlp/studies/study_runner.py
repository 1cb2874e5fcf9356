"""Running a study: its cells as processes, several at once, each with its claim, its log and its record.

A folder of a study holds `study.json` (the plan), `runs/<cell>/` (ordinary runs), `runs/<cell>.failed.json`
(why a cell failed), `claims/` (who runs what) and `logs/`. Nothing else is needed to go on after a kill, or
to help from another machine: a finished cell is one whose record says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Protocol

from sot_nlp import records
from sot_nlp.errors import UserError, printable
from sot_nlp.files import write_json
from sot_nlp.studies import claims
from sot_nlp.studies.study import StudyCell

POLL_SECONDS = 0.2
# A run that is told to end writes a checkpoint first.
PATIENCE_SECONDS = 60.0
SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Of a finished run only these are needed for the study; its model is by far the largest part.
WEIGHTS = ("*.safetensors", "checkpoints", "*.bin")


class Display(Protocol):
    """What is told of a study while it runs."""

    def update(self, state: State) -> None:
        """Something may have changed."""

    def event(self, text: str) -> None:
        """A cell began or ended."""


@dataclass
class State:
    """How far a study is: every cell's status by its folder's name."""

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


class Process(Protocol):
    """A run at work, here or on another machine: what of subprocess.Popen is used."""

    pid: int

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def terminate(self) -> None:
        """Tell it to end."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, once it has ended. Raises subprocess.TimeoutExpired."""


Start = Callable[[Sequence[str], Mapping[str, str], Path], Process]


@dataclass
class Worker:
    """A process that runs a cell."""

    cell: StudyCell
    process: Process
    claim: claims.Claim
    slot: Mapping[str, str]


class Stopped(Exception):  # noqa: N818 - asked for, not an error
    """A signal ended the study; `signum` says which."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class StudyRunner:
    """Runs the cells of a study in `folder`, as many at once as there are `slots`.

    A slot is the environment of its processes: a GPU of its own, or a number of threads. `keep_models` keeps
    the weights of finished runs; `start` starts a run (default: as a process of this machine). Raises
    UserError where the folder can't be written.
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
    ):
        self.folder = folder
        self.display = display
        self.keep_models = keep_models
        self.start = start or start_run
        self.free = list(slots)
        self.state = State(cells)
        self.workers: list[Worker] = []
        self.signum = 0
        self.ending = False
        self.started = time.time()

    def run(self) -> State:
        """Run what is not finished; returns what became of every cell. Raises `Stopped` after a signal."""
        try:
            for name in ("runs", "claims", "logs"):
                (self.folder / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{printable(self.folder)}: cannot be written: {error.strerror}") from None
        waiting = deque(self.state.cells)
        with self._signals():
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
            raise Stopped(self.signum)
        return self.state

    def _start_cells(self, waiting: deque[StudyCell]) -> None:
        """Give the free slots to cells that nobody has; a cell that another program runs waits behind."""
        for _ in range(len(waiting)):
            cell = waiting.popleft()
            if self._is_done(cell):
                self.state.elsewhere.pop(cell.folder, None)
                if not self._clear_after_the_dead(cell):
                    waiting.append(cell)
                continue
            if not self.free:
                waiting.appendleft(cell)
                return
            held = claims.claim(self._claim_path(cell))
            if held is None:
                self.state.elsewhere[cell.folder] = claims.holder(self._claim_path(cell))
                waiting.append(cell)
            elif self._is_done(cell):
                # Another program finished it between the look and the claim.
                held.release()
            else:
                self.state.elsewhere.pop(cell.folder, None)
                self._launch(cell, held)

    def _clear_after_the_dead(self, cell: StudyCell) -> bool:
        """Where a run outlived its program, which left its claim: do what that one would have done.

        False while the claim is a living one's, which is about to let go of it.
        """
        if not self._claim_path(cell).exists():
            return True
        held = claims.claim(self._claim_path(cell))
        if held is None:
            return False
        if cell.folder in self.state.finished and not self.keep_models:
            drop_weights(self.folder / "runs" / cell.folder)
        held.release()
        return True

    def _log(self, cell: StudyCell) -> Path:
        return self.folder / "logs" / f"{cell.folder}.log"

    def _claim_path(self, cell: StudyCell) -> Path:
        return self.folder / "claims" / f"{cell.folder}.json"

    def _failure_path(self, cell: StudyCell) -> Path:
        return self.folder / "runs" / f"{cell.folder}.failed.json"

    def _is_done(self, cell: StudyCell) -> bool:
        """Whether the cell is finished, or failed since this program started."""
        if cell.folder in self.state.finished or cell.folder in self.state.failed:
            return True
        if self._status(cell) == records.FINISHED:
            self.state.finished.add(cell.folder)
            return True
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            note = json.loads(self._failure_path(cell).read_text(encoding="utf-8"))
            if note["time"] >= self.started:
                self.state.failed[cell.folder] = printable(note["reason"])
                return True
        return False

    def _status(self, cell: StudyCell) -> str | None:
        folder = self.folder / "runs" / cell.folder
        if not (folder / records.NAME).exists():
            return None
        try:
            return str(records.read(folder).get("status"))
        except UserError:
            return None

    def _launch(self, cell: StudyCell, held: claims.Claim) -> None:
        run = self.folder / "runs" / cell.folder
        if run.exists() and not (run / records.NAME).exists():
            # Killed before it had a record: there is nothing in it to go on from.
            shutil.rmtree(run)
        self._failure_path(cell).unlink(missing_ok=True)
        slot = self.free.pop(0)
        process = self.start(cell.command(run), slot, self._log(cell))
        held.note_process(process.pid)
        self.state.running[cell.folder] = time.monotonic()
        self.workers.append(Worker(cell, process, held, slot))

    def _collect(self) -> None:
        for worker in list(self.workers):
            worker.claim.beat()
            if worker.process.poll() is not None:
                self._finish(worker)

    def _finish(self, worker: Worker) -> None:
        """Note what became of a cell whose process has ended."""
        cell, code = worker.cell, worker.process.wait()
        seconds = time.monotonic() - self.state.running.pop(cell.folder)
        self.workers.remove(worker)
        self.free.append(worker.slot)
        # Told to end just after its record was written, a run is finished whatever it exits with.
        if self._status(cell) == records.FINISHED:
            self.state.finished.add(cell.folder)
            self.state.seconds.append(seconds)
            if not self.keep_models:
                drop_weights(self.folder / "runs" / cell.folder)
            self.display.event(f"{cell.title}: finished in {seconds:.0f} s")
        elif not self.ending:
            reason = failure_reason(code, self._log(cell))
            write_json(self._failure_path(cell), {"reason": reason, "exit_code": code, "time": time.time()})
            self.state.failed[cell.folder] = reason
            self.display.event(f"{cell.title}: failed: {reason}")
        worker.claim.release()

    def _end_workers(self) -> None:
        """Tell the runs to end, and wait for their checkpoints; then give up the claims."""
        self.ending = True
        for worker in self.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.terminate()
        deadline = time.monotonic() + PATIENCE_SECONDS
        for worker in list(self.workers):
            end_run(worker.process, deadline - time.monotonic())
            self._finish(worker)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """Inside, a signal to end is only noted."""

        def note(signum: int, frame: FrameType | None) -> None:
            self.signum = signum

        # Only the main thread of a program may say what its signals do.
        main = threading.current_thread() is threading.main_thread()
        before = {each: signal.signal(each, note) for each in SIGNALS} if main else {}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)


def start_run(command: Sequence[str], slot: Mapping[str, str], log: Path) -> Process:
    """A run as a process of its own, with the environment of `slot`, its output behind what `log` holds."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, "--disable_tqdm"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(slot)},
            # A Ctrl-C is told to this program alone, which then tells the runs.
            start_new_session=True,
        )


def environment(slot: Mapping[str, str]) -> dict[str, str]:
    """What a run's environment has beside its machine's: its slot, and where this package is."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**slot, "PYTHONPATH": os.pathsep.join(paths)}


def end_run(process: Process, patience: float = PATIENCE_SECONDS) -> None:
    """Tell a run to end, wait for its checkpoint, and kill it where it does not."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(max(0.1, patience))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def failure_reason(code: int, log: Path) -> str:
    """Why a run failed: the last line of its log, which is where it says what stopped it."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
    return printable(lines[-1].partition("error: ")[2] or lines[-1], 300)


def drop_weights(run: Path) -> None:
    """Delete the weights and checkpoints of a finished run; its record and predictions stay."""
    for pattern in WEIGHTS:
        for path in run.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def slots(jobs: int | None, threads: int | None, *, cpu: bool) -> list[dict[str, str]]:
    """The environments of the processes that run at once.

    With GPUs, each has one in turn (`jobs`: as many as there are); without, `jobs` (default: the cores over
    `threads`) processes of `threads` (default 1) each.
    """
    devices = [] if cpu else gpus()
    common = {"TOKENIZERS_PARALLELISM": "false"}
    if devices:
        count = jobs or len(devices)
        return [{**common, "CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} for i in range(count)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    each = threads or 1
    return [{**common, **thread_limits(each)} for _ in range(jobs or max(1, cores // each))]


def thread_limits(threads: int) -> dict[str, str]:
    """The environment of a process that computes with so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def gpus() -> list[str]:
    """The GPUs that processes may use, as CUDA_VISIBLE_DEVICES names them."""
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidiactl").exists():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]
