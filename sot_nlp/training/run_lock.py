"""One run at a time in a run's folder, by a lock that the system drops when its process ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sot_nlp.errors import UserError, printable

try:
    import fcntl
except ImportError:  # Windows has no flock: there nothing keeps two runs apart
    fcntl = None  # type: ignore[assignment]

NAME = ".lock"
_held: set[Path] = set()


@contextmanager
def run_lock(run_folder: Path) -> Iterator[None]:
    """Hold `run_folder/.lock` (the folder is made). Inside, the same process may take it again.

    The file stays behind, which blocks nobody: what counts is the lock on it, and that ends with its process,
    however it ends. Raises UserError where another run holds it or the folder can't be written.
    """
    try:
        run_folder.mkdir(parents=True, exist_ok=True)
        path = run_folder.resolve() / NAME
        file = None if path in _held or fcntl is None else path.open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"--output_dir {printable(run_folder)}: cannot be written: {error.strerror}"
        ) from None
    if file is None:
        yield
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = printable(file.read().strip()) or "unknown"
            raise UserError(
                f"--output_dir {printable(run_folder)}: another run is at work in it (process {owner}); "
                "wait for it, or give another folder"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        _held.add(path)
        try:
            yield
        finally:
            _held.discard(path)
