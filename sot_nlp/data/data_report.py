"""What was found in a task's files, as JSON values, and as lines for a terminal."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from sot_nlp.data.file_format import list_names
from sot_nlp.errors import printable

if TYPE_CHECKING:
    from sot_nlp.data.task_data import TaskData
    from sot_nlp.data.token_split import TokenSplit
    from sot_nlp.data.tokenization import Tokens
    from sot_nlp.task_spec import TaskSpec

# Unreadable lines that are named one by one in the terminal; the report has all of them.
SHOWN_LINES = 5


def columns_report(spec: TaskSpec, arguments: Any) -> dict[str, Any]:
    """The columns that were read, and which of them were guessed."""
    own = arguments.task is None
    guessed = list(spec.text_columns) if own and not arguments.text_column_names else []
    if own and not arguments.label_column_name and spec.label_column is not None:
        guessed.append(spec.label_column)
    return {"text": list(spec.text_columns), "label": spec.label_column, "guessed": guessed}


def split_report(
    spec: TaskSpec, split: TokenSplit, tokens: Tokens, rows: np.ndarray, *, held_out: bool
) -> dict[str, Any]:
    """What is known of one split, whose examples are the `rows` of `tokens`.

    `chosen` stands for which examples these are, where they are not the whole file's.
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
        "truncated": len(cut),
        "truncated_tokens_p95": float(np.percentile(cut, 95)) if len(cut) else 0.0,
        "max_length": int(split.lengths.max()) if len(split) else 0,
        "mean_length": float(split.lengths.mean()) if len(split) else 0.0,
        "labels": _label_summary(spec, split),
    }


def _label_summary(spec: TaskSpec, split: TokenSplit) -> dict[str, Any] | None:
    """How many examples have each label; of scores, their range and mean."""
    if split.labels is None or not len(split):
        return None
    if spec.kind == "regression":
        scores = split.labels.astype(np.float64)
        return {"lowest": scores.min().item(), "highest": scores.max().item(), "mean": scores.mean().item()}
    names = spec.labels or ()
    if spec.kind == "multi_label":
        counts = split.labels.sum(axis=0).astype(np.int64)
    else:
        counts = np.bincount(split.labels, minlength=len(names))
    return dict(zip(names, counts.tolist(), strict=True))


def describe(data: TaskData) -> list[str]:
    """The report of `data` as lines to print: what was read, and everything that a user should know of it."""
    report = data.report
    lines = []
    if guessed := report["columns"]["guessed"]:
        flags = "--text_column_names and --label_column_name"
        lines.append(f"guessed: columns {list_names(guessed)}, kind {report['kind']} ({flags} name others)")
    for name, found in report["splits"].items():
        lines += [f"{name}: {line}" for line in _describe_split(found, report)]
        if not data.caches[name].startswith(("built", "reused")):
            lines.append(f"{name}: token cache {data.caches[name]}")
    for name, found in report["duplicates"].items():
        if found["train_examples"]:
            what = "dropped" if found["dropped"] else "kept; --drop_leaked drops them"
            lines.append(f"train: {found['train_examples']} examples stand in {name} too ({what})")
    return lines


def _describe_split(found: dict[str, Any], report: dict[str, Any]) -> list[str]:
    part = ", held out of the training data" if found["held_out_of_train"] else ""
    lines = [
        f"{found['examples']} of {found['examples_in_file']} examples of {found['source']}{part}; "
        f"{found['mean_length']:.1f} tokens on average, {found['max_length']} at most"
    ]
    if found["labels"] is not None and report["kind"] != "regression":
        counts = [f"{printable(name, 40)} {count}" for name, count in found["labels"].items()]
        lines.append(f"labels: {list_names(counts)}")
    if found["labels"] is not None and report["kind"] == "regression":
        scores = found["labels"]
        lines.append(
            f"scores: {scores['lowest']:g} to {scores['highest']:g}, {scores['mean']:.4g} on average"
        )
    if found["truncated"]:
        lines.append(
            f"{found['truncated']} examples were cut at {report['max_length']} tokens; 95 % of these lost at "
            f"most {found['truncated_tokens_p95']:.0f} tokens"
        )
    if found["empty_texts"]:
        lines.append(f"{found['empty_texts']} examples have an empty text")
    if found["nul_texts"]:
        lines.append(f"{found['nul_texts']} texts hold a NUL character")
    if unreadable := found["unreadable"]:
        named = "; ".join(f"line {line} {why}" for line, why in unreadable[:SHOWN_LINES])
        more = f"; and {len(unreadable) - SHOWN_LINES} more" if len(unreadable) > SHOWN_LINES else ""
        lines.append(f"{len(unreadable)} unreadable lines were left out: {named}{more}")
    if found["expected_in_file"] not in (None, found["examples_in_file"]):
        lines.append(
            f"warning: {found['examples_in_file']} examples, where the published file has "
            f"{found['expected_in_file']}"
        )
    return lines
