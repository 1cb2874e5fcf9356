"""Tables, the common form of every source of examples, file or dataset of the Hub: rows in chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sot_nlp.data.file_format import list_names
from sot_nlp.errors import UserError, printable

CHUNK = 10_000


@dataclass
class Rows:
    """Some examples of a table, in its order: one list per column, in the requested order.

    `lines` is where each begins (lines are counted from 1, the header included; rows of a format
    without lines from 1), `indices` its position among the table's examples, from 0, in which
    unreadable ones count. `unreadable` are (line, why) of those skipped.
    """

    columns: list[list[Any]]
    lines: list[int] = field(default_factory=list)
    indices: list[int] = field(default_factory=list)
    unreadable: list[tuple[int, str]] = field(default_factory=list)


def plain_column(name: str) -> str:
    """Return a column's name without white space, or a byte order mark, around it."""
    return name.strip("\ufeff \t\r\n\u00a0")


class Table:
    """A source of examples: named columns, read in chunks as often as needed."""

    unit = "line"
    notes: tuple[str, ...] = ()  # what a user should know of how it is read
    typed = True  # whether the format itself distinguishes numbers and lists from texts

    def __init__(self, name: str, columns: Sequence[str]):
        self.name = name
        self.columns = tuple(columns)
        named = [column for column in self.columns if column]
        if twice := sorted({column for column in named if named.count(column) > 1}):
            raise UserError(f"{name} has the column {list_names(twice)} more than once; rename one")

    def reading(self) -> list[Any]:
        """Return how the same bytes are read, as JSON values: another way may give other examples."""
        return [type(self).__name__]

    def where(self, line: int) -> str:
        """Return the place of an example, for a message."""
        return f"{self.name}, {self.unit} {line}"

    def position(self, column: str | int) -> int:
        """Return the position of a column given by name or position; UserError if there is none."""
        if isinstance(column, int):
            if column < len(self.columns):
                return column
            raise UserError(f"{self.name} has {len(self.columns)} columns; expected a column {column}")
        if column in self.columns:
            return self.columns.index(column)
        plain = [plain_column(name) for name in self.columns]
        if plain.count(plain_column(column)) == 1:
            return plain.index(plain_column(column))
        present = list_names(list(self.columns))
        raise UserError(f"{self.name} has no column {printable(column)!r}; its columns are {present}")

    def label_names(self, column: str) -> tuple[str, ...] | None:
        """Return a column's label names in the order of their numbers, where the source knows them."""
        return None

    def rows(self, wanted: Sequence[str | int]) -> Iterator[Rows]:
        """Yield the examples with the columns `wanted`, at most `CHUNK` at a time."""
        raise AssertionError("each kind of table reads its own rows")
