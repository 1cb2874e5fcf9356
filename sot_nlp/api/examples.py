"""Write examples given from Python to a file that a run reads like any other.

They are written once as Parquet into the cache, in a folder named after their content: a run on them can be
resumed and evaluated again, and its record names what it was trained on.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

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

SHAPES = (
    "a file's path, a pandas DataFrame, a datasets.Dataset, a dict of columns, a list of dicts, or a pair "
    "(texts, labels)"
)


def as_file(examples: Examples, name: str, cache: Path) -> str:
    """Return the path of a file that holds `examples`; of a path, that path itself.

    Args:
        examples: a path; a DataFrame; a Dataset (class names take the place of class numbers); a dict of
            columns; a list of dicts; or a pair (texts, labels), whose texts are strings or pairs of strings.
        name: the argument that they were given as, for messages.
        cache: the folder below which the file is written.

    Raises:
        UserError: for anything else, for no examples, and for columns of unequal length.
    """
    if isinstance(examples, (str, os.PathLike)):
        return os.fspath(examples)
    table = _as_table(examples, name)
    if table.num_rows == 0:
        raise UserError(f"{name}: holds no examples")
    import pyarrow as pa
    import pyarrow.parquet

    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table.replace_schema_metadata(None), buffer)
    content = buffer.getvalue().to_pybytes()
    path = cache / hashlib.sha256(content).hexdigest()[:16] / f"{name.replace('_', '-')}.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
    return str(path)


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
    return columns


def _listed(values: Any, name: str) -> list[Any]:
    if isinstance(values, str):
        raise UserError(f"{name}: expected a list of strings, got one string; put it into a list: [text]")
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise UserError(f"{name}: expected a list of strings, got {type(values).__name__}")
    return list(values)


def _as_table(examples: Any, name: str) -> pa.Table:
    if hasattr(examples, "column_names") and hasattr(examples, "features"):
        return _of_dataset(examples, name)
    if hasattr(examples, "to_dict") and hasattr(examples, "columns"):
        return _of_frame(examples, name)
    if isinstance(examples, Mapping):
        return _of_columns(examples, name)
    if isinstance(examples, tuple) and len(examples) == 2 and not isinstance(examples[0], (str, Mapping)):
        return _of_columns(_of_pair(examples, name), name)
    if isinstance(examples, Iterable):
        return _of_rows(list(examples), name)
    raise UserError(f"{name}: expected {SHAPES}; got {type(examples).__name__}")


def _of_pair(examples: tuple[Any, Any], name: str) -> dict[str, list[Any]]:
    columns = text_columns(examples[0], name=f"{name}: texts")
    labels = _listed(examples[1], f"{name}: labels")
    if len(labels) != len(columns[0]):
        raise UserError(f"{name}: {len(columns[0])} texts, but {len(labels)} labels; each text needs one")
    names = ("text",) if len(columns) == 1 else ("sentence1", "sentence2")
    return {**dict(zip(names, columns, strict=True)), "label": labels}


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
    lists = {str(key): _column(values, f"{name}[{key!r}]") for key, values in columns.items()}
    lengths = {key: len(values) for key, values in lists.items()}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{printable(key)} {length}" for key, length in lengths.items())
        raise UserError(f"{name}: its columns have unequal lengths: {shown}")
    arrays = {}
    for key, values in lists.items():
        try:
            arrays[key] = pa.array(values)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            kinds = ", ".join(sorted({type(value).__name__ for value in values}))
            raise UserError(
                f"{name}[{key!r}]: its values are not of one kind ({kinds}); make all strings or all numbers"
            ) from None
    return pa.table(arrays)


def _column(values: Any, name: str) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise UserError(f"{name}: expected a list, got {type(values).__name__}")
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _of_frame(frame: Any, name: str) -> pa.Table:
    import pyarrow as pa

    if not hasattr(frame, "dtypes") or not hasattr(frame, "index"):
        raise UserError(f"{name}: expected {SHAPES}; got {type(frame).__name__}")
    try:
        return pa.Table.from_pandas(frame.rename(columns=str), preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise UserError(
            f"{name}: the DataFrame has a column of mixed types: {printable(error)}; "
            "make it one type, e.g. with .astype(str)"
        ) from None


def _of_dataset(dataset: Any, name: str) -> pa.Table:
    import pyarrow as pa

    if isinstance(dataset, Mapping) or isinstance(dataset.column_names, Mapping):
        raise UserError(
            f"{name}: is a DatasetDict, not a Dataset; did you mean {name}[{next(iter(dataset))!r}]?"
        )
    if not hasattr(dataset, "__len__"):
        raise UserError(
            f"{name}: is an IterableDataset; give a Dataset, e.g. Dataset.from_list(list({name})), or a "
            "dataset of the Hub by dataset_name=... and streaming=True"
        )
    columns = {}
    for column, feature in dataset.features.items():
        values = dataset[column]
        names = getattr(feature, "names", None)
        columns[column] = pa.array(_class_names(values, names) if names else list(values))
    return pa.table(columns)


def _class_names(numbers: Iterable[int | None], names: Sequence[str]) -> list[str | None]:
    """Return the names of class numbers; a number that has none (-1: no label) as itself."""
    known = range(len(names))
    return [None if n is None else names[n] if n in known else str(n) for n in numbers]
