"""Layers of the head, each computing in the precision of its input.

Shapes: B batch, N tokens, M heads, P x Q matrix per head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .covariance import Groups, split_heads


class CastingLinear(nn.Linear):
    """nn.Linear in its input's precision: a head whose weights are bf16 still computes in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.linear(input, self.weight.to(input.dtype), bias)


class MapLayerNorm(nn.Module):
    """LayerNorm over each head's channels of each map, with a gain and a shift per channel."""

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self.groups = groups
        num_features = sum(heads * width for heads, width in groups)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, features: Tensor, word_mask: Tensor) -> Tensor:
        """Map (B, N, M (P + Q)) -> the same shape; the mask is not needed, tokens are independent."""
        by_head = split_heads(features, self.groups)
        normalized = [functional.layer_norm(part, part.shape[-1:]).flatten(-2) for part in by_head]
        return torch.cat(normalized, -1) * self.weight.to(features.dtype) + self.bias.to(features.dtype)


LEVELS = 1 << 16


def keep_factors(like: Tensor, p: float) -> Tensor:
    """Draw 0 with probability p, else 1 / (1 - p), for each element of `like`, in its dtype.

    On a CPU, where torch's own Bernoulli numbers take ten times as long, 16 bits of a 64-bit random number
    decide about an element: p counts in steps of 1/65,536, and the factor is that of the rounded p, so that
    the expectation is exactly 1. Draws from torch's default generator.
    """
    if torch.compiler.is_compiling():
        return torch.rand_like(like).ge_(p).div_(1 - p)
    kept, factor = draw_kept(like, p)
    return kept.mul_(factor)


def draw_kept(like: Tensor, p: float) -> tuple[Tensor, float]:
    """Draw `keep_factors` on a CPU in two parts: 0 or 1 per element of `like`, and the factor of the ones."""
    dropped = round(p * LEVELS)
    if dropped >= LEVELS:
        return torch.zeros_like(like), 1.0
    words = torch.empty(-(-like.numel() // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    levels = words.view(torch.int16)[: like.numel()].view(like.shape)
    # (compared as floats, which hold all levels: torch compares short integers a number at a time)
    kept = levels.to(torch.float32).ge_(dropped - LEVELS // 2)
    return kept.to(like.dtype), LEVELS / (LEVELS - dropped)


class UniformDropout(nn.Dropout):
    """nn.Dropout, on a CPU by `keep_factors`; elsewhere torch's own, which is one kernel."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements of any shape, which is kept."""
        if not self.training or self.p == 0:
            return input
        return input * keep_factors(input, self.p) if input.device.type == "cpu" else super().forward(input)
