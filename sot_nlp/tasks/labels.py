"""Align a model's labels with a task's by name, whatever their order and letter case."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sot_nlp.errors import UserError, printable

GENERIC = re.compile(r"label[_ -]?\d+", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?")


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """Where a task's labels are among a model's outputs.

    `columns[i]` is the model's output for the task's label i, so `logits[:, columns]` is in the task's
    order. `note` is for the user: None where names agreed in the model's own order.
    """

    columns: tuple[int, ...]
    note: str | None

    @property
    def same_order(self) -> bool:
        """Whether the model's outputs are in the task's order already."""
        return self.columns == tuple(range(len(self.columns)))


def align_labels(id2label: Mapping[int, str] | Mapping[str, str], labels: Sequence[str]) -> Alignment:
    """Line up a model's `id2label`, from its config, with a task's `labels`, names in the order of their ids.

    Names agree whatever their letter case, Unicode's form of a letter (composed or not), and whether `-`, `_`
    or a space joins their words. A model without names (`LABEL_0`, ...) is assumed to be in the task's order,
    with a note that says so. Raises UserError, with both lists, where names or numbers of labels differ;
    numbers on one side and names on the other never agree by themselves: which number is which name, only the
    user can say.
    """
    model = label_names(id2label)
    if len(model) != len(labels):
        raise _mismatch(f"the model has {len(model)} labels, the task has {len(labels)}", model, labels)
    if all(GENERIC.fullmatch(name) for name in model) and not all(map(GENERIC.fullmatch, labels)):
        order = ", ".join(f"{index} {printable(name)}" for index, name in enumerate(labels))
        note = f"the model's labels have no names ({_listed(model)}); assumed in the task's order: {order}"
        return Alignment(columns=tuple(range(len(labels))), note=note)
    columns = _match(model, labels)
    if columns is None:
        numbers = [side for side in (labels, model) if all(map(_NUMBER.fullmatch, side))]
        if len(numbers) == 1:
            pairs = " ".join(f"{number}=NAME" for number in numbers[0])
            message = f"one side has numbers, the other names: match them with --label_mapping {pairs}"
            raise _mismatch(message, model, labels)
        raise _mismatch("the model's labels are not the task's", model, labels)
    alignment = Alignment(columns=columns, note=None)
    if alignment.same_order:
        return alignment
    return Alignment(columns=columns, note=f"the model's labels ({_listed(model)}) are matched by name")


def label_names(id2label: Any) -> tuple[str, ...]:
    """Return a config's `id2label` names in the order of ids; UserError unless these are 0 to K - 1."""
    if not isinstance(id2label, Mapping) or not all(isinstance(name, str) for name in id2label.values()):
        raise UserError(f"the model's id2label is {printable(id2label, 80)}; expected a name for each id")
    named = {str(index): name for index, name in id2label.items()}
    if set(named) != set(map(str, range(len(named)))):
        ids = ", ".join(map(printable, named))
        raise UserError(f"the model's id2label has the ids {ids}; expected 0 to {len(named) - 1}")
    return tuple(named[str(index)] for index in range(len(named)))


def other_spellings(names: Iterable[str], labels: Sequence[str]) -> dict[str, str]:
    """Return which of `labels` each unknown one of `names` is but for letter case, `-`, `_` and spaces."""
    known = {plain(label): label for label in labels}
    if len(known) < len(labels):
        return {}
    return {name: known[plain(name)] for name in names if name not in labels and plain(name) in known}


def plain(name: str) -> str:
    """Return a label's name without letter case, in one form of each letter, `_` for what joins its words."""
    return re.sub(r"[-_\s]+", "_", unicodedata.normalize("NFKC", name).strip()).casefold()


def _match(model: Sequence[str], labels: Sequence[str]) -> tuple[int, ...] | None:
    """Return the position of each of `labels` in `model`: by exact names, else by usual variants."""
    for key in (str, plain):
        positions = {key(name): index for index, name in enumerate(model)}
        wanted = [key(label) for label in labels]
        if len(positions) == len(model) and len(set(wanted)) == len(wanted) and set(wanted) == set(positions):
            return tuple(positions[name] for name in wanted)
    return None


def _mismatch(message: str, model: Sequence[str], labels: Sequence[str]) -> UserError:
    return UserError(f"{message}; the model's labels: {_listed(model)}; the task's: {_listed(labels)}")


def _listed(names: Sequence[str], most: int = 20) -> str:
    shown = ", ".join(printable(name) for name in names[:most])
    return shown + (f", ... ({len(names)} in all)" if len(names) > most else "")
