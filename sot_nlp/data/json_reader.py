"""Read JSON as rows of checked columns: a list of objects, or one object per line."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sot_nlp.data.file_format import BYTE_ORDER_MARK, list_names, text_lines
from sot_nlp.data.tables import CHUNK, Rows, Table
from sot_nlp.errors import UserError, printable

RECORDS = 'df.to_json("data.jsonl", orient="records", lines=True) writes it so'
_TWO_ITEMS = re.compile(r"}\s*,\s*{")
_SPACE = re.compile(r"[ \t\r\n]*")


class JsonTable(Table):
    """A list of JSON objects, or one object per line; the first character decides."""

    def __init__(self, path: Path):
        self.path = path
        self.name = printable(path)
        with path.open("rb") as file:
            start = file.read(4096).removeprefix(BYTE_ORDER_MARK).lstrip()
        self.is_list = start.startswith(b"[")
        if self.is_list and _TWO_ITEMS.search(next(text_lines(path), "")):
            self.unit = "row"  # a line that holds several examples identifies none
        if start.startswith(b"{"):
            self._check_lines()
        first = next(self._objects(), None)
        if first is None:
            raise UserError(f"{self.name} holds no examples; expected JSON objects")
        super().__init__(self.name, list(first[1]))

    def _check_lines(self) -> None:
        """Raise UserError for a file that is one object around all examples."""
        lines = (line for line in text_lines(self.path) if not line.isspace())
        first = next(lines)
        try:
            json.loads(first)
            if next(lines, None) is not None:
                return
        except _JSON_ERRORS:
            pass
        try:
            content = json.loads("".join(text_lines(self.path)))
        except _JSON_ERRORS:
            return  # the error is reported with its line
        if shape := _shape(content):
            raise UserError(f"{self.name} {shape}; expected one object per example: {RECORDS}")

    def rows(self, wanted: Sequence[str | int]) -> Iterator[Rows]:
        """Yield rows as `Table.rows` does; a key that an object lacks is a UserError."""
        names = [self.columns[self.position(column)] for column in wanted]
        rows = Rows([[] for _ in names])
        for index, (line, example) in enumerate(self._objects()):
            for name, column in zip(names, rows.columns, strict=True):
                if name not in example:
                    keys = list_names(list(example))
                    raise UserError(f"{self.where(line)} has no {printable(name)!r}; its keys are {keys}")
                column.append(example[name])
            rows.lines.append(line)
            rows.indices.append(index)
            if len(rows.lines) == CHUNK:
                yield rows
                rows = Rows([[] for _ in names])
        if rows.lines:
            yield rows

    def _objects(self) -> Iterator[tuple[int, dict[str, Any]]]:
        for line, value in self._list_items() if self.is_list else self._line_values():
            if not isinstance(value, dict):
                raise UserError(
                    f"{self.where(line)} is {_json_kind(value)}; expected an object per row: {RECORDS}"
                )
            yield line, value

    def _line_values(self) -> Iterator[tuple[int, Any]]:
        decode = json.JSONDecoder(object_pairs_hook=_object).decode
        for number, line in enumerate(text_lines(self.path), 1):
            if line.isspace() or not line:
                continue
            try:
                yield number, decode(line)
            except _JSON_ERRORS as error:
                raise self._mistake(number, line, error) from None

    def _list_items(self) -> Iterator[tuple[int, Any]]:
        """Yield (line, value) of each item. The text is held whole, the items one at a time."""
        decode = json.JSONDecoder(object_pairs_hook=_object).raw_decode
        text = "".join(text_lines(self.path))
        position, line = _skip_space(text, 0, 1)
        opening = "["
        by_row = self.unit == "row"
        row = 0
        while True:
            if not text.startswith(opening, position):
                place = row if by_row else line
                raise UserError(f"{self.where(place)}: expected `,` or `]` after an item of the JSON list")
            row += 1
            position, line = _skip_space(text, position + 1, line)
            if opening == "[" and text.startswith("]", position):
                break
            try:
                value, end = decode(text, position)
            except _JSON_ERRORS as error:
                place = row if by_row else line
                raise self._mistake(place, text[position : position + 100], error) from None
            yield row if by_row else line, value
            position, line = _skip_space(text, end, line + text.count("\n", position, end))
            if text.startswith("]", position):
                break
            opening = ","
        if text[position + 1 :].strip():
            place = row if by_row else line
            raise UserError(f"{self.where(place)}: text follows the end of the JSON list")

    def _mistake(self, line: int, text: str, error: Exception) -> UserError:
        if isinstance(error, _RepeatedKeyError):
            return UserError(f"{self.where(line)} has the key {printable(error.args[0])!r} more than once")
        what = "nested too deep" if isinstance(error, RecursionError) else getattr(error, "msg", str(error))
        return UserError(
            f"{self.where(line)} is not JSON ({what}): {printable(text.strip(), 40)!r}; expected a list of "
            "objects, or one object per line"
        )


def _shape(content: dict[str, Any]) -> str | None:
    """Describe the one object in a file, where it is not an example."""
    for key, value in content.items():
        if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            return f"has its {len(value)} examples in a list under {printable(key)!r}"
    if isinstance(content.get("columns"), list) and isinstance(content.get("data"), list):
        return 'has names and values apart, as pandas\'s orient="split" writes them'
    if content and all(isinstance(value, dict) for value in content.values()):
        return "is an object of objects, as pandas's to_json writes a frame by default"
    if len(content) > 1 and all(isinstance(value, list) for value in content.values()):
        return "is an object of columns, each a list"
    return None


class _RepeatedKeyError(ValueError):
    """An object with a key twice, of which JSON readers silently keep the last."""


_JSON_ERRORS = (ValueError, RecursionError)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _RepeatedKeyError(next(key for key in keys if keys.count(key) > 1))
    return value


def _skip_space(text: str, position: int, line: int) -> tuple[int, int]:
    """Return the position of the next character that is not JSON white space, and its line."""
    end = _SPACE.match(text, position).end()  # type: ignore[union-attr]
    return end, line + text.count("\n", position, end)


def _json_kind(value: Any) -> str:
    kinds = {str: "a text", bool: "true or false", int: "a number", float: "a number", list: "a list"}
    return kinds.get(type(value), "null")
