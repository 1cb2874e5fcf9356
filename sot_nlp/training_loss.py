"""The cross-entropy with class weights and label smoothing, for the time of a training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sot_nlp.errors import UserError


@contextmanager
def adjusted_loss(
    model: torch.nn.Module, labels: Any, *, label_smoothing: float, class_weights: Any
) -> Iterator[None]:
    """Inside, `model` is trained with class weights (K,) and label smoothing in its cross-entropy.

    The weights are scaled so that their mean over `labels` (n,), the training split's, is 1: the loss keeps
    its size. Each example's loss counts with its own weight, whoever shares its batch, so accumulation and
    many processes change nothing. Raises UserError where the labels are not classes.
    """
    if not label_smoothing and class_weights is None:
        yield
        return
    flag = "--label_smoothing" if class_weights is None else "--class_weights"
    owner = next((m for m in model.modules() if hasattr(m, "classification_loss")), None)
    if owner is None or not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise UserError(f"{flag}: only where each example has one label of several")
    weights = None
    if class_weights is not None:
        values = np.asarray(class_weights, dtype=np.float64)
        weights = torch.tensor(values / values[np.asarray(labels)].mean(), dtype=torch.float32)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        weight = None if weights is None else weights.to(logits)
        return cross_entropy(
            logits, labels.view(-1), weight=weight, label_smoothing=label_smoothing, reduction="none"
        ).mean()

    owner.classification_loss = loss  # type: ignore[assignment]
    try:
        yield
    finally:
        del owner.classification_loss
