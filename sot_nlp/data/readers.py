"""Read files as rows of checked columns, in chunks, so that a file of any size needs little memory.

A file that can't be what it should be is a UserError with file and line. Only where a file is known for
broken lines (`tolerant`) does a reader skip them, and report them by name.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sot_nlp.data.file_format import MAX_LINE, check_file, file_format, text_lines
from sot_nlp.data.json_reader import JsonTable
from sot_nlp.data.quoting import is_quoted
from sot_nlp.data.tables import CHUNK, Rows, Table
from sot_nlp.errors import UserError, printable

DELIMITERS = {"csv": ",", "tsv": "\t"}
DELIMITER_NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
_SEPARATOR_LINE = re.compile(r"\"?sep=([^\"\w\s]|\t|\\t)\"?[,;\t]*", re.IGNORECASE)
QUOTED_NOTE = "its quotes are those of quoted fields, and are removed (--quoting false keeps them)"


class DelimitedTable(Table):
    """Comma or tab separated text. Without `quoting` a `"` is a character like any other.

    A first line `sep=;`, which spreadsheets write, is no header, and names the delimiter. `num_columns`: what
    each line must have in a file without a header. `tolerant`: lines with another number of columns are left
    out and named.
    """

    typed = False

    def __init__(
        self,
        path: Path,
        *,
        delimiter: str,
        quoting: bool,
        header: bool = True,
        num_columns: int | None = None,
        tolerant: bool = False,
    ):
        self.path = path
        self.quoting = quoting
        named = _SEPARATOR_LINE.fullmatch(next(text_lines(path), "").rstrip("\r\n"))
        self.skipped = int(named is not None)
        self.delimiter = named[1].replace("\\t", "\t") if named else delimiter
        self.header = header
        self.tolerant = tolerant
        self.name = printable(path)
        first = next(self._records(), (0, []))[1]
        if not "".join(first).strip():
            expected = "its columns' names" if header else "an example"
            raise UserError(f"{self.name}: the first line is empty; expected {expected}")
        if header:
            columns = [column.strip() for column in first]
            self._check_header(columns)
        else:
            columns = [str(i) for i in range(num_columns or len(first))]
        super().__init__(self.name, columns)

    def reading(self) -> list[Any]:
        """Return how the bytes are read, as `Table.reading` does."""
        return ["delimited", self.delimiter, self.quoting, self.header, len(self.columns), self.tolerant]

    def _check_header(self, columns: list[str]) -> None:
        if len(columns) > 1:
            return
        for other, name in DELIMITER_NAMES.items():
            if other != self.delimiter and (count := columns[0].count(other)):
                ours = DELIMITER_NAMES[self.delimiter]
                raise UserError(
                    f"{self.name}, line 1 has no {ours} but {count} {name}{'s' * (count > 1)}: expected "
                    f"{ours}-separated columns (.csv has commas, .tsv tabs)"
                )
        if "\r" in columns[0]:
            raise UserError(f"{self.name} ends its lines with CR alone; save it with LF or CRLF line ends")

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (first line, fields) of each record, the header included."""
        lines = itertools.islice(text_lines(self.path), self.skipped, None)
        if not self.quoting:
            for number, line in enumerate(lines, 1 + self.skipped):
                yield number, line.removesuffix("\n").removesuffix("\r").split(self.delimiter)
            return
        # The module's limit on a field is 128 kB; a line's own limit is the one that holds here.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
        reader = csv.reader(lines, delimiter=self.delimiter, strict=True)
        while True:
            begin = reader.line_num + 1 + self.skipped
            try:
                yield begin, next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise UserError(f"{self.name}, line {begin}: {self._csv_mistake(error, reader)}") from None

    def rows(self, wanted: Sequence[str | int]) -> Iterator[Rows]:
        """Yield rows as `Table.rows` does; a line without content is skipped at the end of the file only."""
        positions = [self.position(column) for column in wanted]
        width = len(self.columns)
        records = self._records()
        if self.header:
            next(records)
        kept: list[list[str]] = []
        rows = Rows([])
        blank: list[int] = []
        index = 0
        for line, fields in records:
            written = self.quoting and fields == [""]  # as "", an empty text, where a blank line has no field
            if len(fields) < 2 and not written and not "".join(fields).strip():
                blank.append(line)
                continue
            examples = [(line, fields)]
            if blank:  # with something behind them they are examples after all
                examples = [*((number, [""]) for number in blank), *examples]
                blank = []
            for place, example in examples:
                if len(example) == width:
                    kept.append(example)
                    rows.lines.append(place)
                    rows.indices.append(index)
                else:
                    rows.unreadable.append((place, self._wrong_width(place, example)))
                index += 1
            if len(kept) >= CHUNK:
                rows.columns = _columns(kept, positions)
                yield rows
                kept, rows = [], Rows([])
        if kept or rows.unreadable:
            rows.columns = _columns(kept, positions)
            yield rows

    def _csv_mistake(self, error: csv.Error, reader: Any) -> str:
        text = str(error)
        if "unexpected end" in text:
            return 'a quote (") that opens here never closes; --quoting false takes quotes as characters'
        if "expected after" in text:
            return (
                f"a quoted field that begins here is wrong in line {reader.line_num + self.skipped}: after "
                'its closing quote comes no delimiter (inside a field a quote is written ""; --quoting false '
                "takes quotes as characters)"
            )
        if "new-line" in text:
            return (
                "a carriage return occurs in a field without quotes; save the file with LF or CRLF line ends"
            )
        if "field limit" in text:
            return f'a field is longer than {MAX_LINE >> 20} MiB: does a quote (") never close?'
        return f"is not CSV: {text}"

    def _wrong_width(self, line: int, fields: list[str]) -> str:
        """Return why the line is skipped; UserError unless this file is known for such lines."""
        width = "is empty" if fields == [""] else f"has {len(fields)} column{'s' * (len(fields) > 1)}"
        source = "as in its header" if self.header else "as in every line of this file"
        why = f"{width}; expected {len(self.columns)}, {source}, separated by "
        why += f"{DELIMITER_NAMES.get(self.delimiter, 'delimiter')}s"
        if self.tolerant:
            return why
        if not self.quoting and any('"' in field for field in fields):
            why += (
                "; if its quotes are those of a field with a line break or a delimiter in it: --quoting true"
            )
        raise UserError(f"{self.where(line)} {why}")


def _columns(records: list[list[Any]], positions: list[int]) -> list[list[Any]]:
    return [[record[position] for record in records] for position in positions]


class ParquetTable(Table):
    """A Parquet file. Its metadata may hold the names of columns' classes in their order, as JSON."""

    unit = "row"
    LABEL_NAMES = b"sot_nlp.label_names"

    def __init__(self, path: Path):
        import pyarrow
        import pyarrow.parquet

        self.path = path
        try:
            with pyarrow.parquet.ParquetFile(path) as file:
                columns = list(file.schema_arrow.names)
                self._label_names = json.loads((file.schema_arrow.metadata or {}).get(self.LABEL_NAMES, "{}"))
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{printable(path)} is a damaged Parquet file: {_first_line(error)}") from None
        super().__init__(printable(path), columns)

    def label_names(self, column: str) -> tuple[str, ...] | None:
        """Return the names that the file was written with, as `Table.label_names` does."""
        return tuple(self._label_names[column]) if column in self._label_names else None

    def rows(self, wanted: Sequence[str | int]) -> Iterator[Rows]:
        """Yield rows as `Table.rows` does."""
        import pyarrow
        import pyarrow.parquet

        names = [self.columns[self.position(column)] for column in wanted]
        index = 0
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for batch in file.iter_batches(CHUNK, columns=names):
                    indices = list(range(index, index + batch.num_rows))
                    index += batch.num_rows
                    columns = [self._values(batch.column(name), name, indices[0]) for name in names]
                    yield Rows(columns, lines=[i + 1 for i in indices], indices=indices)
        except (pyarrow.ArrowException, OSError) as error:
            raise UserError(f"{self.where(index + 1)}: damaged Parquet: {_first_line(error)}") from None

    def _values(self, column: Any, name: str, begin: int) -> list[Any]:
        """Return a column's values from row `begin` on; UserError names the row of an unreadable one.

        Parquet checks neither that texts are UTF-8, nor that Python's dates reach as far as its own.
        """
        try:
            return list(column.to_pylist())
        except (ValueError, OverflowError):
            for row, value in enumerate(column, begin + 1):
                try:
                    value.as_py()
                except (ValueError, OverflowError) as error:
                    raise UserError(
                        f"{self.where(row)}: {printable(name)!r} can't be read ({_first_line(error)}); "
                        "expected texts in UTF-8, numbers or lists"
                    ) from None
            raise


def _first_line(error: BaseException) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0])


def open_table(
    path: Path,
    *,
    flag: str = "",
    declared_format: str | None = None,
    header: bool | None = None,
    quoting: bool | None = None,
    num_columns: int | None = None,
    tolerant: bool = False,
) -> Table:
    """Open the table in the file at `path`, its first line read and checked.

    `declared_format` is one of csv, tsv, json, jsonl, parquet; None goes by the file's name. `header`
    None is yes; `quoting` None is yes for CSV, and for TSV where `is_quoted` says so. `flag` is the argument
    that named the file, for the message. Raises UserError.
    """
    check_file(path, flag)
    kind = file_format(path, declared_format)
    if kind == "parquet":
        return ParquetTable(path)
    if kind in ("json", "jsonl"):
        return JsonTable(path)
    guessed = quoting is None and kind == "tsv" and is_quoted(path, DELIMITERS[kind])
    table = DelimitedTable(
        path,
        delimiter=DELIMITERS[kind],
        quoting=(kind == "csv" or guessed) if quoting is None else quoting,
        header=header is not False,
        num_columns=num_columns,
        tolerant=tolerant,
    )
    if guessed:
        table.notes = (QUOTED_NOTE,)
    return table
