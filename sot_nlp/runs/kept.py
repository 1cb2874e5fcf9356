"""Keep between the runs of one process what they share: a study's worker reads it once, not once per run.

A single run keeps nothing. A key holds all that a value depends on, files by place, size and time, so that a
run gets to the bit what it would have made itself. Kept are the tokenizer and the tokens. The backbone's
weights need no place here: they are mapped from the file, which the system keeps in memory, and a copy would
start at other addresses, where products add in another order. Nor have CUDA graphs one, which hold the
addresses of one model's weights and gradients; what torch.compile makes is kept by torch itself.
"""

from __future__ import annotations

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from sot_nlp.data.sources import place
from sot_nlp.settings.arguments import Arguments
from sot_nlp.settings.data_and_model import DataSettings

if TYPE_CHECKING:
    from sot_nlp.data.task_data import TaskData
    from sot_nlp.modeling.loading import Checkpoint
    from sot_nlp.tasks.spec import TaskSpec

T = TypeVar("T")

# Of each kind: a study alternates between a few tasks and backbones.
MOST = 4
_shelves: dict[str, OrderedDict[Hashable, object]] | None = None


def keep_between_runs() -> None:
    """Keep from here on, for the runs of this process."""
    global _shelves
    _shelves = {} if _shelves is None else _shelves


def kept(
    kind: str, key_of: Callable[[], Hashable], make: Callable[[], T], *, copy: Callable[[T], T] = deepcopy
) -> T:
    """Return a copy of what `make` made for the same key, in this run or an earlier one.

    A key of None holds nothing, as where something depends on what no key can name.
    """
    if _shelves is None or (key := key_of()) is None:
        return make()
    shelf = _shelves.setdefault(kind, OrderedDict())
    if key not in shelf:
        shelf[key] = make()
        if len(shelf) > MOST:
            shelf.popitem(last=False)
    shelf.move_to_end(key)
    value: T = shelf[key]  # type: ignore[assignment]  # of this kind's maker
    return copy(value)


def state_of(paths: Iterable[Path]) -> tuple[tuple[str, int, int, int], ...]:
    """Return what tells whether files have changed: for each its place, number, size and time of change."""
    states = []
    for path in sorted(paths):
        status = path.stat()
        states.append((str(path.resolve()), status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(states)


# What `data.task_data.load_data` reads of the settings.
OF_DATA = (*(field.name for field in dataclasses.fields(DataSettings)), "data_seed")


def model_key(arguments: Arguments, checkpoint: Checkpoint) -> Hashable:
    """Return what a checkpoint's tokenizer and config depend on, by which `kept` knows them."""
    folder = Path(arguments.model_name_or_path)
    files = state_of(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else ()
    saved = json.dumps(checkpoint.saved, sort_keys=True, default=str)
    return (str(folder), arguments.model_revision, arguments.trust_remote_code, files, saved)


def data_key(arguments: Arguments, checkpoint: Checkpoint, spec: TaskSpec, splits: Sequence[str]) -> Hashable:
    """Return what the tokens of `splits` depend on; None where they come from the Hub, or are made anew."""
    places = [place(spec, split, arguments) for split in splits]
    files = [where for where in places if isinstance(where, Path) and where.is_file()]
    if len(files) < len(places) or arguments.streaming or arguments.overwrite_cache:
        return None
    settings = {name: getattr(arguments, name) for name in OF_DATA}
    said = json.dumps([settings, spec.to_dict(), arguments.sources.get("max_length")], default=str)
    return (said, tuple(splits), state_of(files), model_key(arguments, checkpoint))


def own_data(data: TaskData) -> TaskData:
    """Return a run's own copy of kept data: of all but the arrays, which nobody may write."""
    for split in data.splits.values():
        for array in vars(split).values():
            if hasattr(array, "flags"):
                array.flags.writeable = False
    return dataclasses.replace(
        data,
        splits=dict(data.splits),
        report=deepcopy(data.report),
        caches=dict.fromkeys(data.caches, "reused"),
    )
