"""Manage the processes that run a study's cells: workers that run one cell after the other, and single runs.

A worker is `python -m sot_nlp.studies.worker`. Imports, tokens in memory and compiled code are paid for once
per worker. One that dies (killed, out of memory) costs the cell that it was at; the next cell gets a new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from sot_nlp.errors import printable

# A run that is asked to end writes a checkpoint first.
PATIENCE_SECONDS = 60.0


# Errors of a GPU that no later cell of the same process survives.
LOST_DEVICE = ("CUDA error", "device-side assert", "GPU is lost", "no CUDA-capable device")


def lost_device(reason: str) -> bool:
    """Return whether an error says that the GPU, or this process's use of it, is lost."""
    return any(sign in reason for sign in LOST_DEVICE)


class Process(Protocol):
    """A run at work, here or on another machine: what is used of subprocess.Popen."""

    def poll(self) -> int | None:
        """Return its exit code; None while it runs."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it at once."""

    def wait(self, timeout: float | None = None) -> int:
        """Return its exit code, once it has ended. Raises subprocess.TimeoutExpired."""


Start = Callable[[Sequence[str], Mapping[str, str], Path], Process]


class WorkerRun:
    """A cell in a worker, with the methods of a process."""

    def __init__(self, process: subprocess.Popen[bytes]):
        self.process = process
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return the cell's exit code, or that of a worker that died at it; None while it runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.code

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code, once there is one. Raises subprocess.TimeoutExpired."""
        if self.code is None:
            assert self.process.stdout is not None
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("worker", timeout or 0)
            reply = self.process.stdout.readline()
            # Without a reply its end of the pipe was closed: it died.
            self.code = int(reply) if reply.strip() else self.process.wait() or 1
        return self.code

    def terminate(self) -> None:
        """Ask the cell to end; it writes a checkpoint, and the worker ends with it."""
        self.process.terminate()

    def kill(self) -> None:
        """End the worker at once."""
        self.process.kill()


class WorkerPool:
    """Workers by the environment of their slot; `start` gives a cell to a free one, or to a new one.

    Use as a context manager: at its end the free workers end.
    """

    def __init__(self) -> None:
        self.runs: list[tuple[Mapping[str, str], WorkerRun]] = []

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *error: object) -> None:
        for _, run in self.runs:
            close(run.process)
        self.runs.clear()

    def start(self, command: Sequence[str], slot: Mapping[str, str], log: Path) -> Process:
        """Give a cell's command, `python -m MODULE ...`, to a worker; its output goes behind `log`'s."""
        _, _, module, *words = command
        request = {"module": module, "words": [*words, "--disable_tqdm"], "log": str(log.resolve())}
        process = self._free(slot) or _worker(slot, log)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died between two cells: read as its reply
            process.stdin.write(f"{json.dumps(request)}\n".encode())
            process.stdin.flush()
        run = WorkerRun(process)
        self.runs.append((slot, run))
        return run

    def _free(self, slot: Mapping[str, str]) -> subprocess.Popen[bytes] | None:
        """Return a living worker of `slot` whose cell has ended; drop the dead ones."""
        for entry in list(self.runs):
            of_slot, run = entry
            if run.code is None or of_slot != slot:
                continue
            self.runs.remove(entry)
            if run.process.poll() is None:
                return run.process
            close(run.process)
        return None


def _worker(slot: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "sot_nlp.studies.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            env={**os.environ, **environment(slot)},
            # A Ctrl-C reaches this program alone, which then signals the runs.
            start_new_session=True,
        )


def close(process: subprocess.Popen[bytes]) -> None:
    """End a worker that is at no cell, and close its pipes."""
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def start_run(command: Sequence[str], slot: Mapping[str, str], log: Path) -> Process:
    """Start a run as a process of its own, with the environment of `slot`, its output behind `log`'s."""
    with log.open("ab") as output:
        return subprocess.Popen(
            [*command, "--disable_tqdm"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **environment(slot)},
            start_new_session=True,
        )


def environment(slot: Mapping[str, str]) -> dict[str, str]:
    """Return what a run's environment has beside its machine's: its slot, and where this package is."""
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**slot, "PYTHONPATH": os.pathsep.join(paths)}


def end_run(process: Process, patience: float = PATIENCE_SECONDS) -> None:
    """Ask a run to end, wait for its checkpoint, and kill it where it does not end."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(max(0.1, patience))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def failure_reason(code: int, log: Path) -> str:
    """Return why a run failed: our own line of error at the end of its log, else what its traceback says."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
    if ours := re.match(r"[\w -]*: error: (.+)", lines[-1]):
        return printable(ours[1], 300)
    # Torch's message on a GPU continues for several lines after the one that names the error.
    traces = [i for i, line in enumerate(lines) if line.startswith("Traceback (")]
    rest = lines[traces[-1] + 1 :] if traces else []
    said = next((line for line in rest if line and not line[0].isspace()), lines[-1])
    return printable(said, 300)
