"""Read a dataset of the Hugging Face Hub, or a folder in its layout, as rows of checked columns."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.data.tables import CHUNK, Rows, Table
from sot_nlp.errors import UserError, printable

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset


class HubTable(Table):
    """One split. Numbers that the dataset has names for are given as the names, and -1 as no label."""

    unit = "row"

    def __init__(self, dataset: Dataset | IterableDataset, name: str):
        self.dataset = dataset
        columns = dataset.column_names
        if columns is None:  # of a stream they are often known only by its first example
            with _explained(name):
                columns = list(next(iter(dataset), ()))
            if not columns:
                raise UserError(f"{name} holds no examples")
        super().__init__(name, columns)

    @property
    def files(self) -> list[Path]:
        """The files on disk that the split is in; none where it is streamed."""
        return [Path(file["filename"]) for file in getattr(self.dataset, "cache_files", ())]

    def label_names(self, column: str) -> tuple[str, ...] | None:
        """Return the names of a ClassLabel column, or of a list of ClassLabels."""
        feature = (self.dataset.features or {}).get(column)
        feature = getattr(feature, "feature", feature)
        names = getattr(feature, "names", None)
        return tuple(names) if names else None

    def rows(self, wanted: Sequence[str | int]) -> Iterator[Rows]:
        """Yield rows as `Table.rows` does."""
        columns = [self.columns[self.position(column)] for column in wanted]
        dataset = self.dataset.select_columns(list(dict.fromkeys(columns)))
        names = [self.label_names(column) for column in columns]
        index = 0
        batches = dataset.iter(batch_size=CHUNK)
        while True:
            with _explained(self.name):  # a stream is read only now
                batch = next(batches, None)
            if batch is None:
                return
            values = [batch[column] for column in columns]
            values = [_named(v, known) if known else v for v, known in zip(values, names, strict=True)]
            indices = list(range(index, index + len(values[0])))
            index += len(indices)
            yield Rows(values, lines=[i + 1 for i in indices], indices=indices)


def _named(values: list[Any], names: tuple[str, ...]) -> list[Any]:
    """Replace numbers, or lists of numbers, by their names; anything else is unchanged."""
    if any(isinstance(value, list) for value in values):
        return [value if value is None else _named(value, names) for value in values]
    values = [None if type(value) is int and value < 0 else value for value in values]
    return [names[value] if type(value) is int and value < len(names) else value for value in values]


def hub_splits(name: str, config: str | None) -> list[str]:
    """Return a dataset's split names; UserError if it is out of reach or has no such configuration."""
    import datasets

    with _explained(_title(name, config)):
        return list(datasets.get_dataset_split_names(name, config))


def open_hub_table(
    name: str,
    config: str | None,
    split: str,
    *,
    cache_dir: str | None = None,
    streaming: bool = False,
    limit: int | None = None,
) -> HubTable:
    """Open a split of the dataset `name`; no code that comes with it is run.

    `streaming`: it is read over the network each time and never stored, and only its first `limit` examples.
    Raises UserError where it can't be reached or does not exist.
    """
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with _explained(_title(name, config)):
        dataset = datasets.load_dataset(name, config, split=split, cache_dir=cache_dir, streaming=streaming)
    if streaming and limit is not None:
        dataset = dataset.take(limit)
    return HubTable(dataset, f"{_title(name, config)}, split {split}")


def _title(name: str, config: str | None) -> str:
    return f"dataset {printable(name)}" + (f" ({printable(config)})" if config else "")


@contextmanager
def _explained(title: str) -> Iterator[None]:
    """Convert what `datasets` raises for names and networks into a UserError."""
    import datasets

    try:
        yield
    # RuntimeError: a dataset that needs code of its own to be read.
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause: BaseException = error
        # Of a file that can't be read it says only that something is wrong.
        if isinstance(error, datasets.exceptions.DatasetGenerationError):
            cause = error.__cause__ or error
        first = printable((str(cause).strip() or type(cause).__name__).splitlines()[0])
        raise UserError(
            f"{title} can't be loaded: {first}; without network, --data_dir reads GLUE's own files and "
            "--train_file yours"
        ) from None
