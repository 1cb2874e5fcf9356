"""Detect collapsed runs: constant predictions, a flat training loss, scores at chance level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pvariance
from typing import Any

from sot_nlp.errors import decimal, printable
from sot_nlp.tasks.metrics import METRICS

REMEDY = "try another --seed, warm-up (--warmup_ratio 0.1), a lower --learning_rate, or more epochs"
WITHOUT_UPDATES = "give more examples, or use --training_method fine_tune"
# The mean loss of the last tenth of a run must be at least this share below that of its first tenth.
LEAST_FALL = 0.02
# A score this near to that of predictions that know nothing is what chance gives on a few hundred examples.
NO_SKILL = 0.01


def collapse_warnings(
    predictions: Sequence[Any],
    losses: Sequence[float],
    scores: Mapping[str, float | None],
    kind: str,
    *,
    updates: bool = True,
) -> list[str]:
    """Return one sentence for each sign of a collapsed run; empty for a sound one.

    Args:
        predictions: what the kept model predicts on the validation split: labels, scores or lists of labels.
        losses: the training loss at each log line, in order.
        scores: the kept model's metrics on the validation split.
        kind: `classification`, `regression` or `multi_label`.
        updates: whether the run had any, not a closed form alone.
    """
    signs = []
    distinct = {tuple(p) if isinstance(p, list) else p for p in predictions}
    if len(predictions) > 1 and len(distinct) == 1:
        what = {"regression": "score", "multi_label": "labels"}.get(kind, "class")
        same = distinct.pop()
        shown = (", ".join(map(printable, same)) or "none") if isinstance(same, tuple) else printable(same)
        signs.append(f"every validation example gets the same {what} ({shown})")
    if not fell(losses):
        signs.append("the training loss did not fall")
    for name, score in scores.items():
        no_skill = METRICS[name].no_skill if name in METRICS else None
        if no_skill is not None and score is not None and abs(score - no_skill) < NO_SKILL:
            signs.append(f"{name} is {decimal(score, 3)}, which is chance level")
    return [f"collapsed run: {sign}; {REMEDY if updates else WITHOUT_UPDATES}" for sign in signs]


def scale_warning(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return one sentence if the mean of the scores, `label` of `rows`, is nearer to them than `prediction`.

    Correlations know no scale: they may be high where the scores themselves are useless.
    """
    labels = [row["label"] for row in rows if "label" in row]
    if len(labels) < 2:
        return []
    error = fmean((row["prediction"] - row["label"]) ** 2 for row in rows)
    variance = pvariance(labels)
    if error <= variance:
        return []
    return [
        f"the predicted scores are off by {decimal(error**0.5, 3)} (root mean square), more than the scores' "
        f"mean alone would be, {decimal(variance**0.5, 3)}: train for longer, or use them as ranks alone"
    ]


def fell(losses: Sequence[float]) -> bool:
    """Return whether the loss fell over the run; True with too few log lines (under 10) to tell."""
    if len(losses) < 10:
        return True
    tenth = len(losses) // 10
    first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
    return last < first * (1 - LEAST_FALL)
