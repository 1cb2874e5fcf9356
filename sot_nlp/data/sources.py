"""Find each split's examples: in own files, GLUE's folder, or on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sot_nlp.data.file_format import list_names
from sot_nlp.data.hub_reader import open_hub_table
from sot_nlp.data.label_values import LabelEncoder
from sot_nlp.data.readers import open_table
from sot_nlp.data.row_checks import Source
from sot_nlp.data.tables import Table
from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import Arguments

if TYPE_CHECKING:
    from sot_nlp.tasks.spec import TaskFile, TaskSpec

# The settings that name a split's file.
FILE_FLAGS = {"train": "train_file", "validation": "validation_file", "test": "test_file"}


def place(spec: TaskSpec, split: str, arguments: Arguments) -> Path | tuple[str, str | None, str]:
    """Return a split's file, or (dataset, configuration, split) of the Hub. UserError if there is neither."""
    entry = spec.files.get(split)
    path = Path(entry.file) if entry is not None and Path(entry.file).is_absolute() else None
    path = path or spec.file_path(split, arguments.data_dir)
    if path is not None:
        return path
    if spec.dataset_name is not None and split in spec.dataset_splits:
        return spec.dataset_name, spec.dataset_config_name, spec.dataset_splits[split]
    if entry is not None:
        raise UserError(f"--data_dir: task {spec.name} needs the folder that has {printable(entry.file)}")
    known = list_names(list(spec.splits))
    raise UserError(f"task {spec.name} has no data for the split {printable(split)!r}; it has {known}")


def held_out_splits(spec: TaskSpec, arguments: Arguments) -> list[str]:
    """Return the validation splits at the place of the training data, unless a setting put them there."""
    if "train" not in spec.splits or arguments.validation_file is not None:
        return []
    train = place(spec, "train", arguments)
    return [split for split in spec.validation_splits if place(spec, split, arguments) == train]


def open_split(spec: TaskSpec, split: str, arguments: Arguments) -> tuple[Table, tuple[Path, ...]]:
    """Open a split's table; return it and the files whose content identifies the split (none if streamed)."""
    where = place(spec, split, arguments)
    if isinstance(where, Path) and split in held_out_splits(spec, arguments) and not where.exists():
        raise UserError(
            f"{printable(where)} does not exist, and the validation data is a share of it: restore it, name "
            "its place with --train_file, or give other data with --validation_file"
        )
    if isinstance(where, tuple):
        name, config, hub_split = where
        limit = "max_train_samples" if split == "train" else "max_predict_samples"
        hub_table = open_hub_table(
            name,
            config,
            hub_split,
            cache_dir=arguments.cache_dir,
            streaming=arguments.streaming,
            limit=getattr(arguments, "max_eval_samples" if split.startswith("validation") else limit),
        )
        return hub_table, tuple(hub_table.files)
    entry: TaskFile = spec.files[split]
    flag = "data_dir" if arguments.data_dir else "task"
    for own in FILE_FLAGS.values():
        given = getattr(arguments, own)
        if given is not None and Path(given).absolute() == where:
            # Messages name the file as the user does.
            flag, where = own, Path(given)
            break
    if flag == "data_dir":
        try:
            if arguments.data_dir and not where.is_file():
                _explain_folder(Path(arguments.data_dir), where)
        except PermissionError as error:
            raise UserError(f"--data_dir: no permission to read {printable(error.filename)}") from None
    table = open_table(
        where,
        flag=f"--{flag}",
        declared_format=entry.format,
        header=entry.header,
        quoting=entry.quoting if arguments.quoting is None else arguments.quoting,
        num_columns=entry.num_columns,
        tolerant=entry.broken_lines,
    )
    return table, (where,)


def _explain_folder(data_dir: Path, path: Path) -> None:
    """Raise UserError with what was looked for below --data_dir and what is there instead."""
    flag = f"--data_dir {printable(data_dir)}"
    if not data_dir.exists():
        raise UserError(f"{flag} does not exist; expected the folder that contains GLUE's task folders")
    if not data_dir.is_dir():
        raise UserError(f"{flag} is a file; expected the folder that contains GLUE's task folders")
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    there = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    raise UserError(
        f"{flag}: looked for {printable(path.relative_to(data_dir))}, but {printable(folder)} holds "
        f"{list_names(there)}"
    )


def columns_in_file(spec: TaskSpec, split: str, arguments: Arguments) -> dict[str, str | int]:
    """Return a file's own names for the task's columns, where they differ."""
    entry = spec.files.get(split)
    if entry is None or not isinstance(place(spec, split, arguments), Path):
        return {}
    return dict(entry.columns)


def open_source(spec: TaskSpec, split: str, arguments: Arguments) -> Source:
    """Open a split's table with the task's columns. A test split may lack labels. Raises UserError."""
    table, files = open_split(spec, split, arguments)
    columns = columns_in_file(spec, split, arguments)
    texts = tuple(columns.get(column, column) for column in spec.text_columns)
    label = columns.get(spec.label_column, spec.label_column) if spec.label_column is not None else None
    optional = split.startswith("test")
    if optional and label is not None:
        there = label < len(table.columns) if isinstance(label, int) else label in table.columns
        label = label if there else None
    for column in (*texts, *([] if label is None else [label])):
        table.position(column)
    return Source(
        table=table,
        text_columns=texts,
        label_column=label,
        labels_optional=optional,
        encoder=LabelEncoder(spec.kind, spec.labels, spec.label_words, spec.score_range),
        files=files,
    )
