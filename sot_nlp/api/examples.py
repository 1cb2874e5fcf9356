"""Write examples given from Python to a file that a run reads like any other.

They are written once as Parquet into the cache, in a folder named after their content: a run on them can be
resumed and evaluated again, and its record names what it was trained on.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from sot_nlp.data.file_format import list_names
from sot_nlp.errors import UserError, printable
from sot_nlp.files import write_atomic

if TYPE_CHECKING:
    import datasets
    import pandas as pd
    import pyarrow as pa

    Examples: TypeAlias = (
        str
        | os.PathLike[str]
        | pd.DataFrame
        | datasets.Dataset
        | Mapping[str, Sequence[Any]]
        | Sequence[Mapping[str, Any]]
        | tuple[Sequence[Any], Sequence[Any]]
    )

# What the columns of a pair (texts, labels) are called, by the number of texts per example.
PAIR_TEXTS = {1: ("text",), 2: ("sentence1", "sentence2")}
SHAPES = (
    "a file's path, a pandas DataFrame, a datasets.Dataset, a dict of columns, a list of dicts, or a pair "
    "(texts, labels)"
)


def as_file(examples: Examples, name: str, cache: Path) -> str:
    """Return the path of a file that holds `examples`; of a path, that path itself.

    Args:
        examples: a path; a DataFrame; a Dataset (class names take the place of class numbers, in their
            order); a dict of columns; a list of dicts; or a pair (texts, labels), whose texts are strings or
            pairs of strings.
        name: the argument that they were given as, for messages.
        cache: the folder below which the file is written.

    Raises:
        UserError: for anything else, for no examples, for columns of unequal length, and for a cache that
            can't be written.
    """
    if isinstance(examples, (str, os.PathLike)):
        return os.fspath(examples)
    table = _as_table(examples, name)
    if table.num_rows == 0:
        raise UserError(f"{name}: holds no examples")
    import pyarrow as pa
    import pyarrow.parquet

    buffer = pa.BufferOutputStream()
    try:
        pyarrow.parquet.write_table(table, buffer)
    except pa.ArrowException as error:  # such as a column of empty dicts
        raise UserError(f"{name}: {printable(error)}; give the columns of texts and labels alone") from None
    content = buffer.getvalue().to_pybytes()
    path = cache / hashlib.sha256(content).hexdigest()[:16] / f"{name.replace('_', '-')}.parquet"
    try:
        if not path.is_file():
            write_atomic(path, content)
    except OSError as error:
        raise UserError(
            f"{name}: its copy in the cache {printable(cache)} can't be written "
            f"({error.strerror or error}); name another folder with --cache_dir"
        ) from None
    return str(path)


def pair_columns(examples: Any, num_texts: int) -> dict[str, Any]:
    """Return the settings that name the columns of a pair (texts, labels); {} for other examples."""
    if not _is_pair(examples):
        return {}
    return {"text_column_names": list(PAIR_TEXTS[num_texts]), "label_column_name": "label"}


def cached_name(path: str | None) -> str | None:
    """Return the argument whose examples `as_file` wrote to `path`; None for any other file."""
    match = re.fullmatch(r".*[/\\]examples[/\\][0-9a-f]{16}[/\\]([a-z-]+)\.parquet", path or "")
    return match and match[1].replace("-", "_")


def text_columns(texts: Any, pairs: Any = None, name: str = "texts") -> list[list[str]]:
    """Return `texts` (strings or pairs of strings) as one or two lists of equal length.

    `pairs` are the second texts where `texts` holds only the first ones. Raises UserError.
    """
    first = _listed(texts, name)
    if not first:
        raise UserError(f"{name}: is empty; give at least one text")
    if pairs is not None:
        second = _listed(pairs, "text_pairs")
        if len(second) != len(first):
            raise UserError(f"text_pairs: {len(second)} for {len(first)} texts; each text needs one")
        columns = [first, second]
    elif all(isinstance(text, (tuple, list)) and len(text) == 2 for text in first):
        columns = [[a for a, _ in first], [b for _, b in first]]
    else:
        columns = [first]
    for which, column in zip((name, "text_pairs" if pairs is not None else name), columns, strict=False):
        for row, text in enumerate(column):
            if not isinstance(text, str):
                raise UserError(
                    f"{which}[{row}]: expected a string{' or a pair of strings' if pairs is None else ''}, "
                    f"got {type(text).__name__} {printable(repr(text), 60)}"
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise UserError(f"{which}[{row}]: {_lone_surrogate(error)}") from None
    return columns


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str):
        raise UserError(f"{name}: expected a list of strings, got one string; put it into a list: [text]")
    return _plain_list(values, name, "a list of strings")


def _plain_list(values: Any, name: str, expected: str) -> list[Any]:
    """Return what `values` holds, in Python's own types. UserError for what is no list."""
    if hasattr(values, "columns"):  # iterating over a table gives its columns' names
        raise UserError(f"{name}: expected {expected}, got a {type(values).__name__}; give one column of it")
    atom = isinstance(values, (str, bytes, Mapping)) or getattr(values, "ndim", 1) == 0
    if atom or not isinstance(values, Iterable):
        raise UserError(f"{name}: expected {expected}, got {type(values).__name__}")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _lone_surrogate(error: UnicodeEncodeError) -> str:
    half = printable(error.object[error.start])
    return f"contains {half}, half of a surrogate pair; expected whole characters"


def _as_table(examples: Any, name: str) -> pa.Table:
    if hasattr(examples, "column_names") and hasattr(examples, "features"):
        return _of_dataset(examples, name)
    if hasattr(examples, "to_dict") and hasattr(examples, "columns"):
        return _of_frame(examples, name)
    if isinstance(examples, Mapping):
        return _of_columns(examples, name)
    if _is_pair(examples):
        return _of_columns(_of_pair(examples, name), name)
    if isinstance(examples, Iterable):
        return _of_rows(list(examples), name)
    raise UserError(f"{name}: expected {SHAPES}; got {type(examples).__name__}")


def _is_pair(examples: Any) -> bool:
    """Return whether `examples` are (texts, labels), and not two rows."""
    return isinstance(examples, tuple) and len(examples) == 2 and not isinstance(examples[0], (str, Mapping))


def _of_pair(examples: tuple[Any, Any], name: str) -> dict[str, list[Any]]:
    columns = text_columns(examples[0], name=f"{name}: texts")
    labels = _listed(examples[1], f"{name}: labels")
    if len(labels) != len(columns[0]):
        raise UserError(f"{name}: {len(columns[0])} texts, but {len(labels)} labels; each text needs one")
    return {**dict(zip(PAIR_TEXTS[len(columns)], columns, strict=True)), "label": labels}


def _of_rows(rows: list[Any], name: str) -> pa.Table:
    if not rows:
        raise UserError(f"{name}: holds no examples")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise UserError(
                f"{name}[{number}]: expected a dict like {{'text': ..., 'label': ...}}, got "
                f"{type(row).__name__}; or give {SHAPES}"
            )
        if set(row) != set(rows[0]):
            here, first = (", ".join(sorted(map(str, keys))) for keys in (row, rows[0]))
            raise UserError(
                f"{name}[{number}]: its keys are {printable(here)}, those of the first row {first}"
            )
    return _of_columns({key: [row[key] for row in rows] for key in rows[0]}, name)


def _of_columns(columns: Mapping[Any, Any], name: str) -> pa.Table:
    import pyarrow as pa

    if columns and all(hasattr(value, "column_names") for value in columns.values()):
        raise UserError(
            f"{name}: is a DatasetDict, not a Dataset; did you mean {name}[{next(iter(columns))!r}]?"
        )
    if not columns:
        raise UserError(f"{name}: holds no columns")
    lists = {str(key): _plain_list(v, f"{name}[{key!r}]", "a list") for key, v in columns.items()}
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{printable(key)} {length}" for key, length in lengths.items())
        raise UserError(f"{name}: its columns have unequal lengths: {shown}")
    arrays = {}
    for key, values in lists.items():
        try:
            arrays[key] = pa.array(values)
        except UnicodeEncodeError as error:
            raise UserError(f"{name}[{key!r}]: a text {_lone_surrogate(error)}") from None
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            kinds = ", ".join(sorted({type(value).__name__ for value in values}))
            raise UserError(
                f"{name}[{key!r}]: its values are not of one kind ({kinds}); make all strings or all numbers"
            ) from None
    return pa.table(arrays)


def _of_frame(frame: Any, name: str) -> pa.Table:
    import pyarrow as pa

    if not hasattr(frame, "dtypes") or not hasattr(frame, "index"):
        raise UserError(f"{name}: expected {SHAPES}; got {type(frame).__name__}")
    columns = list(map(str, frame.columns))
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise UserError(f"{name}: has the column {list_names(twice)} more than once; rename one")
    try:
        table = pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
        return table.replace_schema_metadata(None)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the DataFrame has a column of mixed types: {printable(error)}; "
            "make it one type, e.g. with .astype(str)"
        ) from None


def _of_dataset(dataset: Any, name: str) -> pa.Table:
    from sot_nlp.data.hub_reader import HubTable
    from sot_nlp.data.readers import ParquetTable

    if isinstance(dataset, Mapping) or isinstance(dataset.column_names, Mapping):
        raise UserError(
            f"{name}: is a DatasetDict, not a Dataset; did you mean {name}[{next(iter(dataset))!r}]?"
        )
    if not hasattr(dataset, "__len__"):
        raise UserError(
            f"{name}: is an IterableDataset; give a Dataset, e.g. Dataset.from_list(list({name})), or a "
            "dataset of the Hub by dataset_name=... and streaming=True"
        )
    # Tensors are no values of a file; what a transform of the user's makes of the rows is what they are.
    transformed = dataset.format["type"] == "custom"
    table = HubTable(dataset if transformed else dataset.with_format(None), name)
    columns: dict[str, list[Any]] = {column: [] for column in table.columns}
    for rows in table.rows(table.columns):
        for column, values in zip(table.columns, rows.columns, strict=True):
            columns[column] += values
    names = {} if transformed else {column: table.label_names(column) for column in columns}
    kept = json.dumps({column: known for column, known in names.items() if known})
    return _of_columns(columns, name).replace_schema_metadata({ParquetTable.LABEL_NAMES: kept})
