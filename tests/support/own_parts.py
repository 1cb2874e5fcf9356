"""A user's own parts of a head, each of a kind, and a whole head: registered when this file is imported."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sot_nlp import (
    Fusion,
    Normalization,
    WordPooling,
    register_fusion,
    register_normalization,
    register_pooling,
)


class SoftMaximum(WordPooling):
    """(1/a) log of the words' mean exp(a z): between their mean and their maximum."""

    def pooled(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """(B, N, C) -> (B, 1, C)."""
        sharpness = self.config.setting("sharpness")
        exponents = (hidden_states * sharpness).masked_fill(~word_mask[..., None], -1e4)
        number = word_mask.sum(-1, keepdim=True).clamp_min(1).to(exponents.dtype)
        pooled = (exponents.logsumexp(1) - number.log()) / sharpness
        return torch.where(word_mask.any(-1, keepdim=True), pooled, 0).unsqueeze(1)


class Tempered(Normalization):
    """Over one learned number."""

    def __init__(self, config: Any, widths: tuple[int, ...]) -> None:
        super().__init__(config, widths)
        self.temperature = nn.Parameter(torch.empty(1))

    def reset(self, std: float) -> None:
        """Start at 2."""
        nn.init.constant_(self.temperature, 2.0)

    def forward(self, pooled: Tensor) -> Tensor:
        """Any shape, which is kept."""
        return pooled / self.temperature

    def gain(self, words: Any, pooled: Tensor) -> Tensor:
        """The number."""
        return 1 / self.temperature.to(pooled.dtype).unsqueeze(0)


class Gated(Fusion):
    """A linear on each branch; the classification token gates the words' logits."""

    def __init__(self, config: Any, *, word_size: int, class_token_size: int, num_labels: int) -> None:
        super().__init__(
            config, word_size=word_size, class_token_size=class_token_size, num_labels=num_labels
        )
        self.words = nn.Linear(word_size, num_labels)
        self.token = nn.Linear(class_token_size, num_labels)

    def forward(self, words: Tensor, class_token: Tensor) -> Tensor:
        """(B, D) and (B, C) -> (B, K)."""
        token = self.token(class_token)
        return token + token.sigmoid() * self.words(words)


class TwoLayers(nn.Module):
    """A whole head: the words' mean through two linears."""

    def __init__(self, hidden_size: int, num_labels: int, width: int = 4) -> None:
        super().__init__()
        self.settings = {"width": width}
        self.inner = nn.Linear(hidden_size, width)
        self.outer = nn.Linear(width, num_labels)

    def forward(self, hidden_states: Tensor, word_mask: Tensor, class_token: Tensor) -> Tensor:
        """(B, N, C) -> (B, K)."""
        weights = word_mask.to(hidden_states.dtype)
        weights = weights / weights.sum(-1, keepdim=True).clamp_min(1)
        mean = (weights[:, None] @ hidden_states).squeeze(1)
        return self.outer(torch.relu(self.inner(mean)))


register_pooling("soft_maximum", SoftMaximum, doc="a soft maximum", own_settings={"sharpness": 1.0})
register_normalization("tempered", Tempered, doc="over one learned number", exact=True)
register_fusion("gated", Gated, doc="gated by the classification token")
