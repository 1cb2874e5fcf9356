"""Find out what a data file is before it is read: its format, and whether its content agrees."""

from __future__ import annotations

import difflib
import json
import stat
from collections.abc import Iterator
from pathlib import Path

from sot_nlp.errors import UserError, printable
from sot_nlp.tasks.spec import FORMATS

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
# A line longer than this is not an example, but a file without line ends or a quote that never closed.
MAX_LINE = 64 * 1024 * 1024

_HTML = (b"<!DOCTYPE", b"<!doctype", b"<html", b"<HTML")
_SIGNATURES = (
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"\x1f\x8b", "compressed with gzip", "unpack it first"),
    (b"BZh", "compressed with bzip2", "unpack it first"),
    (b"\xfd7zXZ", "compressed with xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstandard", "unpack it first"),
    (b"PK\x03\x04", "a zip archive or a spreadsheet", "unpack it, or save it as CSV"),
    (b"ARROW1", "an Arrow file", "save it as Parquet"),
    (b"SQLite format 3", "an SQLite database", "export it as CSV"),
    (b"%PDF", "a PDF", "export its text as CSV"),
    (b"\xff\xfe", "UTF-16 text", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16 text", "save it as UTF-8"),
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "fetch it with `git lfs pull`"),
    *((tag, "an HTML page", "download the file itself") for tag in _HTML),
)


def check_file(path: Path, flag: str = "") -> None:
    """Raise UserError unless `path` is a file that can be read and holds something.

    `flag` is the argument that named it, for the message.
    """
    name = f"{flag + ': ' if flag else ''}{printable(path)}"
    try:
        mode = path.stat().st_mode
        readable = stat.S_ISREG(mode) or stat.S_ISDIR(mode)
        if readable:
            with path.open("rb") as file:
                start = file.read(len(BYTE_ORDER_MARK) + 1)
    except FileNotFoundError:
        if path.is_symlink():
            target = printable(path.readlink())
            raise UserError(f"{name} is a link to {target}, which does not exist") from None
        raise UserError(f"{name} does not exist{_neighbours(path)}") from None
    except IsADirectoryError:
        raise UserError(f"{name} is a folder; give a file ({', '.join(FORMATS)})") from None
    except PermissionError:
        raise UserError(f"{name}: no permission to read it") from None
    except OSError as error:
        raise UserError(f"{name} can't be read: {error.strerror or error}") from None
    if not readable:  # files are read more than once, and what is read of a pipe is gone
        raise UserError(f"{name} is a pipe or a device; give a file ({', '.join(FORMATS)})")
    if not start.removeprefix(BYTE_ORDER_MARK):
        raise UserError(f"{name} is empty; expected examples")


def file_format(path: Path, declared: str | None = None) -> str:
    """Return the format of `path`: `declared`, or by its name. UserError if its content is another."""
    known_format = declared or path.suffix[1:].lower()
    if known_format not in FORMATS:
        ending = f"ends in {printable(path.suffix)!r}" if path.suffix else "has no ending"
        raise UserError(f"{printable(path)} {ending}; expected one of .{', .'.join(FORMATS)}")
    with path.open("rb") as file:
        start = file.read(4096)
    expected = f"not {known_format.upper()} as its name says"
    if known_format == "parquet" and start.startswith(b"PAR1"):
        return known_format
    for signature, what, remedy in _SIGNATURES:
        if start.startswith(signature):
            raise UserError(f"{printable(path)} is {what}, {expected}: {remedy}")
    if known_format == "parquet":
        raise UserError(f"{printable(path)} is {expected}: it begins with {printable(start[:20])}")
    first = start.removeprefix(BYTE_ORDER_MARK).lstrip().split(b"\n")[0].rstrip()
    if known_format in ("csv", "tsv") and _is_json(first):
        raise UserError(f"{printable(path)} is JSON, {expected}: name it .json or .jsonl")
    return known_format


def text_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 file with their line ends, without a byte order mark.

    UserError names the line of a NUL byte, of what is not UTF-8, and of a line without an end.
    """
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(MAX_LINE + 1):
            number += 1
            if number == 1:
                raw = raw.removeprefix(BYTE_ORDER_MARK)
            if len(raw) > MAX_LINE or b"\0" in raw:
                raise UserError(f"{printable(path)}, line {number} {_bad_line(raw)}")
            try:
                yield raw.decode()
            except UnicodeDecodeError as error:
                wrong = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
                raise UserError(
                    f"{printable(path)}, line {number} is not UTF-8 ({wrong}); save the file as UTF-8"
                ) from None


def _bad_line(raw: bytes) -> str:
    if len(raw) > MAX_LINE:
        return f"is longer than {MAX_LINE >> 20} MiB; expected one example per line"
    return "holds a NUL byte; expected UTF-8 text (is the file damaged?)"


def _is_json(line: bytes) -> bool:
    if line in (b"{", b"["):
        return True
    if not line.startswith((b"{", b"[")):
        return False
    try:
        return isinstance(json.loads(line.rstrip(b",")), dict | list)
    except (ValueError, RecursionError):
        return line.startswith((b'{"', b'[{"'))


def _neighbours(path: Path) -> str:
    """Return what is there instead of the missing `path`."""
    if not path.parent.is_dir():
        return f"; nor does its folder {printable(path.parent)}"
    try:
        there = sorted(entry.name for entry in path.parent.iterdir() if not entry.name.startswith("."))
    except PermissionError:
        return f"; nor is there permission to list its folder {printable(path.parent)}"
    near = difflib.get_close_matches(path.name, there, n=3, cutoff=0.6)
    if near:
        return f"; did you mean {' or '.join(map(printable, near))}?"
    return f"; its folder holds {list_names(there)}"


def list_names(names: list[str], most: int = 12) -> str:
    """Return names for a message: all of them, or the first `most` and how many more there are."""
    if not names:
        return "nothing"
    shown = ", ".join(printable(name, 60) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
