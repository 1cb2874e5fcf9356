"""Labels as files write them -> what kind of task they make, and numbers for training.

In text files a label is what it looks like: `3` a whole number, `0.5` a decimal one, `["a", "b"]` a list,
anything else a text. JSON, Parquet and the Hub say themselves what a value is.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sot_nlp.data.file_format import list_names
from sot_nlp.data.tables import Table
from sot_nlp.errors import UserError, printable

# More different labels than this are more likely texts, or the examples' own numbers.
MOST_LABELS = 10_000

# Python reads no number of more than some thousand digits; one of more than these is no class's.
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,99})")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_KINDS = {
    "integer": "a whole number",
    "decimal": "a decimal number",
    "text": "a text",
    "list": "a list",
}

Label = str | float | tuple[str, ...] | None


def read_label(value: Any, typed: bool) -> tuple[str, Label]:
    """(kind, label) of a value: ("integer", "3"), ("decimal", 0.5), ("text", "good"), ("list", ("a", "b")).

    Whole numbers stay texts, as names of classes. ("null", None) is a missing label, ("other", None) what
    can be none. `typed`: the format tells numbers from texts; otherwise the text is looked at.
    """
    if isinstance(value, str):
        if not (text := value.strip()):
            return "null", None
        return ("text", value) if typed else _read_text(text)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "null", None
    if isinstance(value, bool):
        return "text", str(value).lower()
    if isinstance(value, int):
        return "integer", str(value)
    if isinstance(value, float):
        return "decimal", value
    if isinstance(value, list):
        items = [read_label(item, typed=True) for item in value]
        if all(kind in ("text", "integer") for kind, _ in items):
            return "list", tuple(str(label) for _, label in items)
    return "other", None


def _read_text(text: str) -> tuple[str, Label]:
    if _INTEGER.fullmatch(text):
        return "integer", text
    # A whole number written in another way, such as 007, is more likely a code.
    if _NUMBER.fullmatch(text) and not text.lstrip("+-").isdecimal():
        return "decimal", float(text)
    if text.startswith("[") and text.endswith("]"):
        try:
            return read_label(json.loads(text), typed=True)
        except (ValueError, RecursionError):
            pass
    return "text", text


class LabelSurvey:
    """What labels there are, seen chunk by chunk; `finish` says which kind of task they make."""

    def __init__(self, table: Table, words: Mapping[str, str]):
        self.name, self.where, self.typed = table.name, table.where, table.typed
        self.words = words
        self.names: set[str] = set()
        self.first: dict[str, tuple[int, Any]] = {}
        self._known: dict[tuple[type, Any], tuple[str, Label]] = {}

    def add(self, values: Sequence[Any], lines: Sequence[int]) -> None:
        """See the labels `values` of the examples at `lines`."""
        for value, line in zip(values, lines, strict=True):
            kind, label = self._read(value)
            if kind not in self.first:
                if kind in ("null", "other"):
                    raise UserError(f"{self.where(line)} {_no_label(kind, value)}")
                self.first[kind] = (line, value)
            if len(self.names) <= MOST_LABELS and label is not None:
                self.names.update(label if isinstance(label, tuple) else (str(label),))

    def _read(self, value: Any) -> tuple[str, Label]:
        if isinstance(value, list | dict):  # not hashable
            kind, label = read_label(value, self.typed)
            return kind, _renamed(label, self.words)
        key = (type(value), value)
        if (found := self._known.get(key)) is None:
            kind, label = read_label(value, self.typed)
            renamed = _renamed(label, self.words)
            found = ("text" if renamed != label and kind != "list" else kind, renamed)
            if len(self._known) <= MOST_LABELS:
                self._known[key] = found
        return found

    def finish(self, order: tuple[str, ...] | None = None) -> tuple[str, tuple[str, ...] | None]:
        """(kind of the task, names of the labels in the order of their ids; None for a regression).

        The order is `order` where the source has one; whole numbers by size, texts by the alphabet.
        Raises UserError for labels of mixed types, for one label alone, and for too many.
        """
        kinds = set(self.first)
        if not kinds:
            raise UserError(f"{self.name} holds no examples")
        if kinds <= {"integer", "decimal"} and "decimal" in kinds:
            return "regression", None
        if len(kinds) > 1:
            found = [
                f"{self.where(line)}: {printable(value, 40)!r} is {_KINDS[kind]}"
                for kind, (line, value) in self.first.items()
            ]
            raise UserError(f"labels of mixed types: {'; '.join(found)}; expected one type of label")
        line = next(iter(self.first.values()))[0]
        if len(self.names) > MOST_LABELS:
            raise UserError(
                f"{self.where(line)}: more than {MOST_LABELS} different labels; is this the label column "
                "(--label_column_name)?"
            )
        if order is None:
            numbers = all(_INTEGER.fullmatch(name) for name in self.names)
            order = tuple(sorted(self.names, key=int if numbers else None))
        kind = "multi_label" if "list" in kinds else "classification"
        if not order:
            raise UserError(f"{self.name}: every list of labels is empty; expected names of labels in some")
        if kind == "multi_label" and self.names and self.names <= {"0", "1"}:
            raise UserError(
                f"{self.where(line)}: the labels are lists of zeros and ones; expected lists of the "
                'names of the labels that hold, such as ["news", "sport"]'
            )
        if len(order) < 2 and kind == "classification":
            raise UserError(
                f"{self.where(line)}: every label is {list_names(list(order))}; expected at least two labels"
            )
        return kind, order


def _renamed(label: Label, words: Mapping[str, str]) -> Label:
    if isinstance(label, tuple):
        return tuple(words.get(name, name) for name in label)
    return label if label is None else words.get(str(label), label)


def _no_label(kind: str, value: Any) -> str:
    if kind == "null":
        return "has no label"
    return f"has a label that is none: {printable(value, 40)}; expected a text, a number or a list of names"


class LabelEncoder:
    """Labels of a task with known names or scores -> numbers, each one that does not fit named by line.

    `words` are other words for the names, as the files may write them.
    """

    def __init__(
        self,
        kind: str,
        labels: tuple[str, ...] | None,
        words: Mapping[str, str],
        score_range: tuple[float, float] | None = None,
    ):
        self.kind = kind
        self.labels = labels or ()
        self.words = words
        self.score_range = score_range
        self.ids = {name: i for i, name in enumerate(self.labels)}
        self.ids |= {word: self.ids[name] for word, name in words.items()}

    def settings(self) -> list[Any]:
        """What the numbers depend on besides the values, as JSON values."""
        return [self.kind, self.labels, dict(self.words), self.score_range]

    def is_missing(self, value: Any) -> bool:
        """Whether `value` says that there is no label: nothing, or the -1 of sets with private labels."""
        if value is None or (isinstance(value, str) and not value.strip()):
            return True
        numbers = self.kind != "regression" or self.score_range is not None
        return numbers and isinstance(value, int | float) and value == -1

    def encode(
        self, values: Sequence[Any], lines: Sequence[int], where: Callable[[int], str], typed: bool
    ) -> np.ndarray:
        """int64 (n,) class ids, float32 (n,) scores, or float32 (n, K) zeros and ones, by the task's kind."""
        if self.kind == "classification" and not typed:
            # The fast way for text files, whose labels are the names or words themselves.
            found = [self.ids.get(value.strip()) for value in values]
            if None not in found:
                return np.array(found, dtype=np.int64)
        encode = {"regression": self._score, "multi_label": self._several}.get(self.kind, self._one)
        encoded = []
        for value, line in zip(values, lines, strict=True):
            kind, label = read_label(value, typed)
            if label is None:
                raise UserError(f"{where(line)} {_no_label(kind, value)}")
            try:
                encoded.append(encode(label))
            except ValueError as error:
                raise UserError(f"{where(line)}: {error}") from None
        dtype = np.int64 if self.kind == "classification" else np.float32
        shape = (len(encoded), len(self.labels)) if self.kind == "multi_label" else (len(encoded),)
        return np.array(encoded, dtype=dtype).reshape(shape)

    def _one(self, label: Label) -> int:
        name = str(int(label)) if isinstance(label, float) and label.is_integer() else label
        if isinstance(name, str) and name in self.ids:
            return self.ids[name]
        shown = list_names(list(label)) if isinstance(label, tuple) else label
        raise ValueError(f"label {printable(shown, 40)!r} is not one of {self._known()}{self._hint(name)}")

    def _score(self, label: Label) -> float:
        if isinstance(label, str):
            label = self.words.get(label, label)
            if not _NUMBER.fullmatch(label):
                raise ValueError(f"score {printable(label, 40)!r} is not a number")
            label = float(label)
        if not isinstance(label, float) or not math.isfinite(np.float32(label)):
            raise ValueError(f"score {printable(label, 40)!r} is not a finite number")
        if self.score_range and not self.score_range[0] <= label <= self.score_range[1]:
            low, high = self.score_range
            raise ValueError(f"score {label:g} is not between {low:g} and {high:g}")
        return label

    def _several(self, label: Label) -> np.ndarray:
        if not isinstance(label, tuple):
            raise ValueError(f"label {printable(label, 40)!r} is not a list; expected a list of names")
        row = np.zeros(len(self.labels), dtype=np.float32)
        for name in label:
            if name not in self.ids:
                raise ValueError(f"label {printable(name, 40)!r} is not one of {self._known()}")
            if row[self.ids[name]]:
                raise ValueError(
                    f"label {printable(name, 40)!r} stands in the list twice; expected the names of the "
                    "labels that hold, not zeros and ones"
                )
            row[self.ids[name]] = 1
        return row

    def _hint(self, label: Label) -> str:
        """What to do about a number where names are expected: which is which, only the user can say."""
        if self.words or not _INTEGER.fullmatch(str(label)) or any(map(_INTEGER.fullmatch, self.labels)):
            return ""
        return f"; say what the numbers mean, --label_mapping {label}=NAME ..."

    def _known(self) -> str:
        written = [word for word in self.words if word not in self.labels]
        return list_names(list(self.labels)) + (f" (written {list_names(written)})" if written else "")
