"""Write a task for choosing settings, validated on a held-out part of the training data.

What is chosen on the validation data is no longer measured by it. In the task that is written here the place
of the validation data is that of the training data, which is how a task says "hold a part out"
(`--validation_fraction` of it, drawn by `--data_seed`); the real validation data is left for what was chosen.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from sot_nlp.errors import UserError, printable
from sot_nlp.files import write_atomic
from sot_nlp.tasks.spec import TaskSpec

# What is said of other splits than the training data, and what only the real ones have.
DROPPED = ("rows", "submission", "model_from")


def write_tuning_task(spec: TaskSpec, folder: Path) -> Path:
    """Write the task of `spec` with its training data in the place of its validation data; return the file.

    Everything else of the task's file stays unchanged. Raises UserError for a task without
    training data, or whose file does not say where it is.
    """
    source = Path(spec.source_path)
    if not source.is_file() or "train" not in spec.splits:
        raise UserError(f"task {printable(spec.name)}: it has no training data to hold a part out of")
    root = yaml.compose(source.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)
    root.value = [(key, value) for key, value in root.value if key.value not in DROPPED]
    for key, value in root.value:
        if key.value in ("files", "dataset_splits") and isinstance(value, yaml.MappingNode):
            value.value = _train_twice(value)
            if key.value == "files" and spec.folder is None:
                _make_absolute(value, source.parent.resolve())
        elif key.value == "name":
            value.value = f"{spec.name}_held_out"
    target = folder / f"{spec.name}_held_out.yaml"
    write_atomic(target, yaml.serialize(root, allow_unicode=True))
    return target


def _train_twice(splits: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    train = next(((key, value) for key, value in splits.value if key.value == "train"), None)
    if train is None:
        return []
    return [train, (yaml.ScalarNode("tag:yaml.org,2002:str", "validation"), train[1])]


def _make_absolute(files: yaml.MappingNode, folder: Path) -> None:
    """Make paths absolute: a user's own task names files beside it, and the new one is elsewhere."""
    for _, value in files.value:
        nodes = [value]
        if isinstance(value, yaml.MappingNode):
            nodes = [file for key, file in value.value if key.value == "file"]
        for node in nodes:
            # The training file's node is in both places, and is made absolute once.
            node.value = str(folder / node.value)
