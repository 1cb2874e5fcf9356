"""Score a model on a task's labelled splits, and list its predictions, one row per example."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError
from sot_nlp.training import evaluation
from sot_nlp.training.logs import finite

if TYPE_CHECKING:
    import numpy as np
    import torch
    from accelerate import Accelerator

    from sot_nlp.data.task_data import TokenSplit
    from sot_nlp.runs.score_scale import ScoreScale
    from sot_nlp.tasks.labels import Alignment
    from sot_nlp.tasks.spec import TaskSpec


@dataclass(kw_only=True)
class Scorer:
    """Score a model on the validation splits of `spec`; the training calls it after each epoch.

    `labels` are the task's names in the order of their ids (None: a regression).
    `alignment` says where the task's labels are in the model's outputs (None: in the task's order).
    `scale` says what scale a regression's outputs have while it is trained (None: that of the scores).
    `splits` maps their names to their tokens; the first is the one that the best model is chosen by.
    """

    spec: TaskSpec
    labels: tuple[str, ...] | None
    splits: dict[str, TokenSplit]
    accelerator: Accelerator
    batch_size: int | None
    pad_token_id: int
    padding_side: str
    alignment: Alignment | None = None
    scale: ScoreScale | None = None

    def __call__(self, model: torch.nn.Module) -> dict[str, Any]:
        """Return an evaluation's entry of the record: see `entry`."""
        return entry({name: self.score(s, self.logits(model, s)) for name, s in self.splits.items()})

    def logits(self, model: torch.nn.Module, split: TokenSplit) -> np.ndarray:
        """Return logits (n, K) in fp32, in the order of the split and the task's labels, on every process."""
        logits = evaluation.predict(
            model,
            split,
            self.accelerator,
            batch_size=self.batch_size,
            pad_token_id=self.pad_token_id,
            padding_side=self.padding_side,
        )
        if self.scale is not None:
            logits = self.scale.restored(logits)
        return logits if self.alignment is None else logits[:, self.alignment.columns]

    def score(self, split: TokenSplit, logits: np.ndarray) -> dict[str, float | None]:
        """Return loss and metrics of `logits` (n, K) on `split`; None for what is not finite."""
        kind = self.spec.kind
        if split.labels is None:
            raise UserError(f"the split {split.name} has no labels to score against")
        scores = metrics_of_logits(self.spec.metrics, logits, split.labels, kind)
        return finite({"loss": evaluation.loss(logits, split.labels, kind), **scores})

    def rows(self, split: TokenSplit, logits: np.ndarray) -> list[dict[str, Any]]:
        """Return the content of `predictions.json`: one row per example, in the file's order.

        `index` in the file; `label` and `prediction` as class ids (positions in the record's `labels`), for a
        regression as scores, for several labels as one 0 or 1 per label; `probabilities` in the order of the
        ids, omitted for a regression. A split without labels has no `label`.
        """
        kind = self.spec.kind
        columns = {"index": split.indices.tolist()}
        if split.labels is not None:
            columns["label"] = shortest(split.labels)
        columns["prediction"] = shortest(decisions(logits, kind))
        if kind != "regression":
            columns["probabilities"] = shortest(evaluation.probabilities(logits, kind))
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def named(self, prediction: Any) -> Any:
        """Return a prediction of `rows` in the task's words: a label's name, several names, or the score."""
        if self.labels is None:
            return prediction
        if self.spec.kind == "multi_label":
            return [name for name, held in zip(self.labels, prediction, strict=True) if held]
        return self.labels[prediction]


def entry(scores: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Return `{split, loss, <metric>...}` of the first of `scores`; with several, all under `splits`."""
    first = next(iter(scores))
    return {"split": first, **scores[first], **({"splits": scores} if len(scores) > 1 else {})}


def metrics_of_logits(
    names: Iterable[str], logits: np.ndarray, labels: np.ndarray, kind: str
) -> dict[str, float]:
    """Return the metrics `names` of `logits` (n, K) against `labels`, by their `evaluate` modules."""
    from sot_nlp.tasks import metric_modules  # `evaluate` is needed from the first score on

    probabilities = None if kind == "regression" else evaluation.probabilities(logits, kind)
    return metric_modules.compute(names, decisions(logits, kind), labels, probabilities=probabilities)


def shortest(values: np.ndarray) -> list[Any]:
    """Return `values` as plain numbers; a float32 as the shortest decimal that identifies it, 0.1 as 0.1."""
    if values.dtype != "float32":
        return list(values.tolist())
    return list(values.astype(str).astype("float64").tolist())


def decisions(logits: np.ndarray, kind: str) -> np.ndarray:
    """Return the model's decisions: the likeliest class (n,), the score (n,), or 0 or 1 per label (n, K)."""
    if kind == "regression":
        return logits[:, 0]
    if kind == "multi_label":
        return (logits > 0).astype("int64")
    return logits.argmax(-1)
