"""Check a source of examples in a first pass: every text and label, before any work is done on them.

Shapes: n examples, K labels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from sot_nlp.data.label_values import LabelEncoder, count_odd
from sot_nlp.data.tables import Rows, Table
from sot_nlp.errors import UserError, printable, worded

# Where more than this share of a file that is known for broken lines is broken, it is another file.
MOST_UNREADABLE = 0.01
# Sources that take no longer than these seconds are done before a progress bar could be read.
BAR_DELAY = 2.0
NONE_LEFT = "--drop_leaked: every training example occurs in the validation data; none is left"


@dataclass(frozen=True, kw_only=True)
class Source:
    """A table, and which of its columns are an example.

    `label_column` None: no labels are read. `labels_optional`: the table may leave all of them out.
    `files` are the files whose content identifies the split (none: it is streamed).
    """

    table: Table
    text_columns: tuple[str | int, ...]
    label_column: str | int | None
    labels_optional: bool
    encoder: LabelEncoder
    files: tuple[Path, ...]

    def texts(self) -> Iterator[tuple[Rows, list[list[str]]]]:
        """Yield the rows chunk by chunk, with their text columns."""
        for rows in self.table.rows(self.text_columns):
            yield rows, rows.columns


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What is known of a source's n examples after the first pass.

    `indices` (n,) int64, their positions in the file; `digests` (n,) uint64, equal where texts are, but for
    white space around them; `empty` (n,) uint8, 1 where a text is empty; `labels` as `LabelEncoder` gives
    them, or None. `unreadable` lists (line, why) of what was skipped, `nul_texts` counts texts with a NUL,
    `padded_labels` labels with white space around them, `decimal_labels` classes written as decimals.
    """

    indices: np.ndarray
    digests: np.ndarray
    empty: np.ndarray
    labels: np.ndarray | None
    unreadable: list[tuple[int, str]]
    nul_texts: int
    padded_labels: int
    decimal_labels: int

    def __len__(self) -> int:
        return len(self.indices)


def progress_bar(source: Source, what: str, progress: bool, total: int | None = None) -> Any:
    """Return a bar that counts examples: on a terminal only, and only once it has taken a while."""
    return tqdm(
        desc=worded(f"{what} {source.table.name}"),
        total=total,
        unit=" examples",
        unit_scale=True,
        delay=BAR_DELAY,
        disable=None if progress else True,
    )


def check_source(source: Source, progress: bool = False) -> Checked:
    """Read the whole source; raises UserError at the first text or label that is none."""
    labels = _LabelColumn(source)
    wanted = list(source.text_columns) + ([] if source.label_column is None else [source.label_column])
    indices, digests, empty = [], [], []
    unreadable: list[tuple[int, str]] = []
    nul_texts = 0
    with progress_bar(source, "checking", progress) as bar:
        for rows in source.table.rows(wanted):
            unreadable += rows.unreadable
            checked = check_rows(source, rows)
            indices.append(np.array(rows.indices, dtype=np.int64))
            digests.append(checked.digests)
            empty.append(checked.empty)
            nul_texts += int(checked.nul_texts.sum())
            if source.label_column is not None:
                labels.add(rows.columns[-1], rows.lines)
            bar.update(len(rows.lines))
    check_unreadable(source, sum(map(len, indices)), unreadable)
    return Checked(
        indices=np.concatenate(indices),
        digests=np.concatenate(digests),
        empty=np.concatenate(empty),
        labels=labels.finish(),
        unreadable=unreadable,
        nul_texts=nul_texts,
        padded_labels=labels.padded,
        decimal_labels=labels.decimals,
    )


@dataclass(frozen=True, kw_only=True)
class CheckedRows:
    """What is known of the texts of n rows: `digests` and `empty` as in `Checked`, `nul_texts` (n,) int64."""

    digests: np.ndarray
    empty: np.ndarray
    nul_texts: np.ndarray


def check_rows(source: Source, rows: Rows) -> CheckedRows:
    """Look at the texts of some rows; their text columns come first. UserError for what is no text."""
    texts = rows.columns[: len(source.text_columns)]
    check_texts(source.table, source.text_columns, rows, texts)
    stripped = [[text.strip() for text in column] for column in texts]
    empty = [not all(parts) for parts in zip(*stripped, strict=True)]
    nul_texts = [sum("\0" in text for text in parts) for parts in zip(*texts, strict=True)]
    return CheckedRows(
        digests=_digests(stripped),
        empty=np.array(empty, dtype=np.uint8),
        nul_texts=np.array(nul_texts, dtype=np.int64),
    )


def check_unreadable(source: Source, count: int, unreadable: list[tuple[int, str]]) -> None:
    """Raise UserError for a source without examples, or with too many broken lines beside its `count`."""
    if not count:
        raise UserError(f"{source.table.name} holds no examples{_first_unreadable(unreadable)}")
    if len(unreadable) > max(10, MOST_UNREADABLE * count):
        raise UserError(
            f"{source.table.name}: {len(unreadable)} of {count + len(unreadable)} lines are unreadable"
            f"{_first_unreadable(unreadable)}"
        )


def _first_unreadable(unreadable: list[tuple[int, str]]) -> str:
    return f"; line {unreadable[0][0]} {unreadable[0][1]}" if unreadable else ""


def check_texts(table: Table, names: Sequence[str | int], rows: Rows, texts: Sequence[Sequence[Any]]) -> None:
    """Raise UserError, naming line and column, for a value of the columns `names` that is not a text."""
    for name, column in zip(names, texts, strict=True):
        if table.typed:
            for value, line in zip(column, rows.lines, strict=True):
                if not isinstance(value, str):
                    fault = "null" if value is None else f"no text but {printable(value, 40)}"
                    raise UserError(f"{table.where(line)}: {printable(name)!r} is {fault}; expected a text")
                if not value.isascii():
                    _check_unicode(table, line, name, value)


def _check_unicode(table: Table, line: int, name: str | int, text: str) -> None:
    """Refuse half a surrogate pair, which JSON can write, but which is no character and has no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = printable(text[error.start])
        raise UserError(
            f"{table.where(line)}: {printable(name)!r} contains {half}, half of a surrogate pair; "
            "expected whole characters"
        ) from None


def _digests(stripped: list[list[str]]) -> np.ndarray:
    """Return 64 bits of BLAKE2b of each example's texts, (n,) uint64; one in some 10^19 pairs collides."""
    joined = stripped[0] if len(stripped) == 1 else ["\0".join(pair) for pair in zip(*stripped, strict=True)]
    hashed = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in joined)
    return np.frombuffer(hashed, dtype="<u8")


class _LabelColumn:
    """Encodes labels chunk by chunk; where the source may lack them, it lacks all or none."""

    def __init__(self, source: Source):
        self.source = source
        self.parts: list[np.ndarray] = []
        self.absent: bool | None = None
        self.padded = self.decimals = 0

    def add(self, values: list[Any], lines: list[int]) -> None:
        where, encoder = self.source.table.where, self.source.encoder
        if self.source.labels_optional and lines:
            missing = [encoder.is_missing(value) for value in values]
            if self.absent is None:
                self.absent = missing[0]
            if (not self.absent) in missing:
                line = lines[missing.index(not self.absent)]
                state = ("has a label", "has none") if self.absent else ("has no label", "has one")
                raise UserError(f"{where(line)} {state[0]}, while the first example {state[1]}")
        if not self.absent:
            self.parts.append(encoder.encode(values, lines, where, self.source.table.typed))
            padded, decimals = count_odd(values, encoder.kind)
            self.padded, self.decimals = self.padded + padded, self.decimals + decimals

    def finish(self) -> np.ndarray | None:
        return np.concatenate(self.parts) if self.parts else None
