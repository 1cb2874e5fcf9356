"""The loss of a classifier's logits, by kind of problem. Shapes: B batch, K labels."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def problem_type_of(labels: Tensor, num_labels: int) -> ProblemType:
    """The kind of problem that labels of this type are of, as transformers guesses it."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(logits: Tensor, labels: Tensor, problem_type: ProblemType) -> Tensor:
    """The mean loss: cross-entropy, binary cross-entropy or squared error.

    Args:
        logits: (B, K).
        labels: (B,) class ids for one label of K; else as many values as logits: 0 and 1 for many labels,
            scores for a regression.
        problem_type: one of transformers' three.

    Raises:
        ValueError: for labels of another size.
    """
    if problem_type == "single_label_classification":
        return F.cross_entropy(logits, labels.view(-1))
    if labels.numel() != logits.numel():
        raise ValueError(
            f"{problem_type}: labels of {tuple(labels.shape)} do not fit logits of {tuple(logits.shape)}"
        )
    targets = labels.reshape(logits.shape).to(logits.dtype)
    if problem_type == "regression":
        return F.mse_loss(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets)
