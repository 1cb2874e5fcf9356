"""The command line and the `--config` file, as layers of settings for `arguments.build_arguments`."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import yaml

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.settings.arguments import FIELDS, HEAD_PREFIX, TYPES
from sot_nlp.settings.checks import CHOICES


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(printable(message, limit=1000))


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """The parser of a run's flags; only flags that were given appear in what it returns."""
    parser = _Parser(
        prog=prog,
        usage="%(prog)s [--task NAME] [flags]",
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="YAML", help="a YAML file of these settings; flags override what it says"
    )
    groups: dict[str, Any] = {}
    for name, each in FIELDS.items():
        title = each.metadata["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        group = groups[title]
        default = each.default if each.default is not dataclasses.MISSING else None
        shown = "" if default in (None, False) else f" (default: {default})"
        text = (each.metadata["help"] + shown).replace("%", "%%")
        if name == "head_overrides":
            group.add_argument("--head.FIELD", dest="_unused", metavar="VALUE", help=text)
            continue
        options: dict[str, Any] = {"dest": name, "help": text, "metavar": _metavar(name)}
        hint = str(TYPES[name])
        if TYPES[name] in (bool, bool | None):
            options |= {"nargs": "?", "const": True, "metavar": "true|false"}
        elif "list[" in hint or "dict[" in hint:
            options |= {"nargs": "+"}
        group.add_argument(f"--{name}", **options)
    return parser


def _metavar(name: str) -> str:
    hint = str(TYPES[name])
    if name in CHOICES:
        return "|".join(CHOICES[name])
    for word, shown in (("float", "X"), ("int", "N"), ("dict", "KEY=VALUE"), ("list", "NAME")):
        if word in hint:
            return shown
    return "DIR" if name.endswith("_dir") else "PATH" if name.endswith("_file") else "TEXT"


def parse_flags(argv: Sequence[str], prog: str, description: str) -> tuple[dict[str, Any], str | None]:
    """`argv` -> (the settings that flags gave, the path of `--config` or None). UserError for a bad flag."""
    rest, overrides = _split_head_flags(argv)
    parser = make_parser(prog, description)
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            raise UserError(f"stray word {printable(name)!r}: every setting is a flag, as in --task cola")
        raise UserError(f"unknown flag {printable(name)}: {_near_flags(name)}")
    values = vars(known)
    config = values.pop("config", None)
    values.pop("_unused", None)
    if overrides:
        values["head_overrides"] = overrides
    return values, config


def _split_head_flags(argv: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Take `--head.FIELD VALUE` and `--head.FIELD=VALUE` out of `argv`."""
    rest: list[str] = []
    overrides: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith(f"--{HEAD_PREFIX}"):
            rest.append(word)
            continue
        name, separator, value = word[len(f"--{HEAD_PREFIX}") :].partition("=")
        if not separator:
            value = next(words, "--")
            if value.startswith("--"):
                raise UserError(f"--{HEAD_PREFIX}{printable(name)} needs a value")
        overrides[name] = yaml.safe_load(value)
    return rest, overrides


def read_config(path: str) -> dict[str, Any]:
    """The settings of a `--config` YAML file. UserError names the file and the line of every problem."""
    file = Path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {printable(path)}: cannot be read: {printable(error)}") from None
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or "is not YAML"
        raise UserError(f"--config {printable(path)}{where}: {printable(reason)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"--config {printable(path)}: expected `setting: value` lines")
    lines = {key.value: key.start_mark.line + 1 for key, _ in getattr(tree, "value", [])}
    problems = [
        f"line {lines[str(key)]}: unknown setting {printable(key)!r}: {did_you_mean(str(key), FIELDS)}"
        for key in values
        if str(key) not in FIELDS and not str(key).startswith(HEAD_PREFIX)
    ]
    if problems:
        raise UserError(f"--config {printable(path)}: " + "; ".join(problems))
    return values


def _near_flags(name: str) -> str:
    near = did_you_mean(f"--{name.lstrip('-')}", [f"--{field}" for field in FIELDS])
    return near if near.startswith("did") else "see --help"
