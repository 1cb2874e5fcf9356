"""Plot a training from its record alone: a PNG of losses and scores over the updates."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from typing import Any

from sot_nlp.errors import printable
from sot_nlp.tasks.metrics import traits


def training_plot(record: Mapping[str, Any]) -> bytes | None:
    """Plot loss and main metric over the updates, as PNG; the same bytes for the same record.

    None where the record holds no curve.
    """
    # The log has the evaluations too, which have no rate.
    losses = _points((entry for entry in entries(record, "log_history") if "learning_rate" in entry), "loss")
    metric = str(record.get("main_metric") or mapping(record, "best").get("metric") or "")
    evaluations = evaluations_of(record)
    splits = list(dict.fromkeys(str(entry["split"]) for entry in evaluations))
    if not losses and not evaluations:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), dpi=120, layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    if losses:
        left.plot(*zip(*losses, strict=True), color="#7a8ba0", linewidth=1.2, label="training")
    for split, color in zip(splits, ("#b3502f", "#3f7d5b", "#5a4fa3", "#8a6d1f"), strict=False):
        own = [entry for entry in evaluations if str(entry["split"]) == split]
        name = printable(split, 40).replace("$", r"\$")
        for axes, key in ((left, "loss"), (right, metric)):
            if points := _points(own, key):
                axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=name)
    best = mapping(record, "best")
    if isinstance(best.get("step"), int) and isinstance(best.get("value"), (int, float)):
        right.axvline(best["step"], color="#999999", linewidth=0.8, linestyle=":", label="kept")
    left.set_ylabel("loss")
    known = traits(metric, record)
    direction = "" if known.higher_is_better else " (lower is better)"
    right.set_ylabel((printable(known.title, 40) + direction).replace("$", r"\$"))
    for axes in (left, right):
        axes.set_xlabel("update")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, fontsize="small")
    image = io.BytesIO()
    figure.savefig(image, format="png", metadata={"Software": "sot-nlp"})
    return image.getvalue()


def _points(entries: Iterable[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Return (update, value) of every entry that has both as finite numbers."""
    pairs = ((entry.get("step"), entry.get(key)) for entry in entries)
    return [
        (float(step), float(value))
        for step, value in pairs
        if isinstance(step, (int, float)) and isinstance(value, (int, float)) and math.isfinite(value)
    ]


def mapping(record: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return the mapping that a record holds under `key`; an empty one where it holds none."""
    value = record.get(key)
    return value if isinstance(value, Mapping) else {}


def entries(record: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return the list of mappings that a record holds under `key`, without anything that is none."""
    value = record.get(key)
    return [entry for entry in value if isinstance(entry, Mapping)] if isinstance(value, list) else []


def evaluations_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the scores of each evaluation and split, with `epoch`, `step` and `split`."""
    scored = []
    for entry in entries(record, "evaluations"):
        splits = mapping(entry, "splits") or {entry.get("split") or "validation": entry}
        for split, scores in splits.items():
            if isinstance(scores, Mapping):
                scored.append(
                    {**scores, "epoch": entry.get("epoch"), "step": entry.get("step"), "split": split}
                )
    return scored
