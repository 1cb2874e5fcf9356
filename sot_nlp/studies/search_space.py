"""Parse and check what `sot-nlp tune` searches: `learning_rate=1e-5:1e-4:log head.width_x=48,96`."""

from __future__ import annotations

import dataclasses
import itertools
import math
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.modeling.head_config import SoTHeadConfig
from sot_nlp.settings.arguments import FIELDS, HEAD_PREFIX, TRAITS, convert, head_value
from sot_nlp.settings.data_and_model import DataSettings
from sot_nlp.studies.read_results import NOT_AN_ARM
from sot_nlp.studies.study import Study

if TYPE_CHECKING:
    import optuna

SPACE = (
    "learning_rate=1e-5:2e-4:log",
    "head_learning_rate=1e-4:1e-2:log",
    "warmup_ratio=0,0.1",
    "head.dropout=0:0.8",
)
# Of the settings of data only these keep what is scored: trials on other data are not compared.
OF_DATA = {"max_length", "max_train_samples", "drop_leaked"}
SEARCHABLE = [
    name
    for name in FIELDS
    if name not in NOT_AN_ARM | {"head_overrides"}
    and (name in OF_DATA or name not in {field.name for field in dataclasses.fields(DataSettings)})
]
# A number with decimals, of which a range with whole ends means whole numbers.
WHOLE_BETWEEN_WHOLE = ("num_train_epochs",)
# Beyond so many combinations of the head's fields they are not tried before the search.
MOST_COMBINATIONS = 500


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """One setting that is searched: a range (of whole numbers where both ends are ints), or a few values."""

    name: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values, or the ends of the range."""
        return self.values or (self.low, self.high)

    def suggest(self, trial: optuna.Trial) -> Any:
        """Return the trial's value."""
        if self.values:
            return trial.suggest_categorical(self.name, self.values)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(self.name, self.low, self.high, log=self.log)
        return trial.suggest_float(self.name, self.low, self.high, log=self.log)


def parse_space(words: Sequence[str]) -> tuple[Dimension, ...]:
    """Parse `learning_rate=1e-5:1e-4:log` (a range) or `num_train_epochs=3,5` (values) to search."""
    dimensions: dict[str, Dimension] = {}
    for word in words:
        dimension = _dimension(word)
        if dimension.name in dimensions:
            raise UserError(f"--search {printable(word)}: {dimension.name} is searched twice; give it once")
        dimensions[dimension.name] = dimension
    for one in dimensions:
        rival = TRAITS[one].rival if one in TRAITS else None
        if rival in dimensions:
            raise UserError(f"--search {one}: {rival} says the same and is searched, too; keep one of them")
    return tuple(dimensions.values())


def _dimension(word: str) -> Dimension:
    name, separator, text = word.partition("=")
    if not separator or not text:
        raise UserError(f"--search {printable(word)}: give NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C")
    # An arm is a head; names, places and what changes no score are not searched.
    if name not in SEARCHABLE and not name.startswith(HEAD_PREFIX):
        hint = did_you_mean(name, SEARCHABLE)
        raise UserError(f"--search {printable(name)}: not a setting that can be searched; {hint}")
    if ":" in text:
        dimension = _range(name, word, text)
    else:
        dimension = Dimension(name=name, values=tuple(_value(name, part) for part in text.split(",")))
    for end in dimension.ends if name in TRAITS else ():
        choices = TRAITS[name].choices
        if choices and end not in choices:
            raise UserError(f"--search {name}: {printable(end)!r}: {did_you_mean(str(end), choices)}")
        if isinstance(end, (int, float)) and (problem := TRAITS[name].range_problem(end)):
            raise UserError(f"--search {printable(word)}: {problem}")
    return dimension


def _range(name: str, word: str, text: str) -> Dimension:
    low, high, *rest = text.split(":")
    if rest not in ([], ["log"]):
        raise UserError(f"--search {printable(word)}: after the range only `log` is allowed")
    ends = [_number(name, word, end) for end in (low, high)]
    if name in WHOLE_BETWEEN_WHOLE and all(end == int(end) for end in ends):
        ends = [int(end) for end in ends]
    if ends[0] >= ends[1] or (rest and ends[0] <= 0):
        above = ", and above 0" if rest else ""
        raise UserError(f"--search {printable(word)}: the low end must be below the high one{above}")
    return Dimension(name=name, low=ends[0], high=ends[1], log=bool(rest))


def _value(name: str, text: str) -> Any:
    if name.startswith(HEAD_PREFIX):
        return head_value(text)
    try:
        value = convert(name, text)
    except ValueError as error:
        raise UserError(f"--search {name}: {printable(text)!r} is not {error}") from None
    if isinstance(value, (list, dict)):
        raise UserError(f"--search {name}: takes several words, and a search one per trial")
    return value


def _number(name: str, word: str, text: str) -> float:
    """Return the end of a range in the type of its setting: 0:1 are whole numbers or fractions."""
    kind: Any
    if name.startswith(HEAD_PREFIX):
        hint = typing.get_type_hints(SoTHeadConfig).get(name.removeprefix(HEAD_PREFIX))
        kind = float if float in typing.get_args(hint) else hint
        number = head_value(text)
    else:
        kind = type(_value(name, text))
        number = _value(name, text)
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
        raise UserError(f"--search {printable(word)}: {printable(text)!r} is not a finite number")
    if kind is int and number != int(number):
        raise UserError(f"--search {printable(word)}: {printable(text)!r} is not a whole number")
    return kind(number) if kind in (int, float) else number


def check_heads(study: Study, arm: str, space: Sequence[Dimension]) -> None:
    """Refuse a value or an end of a range of the head's fields with which no combination is a head.

    `study` has one task, backbone and group of settings. Raises UserError.
    """
    fields = [dimension for dimension in space if dimension.name.startswith(HEAD_PREFIX)]
    if math.prod(len(field.ends) for field in fields) > MOST_COMBINATIONS:
        return
    problems: dict[tuple[str, Any], str] = {}
    good: set[tuple[str, Any]] = set()
    for combination in itertools.product(*(field.ends for field in fields)):
        given = {field.name: value for field, value in zip(fields, combination, strict=True)}
        one_arm = dataclasses.replace(study, heads={arm: {**study.heads[arm], **given}}, baseline=arm)
        try:
            one_arm.resolved()
        except UserError as error:
            for pair in given.items():
                problems.setdefault(pair, str(error))
        else:
            good |= given.items()
    for (name, value), problem in problems.items():
        if not good:
            raise UserError(f"--search: no combination of the head's fields is a head: {problem}")
        if (name, value) not in good:
            raise UserError(f"--search {printable(name)}: {printable(value)}: {problem}")
