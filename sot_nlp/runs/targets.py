"""Fit the model's outputs and the training examples to each other: labels, their order, class weights."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sot_nlp.data.stream import StreamedSplit
from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.labels import GENERIC, Alignment, label_names

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PreTrainedModel

    from sot_nlp.data.task_data import TaskData, TokenSplit
    from sot_nlp.runs.score_scale import ScoreScale

logger = logging.getLogger(__name__)


def label_options(labels: Sequence[str]) -> dict[str, Any]:
    """Return the config fields that name `labels` in their order."""
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: index for index, name in enumerate(labels)},
    }


def take_labels(model: PreTrainedModel, labels: Sequence[str], alignment: Alignment | None) -> None:
    """Fit trained outputs, as many as `labels`, to these names.

    The same names keep their places; outputs without names take the task's; for other labels (`alignment`
    None) the output layer is reinitialised, since a position says nothing about what a label means.
    """
    before = label_names(model.config.id2label)
    if alignment is not None and not all(map(GENERIC.fullmatch, before)):
        return
    if alignment is None:
        model.renew_outputs()  # type: ignore[operator]  # a SoT classifier
        logger.warning(
            "the checkpoint's labels (%s) are not the task's (%s): its output layer is new, to be trained",
            ", ".join(map(printable, before)),
            ", ".join(map(printable, labels)),
        )
    model.config.update(label_options(labels))


def class_weights(arguments: Arguments, data: TaskData, alignment: Alignment | None) -> torch.Tensor | None:
    """Return one weight per model output (the loss scales them to a mean of 1); None for equal weights."""
    if arguments.class_weights is None:
        return None
    import numpy as np
    import torch

    if data.stream is not None:
        raise UserError("--class_weights: scaled by each label's frequency, which is unknown in a stream")
    labels = data.splits["train"].labels
    if data.kind != "classification" or data.labels is None or labels is None:
        raise UserError("--class_weights: only for tasks with one label per example")
    counts = np.bincount(labels, minlength=len(data.labels))
    if arguments.class_weights == "balanced":
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
    else:
        weights = np.zeros(0)
        with contextlib.suppress(ValueError):
            weights = np.array([float(part) for part in arguments.class_weights.split(",")])
        if len(weights) != len(counts) or not (weights > 0).all() or not np.isfinite(weights).all():
            raise UserError(
                f"--class_weights {printable(arguments.class_weights)}: expected 'balanced' or "
                f"{len(counts)} positive numbers, for {', '.join(map(printable, data.labels))}"
            )
    if alignment is not None:
        weights = weights[np.argsort(alignment.columns)]
    return torch.tensor(weights, dtype=torch.float32)


def training_split(
    data: TaskData, alignment: Alignment | None, scale: ScoreScale | None = None
) -> TokenSplit | StreamedSplit:
    """Return the training examples with their labels as the model numbers them, or scores on `scale`."""
    import numpy as np

    split = data.stream or data.splits["train"]
    if scale is not None and not isinstance(split, StreamedSplit) and split.labels is not None:
        return dataclasses.replace(split, labels=scale.standardized(split.labels))
    if alignment is None or alignment.same_order:
        return split
    columns = np.asarray(alignment.columns)

    def relabel(labels: np.ndarray) -> np.ndarray:
        return columns[labels] if data.kind == "classification" else labels[:, columns.argsort()]

    if isinstance(split, StreamedSplit):
        return split.relabelled(relabel)
    return split if split.labels is None else dataclasses.replace(split, labels=relabel(split.labels))
