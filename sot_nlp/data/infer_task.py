"""Infer a task from own files or a dataset of the Hub: columns named or guessed, kind and labels as found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sot_nlp.data.file_format import list_names
from sot_nlp.data.hub_reader import hub_splits
from sot_nlp.data.json_reader import JsonTable
from sot_nlp.data.label_survey import LabelSurvey
from sot_nlp.data.label_values import number
from sot_nlp.data.sources import FILE_FLAGS, columns_in_file, open_split
from sot_nlp.data.tables import Rows, Table, plain_column
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.frozen_mapping import FrozenMapping
from sot_nlp.tasks.labels import other_spellings
from sot_nlp.tasks.metrics import default_metrics
from sot_nlp.tasks.spec import TaskFile, TaskSpec, load_task

# Names that columns go by, the likelier first; letter case makes no difference.
TEXT_PAIRS = (
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("text1", "text2"),
    ("text_a", "text_b"),
    ("sentence_a", "sentence_b"),
    ("question", "sentence"),
    ("question", "answer"),
    ("query", "passage"),
    ("text", "text_pair"),
)
TEXTS = (
    "text",
    "sentence",
    "content",
    "review",
    "comment",
    "tweet",
    "message",
    "document",
    "body",
    "utterance",
)
LABELS = (
    "label", "labels", "gold_label", "class", "target", "category", "score", "rating", "stars", "sentiment",
    "intent", "is_duplicate", "y",
)  # fmt: skip
NUMBERS = re.compile(
    r"|_?id|idx|index|guid|(row|example|text|sentence|pair)_?id|level_\d+|unnamed: \d+|__index_level_\d+__"
)
FLAGS = {"0", "1", "0.0", "1.0", "True", "False", "true", "false"}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a trained model answers: `kind` as a task's, and its labels in the order of their ids, if any."""

    kind: str
    labels: tuple[str, ...] | None


def user_task(arguments: Arguments, trained: Trained | None = None) -> TaskSpec:
    """Return the settings' task: `--task`, own files, a dataset of the Hub, or own data over a task's.

    Own files and columns replace the task's. Without a task, columns that are not named are
    guessed, and kind and labels found in the training data; where the task is for a model that is `trained`,
    they are the model's, and the training data is not looked at. Where there is no validation data, its place
    is the training data's own: `load_data` then holds a share out. Raises UserError.
    """
    own = [flag for flag in FILE_FLAGS.values() if getattr(arguments, flag) is not None]
    if arguments.dataset_name is not None and own:
        raise UserError(f"--dataset_name and --{own[0]}: give only one of them")
    if arguments.task is not None:
        spec = _with_validation(_with_sources(load_task(arguments.task), arguments))
        spec = _with_columns(spec, arguments)
    elif own or arguments.dataset_name is not None:
        spec = _with_validation(_with_sources(_empty_task(arguments), arguments))
        spec = _guessed(spec, arguments, trained)
    else:
        raise UserError("give --task, or your own data with --train_file or --dataset_name")
    unknown = spec.labels is None and spec.kind != "regression"
    if not unknown and arguments.problem_type not in (None, spec.kind):
        raise UserError(f"--problem_type {arguments.problem_type}: task {spec.name} is a {spec.kind}")
    if unknown and trained is not None:
        if arguments.problem_type not in (None, trained.kind):
            raise UserError(f"--problem_type {arguments.problem_type}: the model is a {trained.kind}")
        spec = _of_kind(spec, trained.kind, trained.labels, "the model is")
        return _with_other_spellings(_with_mapping(spec, arguments), arguments)
    spec = _with_mapping(spec, arguments)
    return _surveyed(spec, arguments) if unknown and spec.label_column is not None else spec


def guess_label(columns: Sequence[str], texts: Sequence[str] = ()) -> str | None:
    """Return the column of labels: one of a known name, or the only one beside `texts`; None if none."""
    for name in LABELS:
        for column in columns:
            if plain_column(column).lower() == name and column not in texts:
                return column
    rest = [column for column in columns if column not in texts and not _is_number(column)]
    return rest[0] if len(rest) == 1 and texts else None


def guess_texts(columns: Sequence[str], label: str | None = None) -> tuple[str, ...]:
    """Return the one or two text columns: of known names, or the only one beside `label`; () if none."""
    lowered = {plain_column(column).lower(): column for column in columns if column != label}
    for first, second in TEXT_PAIRS:
        if first in lowered and second in lowered:
            return lowered[first], lowered[second]
    for name in TEXTS:
        if name in lowered:
            return (lowered[name],)
    rest = [column for column in lowered.values() if not _is_number(column)]
    return (rest[0],) if len(rest) == 1 else ()


def _is_number(column: str) -> bool:
    """Return whether a column's name says that it numbers the rows."""
    return NUMBERS.fullmatch(plain_column(column).lower()) is not None


def task_name(arguments: Arguments) -> str:
    """Return the name of the task that the settings make, without reading any data. Raises UserError."""
    return (load_task(arguments.task) if arguments.task is not None else _empty_task(arguments)).name


def _empty_task(arguments: Arguments) -> TaskSpec:
    source = arguments.train_file or arguments.validation_file or arguments.test_file
    name = Path(source).stem if source else str(arguments.dataset_name).rstrip("/").rsplit("/", 1)[-1]
    return TaskSpec(name=re.sub(r"^\W+|[^\w.-]+", "-", name).strip("-") or "own", title=name)


def _with_sources(spec: TaskSpec, arguments: Arguments) -> TaskSpec:
    """Replace a task's files by own ones: all of them where the training file is among these."""
    own = {
        split: TaskFile(file=str(Path(getattr(arguments, flag)).absolute()))
        for split, flag in FILE_FLAGS.items()
        if getattr(arguments, flag) is not None
    }
    if arguments.dataset_name is not None:
        splits = _hub_splits(arguments.dataset_name, arguments.dataset_config_name)
        return replace(
            spec,
            dataset_name=arguments.dataset_name,
            dataset_config_name=arguments.dataset_config_name,
            dataset_splits=FrozenMapping(splits),
            files=FrozenMapping(),
            rows=FrozenMapping(),
            submission=FrozenMapping(),
        )
    if not own:
        return spec
    # One own validation file replaces all of the task's validation splits.
    known = [split for split in spec.splits if "train" not in own and split.split("_")[0] not in own]
    hub = {split: spec.dataset_splits[split] for split in known if split in spec.dataset_splits}
    kept = {split: spec.files[split] for split in known if split in spec.files}
    return replace(
        spec,
        dataset_name=spec.dataset_name if hub else None,
        dataset_config_name=spec.dataset_config_name if hub else None,
        dataset_splits=FrozenMapping(hub),
        files=FrozenMapping({**kept, **own}),
        rows=FrozenMapping({s: count for s, count in spec.rows.items() if s in known}),
        submission=FrozenMapping({s: file for s, file in spec.submission.items() if s in known}),
    )


def _hub_splits(name: str, config: str | None) -> dict[str, str]:
    """Return the dataset's splits under this package's names."""
    there = hub_splits(name, config)
    splits = {split: split for split in there if re.fullmatch(r"train|(validation|test)(_\w+)?", split)}
    also = [split for split in ("dev", "valid", "val", "eval") if split in there]
    if also and not any(split.startswith("validation") for split in splits):
        splits["validation"] = also[0]
    if "train" not in splits and not any(split.startswith("validation") for split in splits):
        raise UserError(f"dataset {printable(name)} has no train split; it has {list_names(there)}")
    return {split: splits[split] for split in sorted(splits, key=lambda s: not s.startswith("train"))}


def _with_columns(spec: TaskSpec, arguments: Arguments) -> TaskSpec:
    """Set the columns that the settings name, which are the files' own names."""
    texts, label = arguments.text_column_names, arguments.label_column_name
    if texts and len(texts) != len(spec.text_columns):
        wanted = list_names(list(spec.text_columns))
        raise UserError(f"--text_column_names: task {spec.name} has {len(spec.text_columns)} ({wanted})")
    named = {*(spec.text_columns if texts else ()), *((spec.label_column,) if label else ())}
    files = {
        split: replace(file, columns=FrozenMapping({k: v for k, v in file.columns.items() if k not in named}))
        for split, file in spec.files.items()
    }
    return replace(
        spec,
        text_columns=tuple(texts or spec.text_columns),
        label_column=label or spec.label_column,
        files=FrozenMapping(files),
    )


def _first_table(spec: TaskSpec, arguments: Arguments, trained: Trained | None = None) -> tuple[str, Table]:
    """Return the training split, or for a trained model a validation split, or the nearest; and its table."""
    first = ("train",) if trained is None else spec.validation_splits
    split = next(split for split in (*first, *spec.splits) if split in spec.splits)
    return split, open_split(spec, split, arguments)[0]


def _guessed(spec: TaskSpec, arguments: Arguments, trained: Trained | None) -> TaskSpec:
    """Set the task's columns, named or guessed from the names in its first split."""
    split, table = _first_table(spec, arguments, trained)
    for column in (*(arguments.text_column_names or ()), *filter(None, [arguments.label_column_name])):
        table.position(column)
    label = arguments.label_column_name or guess_label(table.columns, arguments.text_column_names or ())
    texts = tuple(arguments.text_column_names or guess_texts(table.columns, label))
    label = label or guess_label(table.columns, texts)
    # The columns of JSON are known from its first example alone.
    present = (
        f"the first example of {table.name} has the keys {list_names(list(table.columns))}"
        if isinstance(table, JsonTable)
        else f"{table.name} has the columns {list_names(list(table.columns))}"
    )
    if not texts:
        hint = _flag_columns_hint(table, texts)
        raise UserError(f"{present}: name the one or two that hold text with --text_column_names{hint}")
    if label is None and not split.startswith("test"):
        hint = _flag_columns_hint(table, texts)
        raise UserError(f"{present}: name the one that holds labels with --label_column_name{hint}")
    if label in texts:
        raise UserError(f"--label_column_name: {printable(label)!r} is a text column too")
    return replace(spec, text_columns=texts, label_column=label)


def _flag_columns_hint(table: Table, texts: Sequence[str]) -> str:
    """Suggest what to do with several columns of 0 and 1, one per label; "" where there are none."""
    rows = next(iter(table.rows(table.columns)), Rows([]))
    flags = [
        name
        for name, values in zip(table.columns, rows.columns, strict=False)
        if name not in texts and not _is_number(name) and {str(value).strip() for value in values} <= FLAGS
    ]
    if len(flags) < 2:
        return ""
    return (
        f"; if {list_names(flags, 4)} say of each label whether it holds, write them as "
        f"one column of lists: df['label'] = "
        f"[[name for name in {printable(flags)} if row[name]] for _, row in df.iterrows()], "
        'and df.to_json("data.jsonl", orient="records", lines=True)'
    )


def _with_validation(spec: TaskSpec) -> TaskSpec:
    """Add a validation split to a task without one, at the place of the training data."""
    if spec.validation_splits or "train" not in spec.splits:
        return spec
    files, hub = dict(spec.files), dict(spec.dataset_splits)
    if "train" in files:
        files["validation"] = files["train"]
    if "train" in hub:
        hub["validation"] = hub["train"]
    return replace(spec, files=FrozenMapping(files), dataset_splits=FrozenMapping(hub))


def _with_mapping(spec: TaskSpec, arguments: Arguments) -> TaskSpec:
    """Apply --label_mapping to the task: what the labels in its files mean."""
    mapping: dict[str, str] = arguments.label_mapping or {}
    for word, name in mapping.items():
        if spec.labels is not None and name not in spec.labels:
            hint = did_you_mean(name, spec.labels)
            raise UserError(
                f"--label_mapping: {printable(word)}={printable(name)} is not a label of {spec.name}; {hint}"
            )
    if spec.kind == "regression":
        _check_scores(spec, mapping)
    return replace(spec, label_words=FrozenMapping({**spec.label_words, **mapping}))


def _check_scores(spec: TaskSpec, mapping: dict[str, str]) -> None:
    """Raise UserError for a word of --label_mapping that is not a score."""
    for word, name in mapping.items():
        if number(name) is None:
            raise UserError(
                f"--label_mapping: {printable(word)}={printable(name)}: {spec.name} is a regression, whose "
                "labels are scores without names; omit it (in training on own files, --problem_type "
                "classification makes the scores names)"
            )


def _surveyed(spec: TaskSpec, arguments: Arguments) -> TaskSpec:
    """Set kind and labels of the task from its training data, or from what it has instead."""
    split, table = _first_table(spec, arguments)
    if split.startswith("test"):
        return replace(spec, label_column=None)
    survey, order = _survey(spec, split, table, arguments)
    kind, labels = survey.finish(order, arguments.problem_type)
    spec = _of_kind(spec, kind, labels, f"the labels of {table.name} make")
    if labels is None:
        _check_scores(spec, dict(spec.label_words))
        return spec
    words = {word: name for word, name in spec.label_words.items() if name in labels}
    if spec.label_words and not words:
        written, names = list_names(list(spec.label_words)), list_names(list(labels))
        raise UserError(f"--label_mapping: {table.name} has none of {written}; its labels are {names}")
    return replace(spec, label_words=FrozenMapping(words))


def _survey(
    spec: TaskSpec, split: str, table: Table, arguments: Arguments
) -> tuple[LabelSurvey, tuple[str, ...] | None]:
    """Survey the labels in a split's table, with their order where the source knows it."""
    assert spec.label_column is not None
    column = columns_in_file(spec, split, arguments).get(spec.label_column, spec.label_column)
    order = table.label_names(str(column))
    survey = LabelSurvey(table, spec.label_words)
    for rows in table.rows([column]):
        survey.add(rows.columns[0], rows.lines)
        if order is not None:
            break
    return survey, order


def _of_kind(spec: TaskSpec, kind: str, labels: tuple[str, ...] | None, source: str) -> TaskSpec:
    """Set the task's kind and labels (`source`: where from), and the default metrics."""
    if spec.metrics and kind != spec.kind:
        hint = (
            ""
            if spec.labels or kind == "classification"
            else f" (`kind: {kind}` in its file, if they are right)"
        )
        raise UserError(f"task {spec.name} is a {spec.kind}, but {source} a {kind}{hint}")
    metrics = spec.metrics or default_metrics(kind)
    main_metric = spec.main_metric or metrics[0]
    return replace(spec, kind=kind, labels=labels, metrics=metrics, main_metric=main_metric)


def _with_other_spellings(spec: TaskSpec, arguments: Arguments) -> TaskSpec:
    """Map labels of the validation data that differ from the model's only in spelling."""
    if spec.labels is None or spec.label_column is None or not spec.validation_splits:
        return spec
    first = spec.validation_splits[0]
    survey, order = _survey(spec, first, open_split(spec, first, arguments)[0], arguments)
    words = other_spellings(sorted(survey.names.union(order or ())), spec.labels)
    return replace(spec, label_words=FrozenMapping({**words, **spec.label_words}))
