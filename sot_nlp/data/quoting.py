"""Decide whether a tab-separated file quotes its fields, as pandas does, or has `"` as a character."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from pathlib import Path

from sot_nlp.data.file_format import text_lines

# A quoted field of more lines than this is rather a quote that is none.
MOST_LINES = 1000
_QUOTED = '"(?:[^"]|"")*"'


def is_quoted(path: Path, delimiter: str) -> bool:
    """Return whether the whole file reads as quoted, and no other way explains its quotes as well.

    Every `"` must belong to a field that is quoted as a whole, every record must have as many fields, and
    there must be a field with a doubled quote, a header in quotes, or a field with a line break or delimiter
    that makes the other reading fail. Raises UserError for what is no text.
    """
    status = path.stat()
    return _is_quoted(path, delimiter, status.st_mtime_ns, status.st_size)


@functools.lru_cache
def _is_quoted(path: Path, delimiter: str, modified: int, size: int) -> bool:
    field = re.compile(f'({_QUOTED}|[^"\r\n{re.escape(delimiter)}]*)({re.escape(delimiter)}|$)')
    widths: set[int] = set()
    plain_widths: set[int] = set()
    doubled = header = False
    for place, record in enumerate(_records(path)):
        if record is None:
            return False
        if not record.strip():
            continue
        plain_widths.update(line.count(delimiter) for line in record.split("\n"))
        if '"' not in record:
            widths.add(record.count(delimiter))
            continue
        if not (fields := _fields(record, field)):
            return False
        widths.add(len(fields) - 1)
        quoted = [text for text in fields if text.startswith('"')]
        doubled |= any('""' in text[1:-1] and "\n" not in text for text in quoted)
        header |= place == 0 and bool(quoted)
    return len(widths) == 1 and (doubled or header or len(plain_widths) > 1)


def _records(path: Path) -> Iterator[str | None]:
    """Yield the lines of each record, without the last line end; None where a quote never closes."""
    open_lines: list[str] = []
    for line in text_lines(path):
        if not open_lines and '"' not in line:
            yield line.rstrip("\r\n")
            continue
        open_lines.append(line)
        # An odd number of quotes opens a field that ends in another line, or closes it.
        if line.count('"') % 2 == (len(open_lines) > 1):
            yield "".join(open_lines).rstrip("\r\n")
            open_lines = []
        elif len(open_lines) > MOST_LINES:
            break
    if open_lines:
        yield None


def _fields(record: str, field: re.Pattern[str]) -> list[str]:
    """Return the fields of a record, quoted or not; [] if it is not a record of quoted fields."""
    fields, position = [], 0
    while match := field.match(record, position):
        fields.append(match[1])
        position = match.end()
        if not match[2]:
            return fields if position == len(record) else []
    return []
