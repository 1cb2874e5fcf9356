"""Who runs what, where several programs share a folder: a file a claim, kept alive by its modification time.

A claim is a file that only one program can create (O_EXCL). Its owner touches it as long as it lives; one
that was not touched for `STALE_SECONDS`, or whose processes on this machine are gone, may be taken over.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
import uuid
from pathlib import Path

STALE_SECONDS = 90.0
BEAT_SECONDS = 10.0


class Claim:
    """A claim that this program holds."""

    def __init__(self, path: Path, token: str):
        self.path = path
        self.token = token
        self._beaten = time.monotonic()

    def note_process(self, pid: int) -> None:
        """Write down the process that does the work: it may outlive this program."""
        if self.is_held():
            self.path.write_text(_content(self.token, pid), encoding="utf-8")

    def beat(self) -> None:
        """Show that the owner lives, if it is time to."""
        if time.monotonic() - self._beaten >= BEAT_SECONDS:
            self._beaten = time.monotonic()
            if self.is_held():
                os.utime(self.path)

    def is_held(self) -> bool:
        """Whether the claim is still this program's: another one may have taken it for dead."""
        return _read(self.path).get("token") == self.token

    def release(self) -> None:
        """Give the claim up."""
        if self.is_held():
            self.path.unlink(missing_ok=True)


def claim(path: Path) -> Claim | None:
    """The claim on `path`, or None while another program holds it. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    token = uuid.uuid4().hex
    for _ in range(2):
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if not _remove_if_dead(path):
                return None
            continue
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(_content(token, 0))
        return Claim(path, token)
    return None


def holder(path: Path) -> str:
    """Who holds the claim on `path`, for readers: machine and process."""
    found = _read(path)
    return f"{found.get('host', 'unknown')}, process {found.get('pid', 'unknown')}" if found else ""


def _content(token: str, worker: int) -> str:
    return json.dumps({"token": token, "host": socket.gethostname(), "pid": os.getpid(), "worker": worker})


def _read(path: Path) -> dict[str, object]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _remove_if_dead(path: Path) -> bool:
    """Remove a claim whose owner is dead; whether the path is free now, for whoever is first."""
    before = _read(path)
    try:
        age = _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return True
    if not _is_dead(before, age):
        return False
    # Renaming decides between several programs that see the same dead claim: only one has the file then.
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True
    if _read(aside).get("token") != before.get("token"):
        # It was taken over between the look and the renaming: give it back.
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink(missing_ok=True)
        return False
    aside.unlink(missing_ok=True)
    return True


def _is_dead(found: dict[str, object], age: float) -> bool:
    if found.get("host") == socket.gethostname():
        # On this machine the processes say it at once; a worker that lives on is still at work in its folder.
        alive = [lives(found.get(name)) for name in ("pid", "worker")]
        return not any(alive)
    return age > STALE_SECONDS


def lives(pid: object) -> bool:
    """Whether a process of this machine is alive."""
    if not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return False


def _now(folder: Path) -> float:
    """The time by the clock of the file system, which several machines share."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
        return os.fstat(file.fileno()).st_mtime
