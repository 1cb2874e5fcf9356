"""Word messages for Python: settings as keyword arguments, examples in memory by their argument's name."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping

from sot_nlp.errors import rewording
from sot_nlp.settings import plugins
from sot_nlp.settings.arguments import FALSE_WORDS, TRAITS, TRUE_WORDS, TYPES

# A command in backticks stays one.
_FLAG = re.compile(r"`[^`]*`|(?<![\w-])--(?P<name>[a-z]\w*)(?: (?P<value>[\w.+-]*\w))?")


@contextlib.contextmanager
def python_words(arguments: Mapping[str, str], data: Mapping[str, str]) -> Iterator[None]:
    """Reword the UserErrors raised inside, and the lines printed.

    `--max_length 64` becomes `max_length=64`; `--plugin` is left out, Python imports files by itself.
    `arguments` names the settings that the caller knows by another name; `data` gives the names of examples
    that were written to files, by these files.
    """

    def reword(text: str) -> str:
        for path, name in data.items():
            parts = re.split(rf"{re.escape(path)}(?:, row (\d+))?", text)
            places = [name if row is None else f"{name}, {_row(row)}" for row in parts[1::2]]
            text = "".join(itertools.chain(*zip(parts[::2], [*places, ""], strict=True)))
        text = text.replace(f" ({plugins.FLAG} FILE.py)", "")
        return _FLAG.sub(lambda match: _argument(match, arguments), text)

    with rewording(reword):
        yield


def _row(number: str) -> str:
    """Return the place of a row, which files count from 1, as Python counts it."""
    return f"row {int(number) - 1} (counted from 0)"


def _argument(match: re.Match[str], arguments: Mapping[str, str]) -> str:
    name, value = match["name"], match["value"]
    if name not in TRAITS:
        return match[0]
    shown = arguments.get(name, name)
    if value is None:
        return shown
    kinds = str(TYPES[name])
    if value in TRAITS[name].choices:
        return f'{shown}="{value}"'
    if "bool" in kinds and value in TRUE_WORDS | FALSE_WORDS:
        return f"{shown}={value in TRUE_WORDS}"
    if ("int" in kinds or "float" in kinds) and value.lstrip("-")[:1].isdecimal():
        return f"{shown}={value}"
    return f"{shown} {value}"
