"""Signals that ask a run to end: it writes a checkpoint first. Imports no torch."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sot_nlp.settings.arguments import Arguments

# What people (Ctrl-C), launchers and clusters send before they kill: SLURM's `--signal=USR1@60`, for one.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))
# A launcher that asked its processes to end kills them after 30 seconds.
PATIENCE_SECONDS = 25.0


class Interrupted(Exception):  # noqa: N818 - asked for, not an error
    """A signal ended the run after its checkpoint was written; the command exits with `exit_code`."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, as shells have it."""
        return 128 + self.signum


class LostProcessError(RuntimeError):
    """Another process of this run has ended, so this one can't continue.

    `first` is whether this process was the first to notice: it is the one that informs the user.
    """

    def __init__(self, message: str, *, first: bool):
        super().__init__(message)
        self.first = first


def same_command(arguments: Arguments) -> str:
    """Return, in the words of a message, the command that resumes a run."""
    if arguments.overwrite_output_dir:
        return "the same command without --overwrite_output_dir"
    return "the same command"


class _Received:
    signum = 0
    at = 0.0


_received = _Received()


def received() -> int:
    """Return the number of the signal that asked this process to end; 0 if none has (or none is caught)."""
    return _received.signum


def votes() -> list[float]:
    """Return this process's vote for each of `SIGNALS`: 1 for the one that it received, if any."""
    return [float(number == received()) for number in SIGNALS]


def elected(counts: Sequence[float]) -> int:
    """Return the signal that most processes received, by their summed `votes`; 0 where none did."""
    most = max(counts)
    return int(SIGNALS[counts.index(most)]) if most else 0


@contextmanager
def handled_signals(signals: Iterable[int], handle: Callable[[int], None]) -> Iterator[None]:
    """Call `handle` with the number of each of `signals` that comes meanwhile; in the main thread only.

    (Only that thread of a program may say what its signals do.)
    """
    main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, lambda number, frame: handle(number)) for n in signals} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def caught_signals(*, distributed: bool) -> Iterator[None]:
    """Let `SIGNALS` only set what `received` returns. Outside the main thread nothing is caught.

    In a single process a second Ctrl-C, a second or more after the first, ends it at once. In a run of
    several processes one that hangs in a collective, because another has died, never gets back to Python: a
    thread ends it after `PATIENCE_SECONDS`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(signum: int) -> None:
        again = _received.signum and signum == signal.SIGINT and time.monotonic() - _received.at > 1
        if again and not distributed:
            raise KeyboardInterrupt
        if not _received.signum:
            _received.signum, _received.at = signum, time.monotonic()

    _received.signum = 0
    ended = False
    try:
        with handled_signals(SIGNALS, handle):
            watch = _Watch() if distributed else None
            try:
                yield
                ended = True
            finally:
                if watch:
                    watch.close()
    finally:
        late, _received.signum = _received.signum, 0
        if ended and late:
            # It came after the last look: now the default answer to it is right.
            os.kill(os.getpid(), late)


class _Watch:
    """A thread that the C signal handler wakes, so that it also acts while the main thread is stuck in C."""

    def __init__(self) -> None:
        self.closed = threading.Event()
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.writing, False)
        self.before: Any = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
        threading.Thread(target=self._run, name="signal-watch", daemon=True).start()

    def _run(self) -> None:
        while data := os.read(self.reading, 1):
            if data[0] not in SIGNALS:
                continue
            if not self.closed.wait(PATIENCE_SECONDS):
                sys.stderr.write(
                    f"ended by {signal.Signals(data[0]).name}: the update that ran did not finish within "
                    f"{PATIENCE_SECONDS:.0f} s (has another process of this run died?)\n"
                )
                sys.stderr.flush()
                os._exit(128 + data[0])
            break
        os.close(self.reading)

    def close(self) -> None:
        self.closed.set()
        signal.set_wakeup_fd(self.before)
        os.close(self.writing)
