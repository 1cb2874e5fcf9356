"""Fuse the words' features and the classification token into logits: the fusions of `parts.FUSIONS`.

Shapes: B batch, C hidden size, D pooled features of all heads, K labels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .layers import CastingLinear


class SoTHeadOutput(NamedTuple):
    """What the head gives; a branch's own logits where it has them (fusion `sum`, `late` and single ones)."""

    logits: Tensor  # (B, K)
    word_logits: Tensor | None = None  # (B, K)
    class_token_logits: Tensor | None = None  # (B, K)


class Fusion(nn.Module):
    """The base of all fusions. One of your own has a constructor with these arguments and a `forward`.

    Args:
        config: the head's settings.
        word_size: D, the words' features, 0 without words.
        class_token_size: C, 0 without a classification token.
        num_labels: K.
    """

    def __init__(self, config: Any, *, word_size: int, class_token_size: int, num_labels: int) -> None:
        super().__init__()
        self.config = config

    def build(self, head: Any, *, class_token_bias: bool) -> None:
        """Give `head` the layers of the fusion; one of your own has them in itself."""

    def reset(self, std: float) -> None:
        """Set the first values of raw parameters in itself (layers have theirs by the model's own rule)."""

    def forward(self, words: Tensor, class_token: Tensor) -> Tensor:
        """Return logits (B, K) of features (B, D) and classification tokens (B, C)."""
        raise NotImplementedError

    def fuse(self, head: Any, words: Tensor | None, class_token: Tensor | None) -> SoTHeadOutput:
        """Return the head's output; `forward` in a fusion of your own."""
        return SoTHeadOutput(self(words, class_token))

    def word_readout(self, head: Any) -> Tensor:
        """Return the weights (K, D) by which the logits are linear in the words' features.

        Raises:
            ValueError: where they are not.
        """
        raise ValueError(f"no exact contributions: fusion={self.config.fusion!r} is not linear")

    class_token_readout = word_readout


class Branches(Fusion):
    """A linear on each branch that there is, and the sum of their logits."""

    def __init__(self, config: Any, *, word_size: int, class_token_size: int, num_labels: int) -> None:
        super().__init__(
            config, word_size=word_size, class_token_size=class_token_size, num_labels=num_labels
        )
        self.sizes = (word_size, class_token_size, num_labels)

    def build(self, head: Any, *, class_token_bias: bool) -> None:
        """Give `head` a linear on the words and one on the classification token."""
        word_size, class_token_size, num_labels = self.sizes
        if word_size:
            head.word_output = CastingLinear(word_size, num_labels)
        if class_token_size:
            head.class_token_output = CastingLinear(class_token_size, num_labels, bias=class_token_bias)

    def fuse(self, head: Any, words: Tensor | None, class_token: Tensor | None) -> SoTHeadOutput:
        """Return the sum, and each branch's logits."""
        of_words = None if words is None else head.word_output(words)
        of_token = None if class_token is None else head.class_token_output(class_token)
        if of_words is None:
            assert of_token is not None
            return SoTHeadOutput(of_token, None, of_token)
        logits = of_words if of_token is None else of_words + of_token
        return SoTHeadOutput(logits, of_words, of_token)

    def word_readout(self, head: Any) -> Tensor:
        """Return the words' linear's weights: (K, D)."""
        weight: Tensor = head.word_output.weight
        return weight

    def class_token_readout(self, head: Any) -> Tensor:
        """Return the classification token's linear's weights: (K, C)."""
        weight: Tensor = head.class_token_output.weight
        return weight


class Concatenation(Branches):
    """One linear on [classification token; words]."""

    def build(self, head: Any, *, class_token_bias: bool) -> None:
        """Give `head` the one linear, under the name of the words'."""
        word_size, class_token_size, num_labels = self.sizes
        head.word_output = CastingLinear(class_token_size + word_size, num_labels)

    def fuse(self, head: Any, words: Tensor | None, class_token: Tensor | None) -> SoTHeadOutput:
        """Return the logits; there are no branches."""
        assert words is not None
        assert class_token is not None
        return SoTHeadOutput(head.word_output(torch.cat([class_token, words], -1)))

    def word_readout(self, head: Any) -> Tensor:
        """Return the columns of the words, which come last."""
        weight: Tensor = head.word_output.weight
        return weight[:, self.sizes[1] :]

    def class_token_readout(self, head: Any) -> Tensor:
        """Return the columns of the classification token, which come first."""
        weight: Tensor = head.word_output.weight
        return weight[:, : self.sizes[1]]
