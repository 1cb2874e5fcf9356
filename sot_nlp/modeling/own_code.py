"""Copy the source of registered parts beside a checkpoint that uses them, and register them from there.

A part's file is copied with its imports of this package turned into imports of the modelling files beside it,
so that it also loads where this package is not installed. What could not be loaded there is refused here.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from transformers.utils import cached_file

from .parts import HEADS, REGISTRY, Part, is_own

PACKAGE = "sot_nlp"
REGISTRATION_FILE = "registered_parts.py"
# Which modelling file has the public names that a part needs.
HOMES = {
    "register_pooling": "register",
    "register_normalization": "register",
    "register_fusion": "register",
    "register_head": "register",
    "PRESETS": "head_config",
    "SoTHeadConfig": "head_config",
    "resolve_head": "head_config",
    "WordPooling": "word_pooling",
    "Normalization": "normalizers",
    "Fusion": "fusion",
    "SoTHeadOutput": "fusion",
    "SoTHead": "head",
}
REGISTRATION = '''"""The user's own parts of this checkpoint's head, in the files beside it."""

from __future__ import annotations

{imports}
{calls}

FILES: tuple[str, ...] = {files!r}
'''


def own_files(parts: Iterable[Part], taken: Iterable[str]) -> dict[str, str]:
    """Return name and text of the files that the user's own among `parts` need beside a checkpoint.

    Args:
        parts: those of a head (`SoTHeadConfig.parts`).
        taken: the names of the modelling files.

    Raises:
        ValueError: naming the part and why its code cannot travel.
    """
    own = [part for part in parts if is_own(part)]
    if not own:
        return {}
    files: dict[str, str] = {}
    imports, calls = set(), []
    for part in own:
        source: Any = part.source
        path = _file_of(part)
        # (unless the class was itself loaded as remote code, from beside a checkpoint)
        if path.name in taken and not source.__module__.startswith("transformers_modules."):
            raise _problem(part, f"its file {path.name} has the name of a modelling file: rename it")
        files[path.name] = _portable(part, path)
        imports.add(f"from .{path.stem} import {source.__name__}")
        kind, call = _registration(part)
        imports.add(f"from .register import register_{kind}")
        calls.append(call)
    text = REGISTRATION.format(
        imports="\n".join(sorted(imports)) + "\n", calls="\n".join(calls), files=tuple(sorted(files))
    )
    return {**files, REGISTRATION_FILE: text}


def _problem(part: Part, reason: str) -> ValueError:
    return ValueError(f"{part.name!r} cannot be saved with the model: {reason}")


def _file_of(part: Part) -> Path:
    source: Any = part.source
    name = source.__name__
    if source.__qualname__ != name:
        raise _problem(part, f"{source.__qualname__} is defined inside a function or class: move it out")
    if source.__module__ == "__main__":
        raise _problem(part, f"{name} is defined in the program itself: move it to a file of its own")
    try:
        path = Path(inspect.getsourcefile(source) or "")
    except TypeError:
        path = Path()
    if not path.is_file():
        raise _problem(part, f"the file that defines {name} is not to be found: move it to a file of its own")
    return path


def _portable(part: Part, path: Path) -> str:
    """Return the text of a part's file, with the modelling files in the place of this package."""
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    siblings = {file.stem for file in Path(__file__).parent.glob("*.py")}
    for node in reversed([node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)]):
        where = f"{path.name}, line {getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == PACKAGE:
                    raise _problem(part, f"{where}: write 'from {PACKAGE} import ...' for what it needs")
                _refuse_neighbour(part, alias.name, path, where)
        elif isinstance(node, ast.ImportFrom) and node.level:
            if node.module not in siblings:
                raise _problem(part, f"{where}: imports .{node.module or ''}, which would not travel along")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == PACKAGE:
            unknown = [alias.name for alias in node.names if alias.name not in HOMES]
            if unknown:
                raise _problem(part, f"{where}: imports {', '.join(unknown)}, which would not travel along")
            indent = " " * node.col_offset
            lines[node.lineno - 1 : node.end_lineno] = [
                f"{indent}from .{HOMES[alias.name]} import {alias.name}"
                + (f" as {alias.asname}" if alias.asname else "")
                for alias in node.names
            ]
        elif isinstance(node, ast.ImportFrom):
            _refuse_neighbour(part, node.module or "", path, where)
    return "\n".join(lines) + "\n"


def _refuse_neighbour(part: Part, module: str, path: Path, where: str) -> None:
    """Refuse the import of another file of the user's: only the part's own file travels."""
    spec = importlib.util.find_spec(module.partition(".")[0])
    origin = Path(spec.origin) if spec is not None and spec.origin else None
    if origin is not None and path.parent in (origin.parent, origin.parent.parent):
        raise _problem(part, f"{where}: imports {module}, which would not travel along: put both in one file")


def _registration(part: Part) -> tuple[str, str]:
    """Return a part's kind and the line that registers it."""
    kind = part.kind
    traits: dict[str, Any] = {"doc": part.doc, "own_settings": dict(part.own_settings)}
    if kind == "pooling":
        traits |= {"gives": part.gives, "exact": not part.inexact}  # type: ignore[attr-defined]
    elif kind == "normalization":
        traits |= {"takes": part.takes, "exact": part.exact == "yes"}  # type: ignore[attr-defined]
    elif kind == "head":
        traits = {}
    source: Any = part.source
    given = "".join(f", {name}={value!r}" for name, value in traits.items())
    return kind, f"register_{kind}({part.name!r}, {source.__name__}{given})"


def saved_names(folder: Path) -> tuple[str, ...]:
    """Return the names of the files of own parts that `own_files` put into `folder`, without running them."""
    path = folder / REGISTRATION_FILE
    if not path.is_file():
        return ()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "FILES" and node.value:
            return tuple(name for name in ast.literal_eval(node.value) if Path(name).name == name)
    return ()


def register_saved_parts(source: str, head: Any, hub_arguments: Mapping[str, Any]) -> None:
    """Run the files of own parts beside a checkpoint where its `head` names parts that are not registered.

    Only for a checkpoint whose code may be run. What the files import of the modelling files is this
    package's, so that the parts are registered here.

    Args:
        source: the checkpoint's folder, or its name on the Hub.
        head: the head's settings in its `config.json`.
        hub_arguments: where files come from (`revision`, `token`, ...).
    """
    if not isinstance(head, Mapping):
        return
    chosen = [(REGISTRY[kind], head.get(kind)) for kind in ("pooling", "normalization", "fusion")]
    if all(not name or name in parts for parts, name in (*chosen, (HEADS, head.get("module")))):
        return
    options = {**hub_arguments, "_raise_exceptions_for_missing_entries": False}
    registration = cached_file(source, REGISTRATION_FILE, **options)
    if registration is None:
        return
    folder = Path(registration).parent
    files = [Path(registration)]
    files += [Path(path) for name in saved_names(folder) if (path := cached_file(source, name, **options))]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    package = f"{PACKAGE}_saved_parts_{digest[:16]}"
    sys.modules[package] = module = ModuleType(package)
    module.__path__ = [str(folder)]
    for file in Path(__file__).parent.glob("*.py"):
        if file.name != REGISTRATION_FILE:
            sys.modules[f"{package}.{file.stem}"] = importlib.import_module(f".{file.stem}", __package__)
    sys.modules.pop(f"{package}.{Path(REGISTRATION_FILE).stem}", None)  # of a load before
    importlib.import_module(f"{package}.{Path(REGISTRATION_FILE).stem}")
