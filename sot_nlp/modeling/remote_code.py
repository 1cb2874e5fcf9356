"""Save the modelling files beside a checkpoint's weights, so that it loads without this package.

transformers runs them only for who asks by `trust_remote_code=True`. It copies a file and what that one
imports by name from its own folder, found by a pattern over the text: hence flat files, and no such line in
a docstring.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from .own_code import own_files
from .parts import Part

ENTRY = "modeling_sot"


def modeling_files() -> list[Path]:
    """Return the files that a checkpoint needs beside it: the models' and all that it imports."""
    entry = Path(__file__).with_name(f"{ENTRY}.py")
    return [entry, *sorted({Path(name) for name in get_relative_import_files(entry)})]


def remote_code_map(model: Any) -> dict[str, str]:
    """Return the `auto_map` of `config.json`: which class of which file each Auto class takes."""
    name = type(model).__name__
    return {
        "AutoConfig": f"configuration_sot.{type(model.config).__name__}",
        "AutoModel": f"backbone.{name.replace('ForSequenceClassification', 'Model')}",
        "AutoModelForSequenceClassification": f"{ENTRY}.{name}",
    }


def copy_modeling_files(folder: str | os.PathLike[str], parts: Iterable[Part] = ()) -> None:
    """Put the modelling files into `folder`, which is made if needed, and those of the user's own `parts`.

    Raises:
        ValueError: if such a part's code cannot travel; nothing is written then.
    """
    files = modeling_files()
    own = own_files(parts, {file.name for file in files})
    Path(folder).mkdir(parents=True, exist_ok=True)
    for file in files:
        shutil.copyfile(file, Path(folder) / file.name)
    for name, text in own.items():
        (Path(folder) / name).write_text(text, encoding="utf-8")
