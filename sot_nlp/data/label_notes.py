"""Describe what is odd about a split's labels, with what to do where it is wrong."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sot_nlp.data.file_format import list_names
from sot_nlp.data.label_values import LIST_WAYS, MINUS_ONE, number
from sot_nlp.errors import counted, printable
from sot_nlp.tasks.labels import plain

# Whole numbers of more different values than this may be scores; scores of no more, classes.
FEW_VALUES = 20
# "No label" is rarer than a class: with the labels -1, 0 and 1, -1 is worth a line below this share.
RARE = 0.05
# What datasets write for "no label" besides -1: SNLI's mark, torch's ignored index, missing values as texts.
NO_LABEL = {"-", "-100", "?", "nan", "<na>", "n/a"}
_JOINED = re.compile(r"[^;|\s]\s*[;|]\s*[^;|\s]")
_CLASSES = "--problem_type classification makes them names of classes"
_SCORES = "--problem_type regression makes them scores"


def label_notes(kind: str, split: Mapping[str, Any], *, own: bool, asked: bool) -> list[str]:
    """Return the lines for one split of a task of `kind`; `split` is its part of the report.

    `own`: the kind and the labels are what this split holds. `asked`: the kind is what the user named.
    """
    notes = []
    if padded := split.get("padded_labels", 0):
        have = counted(padded, "label has white space around it", "labels have white space around them")
        notes.append(f"{have}: it is ignored")
    decimals = split.get("decimal_labels", 0)
    if not own or not split.get("labels"):
        return notes
    if kind == "regression":
        return notes if asked else notes + _score_notes(split["labels"])
    counts: Mapping[str, int] = split["labels"]
    if kind == "classification":
        values = _numbers(counts)
        if decimals and not asked and len(values) == len(counts) and not any("." in name for name in values):
            are = counted(decimals, "label is", "labels are")
            notes.append(f"{are} written as decimals (1.0) and read as whole numbers (1); {_SCORES}")
        notes += [] if asked else _kind_notes(counts) + _joined_note(counts)
        notes += _minus_one_note(counts) + _no_label_notes(counts)
    return notes + _spelling_notes(counts)


def _score_notes(scores: Mapping[str, Any]) -> list[str]:
    values = scores.get("values")
    if values is None or values > FEW_VALUES:
        return []
    return [f"the scores have {counted(values, 'value', 'different values')} only; {_CLASSES}"]


def _kind_notes(counts: Mapping[str, int]) -> list[str]:
    """Note where the labels of a classification may be something else."""
    notes = []
    values = _numbers(counts)
    texts = [name for name in counts if name not in values]
    if values and texts:
        notes.append(f"numbers and texts ({list_names(texts, 5)}) are both names of classes")
    if values and not texts and any("." in name for name in values):
        notes.append(f"the labels are numbers written as texts, read as names of classes; {_SCORES}")
    whole = all(isinstance(value, int) for value in values.values())
    if not texts and whole and len(values) > FEW_VALUES:
        notes.append(f"the labels are {len(values)} different whole numbers, read as classes; {_SCORES}")
    return notes


def _numbers(counts: Mapping[str, int]) -> dict[str, int | float]:
    return {name: value for name in counts if (value := number(name)) is not None}


def _minus_one_note(counts: Mapping[str, int]) -> list[str]:
    values = _numbers(counts)
    rest = sorted(value for value in values.values() if value != -1)
    if "-1" not in values or len(values) < len(counts) or rest != list(range(len(rest))):
        return []
    if len(rest) < 3 and counts["-1"] >= RARE * sum(counts.values()):
        return []  # a sign: negative, neutral, positive
    examples = counted(counts["-1"], "example has", "examples have")
    return [f"warning: {examples} the label -1 beside 0 to {rest[-1]}: a class of its own here; {MINUS_ONE}"]


def _no_label_notes(counts: Mapping[str, int]) -> list[str]:
    """Warn of classes that elsewhere mark an example without a label."""
    marks = [name for name in counts if name.lower() in NO_LABEL]
    if len(counts) <= 2 or not marks:
        return []
    return [
        f"warning: {counted(counts[name], 'example has', 'examples have')} the label {printable(name)}: a "
        f"class of its own here; if it means that an example has no label, drop those rows: "
        f"df[df.label.notna() & (df.label != {name if name == '-100' else repr(name)})]"
        for name in marks
    ]


def _joined_note(counts: Mapping[str, int]) -> list[str]:
    """Warn of names that may be several: around a semicolon or bar, or a comma beside another label."""
    parts = {name: {part.strip() for part in name.split(",")} - {name, ""} for name in counts}
    joined = [name for name in counts if _JOINED.search(name) or parts[name] & counts.keys()]
    if not joined:
        return []
    return [
        f"warning: {list_names(joined, 3)}: one name each here; several labels of an example are written as "
        f"a list, {LIST_WAYS}"
    ]


def _spelling_notes(counts: Mapping[str, int]) -> list[str]:
    alike = defaultdict(list)
    for name in counts:
        value = number(name)
        alike[plain(name) if value is None else value].append(name)
    groups = [names for names in alike.values() if len(names) > 1][:3]
    if not groups:
        return []
    lines = [
        f"warning: the labels {list_names(names)} differ in their spelling alone, and are "
        f"{len(names)} classes"
        for names in groups
    ]
    # One flag for all of them: of a flag that is given twice, the last one counts.
    pairs = []
    for names in groups:
        target = max(names, key=lambda name: counts[name])
        pairs += [shlex.quote(f"{printable(n)}={printable(target)}") for n in names if n != target]
    return [*lines[:-1], f"{lines[-1]}; --label_mapping {' '.join(pairs)} merges them"]
