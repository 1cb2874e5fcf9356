"""Survey all labels of a column: what kind of task they make, and the names of its classes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from sot_nlp.data.file_format import list_names
from sot_nlp.data.label_values import (
    COMMA_NUMBER,
    DECIMAL_COMMA,
    INTEGER,
    LIST_WAYS,
    MINUS_ONE,
    Spellings,
    no_label,
    number,
    read_label,
    spelled,
)
from sot_nlp.data.list_text import looks_like_list
from sot_nlp.data.tables import Table
from sot_nlp.errors import UserError, printable

# More different labels than this are more likely texts, or the examples' own numbers.
MOST_LABELS = 10_000
# Whole numbers that are written as decimals (1.0) are classes up to this many, and scores beyond.
MOST_WHOLE = 20
_KINDS = {
    "integer": "a whole number",
    "whole": "a decimal number",
    "decimal": "a decimal number",
    "text": "a text",
    "list": "a list",
}
_NUMBERS = {"integer", "whole", "decimal"}
_NUMBERS_IN_ROW = re.compile(r"[0-9]+(\s+[0-9]+)+")
# Numbers that as names are not the same as in another spelling: 1E5 is no 100000, 1.10 no 1.1.
_CODE = re.compile(r"[0-9]+[eE][0-9]+")
_POINT = re.compile(r"[-+]?[0-9]*\.[0-9]+")
_SEPARATORS = re.compile(r"\s*[;|,/+&]\s*")


class LabelSurvey:
    """What labels there are, seen chunk by chunk; `finish` says which kind of task they make.

    `words` are the names that `--label_mapping` gives to what the files write.
    """

    def __init__(self, table: Table, words: Mapping[str, str]):
        self.name, self.where, self.typed = table.name, table.where, table.typed
        self.words = Spellings(words)
        self.first: dict[str, tuple[int, Any]] = {}
        self.texts: dict[str, int] = {}  # label -> the line where it is first
        self.numbers: dict[int | float, dict[str, int]] = {}  # value -> its spellings, the same way
        self.named_number = False  # whether a number has got a name by `words`
        self._known: set[tuple[type, Any]] = set()

    @property
    def names(self) -> set[str]:
        """The names of all labels: of equal numbers one, as it is written where all write it alike."""
        return {*self.texts, *(_number_name(v, spellings) for v, spellings in self.numbers.items())}

    def add(self, values: Sequence[Any], lines: Sequence[int]) -> None:
        """Take note of the labels `values` of the examples at `lines`."""
        for value, line in zip(values, lines, strict=True):
            if not isinstance(value, list | dict):  # not hashable
                key = (type(value), value)
                if key in self._known:
                    continue
                if len(self._known) <= MOST_LABELS:
                    self._known.add(key)
            kind, label = read_label(value, self.typed)
            if label is None:
                if kind not in self.first:
                    raise UserError(f"{self.where(line)} {no_label(kind, value)}")
            elif isinstance(label, tuple):
                self.first.setdefault("list", (line, value))
                for name in label:
                    self._see_text(self.words.get(name) or name, line)
            else:
                self._see(kind, label, value, line)

    def _see(self, kind: str, label: str | float, value: Any, line: int) -> None:
        spelling = spelled(label)
        if (name := self.words.get(label)) is not None:
            self.named_number |= kind in _NUMBERS and number(name) is None
            kind, label = (kind if name == label else _kind_of_name(name)), name
            spelling = name
        elif kind == "decimal" and isinstance(label, float):
            kind = "whole" if label.is_integer() else kind
            text = value.strip() if isinstance(value, str) else ""
            if (_CODE if kind == "whole" else _POINT).fullmatch(text):
                spelling = text
        self.first.setdefault(kind, (line, value))
        key = number(label) if kind in _NUMBERS else None
        if key is None:
            self._see_text(str(label), line)
        elif key in self.numbers or len(self.numbers) <= MOST_LABELS:
            self.numbers.setdefault(key, {}).setdefault(spelling, line)

    def _see_text(self, name: str, line: int) -> None:
        if len(self.texts) <= MOST_LABELS:
            self.texts.setdefault(name, line)

    def finish(
        self, order: tuple[str, ...] | None = None, asked: str | None = None
    ) -> tuple[str, tuple[str, ...] | None]:
        """Return (kind of the task, label names in the order of their ids; None for a regression).

        `asked` is the kind that `--problem_type` names; without it whole numbers and texts are classes,
        decimals scores, lists several labels at once. The order is `order` where the source has one; numbers
        by size, then texts by the alphabet. Raises UserError for labels of mixed types, for one label alone,
        for too many, and for what does not look like names of classes.
        """
        if not self.first:
            raise UserError(f"{self.name} holds no examples")
        kind = asked or self._kind()
        if kind == "regression":
            return kind, None
        if kind == "multi_label" and (other := set(self.first) - {"list"}):
            line, value = self.first[min(other)]
            raise UserError(
                f"{self.where(line)}: label {printable(value, 40)!r} is not a list; expected a list of "
                f"names, {LIST_WAYS}"
            )
        if kind == "classification" and "list" in self.first:
            line, value = self.first["list"]
            raise UserError(
                f"{self.where(line)}: label {printable(value, 40)!r} is a list; expected one name, or "
                "--problem_type multi_label"
            )
        line = next(iter(self.first.values()))[0]
        if len(self.texts) + len(self.numbers) > MOST_LABELS:
            raise UserError(
                f"{self.where(line)}: more than {MOST_LABELS} different labels; is this the label column "
                "(--label_column_name)?"
            )
        self._check_numbers_named()
        self._check_spellings()
        if order is None:
            order = self._order()
        if not order:
            raise UserError(f"{self.name}: every list of labels is empty; expected names of labels in some")
        if kind == "multi_label" and self.texts and set(self.texts) <= {"0", "1", "true", "false"}:
            raise UserError(
                f"{self.where(line)}: the labels are lists of zeros and ones; expected lists of the "
                f"names of the labels that hold, {LIST_WAYS}"
            )
        if len(order) < 2 and kind == "classification":
            raise UserError(
                f"{self.where(line)}: every label is {list_names(list(order))}; expected at least two labels"
            )
        if asked is None and kind == "classification":
            self._check_names()
        return kind, order

    def _kind(self) -> str:
        """Return the kind that the labels look like; UserError where they look like several."""
        kinds = set(self.first)
        if kinds == {"list"}:
            return "multi_label"
        if "list" in kinds:
            raise UserError(
                f"labels of mixed types: {self._places()}; expected lists in every row, {LIST_WAYS}"
            )
        if kinds <= _NUMBERS:
            whole = "decimal" not in kinds
            few = "whole" not in kinds or len(self.numbers) <= MOST_WHOLE
            return "classification" if whole and few else "regression"
        if "decimal" in kinds:
            self._check_numbers_named()
            comma = f"; {DECIMAL_COMMA}" if any(map(COMMA_NUMBER.fullmatch, self.texts)) else ""
            raise UserError(
                f"labels of mixed types: {self._places()}; expected numbers alone for a regression{comma}; "
                "--problem_type classification reads all of them as names"
            )
        return "classification"

    def _places(self) -> str:
        return "; ".join(
            f"{self.where(line)}: {printable(value, 40)!r} is {_KINDS[kind]}"
            for kind, (line, value) in self.first.items()
        )

    def _order(self) -> tuple[str, ...]:
        names = self.names
        # Texts among numbers may be numbers with zeros before them: 01, ..., 09, 10.
        by_size = self.numbers or all(map(INTEGER.fullmatch, names))
        return tuple(sorted(names, key=_by_size if by_size else None))

    def _check_numbers_named(self) -> None:
        """Raise UserError for a number without a name beside numbers that `--label_mapping` has named."""
        if not self.named_number or not self.numbers:
            return
        value = min(self.numbers)
        line = min(self.numbers[value].values())
        hint = f"; {MINUS_ONE}" if value == -1 else ""
        raise UserError(
            f"{self.where(line)}: label {value} has no name in --label_mapping, which names other numbers: "
            f"add {value}=NAME, or leave --label_mapping out for a regression, which has no names{hint}"
        )

    def _check_spellings(self) -> None:
        """Raise UserError for names that are one number, though not as 1 and 1.0: 1.1 and 1.10 may be two."""
        for spellings in self.numbers.values():
            if len(spellings) > 1 and not all(map(INTEGER.fullmatch, spellings)):
                first, second = list(spellings)[:2]
                raise UserError(
                    f"{self.where(spellings[second])}: the labels {first} and {second} are one number: "
                    f"--label_mapping {second}={first} makes them one class; for two, write names that are "
                    "no numbers"
                )

    def _check_names(self) -> None:
        """Raise UserError for names that look like numbers, or like several labels in a cell."""
        commas = [name for name in self.texts if COMMA_NUMBER.fullmatch(name)]
        rest = [name for name in self.texts if number(name) is None and name not in commas]
        if commas and not rest:
            raise UserError(
                f"{self.where(self.texts[commas[0]])}: label {commas[0]!r} looks like a number with a "
                f"decimal comma; {DECIMAL_COMMA}; several labels are written as a list, {LIST_WAYS} "
                "(--problem_type classification reads the labels as names)"
            )
        known = self.names
        for name, line in self.texts.items():
            if looks_like_list(name):
                what = "looks like a list, but can't be read as one"
            elif self._joined(name, known):
                what = "looks like several labels in one cell"
            else:
                continue
            raise UserError(
                f"{self.where(line)}: label {printable(name, 60)!r} {what}; expected a list of names, "
                f"{LIST_WAYS} (--problem_type classification reads it as one name)"
            )

    def _joined(self, name: str, known: set[str]) -> bool:
        """Return whether `name` joins several labels: each of its parts is a label of other examples too.

        Whole numbers are also separated by spaces.
        """
        parts = set(name.split() if _NUMBERS_IN_ROW.fullmatch(name) else _SEPARATORS.split(name)) - {""}
        if len(parts) < 2:
            return False
        others = known - {name}
        joined = {
            part for other in others if ";" in other or "|" in other for part in _SEPARATORS.split(other)
        }
        return parts <= (others | joined if ";" in name or "|" in name else others)


def _kind_of_name(name: str) -> str:
    """Return what a name that `--label_mapping` gives is: a number for a number, else a text."""
    kind, label = read_label(name, typed=False)
    whole = isinstance(label, float) and label.is_integer()
    return "text" if kind not in _NUMBERS else "whole" if whole else kind


def _number_name(value: int | float, spellings: Mapping[str, int]) -> str:
    return next(iter(spellings)) if len(spellings) == 1 else str(value)


def _by_size(name: str) -> tuple[bool, float | int, str]:
    value = number(name)
    return value is None, 0 if value is None else value, name
