"""Report what was found in a task's files, as JSON values and as lines for a terminal."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sot_nlp.data.file_format import list_names
from sot_nlp.data.label_notes import label_notes
from sot_nlp.errors import counted, printable
from sot_nlp.settings.arguments import Arguments

if TYPE_CHECKING:
    from sot_nlp.data.task_data import TaskData
    from sot_nlp.data.token_split import TokenSplit
    from sot_nlp.data.tokenization import Tokens
    from sot_nlp.tasks.spec import TaskSpec

# Unreadable lines that are named one by one in the terminal; the report has all of them.
SHOWN_LINES = 5
# From this share of a validation split on, having been trained on it is a warning.
SEEN_SHARE = 0.1


def columns_report(spec: TaskSpec, arguments: Arguments) -> dict[str, Any]:
    """Return the columns that were read, and which of them were guessed."""
    own = arguments.task is None or not spec.dataset_name
    bare = arguments.task is None
    guessed = list(spec.text_columns) if bare and not arguments.text_column_names else []
    if bare and not arguments.label_column_name and spec.label_column is not None:
        guessed.append(spec.label_column)
    return {
        "text": list(spec.text_columns),
        "label": spec.label_column,
        "guessed": guessed,
        "own": own,
        "problem_type": arguments.problem_type,
    }


def split_report(
    spec: TaskSpec, split: TokenSplit, tokens: Tokens, rows: np.ndarray, *, held_out: bool
) -> dict[str, Any]:
    """Report what is known of one split, whose examples are the `rows` of `tokens`.

    `chosen` identifies these examples, where they are not the whole file's.
    """
    lost = tokens.arrays["lost"][rows]
    cut = lost[lost > 0]
    in_file = len(tokens.arrays["indices"])
    return {
        "source": tokens.source,
        "sha256": tokens.sha256,
        "examples": len(split),
        "examples_in_file": in_file,
        "chosen": None if len(split) == in_file else hashlib.sha256(split.indices.tobytes()).hexdigest(),
        "expected_in_file": spec.rows.get(split.name),
        "held_out_of_train": held_out,
        "unreadable": [list(pair) for pair in tokens.facts["unreadable"]],
        "empty_texts": int(tokens.arrays["empty"][rows].sum()),
        "nul_texts": tokens.facts["nul_texts"],
        "padded_labels": tokens.facts["padded_labels"],
        "decimal_labels": tokens.facts["decimal_labels"],
        "notes": list(tokens.notes),
        "truncated": len(cut),
        "truncated_tokens_p95": float(np.percentile(cut, 95)) if len(cut) else 0.0,
        "max_length": int(split.lengths.max()) if len(split) else 0,
        "mean_length": float(split.lengths.mean()) if len(split) else 0.0,
        "labels": label_summary(spec, split.labels),
    }


def label_summary(spec: TaskSpec, labels: np.ndarray | None) -> dict[str, Any] | None:
    """Count the examples of each label; of scores, return range and mean."""
    if labels is None or not len(labels):
        return None
    if spec.kind == "regression":
        scores = labels.astype(np.float64)
        return {
            "lowest": scores.min().item(),
            "highest": scores.max().item(),
            "mean": scores.mean().item(),
            "values": len(np.unique(scores)),
        }
    names = spec.labels or ()
    if spec.kind == "multi_label":
        counts = labels.sum(axis=0).astype(np.int64)
    else:
        counts = np.bincount(labels, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def stream_report(source: str, total: dict[str, Any], *, dropped: bool) -> dict[str, Any]:
    """Report on a stream as `split_report` does: what was read of it so far (`stream.add_found`).

    Examples count as often as they were read; `windows` marks a stream.
    """
    lost = np.array([int(tokens) for tokens in total.get("lost", {})])
    times = np.array(list(total.get("lost", {}).values()), dtype=np.int64)
    examples = total.get("examples", 0)
    return {
        "source": source,
        "sha256": None,
        "examples": examples,
        "examples_in_file": None,
        "chosen": None,
        "expected_in_file": None,
        "held_out_of_train": False,
        "windows": total.get("windows", 0),
        "leaked": {"train_examples": total.get("leaked", 0), "dropped": dropped},
        "unreadable": total.get("unreadable", []),
        "empty_texts": total.get("empty_texts", 0),
        "nul_texts": total.get("nul_texts", 0),
        "truncated": int(times.sum()),
        "truncated_tokens_p95": float(np.percentile(np.repeat(lost, times), 95)) if len(lost) else 0.0,
        "max_length": total.get("max_length", 0),
        "mean_length": total.get("tokens", 0) / max(examples, 1),
        "labels": total.get("labels"),
    }


def describe(data: TaskData) -> list[str]:
    """Return the report of `data` as lines to print: what was read, and what a user should know about it."""
    report = data.report
    lines = []
    if guessed := report["columns"]["guessed"]:
        flags = "--text_column_names and --label_column_name"
        lines.append(f"guessed: columns {list_names(guessed)}, kind {report['kind']} ({flags} name others)")
    if report["max_length"] < report["max_length_asked"]:
        lines.append(
            f"max_length is {report['max_length']}, the model's positions; the default is "
            f"{report['max_length_asked']}"
        )
    for name, split in report["splits"].items():
        if "windows" in split:
            lines.append(f"{name}: streamed from {split['source']} window by window, and not stored")
            continue
        lines += [f"{name}: {line}" for line in _describe_split(split, report)]
        lines += [f"{name}: {note}" for note in [*split["notes"], *_label_notes(name, split, report)]]
        if not data.caches[name].startswith(("built", "reused")):
            lines.append(f"{name}: token cache {data.caches[name]}")
    for name, overlap in report["duplicates"].items():
        if overlap["train_examples"]:
            what = "dropped" if overlap["dropped"] else "kept; --drop_leaked drops them"
            occur = counted(overlap["train_examples"], "example occurs", "examples occur")
            lines.append(f"train: {occur} in {name} too ({what})")
    return lines


def describe_stream(report: dict[str, Any]) -> list[str]:
    """Return the same for streamed training data, once it was read; nothing for other data."""
    split = report["splits"].get("train", {})
    if "windows" not in split:
        return []
    lines = _describe_split(split, report)
    if count := split["leaked"]["train_examples"]:
        what = "dropped" if split["leaked"]["dropped"] else "kept; --drop_leaked drops them"
        occur = counted(count, "example occurs", "examples occur")
        lines.append(f"{occur} in the validation data too ({what})")
    lines += _label_notes("train", split, report)
    return [f"train, as read: {line}" for line in lines]


def seen_in_training(report: dict[str, Any]) -> list[str]:
    """Return a warning for each validation split of which training has seen a tenth or more."""
    warnings = []
    for name, overlap in report["duplicates"].items():
        seen, examples = overlap["validation_examples"], report["splits"][name]["examples"]
        if seen and not overlap["dropped"] and seen >= SEEN_SHARE * examples:
            warnings.append(
                f"{seen} of the {examples} examples of {name} were trained on, so its scores say little of "
                "new texts; --drop_leaked takes them out of training"
            )
    return warnings


def _label_notes(split: str, facts: dict[str, Any], report: dict[str, Any]) -> list[str]:
    """Return what is odd about a split's labels, and for own training data how they were interpreted."""
    own = split == "train" and report["columns"]["own"]
    asked = report["columns"]["problem_type"]
    notes = label_notes(report["kind"], facts, own=own, asked=asked is not None)
    counts = {} if report["kind"] == "regression" else facts["labels"] or {}
    absent = [printable(name, 40) for name, count in counts.items() if not count]
    if split == "train" and absent:
        drawn = facts["examples"] != facts["examples_in_file"]
        hint = "; draw others with --data_seed, or more with --max_train_samples" if drawn else ""
        notes.append(f"no example has the label {list_names(absent)}, so it can't be learned{hint}")
    return notes


def _describe_split(split: dict[str, Any], report: dict[str, Any]) -> list[str]:
    part = ", held out of the training data" if split["held_out_of_train"] else ""
    count, whole = split["examples"], split["examples_in_file"]
    examples = counted(count if whole is None else whole, "example", "examples")
    lines = [
        f"{examples if whole is None else f'{count} of {examples}'} of {split['source']}{part}; "
        f"{split['mean_length']:.1f} tokens on average, {split['max_length']} at most"
    ]
    if (labels := split["labels"]) is not None and report["kind"] == "regression":
        lines.append(
            f"scores: {labels['lowest']:g} to {labels['highest']:g}, {labels['mean']:.4g} on average"
        )
    elif labels is not None:
        counts = [f"{printable(name, 40)} {count}" for name, count in labels.items()]
        lines.append(f"labels: {list_names(counts)}")
    if split["truncated"]:
        lines.append(
            f"{counted(split['truncated'], 'example was', 'examples were')} cut at {report['max_length']} "
            f"tokens; 95 % of these lost at "
            f"most {split['truncated_tokens_p95']:.0f} tokens"
        )
    if split["empty_texts"]:
        lines.append(f"{counted(split['empty_texts'], 'example has', 'examples have')} an empty text")
    if split["nul_texts"]:
        lines.append(f"{counted(split['nul_texts'], 'text holds', 'texts hold')} a NUL character")
    if unreadable := split["unreadable"]:
        named = "; ".join(f"line {line} {why}" for line, why in unreadable[:SHOWN_LINES])
        more = f"; and {len(unreadable) - SHOWN_LINES} more" if len(unreadable) > SHOWN_LINES else ""
        were = counted(len(unreadable), "unreadable line was", "unreadable lines were")
        lines.append(f"{were} skipped: {named}{more}")
    if split["expected_in_file"] not in (None, split["examples_in_file"]):
        lines.append(
            f"warning: {counted(split['examples_in_file'], 'example', 'examples')}, where the published file "
            f"has {split['expected_in_file']}"
        )
    return lines
