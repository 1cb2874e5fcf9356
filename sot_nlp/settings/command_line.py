"""Read the command line and the `--config` file as layers of settings for `arguments.build_arguments`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, did_you_mean, printable, rewording
from sot_nlp.settings.arguments import (
    FIELDS,
    GROUPS,
    HEAD_FIELDS,
    HEAD_PREFIX,
    TRAITS,
    TYPES,
    convert,
    head_value,
    named,
    near_settings,
    shown,
)
from sot_nlp.settings.flag_parser import FlagParser
from sot_nlp.settings.habits import ALIASES, NAMES, WITHOUT_SETTING, translate
from sot_nlp.settings.yaml_file import read_yaml_mapping

SWITCH: dict[str, Any] = {"nargs": "?", "const": True}


def make_parser(prog: str, description: str) -> argparse.ArgumentParser:
    """Return the parser of a run's flags; only flags that were given appear in what it returns."""
    parser = FlagParser(
        prog=prog,
        usage="%(prog)s [--task NAME] [flags]",
        description=description,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--config", metavar="YAML", help="a YAML file of these settings; flags override it")
    for title, settings in GROUPS.items():
        group = parser.add_argument_group(title)
        for field in dataclasses.fields(settings):
            _add_flag(group, field)
    for name in NAMES:
        words: dict[str, Any] = {"nargs": "*"} if name in WITHOUT_SETTING else SWITCH
        if name in ALIASES:
            words = _words(ALIASES[name])
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, **words)
    return parser


def _add_flag(group: Any, field: dataclasses.Field) -> None:
    name, default = field.name, field.default
    shown = "" if default in (None, False, dataclasses.MISSING) else f" (default: {default})"
    others = ", ".join(f"--{other}" for other in (*TRAITS[name].aliases, *TRAITS[name].spelled))
    text = (TRAITS[name].help + (f"; also {others}" if others else "") + shown).replace("%", "%%")
    if name == "head_overrides":
        group.add_argument("--head.FIELD", dest="_unused", metavar="VALUE", help=text)
        return
    options: dict[str, Any] = {"dest": name, "help": text, "metavar": _metavar(name)}
    group.add_argument(f"--{name}", **options, **_words(name))


def _words(name: str) -> dict[str, Any]:
    """Return how many words the flag of a setting takes, as argparse wants it."""
    if TYPES[name] in (bool, bool | None):
        return SWITCH
    several = any(kind in str(TYPES[name]) for kind in ("list[", "dict["))
    return {"nargs": "+"} if several else {}


def _metavar(name: str) -> str:
    if TYPES[name] in (bool, bool | None):
        return "true|false"
    if TRAITS[name].choices:
        return "|".join(TRAITS[name].choices)
    for word, letter in (("float", "X"), ("int", "N"), ("dict", "KEY=VALUE"), ("list", "NAME")):
        if word in str(TYPES[name]):
            return letter
    return "DIR" if name.endswith("_dir") else "PATH" if name.endswith("_file") else "TEXT"


def parse_flags(argv: Sequence[str], prog: str, description: str) -> tuple[dict[str, Any], str | None]:
    """Return the settings that flags gave, and the path of `--config` or None. UserError for a bad flag."""
    rest, overrides = _split_head_flags(argv)
    parser = make_parser(prog, description)
    known, unknown = parser.parse_known_args(rest)
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            file = name.endswith((".json", ".yaml", ".yml"))
            hint = f"a file of settings is --config {printable(name)}" if file else "as in --task cola"
            raise UserError(f"stray word {printable(name)!r}: every setting is a flag, {hint}")
        raise UserError(f"unknown flag {printable(name)}: {_near_flags(name)}")
    values = vars(known)
    config = values.pop("config", None)
    for name in ("_unused", "plugin"):
        values.pop(name, None)
    values, problems = translate(values)
    if problems:
        raise UserError("; ".join(f"--{name}: {problem}" for name, problem in problems))
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
        overrides[name] = head_value(value)
    return rest, overrides


def read_config(path: str) -> dict[str, Any]:
    """Return the settings of a `--config` YAML file. UserError names the line of every mistake."""
    try:
        top = read_yaml_mapping(Path(path), may_be_empty=True)
    except UserError as error:
        raise UserError(f"--config {error}") from None
    values: dict[str, Any] = {}
    for key in top.values:
        value = top.written(key)  # a label `no` is a text
        if key in NAMES:
            values[key] = value
        elif key in FIELDS or key.startswith(HEAD_PREFIX):
            try:
                values[key] = _config_value(key, value)
            except ValueError as error:
                top.problem(f"{shown(value)!r} is not {error}", key=key)
        else:
            top.problem(f"unknown setting; {near_settings(key)}", key=key)
    values, problems = translate(values)
    for key, problem in problems:
        top.problem(problem, key=key)
    top.finish()
    return values


@contextlib.contextmanager
def config_words(config: str | None, names: Iterable[str]) -> Iterator[None]:
    """Name the settings `names`, which the file `config` gave, in the messages of the block: not as flags.

    A message begins with what it is about; further on, flags are what would be right.
    """
    given = set(names)

    def file_s_name(match: re.Match[str]) -> str:
        setting = "head_overrides" if match[1].startswith(HEAD_PREFIX) else match[1]
        return named(match[1], printable(config)) if setting in given else match[0]

    def reword(text: str) -> str:
        subject = re.match(r"(?:warning: )?(?:--[\w.]+(?:, )?)*", text)
        end = subject.end() if subject else 0
        return re.sub(r"--([\w.]+)", file_s_name, text[:end]) + text[end:]

    with rewording(reword):
        yield


def _config_value(key: str, value: Any) -> Any:
    if key.startswith(HEAD_PREFIX):
        return head_value(value)
    if key in ("head", "head_overrides") and isinstance(value, dict):
        return {name: item if name == "preset" else head_value(item) for name, item in value.items()}
    return convert(key, value)


def _near_flags(name: str) -> str:
    plain = name.lstrip("-")
    if plain in HEAD_FIELDS:
        return near_settings(plain, of_head=f"--{HEAD_PREFIX}{{}} VALUE")
    near = did_you_mean(f"--{plain}", [f"--{field}" for field in FIELDS])
    return near if near.startswith("did") else "see --help"
