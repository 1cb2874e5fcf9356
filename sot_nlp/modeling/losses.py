"""The loss of a classifier's logits, by kind of problem. Shapes: B batch, K labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

ProblemType = Literal["regression", "single_label_classification", "multi_label_classification"]


def problem_type_of(labels: Tensor, num_labels: int) -> ProblemType:
    """Return the kind of problem for labels of this type, as transformers guesses it."""
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(logits: Tensor, labels: Tensor, problem_type: ProblemType) -> Tensor:
    """Return the mean loss: cross-entropy, binary cross-entropy or squared error.

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


def scored_loss(
    head: Any, output: Any, loss: Callable[[Tensor], Tensor], *, regression: bool = False
) -> Tensor:
    """Return the sum of `loss` over the logits that a head's fusion scores: all of them, or each branch's.

    The logits are the sum of the branches'. Of classes each branch may learn them whole, for a sum decides as
    a mean does; a branch's score is the number of branches times its logit, so that the sum is their mean.

    Args:
        head: the head's settings (`SoTHeadConfig`); None for a model without a SoT head.
        output: the head's output or the model's, with the logits (B, K) that `head.scores` names.
        loss: the loss of such logits.
        regression: whether the logits are scores.
    """
    names = ("logits",) if head is None else head.scores
    factor = len(names) if regression and "logits" not in names else 1
    first, *others = (loss(factor * getattr(output, name)) for name in names)
    return sum(others, first)
