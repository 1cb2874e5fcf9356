"""The registered metrics as modules of `evaluate`: no network, no downloaded code.

`evaluate.combine([module("matthews_correlation"), module("accuracy")])` gives both. In a run of several
processes, gather one prediction per example first, as this package does, and compute on one: evaluate's
`num_process` scores the examples that pad the last batch a second time.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import datasets
import evaluate

from sot_nlp.tasks import metrics
from sot_nlp.tasks.metrics import Metric

_ID, _SCORE = datasets.Value("int64"), datasets.Value("float64")
_LAYOUTS = {
    "classification": {"predictions": _ID, "references": _ID},
    "regression": {"predictions": _SCORE, "references": _SCORE},
    "multi_label": {"predictions": datasets.Sequence(_ID), "references": datasets.Sequence(_ID)},
}


class MetricModule(evaluate.Metric):
    """An evaluate module of a registered metric; its result's one key is that metric's name.

    Predictions and references stay in memory unless `cache_dir` or `num_process` is given.
    """

    def __init__(self, metric: Metric, **options: Any):
        self.metric = metric
        options = options or {"keep_in_memory": True}
        super().__init__(**options)
        self._module_info.module_name = metric.name

    def _build_data_dir(self) -> str:
        # In memory nothing is written, and a home that can't be written to is no obstacle.
        return self._data_dir_root if self.keep_in_memory else super()._build_data_dir()

    def _info(self) -> evaluate.MetricInfo:
        layouts = [datasets.Features(self._layout(kind)) for kind in self.metric.kinds]
        better = "more" if self.metric.higher_is_better else "less"
        return evaluate.MetricInfo(
            description=f"{self.metric.title}: {better} is better. {self.metric.score.__doc__ or ''}",
            citation="",
            inputs_description="One value per example, or one list: of 0 and 1, or of probabilities.",
            features=layouts if len(layouts) > 1 else layouts[0],
        )

    def _layout(self, kind: str) -> dict[str, Any]:
        layout = _LAYOUTS[kind]
        if self.metric.reads == "probabilities":
            layout = {**layout, "predictions": datasets.Sequence(_SCORE)}
        return layout

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return metrics.compute(self.metric.name, predictions, references, probabilities=predictions)


def module(name: str, **options: Any) -> MetricModule:
    """Return the evaluate module of the metric `name`; `options` are `evaluate.Metric`'s.

    Raises UserError for a name that is not registered.
    """
    return MetricModule(metrics.metric_of(name), **options)


_in_memory = functools.lru_cache(maxsize=32)(MetricModule)


def compute(
    names: Iterable[str], predictions: Any, references: Any, *, probabilities: Any = None
) -> dict[str, float]:
    """Return what `metrics.compute` returns, each metric computed by its module."""
    scores: dict[str, float] = {}
    for name in names:
        metric = metrics.metric_of(name)
        given = probabilities if metric.reads == "probabilities" else predictions
        scores |= _in_memory(metric).compute(predictions=given, references=references)
    return scores
