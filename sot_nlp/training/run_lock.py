"""Allow one program at a time in a folder, by a lock that the system releases when its process ends."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sot_nlp.errors import UserError, printable
from sot_nlp.files import make_folder

NAME = ".lock"
# Ending of the file beside the lock that names its holder: not every system lets others read a locked file.
OWNER = "-owner"


@contextmanager
def run_lock(folder: Path, *, name: str = NAME, what: str = "another run") -> Iterator[None]:
    """Hold the lock `name` in `folder` (which is made). Inside, the same process may take it again.

    The files stay behind, which blocks nobody: only the system's lock counts, and that ends with its process,
    however it ends. `what` names the holder in the message. Raises UserError where another process holds the
    lock or the folder can't be written.
    """
    make_folder(folder, "--output_dir")
    try:
        path = folder.resolve() / name
        # (a singleton: one lock per file and process)
        lock = FileLock(path, is_singleton=True, thread_local=False, timeout=0)
        again = lock.is_locked
        lock.acquire()
    except Timeout:
        raise UserError(
            f"--output_dir {printable(folder)}: {what} is running in it ({owner(folder, name)}); "
            "wait for it, or use another folder"
        ) from None
    except OSError as error:
        raise UserError(f"--output_dir {printable(folder)}: cannot be written: {error.strerror}") from None
    try:
        if not again:
            with contextlib.suppress(OSError):  # on a full disk the lock holds without a name
                _owner_file(folder, name).write_text(
                    f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8"
                )
        yield
    finally:
        lock.release()


def owner(folder: Path, name: str = NAME) -> str:
    """Return who took the lock in `folder` last, for readers: process and machine."""
    try:
        return printable(_owner_file(folder, name).read_text(encoding="utf-8").strip()) or "unknown"
    except (OSError, UnicodeDecodeError):
        return "unknown"


def _owner_file(folder: Path, name: str) -> Path:
    return folder / f"{name}{OWNER}"


def is_held(folder: Path, name: str = NAME) -> bool:
    """Return whether another process holds the lock `name` in `folder`."""
    if not (folder / name).exists():
        return False
    try:
        with FileLock(folder.resolve() / name, timeout=0):
            return False
    except Timeout:
        return True
