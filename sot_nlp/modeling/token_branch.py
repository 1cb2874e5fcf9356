"""Make the classification token's vector before its linear: mixed layers, maxima over layers, attention.

`parts.CLASS_TOKENS` names them. The maxima and the attention follow the description of MaxPoolBERT's heads
(arXiv 2505.15696), not its code: attention without a residual or dropout, and nothing but the linear behind.
Shapes: B batch, N tokens, L layers, C hidden size, H attention heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .head_checks import HeadSettingsError
from .layers import CastingLinear

ATTENTION_HEADS = 4


class TokenBranch(nn.Module):
    """The base: from the classification token in each of the last layers to one vector.

    Args:
        config: the head's settings.
        hidden_size: C.
    """

    def __init__(self, config: Any, hidden_size: int) -> None:
        super().__init__()
        self.config = config

    def reset(self, std: float) -> None:
        """Set the first values of raw parameters in itself."""

    def forward(
        self, class_token: Tensor, layers: Sequence[Tensor], word_mask: Tensor | None, mixture: Tensor | None
    ) -> Tensor:
        """Return the vector that the linear sees: (B, C).

        Args:
            class_token: (B, L, C), of the last layers, lowest first.
            layers: L of (B, N, C), whose values outside the words are never read.
            word_mask: (B, N) bool, without the classification token.
            mixture: (L,), the layers' learned shares before the softmax, of a head that pools words.
        """
        raise NotImplementedError


class MixedLayers(TokenBranch):
    """The layers' learned mixture: the words' own where the head pools words."""

    def __init__(self, config: Any, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        if not config.uses_words:
            self.layer_mixture = nn.Parameter(torch.empty(config.num_layers))

    def reset(self, std: float) -> None:
        """Start with equal shares."""
        if not self.config.uses_words:
            init.zeros_(self.layer_mixture)

    def forward(
        self, class_token: Tensor, layers: Sequence[Tensor], word_mask: Tensor | None, mixture: Tensor | None
    ) -> Tensor:
        """Map (B, L, C) -> (B, C)."""
        if class_token.shape[1] == 1:
            return class_token[:, 0]
        shares = self.layer_mixture if mixture is None else mixture
        return shares.to(class_token.dtype).softmax(0) @ class_token


class LayerMaximum(TokenBranch):
    """Each channel's largest value over the layers."""

    def forward(
        self, class_token: Tensor, layers: Sequence[Tensor], word_mask: Tensor | None, mixture: Tensor | None
    ) -> Tensor:
        """Map (B, L, C) -> (B, C)."""
        return class_token.amax(1)


class TokenAttention(TokenBranch):
    """One more multi-head attention, of the classification token over the sequence and itself."""

    def __init__(self, config: Any, hidden_size: int) -> None:
        super().__init__(config, hidden_size)
        if hidden_size % ATTENTION_HEADS:
            raise HeadSettingsError(
                f"class_token={config.class_token!r} has {ATTENTION_HEADS} attention heads, "
                f"which do not divide a hidden size of {hidden_size}"
            )
        self.in_projection = CastingLinear(hidden_size, 3 * hidden_size)  # query, key and value
        self.out_projection = CastingLinear(hidden_size, hidden_size)

    def over_layers(self, states: Sequence[Tensor]) -> Tensor:
        """Return one of L of (..., C): the last."""
        return states[-1]

    def forward(
        self, class_token: Tensor, layers: Sequence[Tensor], word_mask: Tensor | None, mixture: Tensor | None
    ) -> Tensor:
        """Map (B, L, C) and L of (B, N, C) -> (B, C)."""
        assert word_mask is not None
        token = self.over_layers(class_token.unbind(1)).unsqueeze(1)  # (B, 1, C)
        words = self.over_layers([layer.to(token.dtype) for layer in layers])
        # Not a product: a backbone may leave NaN at padding.
        words = torch.where(word_mask.unsqueeze(-1), words, 0)
        sequence = torch.cat([token, words], 1)  # (B, 1 + N, C)
        query, key, value = self._by_head(self.in_projection(sequence))
        scores = query[:, :, :1] @ key.transpose(-1, -2) / math.sqrt(key.shape[-1])  # (B, H, 1, 1 + N)
        real = torch.cat([torch.ones_like(word_mask[:, :1]), word_mask], 1)
        weights = scores.masked_fill(~real[:, None, None], -math.inf).softmax(-1)
        return self.out_projection((weights @ value).flatten(1))

    def _by_head(self, projected: Tensor) -> list[Tensor]:
        """Split (B, N, 3 C) into three of (B, H, N, C / H)."""
        parts = projected.chunk(3, -1)
        return [part.unflatten(-1, (ATTENTION_HEADS, -1)).transpose(1, 2) for part in parts]


class MaximumAttention(TokenAttention):
    """The same over each token's largest values over the layers."""

    def over_layers(self, states: Sequence[Tensor]) -> Tensor:
        """Return each channel's largest value over L of (..., C)."""
        return torch.stack(list(states)).amax(0)
