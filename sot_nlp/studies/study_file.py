"""Read a study's YAML file (studies/README.md is the guide), and the flags that replace parts of it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.runs.folder import short_name
from sot_nlp.settings.arguments import FIELDS, HEAD_PREFIX, TYPES, convert, near_settings
from sot_nlp.settings.yaml_file import YamlMapping, read_yaml_mapping
from sot_nlp.studies.comparison import HOLM_FAMILIES
from sot_nlp.studies.results import SCORE_RULES
from sot_nlp.studies.study import GRID, Study

# The settings that hold several values, as two text columns.
NESTED = {
    name
    for name, kind in TYPES.items()
    if {list, dict} & {get_origin(option) for option in (kind, *get_args(kind))}
}
RATES = tuple(name for name in FIELDS if name.endswith("learning_rate"))


def read_study(path: Path) -> Study:
    """Return the study in the YAML file at `path`; UserError names every mistake by line and key."""
    top = read_yaml_mapping(path)
    values: dict[str, Any] = {
        "name": top.text("name") or path.stem,
        "title": top.text("title") or "",
        "description": top.text("description") or "",
        "tasks": {name: _beside(path, task) for name, task in _names(top, "tasks").items()},
        "models": _names(top, "models"),
        "heads": _named_settings(top, "heads"),
        "settings": _named_settings(top, "settings") or {"": {}},
        "arguments": _settings(top, top.scalars("arguments", NESTED), "arguments"),
        "baseline": top.text("baseline") or "",
        "score": top.text("score", choices=SCORE_RULES) or "last",
        "holm": top.text("holm", choices=HOLM_FAMILIES) or "tasks",
        "allow_unequal_budget": bool(top.flag("allow_unequal_budget")),
        "held_out": bool(top.flag("held_out")),
    }
    for key in ("seeds", "rate_seeds"):
        if seeds := top.texts(key):
            with _noted(top, key):
                values[key] = parse_seeds(seeds, listed=isinstance(top.values[key], yaml.SequenceNode))
    if (grid := top.mapping("rates")) is not None:
        with _noted(top, "rates"):
            values["rates"] = parse_rates({name: grid.texts(name) or () for name in grid.values})
    values["published"], values["published_source"] = _published(top)
    top.finish()
    return Study(**values)


@contextlib.contextmanager
def _noted(top: YamlMapping, key: str) -> Iterator[None]:
    """Note a mistake in a key's value with the others of the file."""
    try:
        yield
    except UserError as error:
        top.problem(str(error), key=key)


def _beside(study: Path, task: str) -> str:
    """Return the path of a task's file, as seen from the study's own folder."""
    return str(study.parent / task) if (study.parent / task).is_file() else task


def _names(top: YamlMapping, key: str) -> dict[str, str]:
    """Return a list of names, or a mapping of table names to their values."""
    if isinstance(top.values.get(key), yaml.MappingNode):
        child = top.mapping(key)
        assert child is not None
        return {name: child.text(name, required=True) or "" for name in child.values}
    return {short_name(text): text for text in top.texts(key) or ()}


def _named_settings(top: YamlMapping, key: str) -> dict[str, dict[str, Any]]:
    """Return presets as a list, or a mapping of table names to settings of a run."""
    if not isinstance(top.values.get(key), yaml.MappingNode):
        if key == "settings" and key in top:
            top.problem("must map names to settings of a run", key=key)
        return {name: {"head": name} for name in top.texts(key) or ()}
    child = top.mapping(key)
    assert child is not None
    settings: dict[str, dict[str, Any]] = {}
    for name in child.values:
        if child.is_text(name) and key == "heads":
            settings[name] = {"head": child.text(name)}
        else:
            settings[name] = _settings(child, child.scalars(name, NESTED), name)
    return settings


def _settings(place: YamlMapping, settings: dict[str, Any], key: str) -> dict[str, Any]:
    for name in settings:
        if name in GRID:
            place.problem(f"{name} is set by the grid", key=key)
        elif name not in FIELDS and not name.startswith(HEAD_PREFIX):
            place.problem(f"unknown setting {printable(name)!r}; {near_settings(name)}", key=key)
    return dict(settings)


def _published(top: YamlMapping) -> tuple[dict[str, dict[str, dict[str, float]]], str]:
    child = top.mapping("published")
    if child is None:
        return {}, ""
    published: dict[str, dict[str, dict[str, float]]] = {}
    scores = child.mapping("scores")
    for arm in scores.values if scores is not None else ():
        assert scores is not None
        by_model = scores.mapping(arm)
        for model in by_model.values if by_model is not None else ():
            assert by_model is not None
            of_tasks = by_model.scalars(model)
            for task, score in of_tasks.items():
                if isinstance(score, bool) or not isinstance(score, (int, float)):
                    by_model.problem(f"{printable(task)}: must be a score in percent", key=model)
                else:
                    published.setdefault(arm, {}).setdefault(model, {})[task] = float(score)
    return published, child.text("source", required=True) or ""


def parse_seeds(words: Sequence[str], *, listed: bool = False) -> tuple[int, ...]:
    """Return seeds: `10` is 0 to 9; `100-109` those; several numbers those. UserError otherwise.

    Of a YAML's list (`listed`) a single number is a seed, too: `[10]` -> 10.
    """
    words = [str(word) for word in words]
    if len(words) == 1 and (span := re.fullmatch(r"(\d+)-(\d+)", words[0])):
        first, last = int(span[1]), int(span[2])
        if first > last:
            raise UserError(f"seeds {printable(words[0])}: the first is above the last")
        return tuple(range(first, last + 1))
    if not all(word.isdecimal() for word in words) or not words:
        raise UserError(
            f"seeds {printable(' '.join(words))}: give how many (10), a span (100-109), or several numbers"
        )
    numbers = [int(word) for word in words]
    if len(numbers) == 1 and not listed:
        if not 1 <= numbers[0] <= 10_000:
            raise UserError(f"seeds {numbers[0]}: must be from 1 to 10000")
        return tuple(range(numbers[0]))
    if len(set(numbers)) < len(numbers):
        raise UserError("seeds: one occurs twice")
    return tuple(numbers)


def parse_rates(grid: Mapping[str, Iterable[str]]) -> dict[str, tuple[float | None, ...]]:
    """Return a grid of rates from its texts: `{"head_learning_rate": ["none", "1e-3"]}`. UserError if bad."""
    parsed: dict[str, tuple[float | None, ...]] = {}
    for name, texts in grid.items():
        if name not in RATES:
            raise UserError(f"{printable(name)!r} is not a learning rate; {did_you_mean(name, RATES)}")
        values: list[float | None] = []
        for text in texts:
            try:
                value = convert(name, text)
            except ValueError as error:
                raise UserError(f"{name}: {printable(text)!r} is not {error}") from None
            if value in values:
                raise UserError(f"{name}: {printable(text)} occurs twice")
            values.append(value)
        if not values:
            raise UserError(f"{name}: no value is given")
        parsed[name] = tuple(values)
    return parsed


def parse_rate_words(words: Sequence[str]) -> dict[str, tuple[float | None, ...]]:
    """Return the grid of `--rates`: `learning_rate=5e-5,1e-4 head_learning_rate=none,1e-3`."""
    grid: dict[str, list[str]] = {}
    for word in words:
        name, separator, values = word.partition("=")
        if not separator or name in grid:
            what = "occurs twice" if separator else "give NAME=A,B,C"
            raise UserError(f"--rates {printable(word)}: {what}")
        grid[name] = [value.strip() for value in values.split(",") if value.strip()]
    try:
        return parse_rates(grid)
    except UserError as error:
        raise UserError(f"--rates: {error}") from None


def parse_names(words: Sequence[str]) -> dict[str, str]:
    """Return a flag's words, `google-bert/bert-base-cased` or `NAME=PATH`, by their names in tables."""
    values: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        key, text = (name, value) if separator and name and value else (short_name(word), word)
        if key in values:
            raise UserError(f"{printable(key)!r} occurs twice; give another name, as in NAME=VALUE")
        values[key] = text
    return values
