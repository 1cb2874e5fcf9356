"""Write files whole or not at all, and hash them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from sot_nlp.errors import UserError, printable

# A disk, a quota, or a limit on a file's size.
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}


def write_atomic(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write `content` (text as UTF-8) to `path`: beside it first, synced, then renamed over it.

    A reader, a crash or a full disk sees the old file or the new one, never a part. Raises OSError.
    """
    with atomic_file(path) as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Yield a file to write to; it replaces `path` when the block ends, and never if it fails.

    A device or a pipe stays what it is, and is written to.
    """
    path = Path(path)
    if _is_stream(path):
        with path.open("wb") as file:
            yield file
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files that only their owner may read; a run folder is for whoever may read it.
        umask = os.umask(0)
        os.umask(umask)
        Path(beside).chmod(0o666 & ~umask)
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all; NaN and infinities are refused (ValueError)."""
    write_atomic(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def _is_stream(path: Path) -> bool:
    return path.exists() and not path.is_file() and not path.is_dir()


def check_output(path: str | os.PathLike[str], flag: str) -> None:
    """Raise UserError where no file can be written to `path`: before the work whose result goes there."""
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {printable(path)}: is a folder; give a file")
    with writing(path, flag):
        if path.exists() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not _is_stream(path):
            _try_folder(_nearest_folder(path.parent))


def check_folder(folder: str | os.PathLike[str], flag: str) -> None:
    """Raise UserError where `folder` can't be made or written to: before the work whose result goes there."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} {printable(folder)}: is a file, not a folder")
    with writing(folder, flag):
        _try_folder(_nearest_folder(folder))


def make_folder(folder: str | os.PathLike[str], flag: str) -> None:
    """Make `folder` where it is missing. Raises UserError where it can't be made or written to."""
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{flag} {printable(folder)}: is a file, not a folder")
    with writing(folder, flag):
        folder.mkdir(parents=True, exist_ok=True)
        _try_folder(folder)


def _nearest_folder(folder: Path) -> Path:
    """Return `folder`, or where it is missing the one that it would be made in."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _try_folder(folder: Path) -> None:
    with tempfile.TemporaryFile(dir=folder):
        pass


@contextmanager
def writing(path: str | os.PathLike[str], flag: str | None = None) -> Iterator[None]:
    """Convert an OSError in the block to a UserError that `path`, which `flag` gave, can't be written."""
    try:
        yield
    except OSError as error:
        given = f"{flag} {printable(path)}" if flag else printable(path)
        reason = printable(error.strerror or error)
        raise UserError(f"{given}: cannot be written: {reason}") from None


def sync_folder(folder: str | os.PathLike[str]) -> None:
    """Make renames in `folder` durable (a no-op where folders can't be opened)."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def system_error(error: BaseException) -> int | None:
    """Return the errno behind `error`: an OSError, or safetensors' wrapping of one."""
    if isinstance(error, OSError):
        return error.errno
    code = re.search(r"\(os error (\d+)\)", str(error))
    return int(code[1]) if code else None


def sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, as hexadecimal digits, read in pieces."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
