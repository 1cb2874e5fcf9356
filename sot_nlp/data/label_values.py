"""Interpret labels as files write them, and encode them as numbers for training.

In text files a label is what it looks like: `3` a whole number, `0.5` a decimal one, `["a", "b"]` a list,
anything else a text. JSON, Parquet and the Hub say themselves what a value is, but for lists that were
written into a text. White space around a label is no part of it, in any format.
"""

from __future__ import annotations

import decimal
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from sot_nlp.data.file_format import list_names
from sot_nlp.data.list_text import read_list_text
from sot_nlp.errors import UserError, printable

# Python reads no number of more than some thousand digits; one of more than these is no class's.
INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]{0,99})")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
COMMA_NUMBER = re.compile(r"[-+]?[0-9]+,[0-9]+")
_MOST_DIGITS = 400

# What to do, for messages.
LIST_WAYS = (
    'as JSON in a CSV\'s cell (["news", "sport"]) or as JSON lines, '
    'df.to_json("data.jsonl", orient="records", lines=True)'
)
MINUS_ONE = "if -1 means that an example has no label, drop those rows: df[df.label != -1]"
DECIMAL_COMMA = (
    "decimals are written with a point: "
    'pandas.read_csv(..., decimal=",") reads commas, and its to_csv writes points'
)

Label = str | float | tuple[str, ...] | None
_T = TypeVar("_T")


def read_label(value: Any, typed: bool) -> tuple[str, Label]:
    """Return (kind, label): ("integer", "3"), ("decimal", 0.5), ("text", "good"), ("list", ("a", "b")).

    Whole numbers stay texts, as names of classes. ("null", None) is a missing label, ("other", None) what
    can't be one. `typed`: the format distinguishes numbers from texts; otherwise the text is looked at.
    """
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if isinstance(value, str):
        if not (text := value.strip()):
            return "null", None
        return _read_text(text, typed)
    if value is None or (isinstance(value, float | decimal.Decimal) and math.isnan(value)):
        return "null", None
    if isinstance(value, bool):
        return "text", str(value).lower()
    if isinstance(value, int):
        return "integer", str(value)
    if isinstance(value, decimal.Decimal):
        # A DECIMAL column without a scale holds whole numbers, one with a scale 1.00 as well as 1.50.
        exponent = value.as_tuple().exponent
        return ("integer", str(value)) if exponent == 0 else ("decimal", float(value))
    if isinstance(value, float | np.floating):
        return "decimal", float(value)
    if isinstance(value, list):
        items = [read_label(item, typed=True) for item in value]
        if all(kind in ("text", "integer") or _is_whole(label) for kind, label in items):
            return "list", tuple(spelled(label) for _, label in items)  # type: ignore[arg-type]
    return "other", None


def _read_text(text: str, typed: bool) -> tuple[str, Label]:
    if not typed:
        if INTEGER.fullmatch(text):
            return "integer", text
        # A whole number written in another way, such as 007, is more likely a code.
        if _NUMBER.fullmatch(text) and not text.lstrip("+-").isdecimal():
            return "decimal", float(text)
    items = read_list_text(text)
    return ("text", text) if items is None else read_label(items, typed=True)


def _is_whole(label: Any) -> bool:
    return isinstance(label, float) and label.is_integer()


def spelled(label: str | float) -> str:
    """Return a label as the name of a class: 1.0 is `1`, 0.50 is `0.5`."""
    if isinstance(label, str):
        return label
    return str(int(label)) if label.is_integer() else repr(label)


def number(label: str | float) -> int | float | None:
    """Return a label's number, however it is written (`1`, `+1`, `01` and `1.0` are one); else None."""
    if isinstance(label, str):
        if len(label) > _MOST_DIGITS or not _NUMBER.fullmatch(label):
            return None
        if label.lstrip("+-").isdecimal():
            return int(label)
        label = float(label)
    return int(label) if label.is_integer() else label


class Spellings(Generic[_T]):
    """A value for each spelling of a label; of a number also for its other spellings, where that is clear."""

    def __init__(self, values: Mapping[str, _T]):
        self.exact = dict(values)
        self.numbers: dict[int | float, _T] = {}
        unclear = set()
        for spelling, value in values.items():
            key = number(spelling)
            if key is not None and self.numbers.setdefault(key, value) != value:
                unclear.add(key)
        for key in unclear:
            del self.numbers[key]

    def get(self, label: str | float) -> _T | None:
        """Return the value of `label`, None where it has none."""
        if isinstance(label, str) and label in self.exact:
            return self.exact[label]
        key = number(label)
        return None if key is None else self.numbers.get(key)


def count_odd(values: Iterable[Any], kind: str) -> tuple[int, int]:
    """Count labels with white space around them, and decimals (`1.0`) among those of a classification."""
    padded = decimals = 0
    for value in values:
        for item in value if isinstance(value, list) else (value,):
            padded += isinstance(item, str) and item != item.strip()
        if kind == "classification":
            text = isinstance(value, str) and "." in value and _NUMBER.fullmatch(value.strip())
            decimals += bool(isinstance(value, float) or text)
    return padded, decimals


def no_label(kind: str, value: Any) -> str:
    """Say what is wrong with a value that is no label: `kind` is "null" or "other"."""
    if kind == "null":
        return "has no label; drop the rows without one"
    return f"has an invalid label: {printable(value, 40)}; expected a text, a number or a list of names"


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
        ids = {name: i for i, name in enumerate(self.labels)}
        self.ids = Spellings(ids | {word: ids[name] for word, name in words.items() if name in ids})
        self.scores = Spellings({word: name for word, name in words.items() if number(name) is not None})

    def settings(self) -> list[Any]:
        """Return what the numbers depend on besides the values, as JSON values."""
        return [self.kind, self.labels, dict(self.words), self.score_range]

    def is_missing(self, value: Any) -> bool:
        """Return whether `value` means no label: nothing, or the -1 of datasets with private labels."""
        if read_label(value, typed=True)[0] == "null":
            return True
        numbers = self.kind != "regression" or self.score_range is not None
        return numbers and isinstance(value, int | float) and value == -1

    def encode(
        self, values: Sequence[Any], lines: Sequence[int], where: Callable[[int], str], typed: bool
    ) -> np.ndarray:
        """Return class ids int64 (n,), scores float32 (n,), or 0 and 1 float32 (n, K), by the task's kind."""
        if self.kind == "classification" and not typed:
            # The fast way for text files, whose labels are the names or words themselves.
            known = self.ids.exact
            ids = [known.get(value.strip()) for value in values]
            if None not in ids:
                return np.array(ids, dtype=np.int64)
        encode = {"regression": self._score, "multi_label": self._several}.get(self.kind, self._one)
        encoded = []
        for value, line in zip(values, lines, strict=True):
            kind, label = read_label(value, typed)
            if label is None:
                raise UserError(f"{where(line)} {no_label(kind, value)}")
            if isinstance(value, str) and value in self.ids.exact:
                label = value  # names of older models may have white space around them
            try:
                encoded.append(encode(label))
            except ValueError as error:
                raise UserError(f"{where(line)}: {error}") from None
        dtype = np.int64 if self.kind == "classification" else np.float32
        shape = (len(encoded), len(self.labels)) if self.kind == "multi_label" else (len(encoded),)
        return np.array(encoded, dtype=dtype).reshape(shape)

    def _one(self, label: Label) -> int:
        index = None if isinstance(label, tuple) or label is None else self.ids.get(label)
        if index is not None:
            return index
        shown = list_names(list(label)) if isinstance(label, tuple) else spelled(label or "")
        raise ValueError(f"label {printable(shown, 40)!r} is not one of {self._known()}{self._hint(shown)}")

    def _score(self, label: Label) -> float:
        if isinstance(label, tuple):
            raise ValueError(f"score {printable(label, 40)!r} is not a number")
        if label is not None and (mapped := self.scores.get(label)) is not None:
            label = mapped
        if isinstance(label, str):
            if (value := number(label)) is None:
                raise ValueError(f"score {printable(label, 40)!r} is not a number{_comma_hint(label)}")
            label = float(value) if abs(value) < 1e300 else math.inf
        if not isinstance(label, float) or not math.isfinite(np.float32(label)):
            raise ValueError(f"score {printable(label, 40)!r} is not a finite number")
        if self.score_range and not self.score_range[0] <= label <= self.score_range[1]:
            low, high = self.score_range
            raise ValueError(f"score {label:g} is not between {low:g} and {high:g}")
        return label

    def _several(self, label: Label) -> np.ndarray:
        if not isinstance(label, tuple):
            raise ValueError(
                f"label {printable(label, 40)!r} is not a list; expected a list of names, {LIST_WAYS}"
            )
        row = np.zeros(len(self.labels), dtype=np.float32)
        for name, times in Counter(label).items():
            if (column := self.ids.get(name)) is None:
                raise ValueError(f"label {printable(name, 40)!r} is not one of {self._known()}")
            if times > 1:
                raise ValueError(
                    f"label {printable(name, 40)!r} occurs twice in the list; expected the names of the "
                    "labels that hold, not zeros and ones"
                )
            row[column] = 1  # (two words may be mapped to one label)
        return row

    def _hint(self, label: str) -> str:
        """Suggest what to do about a number where names are expected: only the user knows which is which."""
        if label == "-1":
            return f"; {MINUS_ONE}"
        if self.words or not INTEGER.fullmatch(label) or any(map(INTEGER.fullmatch, self.labels)):
            return ""
        return f"; say what the numbers mean with --label_mapping {label}=NAME ..."

    def _known(self) -> str:
        written = [word for word in self.words if word not in self.labels]
        return list_names(list(self.labels)) + (f" (written {list_names(written)})" if written else "")


def _comma_hint(text: str) -> str:
    return f"; {DECIMAL_COMMA}" if COMMA_NUMBER.fullmatch(text) else ""
