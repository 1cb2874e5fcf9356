"""BatchNorm over the real word tokens of all processes.

Departure from the published text code: its BatchNorm also counts padding, so that an example's features
depend on how long its batch mates are. Shapes: B batch, N tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn


class MaskedBatchNorm(nn.Module):
    """BatchNorm of (B, N, D) in which only tokens under the mask count.

    In training, mean and variance come from the words of the whole batch over all processes of the default
    process group; the running ones, for evaluation, follow with `momentum` and hold still where a batch has
    no word. Every process of the group must then run the same number of training forwards, as under
    DistributedDataParallel.

    Args:
        num_features: D.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_features: int, *, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__()
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))

    def forward(self, features: Tensor, word_mask: Tensor) -> Tensor:
        """Normalise (B, N, D) by (B, N) bool -> (B, N, D); at padding it is finite but meaningless."""
        if self.training:
            mean, variance = self._batch_statistics(features, word_mask)
        else:
            mean, variance = self.running_mean.to(features.dtype), self.running_var.to(features.dtype)
        gain = (variance + self.eps).rsqrt() * self.weight.to(features.dtype)
        return (features - mean) * gain + self.bias.to(features.dtype)

    def _batch_statistics(self, features: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        tokens = features.flatten(0, 1)  # (B N, D)
        counted = word_mask.flatten().to(tokens.dtype)  # (B N,)
        count = counted.sum()
        # Two passes: the mean of squares less the square of the mean would lose the variance's digits.
        total = _sum_over_processes(torch.cat([counted @ tokens, count.unsqueeze(0)]))
        count = total[-1]
        mean = total[:-1] / count.clamp_min(1)
        variance = _sum_over_processes(counted @ (tokens - mean).square()) / count.clamp_min(1)
        with torch.no_grad():
            # As torch's BatchNorm: normalise by the batch's own variance, remember the unbiased one.
            unbiased = variance * (count / (count - 1).clamp_min(1))
            momentum = torch.where(count > 0, self.momentum, 0.0)
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum.to(self.running_mean.dtype))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum.to(self.running_var.dtype))
        return mean, variance


def _sum_over_processes(value: Tensor) -> Tensor:
    if not (distributed.is_available() and distributed.is_initialized()):
        return value
    total: Tensor = _AllReduceSum.apply(value)
    return total


class _AllReduceSum(torch.autograd.Function):
    """The sum over processes; every process's loss depends on it, so its gradient is their sum too."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        distributed.all_reduce(total)
        return total
