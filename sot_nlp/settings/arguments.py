"""`Arguments`: every setting of a run, shared by the command line, `--config` and the record.

Each field is declared, with all its traits, in `data_and_model.py` or `training_and_output.py`. Four layers
give the values, the later over the earlier: the defaults there, the task's recipe, the `--config` file and
flags. Names are those of transformers' `run_glue_no_trainer.py` and `TrainingArguments` wherever they mean
the same. This module imports neither torch nor transformers, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.modeling.head_config import TEXT_FAMILY, SoTHeadConfig
from sot_nlp.settings.checks import check
from sot_nlp.settings.data_and_model import DataSettings, ModelSettings
from sot_nlp.settings.training_and_output import (
    HubSettings,
    LogSettings,
    OutputSettings,
    SpeedSettings,
    TrainingSettings,
)
from sot_nlp.settings.traits import Traits

HEAD_PREFIX = "head."
# The titles of `--help`, in its order.
GROUPS: dict[str, type] = {
    "task and data": DataSettings,
    "model and head": ModelSettings,
    "training": TrainingSettings,
    "batches, precision and speed": SpeedSettings,
    "output, checkpoints and evaluation": OutputSettings,
    "logging": LogSettings,
    "Hugging Face Hub": HubSettings,
}


# A dataclass takes its fields from the last base to the first.
@dataclass(frozen=True, kw_only=True)
class Arguments(
    HubSettings, LogSettings, OutputSettings, SpeedSettings, TrainingSettings, ModelSettings, DataSettings
):
    """Every setting of a run. `build_arguments` makes one from the layers and checks it as a whole.

    `sources` says which layer each setting that was given comes from.
    """

    sources: dict[str, str] = field(default_factory=dict)

    def given_by(self, source: str | None) -> list[str]:
        """Return the names of the settings that come from this layer."""
        return [name for name, layer in self.sources.items() if layer == source]

    def to_dict(self) -> dict[str, Any]:
        """Return all settings as JSON-able values, without secrets and without where each came from."""
        values = dataclasses.asdict(self)
        return {name: values[name] for name in FIELDS if TRAITS[name].kind != "secret"}


FIELDS = {field.name: field for field in dataclasses.fields(Arguments) if "traits" in field.metadata}
TRAITS: dict[str, Traits] = {name: field.metadata["traits"] for name, field in FIELDS.items()}
# The settings of a user's own data: which it is, and how it is read.
OWN_DATA = tuple(name for name, traits in TRAITS.items() if traits.data == "own")
TYPES = typing.get_type_hints(Arguments)
# What `sot_nlp.train` takes beside the settings.
EXAMPLES = ("train_data", "validation_data", "test_data")
HEAD_FIELDS = frozenset(field.name for field in dataclasses.fields(SoTHeadConfig))
TRUE_WORDS = {"true", "yes", "1", "on"}
FALSE_WORDS = {"false", "no", "0", "off"}


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.lower() in ("none", "null"))


def convert(name: str, value: Any) -> Any:
    """Convert `value` (a flag's text, or a YAML value) to the type of the field `name`.

    Raises ValueError with what was expected, to be put after "... is not".
    """
    kind = TYPES[name]
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if _is_none(value):
        if type(None) in options:
            return None
        raise ValueError("a value")
    kind = next(option for option in options if option is not type(None))
    base = get_origin(kind) or kind
    if base is bool:
        word = str(value).lower()
        if word in TRUE_WORDS | FALSE_WORDS:
            return word in TRUE_WORDS
        raise ValueError("true or false")
    if base in (int, float):
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number) or number != base(number):
            raise ValueError("a whole number" if base is int else "a finite number")
        return base(number)
    if base is list:
        values = [value] if isinstance(value, (str, int, float)) else value
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError("one or more names")
        return [str(item) for item in values]
    if base is dict:
        return _convert_mapping(value, names=get_args(kind)[1] is str)
    if isinstance(value, (Mapping, list, tuple)):
        raise ValueError("one text")
    if "\0" in str(value):
        raise ValueError("a text without NUL characters")
    return str(value)


def shown(value: Any) -> str:
    """Return a value as a user writes it: the items of a list or mapping as words."""
    if isinstance(value, Mapping):
        value = [f"{key}={item}" for key, item in value.items()]
    return printable(" ".join(map(str, value)) if isinstance(value, list | tuple) else value)


def head_value(text: Any) -> Any:
    """Return the value of a head's field as a flag or a file writes it: a truth, a number or a text."""
    if not isinstance(text, str):
        return text
    if text.lower() in (TRUE_WORDS | FALSE_WORDS) - {"0", "1"}:
        return text.lower() in TRUE_WORDS
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _convert_mapping(value: Any, *, names: bool) -> dict[str, Any]:
    """Return a mapping, or words like 0=negative, as a dict; with `names` each value is a text."""
    if isinstance(value, Mapping):
        pairs = [(str(key), item) for key, item in value.items()]
    else:
        words = [str(item).partition("=") for item in ([value] if isinstance(value, str) else value)]
        if not all(key and separator and item for key, separator, item in words):
            raise ValueError("pairs like 0=negative 1=positive")
        pairs = [(key, item) for key, _, item in words]
    if len({key for key, _ in pairs}) < len(pairs):
        raise ValueError("pairs with a different word before each =")
    if names and not all(str(item).strip() and item is not None for _, item in pairs):
        raise ValueError("pairs like 0=negative 1=positive")
    return {key: str(item) if names else item for key, item in pairs}


def overridden(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings `upper` over `lower`, without those that `upper` has in other words (`rival`)."""
    rivals = _rivals(upper)
    return {**{name: value for name, value in lower.items() if name not in rivals}, **upper}


def _rivals(layer: Mapping[str, Any]) -> set[str]:
    """Return the settings that say the same as one that `layer` has a value for, and that it has not."""
    given = {TRAITS[name].rival for name, value in layer.items() if name in TRAITS and not _is_none(value)}
    return {name for name in given if name is not None and name not in layer}


def _fold_head(layer: Mapping[str, Any]) -> dict[str, Any]:
    """Fold `head: {preset: text, alpha: 0.7}` and `head.alpha: 0.7` into `head` and `head_overrides`."""
    folded: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for key, value in layer.items():
        if key == "head" and isinstance(value, Mapping):
            fields = dict(value)
            if "preset" in fields:
                folded["head"] = fields.pop("preset")
            overrides |= fields
        elif key == "head_overrides":
            overrides |= value
        elif key.startswith(HEAD_PREFIX):
            overrides[key[len(HEAD_PREFIX) :]] = value
        else:
            folded[key] = value
    return folded | ({"head_overrides": overrides} if overrides else {})


def _kind(head: Any) -> Any:
    return TEXT_FAMILY if head in TEXT_FAMILY else head


def build_arguments(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Arguments:
    """Build one checked `Arguments` from `(source, settings)` layers, the later over the earlier.

    A layer that names another head drops the single head fields of the layers below it: they belonged to
    that layer's head. (Presets of the text recipe, `TEXT_FAMILY`, share them.) Raises UserError with every
    problem at once.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for source, layer in layers:
        folded = _fold_head(layer)
        if "head" in folded and _kind(folded["head"]) != _kind(values.get("head")):
            values.pop("head_overrides", None)
        # Two settings that say the same: the one that a later layer gives drops the other.
        for rival in _rivals(folded):
            values.pop(rival, None)
            sources.pop(rival, None)
        for name, value in folded.items():
            where = named(name, source)
            if name not in FIELDS:
                problem = f"unknown setting {printable(name)!r}: "
                if source == "python":
                    problem += near_settings(name, (*EXAMPLES, *FIELDS), "head_overrides={{{!r}: ...}}")
                else:
                    problem = f"{source}: {problem}{near_settings(name)}"
                problems.append(problem)
                continue
            try:
                converted = convert(name, value)
            except ValueError as error:
                problems.append(f"{where}: {shown(value)!r} is not {error}")
                continue
            if name == "head_overrides":
                converted = values.get(name, {}) | converted
            values[name] = converted
            sources[name] = source
            if name == "report_to" and "with_tracking" not in folded:
                # Who names a tracker wants it, and `none` is none, also where a lower layer tracks.
                values["with_tracking"] = converted is not None
                sources["with_tracking"] = source
    arguments = Arguments(**values, sources=sources)
    problems += [f"{_flag(arguments, name)}: {problem}" for name, problem in check(arguments)]
    if problems:
        raise UserError("; ".join(problems))
    return arguments


def near_settings(name: str, known: Iterable[str] = FIELDS, of_head: str = f"{HEAD_PREFIX}{{}}") -> str:
    """Return what `name`, which is no setting, may mean: a field of the head, or one of `known`.

    `of_head` is the pattern by which the head's fields are given.
    """
    if name in HEAD_FIELDS:
        return f"the head's settings are given as {of_head.format(name)}"
    return did_you_mean(name, known)


def _flag(arguments: Arguments, name: str) -> str:
    return named(name, arguments.sources.get(name, "flag"))


def named(name: str, source: str) -> str:
    """Return a setting's name as its source spells it."""
    return {"flag": f"--{name}", "python": name}.get(source, f"{name} ({source})")
