"""Pool the word tokens of a text into one feature vector per head: the base class, and vector poolings.

Shapes: B batch, N tokens, C hidden size, M heads, P x Q matrix and D pooled features per head, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .contributions import vector_shares
from .covariance import attention_weights, word_maximum, word_weights
from .head_config import SoTHeadConfig
from .normalizers import Normalization
from .parts import NORMALIZATIONS


class WordPooling(nn.Module):
    """The base of all poolings: mixes the layers, pools the words, normalises (steps 1 to 3 of the method).

    A pooling of your own is a subclass: `build` makes its layers and sets `num_groups` and `widths`, `pooled`
    pools, `reset` sets first values, and `shares`, where it has any, gives the words' exact shares.
    """

    num_groups = 1  # M
    widths: tuple[int, ...]  # of what is pooled per head: (P, Q) or (D,)

    def __init__(self, config: SoTHeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        if config.num_layers > 1:
            self.layer_mixture = nn.Parameter(torch.empty(config.num_layers))
        self.widths = (hidden_size,)
        self.build(hidden_size)
        self.normalization: Normalization = NORMALIZATIONS[config.normalization].load()(config, self.widths)
        self.normalization.build(self)

    def build(self, hidden_size: int) -> None:
        """Make the layers, and set `num_groups` and `widths` where they are not 1 and (C,)."""

    def reset(self, std: float) -> None:
        """Set the first values of raw parameters in itself (layers have theirs by the model's own rule)."""

    def pooled(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return what is pooled over the words, before the normalisation.

        Args:
            hidden_states: (B, N, C), zero outside the words.
            word_mask: (B, N) bool.
            weights: (B, N), 1/n at each of a text's n words, else 0.

        Returns:
            (B, M, D) or (B, M, P, Q); zero for a text without words.
        """
        raise NotImplementedError

    def shares(self, hidden_states: Tensor, word_mask: Tensor, readout: Tensor, *, pairs: bool) -> Tensor:
        """Return what each word (or pair of words) adds to each word logit, exactly.

        Args:
            hidden_states: (B, N, C), zero outside the words.
            word_mask: (B, N) bool.
            readout: (K, M D), the weights by which the logits are linear in the features.
            pairs: of each pair, for poolings of matrices.

        Returns:
            (B, N, K), or (B, N, N, K) for pairs.
        """
        raise NotImplementedError

    @property
    def num_features(self) -> int:
        """D, the features of a head."""
        return math.prod(self.widths)

    @property
    def output_size(self) -> int:
        """Features of all heads together: M D."""
        return self.num_groups * self.num_features

    def flat(self, pooled: Tensor) -> Tensor:
        """Return the features of each head: (B, M, P, Q) or (B, M, D) -> (B, M, D)."""
        return pooled.flatten(2)

    def forward(self, layers: Sequence[Tensor], word_mask: Tensor) -> Tensor:
        """Pool the mixture of L of (B, N, C) by (B, N) bool -> (B, M D).

        The layers are mixed in here, too: of an offloaded head, weights are there while their module runs.
        """
        return self.features(self.words_of(layers, word_mask), word_mask)

    def features(self, hidden_states: Tensor, word_mask: Tensor) -> Tensor:
        """Pool and normalise (B, N, C), zero outside the words, by (B, N) bool -> (B, M D)."""
        weights = word_weights(word_mask, hidden_states.dtype)
        pooled = self.pooled(hidden_states, word_mask, weights)
        return self.normalization.features(self, pooled).flatten(1)

    def words_of(self, layers: Sequence[Tensor], word_mask: Tensor) -> Tensor:
        """Return the mixture of L of (B, N, C) in the head's precision, zero outside the words."""
        mixed = self.mix_layers(layers, torch.promote_types(layers[0].dtype, torch.float32))
        # Not a product: a backbone may leave NaN at padding, and NaN * 0 is NaN.
        return torch.where(word_mask.unsqueeze(-1), mixed, 0)

    def mix_layers(self, layers: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Return one (B, N, C) of the last layer, or the learned mixture of the last `num_layers`."""
        if len(layers) != self.config.num_layers:
            raise ValueError(
                f"hidden_states holds {len(layers)} layers, but num_layers is {self.config.num_layers}"
            )
        if len(layers) == 1:
            return layers[0].to(dtype)
        # One product, not a sum of products: that would write and read every layer twice, backwards too.
        stacked = torch.stack(list(layers)).to(dtype)
        mixed = self.layer_mixture.to(dtype).softmax(0) @ stacked.flatten(1)
        return mixed.view(layers[0].shape)

    def reset_all(self, std: float) -> None:
        """Set the first values of the mixture, the pooling and its normalisation."""
        if self.config.num_layers > 1:
            init.zeros_(self.layer_mixture)  # equal shares
        self.reset(std)
        self.normalization.reset_in(self, std)


class Mean(WordPooling):
    """The words' mean hidden state."""

    def token_weights(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return each token's weight: (B, M, N)."""
        return weights.unsqueeze(1)

    def pooled(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum of the hidden states: (B, M, C)."""
        return self.token_weights(hidden_states, word_mask, weights) @ hidden_states

    def shares(self, hidden_states: Tensor, word_mask: Tensor, readout: Tensor, *, pairs: bool) -> Tensor:
        """Return each word's own weighted hidden state, through the readout: (B, N, K)."""
        weights = word_weights(word_mask, hidden_states.dtype)
        token_weights = self.token_weights(hidden_states, word_mask, weights)
        gain = self.normalization.gain(self, token_weights @ hidden_states)
        by_head = readout.unflatten(-1, (self.num_groups, self.num_features))
        return vector_shares(hidden_states, token_weights * gain[..., None], by_head)


class Attention(Mean):
    """The hidden states by softmax over the words against one learned query per head."""

    def build(self, hidden_size: int) -> None:
        """Make the queries."""
        self.num_groups = self.config.num_heads
        self.queries = nn.Parameter(torch.empty(self.num_groups, hidden_size))

    def reset(self, std: float) -> None:
        """Draw the queries."""
        init.normal_(self.queries, mean=0.0, std=std)

    def token_weights(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return each token's weight for each query: (B, M, N)."""
        return attention_weights(hidden_states, self.queries.to(weights.dtype), word_mask)


class Maximum(WordPooling):
    """Each channel's largest value over the words."""

    def pooled(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return the maxima: (B, 1, C)."""
        return word_maximum(hidden_states, word_mask).unsqueeze(1)
