"""The layers that the head is built of, each in the precision of its input.

Shapes: B batch, N tokens, M heads, P x Q a head's matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .covariance import Groups, split_heads


class CastingLinear(nn.Linear):
    """nn.Linear in its input's precision: a head whose weights are bf16 still computes in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.linear(input, self.weight.to(input.dtype), bias)


class MapLayerNorm(nn.Module):
    """LayerNorm over each head's channels of each map, with a gain and a shift a channel."""

    def __init__(self, groups: Groups) -> None:
        super().__init__()
        self.groups = groups
        num_features = sum(heads * width for heads, width in groups)
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, features: Tensor, word_mask: Tensor) -> Tensor:
        """(B, N, M (P + Q)) -> the same shape; the mask is not needed, each token stands alone."""
        by_head = split_heads(features, self.groups)
        normalized = [functional.layer_norm(part, part.shape[-1:]).flatten(-2) for part in by_head]
        return torch.cat(normalized, -1) * self.weight.to(features.dtype) + self.bias.to(features.dtype)


class UniformDropout(nn.Dropout):
    """nn.Dropout by uniform numbers: on a CPU, torch's own Bernoulli numbers take 4 times as long."""

    def forward(self, input: Tensor) -> Tensor:
        """Any shape, which is kept."""
        if not self.training or self.p == 0:
            return input
        return input * torch.rand_like(input).ge_(self.p).div_(1 - self.p)
