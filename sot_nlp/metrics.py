"""Metrics."""

from __future__ import annotations

from typing import NamedTuple


class Metric(NamedTuple):
    """What is known of a metric without computing it."""

    kinds: tuple[str, ...]
    higher_is_better: bool = True


METRICS = {
    "matthews_correlation": Metric(("classification",)),
    "accuracy": Metric(("classification",)),
    "f1": Metric(("classification",)),
    "pearson": Metric(("regression",)),
    "spearman": Metric(("regression",)),
    "micro_f1": Metric(("classification", "multi_label")),
    "macro_f1": Metric(("classification", "multi_label")),
}


def default_metrics(kind: str) -> tuple[str, ...]:
    """The metrics of a task whose YAML file names none, the main one first."""
    return {
        "classification": ("accuracy", "macro_f1"),
        "regression": ("pearson", "spearman"),
        "multi_label": ("micro_f1", "macro_f1"),
    }[kind]
