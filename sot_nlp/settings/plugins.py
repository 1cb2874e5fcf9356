"""Import a user's own file before a command runs (`--plugin`): the parts and metrics that it registers."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from sot_nlp.errors import UserError, printable

FLAG = "--plugin"
# What the present command names; files by their whole path.
_names: list[str] = []


def import_plugins(words: Sequence[str]) -> list[str]:
    """Import the files (`FILE.py`) and installed modules that `--plugin` names; return the other words.

    Raises UserError for what can't be imported, with the line of the file at fault.
    """
    _names.clear()
    rest = []
    remaining = iter(words)
    for word in remaining:
        flag, equals, value = word.partition("=")
        if flag != FLAG:
            rest.append(word)
            continue
        name = value if equals else next(remaining, "")
        if not name:
            raise UserError(f"{FLAG}: expected a FILE.py or the name of an installed module")
        _names.append(_import(name))
    return rest


def flags() -> list[str]:
    """Return the words that import in another process what the present command imported."""
    return [word for name in _names for word in (FLAG, name)]


def _import(name: str) -> str:
    path = Path(name).resolve()
    if not name.endswith(".py"):
        if importlib.util.find_spec(name.partition(".")[0]) is None:
            raise UserError(f"{FLAG} {printable(name)}: no installed module of that name; a file ends in .py")
    elif not path.is_file():
        raise UserError(f"{FLAG} {printable(name)}: no such file")
    try:
        if name.endswith(".py"):
            _import_file(path)
            return str(path)
        importlib.import_module(name)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        file, line = last.filename, last.lineno
        if isinstance(error, SyntaxError):
            file, line = error.filename or file, error.lineno
        reason = error.msg if isinstance(error, SyntaxError) else " ".join(str(error).split())
        raise UserError(
            f"{FLAG} {printable(name)}: {printable(file)}:{line}: {type(error).__name__}: {printable(reason)}"
        ) from error
    return name


def _import_file(path: Path) -> ModuleType:
    name = f"sot_nlp_plugin_{path.stem}"
    present = sys.modules.get(name)
    if present is not None and present.__file__ == str(path):
        return present
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
