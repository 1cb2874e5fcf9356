"""BatchNorm over the real word tokens of all processes.

Departure from the published text code: its BatchNorm also counts padding, so that an example's features
depend on how long its batch mates are. Shapes: B batch, N tokens, D channels.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, distributed, nn

from .normalization import by_operation


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
        weight, bias = self.weight.to(features.dtype), self.bias.to(features.dtype)
        if not self.training:
            gain = (self.running_var.to(features.dtype) + self.eps).rsqrt() * weight
            return (features - self.running_mean.to(features.dtype)) * gain + bias
        tokens = features.flatten(0, 1)  # (B N, D)
        counted = word_mask.flatten().to(tokens.dtype)  # (B N,)
        if by_operation():
            normalized, mean, variance, count, *_ = _Normalize.apply(tokens, counted, weight, bias, self.eps)
        else:
            centered, mean, variance, count = _statistics(tokens, counted)
            normalized = centered * ((variance + self.eps).rsqrt() * weight) + bias
        self._remember(mean, variance, count)
        return normalized.view(features.shape)

    @torch.no_grad()
    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        # As torch's BatchNorm: normalise by the batch's own variance, remember the unbiased one.
        unbiased = variance * (count / (count - 1).clamp_min(1))
        momentum = torch.where(count > 0, self.momentum, 0.0)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum.to(self.running_mean.dtype))
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), momentum.to(self.running_var.dtype))


def _statistics(tokens: Tensor, counted: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the tokens less their mean, mean and variance of the counted ones of all processes, and these.

    (T, D) by (T,) -> (T, D), (D,), (D,) and ().
    """
    # Two passes: the mean of squares less the square of the mean would lose the variance's digits.
    total = _sum_over_processes(torch.cat([counted @ tokens, counted.sum().unsqueeze(0)]))
    count = total[-1]
    divisor = count.clamp_min(1)
    mean = total[:-1] / divisor
    centered = tokens - mean
    variance = _sum_over_processes(counted @ centered.square()) / divisor
    return centered, mean, variance, count


class _Normalize(torch.autograd.Function):
    """Tokens, normalised by the counted ones' statistics, with a gradient of few operations.

    (T, D) by (T,), and a weight and a bias (D,) -> (T, D); then mean, variance and count.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        tokens: Tensor, counted: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, ...]:
        centered, mean, variance, count = _statistics(tokens, counted)
        spread = (variance + eps).rsqrt()
        unit = centered * spread
        share = counted / count.clamp_min(1)
        return torch.addcmul(bias, unit, weight), mean, variance, count, unit, share, spread * weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*output[4:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        unit, share, gain = ctx.saved_tensors
        of_bias, of_weight = grad.sum(0), (grad * unit).sum(0)
        # Each counted token moves mean and variance, and with them the result of every process's tokens.
        of_mean, of_spread = _sum_over_processes(torch.stack([of_bias, of_weight]))
        moved = share.unsqueeze(-1) * torch.addcmul(of_mean, unit, of_spread)
        return (grad - moved) * gain, None, of_weight, of_bias, None


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
