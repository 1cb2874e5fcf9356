"""The metrics as `evaluate.Metric` classes, for users of evaluate: no network, no downloaded code.

`evaluate.combine([MatthewsCorrelation(), Accuracy()])` gives both. In a run of several processes, gather
one prediction an example first, as this package does, and compute on one: evaluate's `num_process` scores
the examples that pad the last batch a second time.
"""

from __future__ import annotations

from typing import Any, ClassVar

import datasets
import evaluate

from sot_nlp.tasks import metrics

_ONE = {
    "classification": {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")},
    "regression": {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")},
    "multi_label": {
        "predictions": datasets.Sequence(datasets.Value("int64")),
        "references": datasets.Sequence(datasets.Value("int64")),
    },
}


class _Module(evaluate.Metric):
    """An evaluate module of the metric called `metric`; its result's one key is that name."""

    metric: ClassVar[str]

    def _info(self) -> evaluate.MetricInfo:
        entry = metrics.METRICS[self.metric]
        layouts = [datasets.Features(_ONE[kind]) for kind in entry.kinds]
        return evaluate.MetricInfo(
            description=entry.score.__doc__ or "",
            citation="",
            inputs_description="predictions and references: one value, or one list of 0 and 1, an example.",
            features=layouts if len(layouts) > 1 else layouts[0],
        )

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return metrics.compute(self.metric, predictions, references)


class MatthewsCorrelation(_Module):
    """Matthews' correlation: `metrics.matthews_correlation`."""

    metric = "matthews_correlation"


class Accuracy(_Module):
    """Accuracy: `metrics.accuracy`."""

    metric = "accuracy"


class F1(_Module):
    """F1 of class 1: `metrics.f1`."""

    metric = "f1"


class MicroF1(_Module):
    """F1 of all decisions together: `metrics.micro_f1`."""

    metric = "micro_f1"


class MacroF1(_Module):
    """The labels' mean F1: `metrics.macro_f1`."""

    metric = "macro_f1"


class Pearson(_Module):
    """Pearson's correlation: `metrics.pearson`."""

    metric = "pearson"


class Spearman(_Module):
    """Spearman's rank correlation: `metrics.spearman`."""

    metric = "spearman"
