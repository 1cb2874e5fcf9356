"""A task's specification: columns, labels, splits, metrics and recipe, read from a YAML file and checked."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.settings.yaml_file import Scalar, YamlMapping, read_yaml_mapping
from sot_nlp.tasks.frozen_mapping import FrozenMapping
from sot_nlp.tasks.metrics import KINDS, METRICS, default_metrics

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")
_SPLIT = re.compile(r"train|(validation|test)(_\w+)?")
_V = TypeVar("_V")
_Columns = FrozenMapping[str, str | int]


@dataclass(frozen=True, kw_only=True)
class TaskFile:
    """One split's file.

    `file` is a path below the task's folder (`TaskSpec.file_path` resolves it). None means that the
    reader decides: `format` by the file's ending, `header` yes, `quoting` as the format has it.
    `quoting` False: a `"` is a character like any other. `num_columns`: what every line must have, for
    files without a header. `broken_lines`: the file is known for some lines with another number of
    columns, which are skipped, counted and named. `columns` maps the task's column names, which are
    also the Hub's, to the file's: names, or positions counted from 0. A column that it leaves out has the
    same name in the file. A test split may lack the label column, whatever `columns` says.
    """

    file: str
    format: str | None = None
    header: bool | None = None
    quoting: bool | None = None
    num_columns: int | None = None
    broken_lines: bool = False
    columns: _Columns = FrozenMapping()


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """A task: one YAML file of `tasks/`, or of a user's own (tasks/README.md is the guide).

    Splits are named `train`, `validation...` and `test...`, in the file's order. `labels` are names in
    the order of their ids (None: a regression, or found in the training file); `label_words` maps a
    label as the files write it to its name (empty: the files write the names). `rows` are the numbers
    of readable examples, where known. `recipe` maps names of `Arguments`' fields, `head` and
    `head.<field>` to values; `recipe_source` says where it was published, None where it was not.
    """

    name: str  # part of file names: letters, digits, `_`, `-` and `.`
    aliases: tuple[str, ...] = ()  # other names that `load_task` finds it by
    title: str = ""
    description: str = ""
    kind: str = "classification"  # classification | regression | multi_label
    text_columns: tuple[str, ...] = ()  # one, or two for a pair
    label_column: str | None = None  # None: the task has no labels, it only predicts
    labels: tuple[str, ...] | None = None
    label_words: FrozenMapping[str, str] = FrozenMapping()
    score_range: tuple[float, float] | None = None  # lowest and highest score of a regression
    metrics: tuple[str, ...] = ()
    main_metric: str = ""
    dataset_name: str | None = None  # on the Hub
    dataset_config_name: str | None = None
    dataset_splits: FrozenMapping[str, str] = FrozenMapping()  # split -> the Hub dataset's split
    folder: str | None = None  # below --data_dir; None: paths in `files` are relative to the YAML file
    files: FrozenMapping[str, TaskFile] = FrozenMapping()  # split -> file
    rows: FrozenMapping[str, int] = FrozenMapping()  # split -> number of examples
    submission: FrozenMapping[str, str] = FrozenMapping()  # test split -> file of the benchmark's zip
    model_from: str | None = None  # the task whose model predicts this one, which has no training data
    recipe: FrozenMapping[str, Scalar] = FrozenMapping()
    recipe_source: str | None = None
    source_path: str = ""  # the YAML file

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of all splits, in the file's order."""
        return tuple(dict.fromkeys((*self.files, *self.dataset_splits)))

    @property
    def validation_splits(self) -> tuple[str, ...]:
        """The splits to evaluate on, the first being the one that the best model is chosen by."""
        return tuple(split for split in self.splits if split.startswith("validation"))

    @property
    def test_splits(self) -> tuple[str, ...]:
        """The splits to predict for."""
        return tuple(split for split in self.splits if split.startswith("test"))

    def file_path(self, split: str, data_dir: str | Path | None) -> Path | None:
        """Return the path of `split`'s file, even if it does not exist; None where the task names none.

        `data_dir` is the folder that holds GLUE's task folders, or this task's folder itself: that which has
        the task's files. Without one, a user's own YAML file is what its paths are relative to.
        """
        entry = self.files.get(split)
        if entry is None or (data_dir is None and self.folder is not None):
            return None
        if data_dir is None:
            return Path(self.source_path).parent / entry.file
        return self._folder_in(Path(data_dir)) / entry.file

    def _folder_in(self, base: Path) -> Path:
        """Return the folder of the task's files: `base` or one in it, whatever the case of its name."""
        if self.folder is None:
            return base
        names = {_key(name) for name in (self.folder, self.name, *self.aliases)}
        named = _key(base.resolve().name) in names
        exact = base / self.folder
        inner = [exact]
        with contextlib.suppress(OSError):  # what is wrong with `base` is said where its file is opened
            inner += sorted(path for path in base.iterdir() if _key(path.name) in names and path != exact)
        # In the folder of another task, files of the same names are that task's.
        own = named or _key(base.resolve().name) not in _task_folders()
        candidates = [base, *inner] if named else [*inner, *([base] if own else [])]
        with contextlib.suppress(OSError):
            for folder in candidates:
                if any((folder / entry.file).is_file() for entry in self.files.values()):
                    return folder
        return base if named else exact

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON values; `from_dict` gives an equal task back."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TaskSpec:
        """Return the task that `to_dict` wrote."""
        restored = {key: _frozen(value) for key, value in values.items()}
        files = {split: TaskFile(**file) for split, file in restored["files"].items()}
        return cls(**restored | {"files": FrozenMapping(files)})


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return FrozenMapping({key: _frozen(item) for key, item in value.items()})
    return tuple(value) if isinstance(value, list) else value


def _plain(value: Any) -> Any:
    if isinstance(value, TaskFile):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def tasks_folder() -> Path:
    """Return the folder of the package's tasks: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "task_files", package.parent / "tasks"):
        if (folder / "cola.yaml").is_file():
            return folder
    raise UserError(f"{printable(package)}: the folder of tasks is missing; install the package again")


def available_tasks() -> list[str]:
    """Return the names of the tasks that come with this package."""
    return sorted(path.stem for path in tasks_folder().glob("*.yaml"))


def load_task(name_or_path: str | Path) -> TaskSpec:
    """Load the task of that name (`cola`, `CoLA`, `SST-2`, `mnli-mm`), or the one in that YAML file.

    Raises UserError: an unknown name with similar ones, a file with all of its mistakes.
    """
    text = str(name_or_path)
    if text.lower().endswith(tuple(f".{ending}" for ending in FORMATS)):
        raise UserError(
            f"--task {printable(text)}: a task is a YAML file that names its data under `files` "
            "(tasks/README.md); data as it is goes into --train_file"
        )
    if text.lower().endswith((".yaml", ".yml")) or "/" in text or "\\" in text:
        return read_task(Path(text))
    known = available_tasks()
    wanted = _key(text)
    if wanted in known:
        return read_task(tasks_folder() / f"{wanted}.yaml")
    for name in known:
        spec = read_task(tasks_folder() / f"{name}.yaml")
        if wanted in map(_key, spec.aliases):
            return spec
    hint = did_you_mean(wanted, known)
    raise UserError(f"--task: unknown task {printable(text)!r}; {hint} (or a path that ends in .yaml)")


@functools.lru_cache
def _task_folders() -> frozenset[str]:
    """Return the folder names of all tasks, in `_key`'s form."""
    specs = [read_task(path) for path in tasks_folder().glob("*.yaml")]
    return frozenset(_key(spec.folder) for spec in specs if spec.folder)


def _key(name: str) -> str:
    """Return a task's name in one spelling: `SST-2`, `sst_2` and `sst2` are one."""
    return re.sub(r"[-_ ]", "", name).casefold()


def read_task(path: Path) -> TaskSpec:
    """Read the task in the YAML file at `path`; UserError names every mistake by line and key."""
    top = read_yaml_mapping(path)
    kind = top.text("kind", choices=KINDS) or "classification"
    given = top.texts("text_columns", required=True)
    text_columns = given or ()
    if given is not None and len(given) not in (1, 2):
        top.problem(f"has {len(given)} columns; one, or two for a pair", key="text_columns")
    label_column = top.text("label_column")
    if label_column in text_columns:
        top.problem(f"{printable(label_column)!r} is among text_columns too", key="label_column")
    labels = _labels(top, kind)
    of_kind = [name for name, metric in METRICS.items() if kind in metric.kinds]
    metrics = top.texts("metrics", choices=of_kind, hint=_own_metric) or default_metrics(kind)
    main_metric = top.text("main_metric", choices=metrics) or metrics[0]
    columns = (*text_columns, *([label_column] if label_column else []))
    name = top.text("name") or re.sub(r"[^\w.-]+", "-", path.stem)
    if not re.fullmatch(r"\w[\w.-]*", name):
        top.problem(f"{printable(name)!r} may hold letters, digits, `_`, `-` and `.` only", key="name")
    spec = TaskSpec(
        name=name,
        aliases=top.texts("aliases") or (),
        title=top.text("title") or name,
        description=top.text("description") or "",
        kind=kind,
        text_columns=text_columns,
        label_column=label_column,
        labels=labels,
        label_words=_label_words(top, labels),
        score_range=_score_range(top, kind),
        metrics=metrics,
        main_metric=main_metric,
        dataset_name=top.text("dataset_name"),
        dataset_config_name=top.text("dataset_config_name"),
        dataset_splits=_by_split(top, "dataset_splits", YamlMapping.text),
        folder=top.text("folder"),
        files=_files(top, columns),
        rows=_by_split(top, "rows", functools.partial(YamlMapping.integer, least=1)),
        submission=_by_split(top, "submission", YamlMapping.text),
        model_from=top.text("model_from"),
        recipe=_recipe(top),
        recipe_source=top.text("recipe_source"),
        source_path=str(path.resolve()),
    )
    _check_splits(top, spec)
    top.finish()
    return spec


def _own_metric(name: str) -> str:
    return (
        "" if name in METRICS else "; one of your own: import the file that registers it (--plugin FILE.py)"
    )


def _labels(top: YamlMapping, kind: str) -> tuple[str, ...] | None:
    labels = top.texts("labels")
    if labels is not None and kind == "regression":
        top.problem("a regression has scores, not labels", key="labels")
    elif labels is not None and kind == "classification" and len(labels) < 2:
        top.problem("a classification needs at least two labels", key="labels")
    return labels


def _label_words(top: YamlMapping, labels: tuple[str, ...] | None) -> FrozenMapping[str, str]:
    words = top.mapping("label_words")
    if words is None:
        return FrozenMapping()
    if "labels" not in top:
        top.problem("needs `labels`, the names that it maps to", key="label_words")
    label_of_word = {word: words.text(word, choices=labels or ()) for word in words.values}
    for word, label in label_of_word.items():
        if label is not None and word != label and word in (labels or ()):
            words.problem("is itself a label's name", key=word)
    missing = [label for label in labels or () if label not in label_of_word.values()]
    if missing:
        top.problem(f"no word for {', '.join(map(printable, missing))}", key="label_words")
    return FrozenMapping({word: label for word, label in label_of_word.items() if label is not None})


def _score_range(top: YamlMapping, kind: str) -> tuple[float, float] | None:
    bounds = top.scalars("score_range")
    if not bounds:
        return None
    low, high = bounds.get("low"), bounds.get("high")
    if set(bounds) != {"low", "high"} or not all(type(bound) in (int, float) for bound in (low, high)):
        top.problem("must be `{low: a number, high: a number}`", key="score_range")
    elif low >= high:  # type: ignore[operator]
        top.problem(f"low {low} is not below high {high}", key="score_range")
    elif kind != "regression":
        top.problem(f"is for a regression; kind is {kind}", key="score_range")
    else:
        return float(low), float(high)  # type: ignore[arg-type]
    return None


def _split_names(splits: YamlMapping) -> list[str]:
    for split in splits.values:
        if not _SPLIT.fullmatch(split):
            splits.asked[split] = None
            message = "is not a split: expected train, validation, test, validation_<name> or test_<name>"
            splits.problem(message, key=split)
    return [split for split in splits.values if _SPLIT.fullmatch(split)]


def _by_split(
    top: YamlMapping, key: str, read: Callable[[YamlMapping, str], _V | None]
) -> FrozenMapping[str, _V]:
    """Return what `read` gives for each split that the mapping `key` names."""
    splits = top.mapping(key)
    values = {split: read(splits, split) for split in _split_names(splits)} if splits is not None else {}
    return FrozenMapping({split: value for split, value in values.items() if value is not None})


def _files(top: YamlMapping, columns: tuple[str, ...]) -> FrozenMapping[str, TaskFile]:
    shared = _columns(top, columns)
    files = top.mapping("files")
    task_files: dict[str, TaskFile] = {}
    for split in _split_names(files) if files is not None else ():
        assert files is not None
        if files.is_text(split):
            task_files[split] = TaskFile(file=files.text(split) or "", columns=shared)
        elif (entry := files.mapping(split)) is not None:
            task_files[split] = _file(entry, columns, shared)
    if files is not None and not files.values:
        files.problem("names no files")
    return FrozenMapping(task_files)


def _file(entry: YamlMapping, columns: tuple[str, ...], shared: _Columns) -> TaskFile:
    header = entry.flag("header")
    num_columns = entry.integer("num_columns", least=1)
    mapped = _columns(entry, columns) or shared
    for column, place in mapped.items():
        if header is False and isinstance(place, str):
            entry.problem(
                f"{printable(column)} needs its column's position: there is no header", key="header"
            )
        elif isinstance(place, int) and num_columns is not None and place >= num_columns:
            entry.problem(
                f"{printable(column)} is at {place}, counted from 0, beyond them", key="num_columns"
            )
    if header is False and not mapped:
        entry.problem("a file without a header needs `columns`, the position of each column", key="header")
    return TaskFile(
        file=entry.text("file", required=True) or "",
        format=entry.text("format", choices=FORMATS),
        header=header,
        quoting=entry.flag("quoting"),
        num_columns=num_columns,
        broken_lines=entry.flag("broken_lines") or False,
        columns=mapped,
    )


def _columns(place: YamlMapping, columns: tuple[str, ...]) -> _Columns:
    positions: dict[str, str | int] = {}
    for column, position in place.scalars("columns").items():
        if column not in columns:
            hint = did_you_mean(column, columns)
            place.problem(f"{printable(column)!r} is not a column of the task; {hint}", key="columns")
        elif type(position) is str or (type(position) is int and position >= 0):
            positions[column] = position
        else:
            message = "must be a name in the header, or a position counted from 0"
            place.problem(f"{printable(column)}: {message}", key="columns")
    return FrozenMapping(positions)


def _recipe(top: YamlMapping) -> FrozenMapping[str, Scalar]:
    recipe = top.scalars("recipe")
    for key in recipe:
        if not re.fullmatch(r"(head\.)?[a-z][a-z0-9_]*", key):
            top.problem(f"{printable(key)!r} is not a setting", key="recipe")
    return FrozenMapping(recipe)


def _check_splits(top: YamlMapping, spec: TaskSpec) -> None:
    if not spec.splits and not spec.dataset_name and "files" not in top:
        top.problem(
            "needs `files` (paths of train, validation, test), or `dataset_name` and `dataset_splits`"
        )
    if spec.dataset_name and not spec.dataset_splits:
        top.problem("needs `dataset_splits`, such as `train: train`", key="dataset_name")
    if spec.dataset_splits and not spec.dataset_name:
        top.problem("needs `dataset_name`", key="dataset_splits")
    if spec.label_column is None and any(not split.startswith("test") for split in spec.splits):
        top.problem("the key 'label_column' is missing")
    for key, splits in (("rows", spec.rows), ("submission", spec.submission)):
        for split in splits:
            if spec.splits and split not in spec.splits:
                top.problem(f"{split} is not one of the task's splits ({', '.join(spec.splits)})", key=key)
