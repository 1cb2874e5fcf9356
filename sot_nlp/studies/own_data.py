"""A study's data and models: by what content its cells are known, and what is wrong before any run."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.data import sources
from sot_nlp.data.sources import FILE_FLAGS
from sot_nlp.errors import UserError
from sot_nlp.files import sha256
from sot_nlp.publishing.hub import SETTINGS, WEIGHTS
from sot_nlp.runs.kept import state_of
from sot_nlp.settings.arguments import OWN_DATA, Arguments
from sot_nlp.studies.results import place_title
from sot_nlp.tasks.spec import TaskSpec, available_tasks

if TYPE_CHECKING:
    from sot_nlp.studies.study import Study

# The settings that name the data of a study without a task.
DATA_SETTINGS = {"train_file", "dataset_name"}
# The settings that say where a run's files are, and how they are read.
FILE_SETTINGS = ("data_dir", *OWN_DATA)
# The splits that a run's weights and scores come from.
USED = ("train", "validation")
MODEL_FILE = re.compile(rf"{WEIGHTS.pattern}|{SETTINGS.pattern}|pytorch_model.*\.(bin|bin\.index\.json)")


def data_content(spec: TaskSpec | None, arguments: Arguments) -> dict[str, Any]:
    """Return what tells a cell's data from others: its task, if any, and the content of a user's own files.

    Of a user's own task it is what its file says, wherever that is, and what is in the files that it names.
    """
    content: dict[str, Any] = {}
    files = {flag: getattr(arguments, flag) for split, flag in FILE_FLAGS.items() if split in USED}
    if spec is not None and spec.name in available_tasks():
        content["task"] = spec.name
    elif spec is not None:
        unread = ("source_path", "title", "description")
        content["task"] = {key: value for key, value in spec.to_dict().items() if key not in unread}
        used = [split for split in spec.files if split.startswith(USED)]
        files |= {split: spec.file_path(split, arguments.data_dir) for split in used}
    paths = {name: Path(file) for name, file in files.items() if file is not None}
    hashes = {name: _hash(*state_of([path])) for name, path in paths.items() if path.is_file()}
    return {**content, "files": hashes} if hashes else content


def model_content(arguments: Arguments) -> dict[str, str]:
    """Return the hashes of a local model's files (settings, tokenizer, weights) by name; {} for the Hub's."""
    folder = Path(arguments.model_name_or_path)
    if not folder.is_dir():
        return {}
    files = [path for path in sorted(folder.iterdir()) if path.is_file() and MODEL_FILE.fullmatch(path.name)]
    return {path.name: _hash(*state_of([path])) for path in files}


@functools.lru_cache(maxsize=1024)
def _hash(state: tuple[str, int, int, int]) -> str:
    """Return the hash of the file in that state (`state_of`), which many cells ask for."""
    return sha256(Path(state[0]))


def check(study: Study) -> None:
    """Raise UserError for files that a task or a setting of any regime or arm names and no run could read.

    Each is looked at once, before any run, not by every run.
    """
    checked: set[str] = set()
    for place, arguments in study.resolved().items():
        task, _, setting, arm = place
        own = {*study.settings[setting], *study.heads[arm]}.intersection(FILE_SETTINGS)
        where = f"{place_title(place)}: " if own else ""
        if len(study.tasks) > 1 and arguments.train_file is not None:
            raise UserError(
                f"{where}--train_file: one file can't be the data of several tasks; give one task"
            )
        data = repr((task, [getattr(arguments, name) for name in FILE_SETTINGS]))
        if data in checked:
            continue
        checked.add(data)
        try:
            check_files(arguments)
        except UserError as error:
            raise UserError(f"{where}{error}") from None


def check_files(arguments: Arguments) -> None:
    """Raise UserError for files of one run's data that it could not read; the Hub is not looked at."""
    from sot_nlp.runs import preparation

    given = [split for split, flag in FILE_FLAGS.items() if getattr(arguments, flag) is not None]
    if arguments.task is None and not given:
        return
    spec = preparation.task_of(arguments)
    for split in dict.fromkeys(("train", *spec.validation_splits, *given)):
        if isinstance(sources.place(spec, split, arguments), Path):
            sources.open_source(spec, split, arguments)
