"""The loss of a batch: the model's own, or cross-entropy with class weights and label smoothing.

Shapes: B batch, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sot_nlp.errors import UserError
from sot_nlp.modeling.losses import scored_loss

# (the model as accelerate wrapped it, its inputs with the labels) -> the mean loss of the batch
BatchLoss = Callable[[Any, dict[str, Tensor]], Tensor]


def model_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss that the model computes from its labels."""
    loss: Tensor = model(**batch).loss
    return loss


def training_loss(model: Any, labels: Any, *, label_smoothing: float, class_weights: Any) -> BatchLoss:
    """Return the loss to train `model` with; the model's own without weights (K,) or smoothing.

    The weights are scaled so that their mean over `labels` (n,), the training split's, is 1: the loss keeps
    its size. Each example's loss, smoothed or not, counts with the weight of its own class, whoever shares
    its batch, so accumulation and many processes change nothing. Late fusion has one loss per branch here,
    too. Raises UserError where the labels are not classes.
    """
    if not label_smoothing and class_weights is None:
        return model_loss
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        flag = "--label_smoothing" if class_weights is None else "--class_weights"
        raise UserError(f"{flag}: only where each example has one label of several")
    weights = None
    if class_weights is not None:
        values = np.asarray(class_weights, dtype=np.float64)
        weights = torch.tensor(values / values[np.asarray(labels)].mean(), dtype=torch.float32)
    head = getattr(model.config, "head_config", None)

    def loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
        output = model(**{name: tensor for name, tensor in batch.items() if name != "labels"})

        def mean(logits: Tensor) -> Tensor:
            nonlocal weights
            labels = batch["labels"]
            losses = cross_entropy(logits, labels, label_smoothing=label_smoothing, reduction="none")
            if weights is not None:
                weights = weights.to(logits)  # once: a copy to a GPU would make each batch wait
                # (torch's own `weight` would weight each class's share of a smoothed label, too: a rare
                # class would then have most of every label)
                losses = losses * weights[labels]
            return losses.mean()

        return scored_loss(head, output, mean)

    return loss
