"""The word tokens of a text as one feature vector a head: maps, pooling, normalisation.

Shapes: B batch, N tokens, C hidden size, M heads, P x Q a head's matrix, D pooled features a head.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from .batch_norm import MaskedBatchNorm
from .covariance import (
    attention_weights,
    center,
    cross_covariance,
    from_upper_triangle,
    split_heads,
    upper_triangle,
    word_maximum,
    word_weights,
)
from .head_config import MATRIX_POOLINGS, SoTHeadConfig
from .layers import CastingLinear, MapLayerNorm
from .normalization import (
    isqrt_covariance,
    layer_normalization,
    power_normalization,
    svpn,
    svpn_exact,
    svpn_gain,
)


class WordPooling(nn.Module):
    """The word tokens of a text as one feature vector a head (steps 1 to 3 of the method).

    The maps of all heads, x and y, are one linear: one matrix product, whose output columns are
    [x of head 1 .. M, y of head 1 .. M].
    """

    def __init__(self, config: SoTHeadConfig, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.is_matrix = config.pooling in MATRIX_POOLINGS
        width_x, width_y = config.widths
        map_widths = (width_x, width_y) if config.pooling == "cross_covariance" else (width_x,)
        self.groups = tuple((config.num_heads, width) for width in map_widths)
        if config.num_layers > 1:
            self.layer_mixture = nn.Parameter(torch.empty(config.num_layers))
        if self.is_matrix:
            map_size = config.num_heads * sum(map_widths)
            self.maps = CastingLinear(hidden_size, map_size, bias=False)
            if config.map_norm == "batch_norm":
                self.map_norm: nn.Module = MaskedBatchNorm(map_size)
            elif config.map_norm == "layer_norm":
                self.map_norm = MapLayerNorm(self.groups)
            if config.normalization == "svpn":
                start_width = width_x if config.start_side == "x" else width_y
                self.starts = nn.Parameter(torch.empty(config.num_singular_values, start_width))
            self.row_size = width_y
            # The published code's 1/sqrt(d), for d x d matrices; here d is the geometric mean of the widths.
            self.fixed_scale = (width_x * width_y) ** -0.25
            self.num_features = width_x * (width_x + 1) // 2 if len(map_widths) == 1 else width_x * width_y
        else:
            if config.pooling == "attention":
                self.queries = nn.Parameter(torch.empty(config.num_heads, hidden_size))
            self.row_size = self.num_features = hidden_size
            self.fixed_scale = hidden_size**-0.5
        self.num_groups = 1 if config.pooling in ("mean", "max") else config.num_heads
        if config.normalization == "layer_norm":
            self.norm_weight = nn.Parameter(torch.empty(self.row_size))
            self.norm_bias = nn.Parameter(torch.empty(self.row_size))
        elif config.normalization == "learned_scale":
            self.scale = nn.Parameter(torch.empty(1))  # not a scalar: sharded training has no place for those

    @property
    def output_size(self) -> int:
        """Features of all heads together: M D."""
        return self.num_groups * self.num_features

    def forward(self, hidden_states: Tensor, word_mask: Tensor) -> Tensor:
        """(B, N, C) by (B, N) bool -> (B, M D)."""
        weights = word_weights(word_mask, hidden_states.dtype)
        if self.is_matrix:
            pooled = self.normalize(self.matrix(hidden_states, word_mask, weights))
        else:
            pooled = self.normalize(self.vector(hidden_states, word_mask, weights))
        return pooled.flatten(1)

    def mapped(self, hidden_states: Tensor, word_mask: Tensor) -> Tensor:
        """The x and y of every token and head side by side, before centring: (B, N, M (P + Q))."""
        features: Tensor = self.maps(hidden_states)
        if self.config.map_norm != "none":
            features = self.map_norm(features, word_mask)
        return features.relu() if self.config.map_activation == "relu" else features

    def centered(self, mapped: Tensor, weights: Tensor) -> Tensor:
        """The same, with the mean over the words taken off."""
        return center(mapped, weights, self.config.centering, self.groups)

    def sides(self, mapped: Tensor) -> tuple[Tensor, Tensor]:
        """x and y apart, (B, N, M, P) and (B, N, M, Q); for a covariance the same tensor twice."""
        by_head = split_heads(mapped, self.groups)
        return by_head[0], by_head[-1]

    def matrix(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """The heads' centred (cross-)covariances S: (B, M, P, Q)."""
        x, y = self.sides(self.centered(self.mapped(hidden_states, word_mask), weights))
        return cross_covariance(x, y, weights)

    def vector(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """The pooled hidden states: (B, M, C), M = 1 but for attention."""
        if self.config.pooling == "max":
            return word_maximum(hidden_states, word_mask).unsqueeze(1)
        return self.token_weights(hidden_states, word_mask, weights) @ hidden_states

    def token_weights(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Each token's weight in mean and attention pooling: (B, M, N)."""
        if self.config.pooling == "mean":
            return weights.unsqueeze(1)
        return attention_weights(hidden_states, self.queries.to(weights.dtype), word_mask)

    def gain(self, pooled: Tensor) -> Tensor:
        """The one number by which the normalisation multiplies each head, where it is such a one.

        (B, M, P, Q) or (B, M, C) -> (B, M), or (1, 1) where all texts and heads share it.
        """
        config = self.config
        if config.normalization == "svpn":
            return svpn_gain(
                pooled,
                self.starts[0].to(pooled.dtype),
                alpha=config.alpha,
                num_iterations=config.num_iterations,
                start_side=config.start_side,
            )
        if config.normalization == "learned_scale":
            return self.scale.to(pooled.dtype).unsqueeze(0)
        return pooled.new_full((1, 1), self.fixed_scale if config.normalization == "fixed_scale" else 1.0)

    def normalize(self, pooled: Tensor) -> Tensor:
        """(B, M, P, Q) or (B, M, C) -> (B, M, D); of a covariance's matrix the upper triangle is kept."""
        config = self.config
        if config.has_scalar_gain:
            gain = self.gain(pooled)
            pooled = pooled * (gain[..., None, None] if self.is_matrix else gain[..., None])
        elif config.normalization == "svpn":
            pooled = svpn(
                pooled,
                self.starts.to(pooled.dtype),
                alpha=config.alpha,
                num_iterations=config.num_iterations,
                start_side=config.start_side,
            )
        elif config.normalization == "svpn_exact":
            pooled = svpn_exact(pooled, config.alpha)
        elif config.normalization == "isqrt_cov":
            pooled = isqrt_covariance(pooled, config.num_newton_schulz_iterations)
        elif config.normalization == "layer_norm":
            weight, bias = self.norm_weight.to(pooled.dtype), self.norm_bias.to(pooled.dtype)
            pooled = layer_normalization(pooled, weight, bias)
        features = upper_triangle(pooled) if config.pooling == "covariance" else pooled.flatten(2)
        if config.normalization == "power":
            features = power_normalization(features, config.alpha)
        return features

    def readout(self, weight: Tensor) -> Tensor:
        """A linear's weights on the pooled features, as matrices (or vectors) a head.

        (K, M D) -> (K, M, P, Q) or (K, M, C); below the diagonal of a covariance they are zero.
        """
        by_head = weight.unflatten(-1, (self.num_groups, self.num_features))
        if not self.is_matrix:
            return by_head
        if self.config.pooling == "covariance":
            return from_upper_triangle(by_head, self.config.width_x)
        return by_head.unflatten(-1, self.config.widths)

    def mix_layers(self, hidden_states: Tensor | Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """One (B, N, C) of the last layer, or the learned mixture of the last `num_layers`."""
        layers = (hidden_states,) if isinstance(hidden_states, Tensor) else tuple(hidden_states)
        if len(layers) != self.config.num_layers:
            raise ValueError(
                f"hidden_states holds {len(layers)} layers, but num_layers is {self.config.num_layers}"
            )
        if len(layers) == 1:
            return layers[0].to(dtype)
        # One product, not a sum of products: that would write and read every layer twice, backwards too.
        stacked = torch.stack(layers).to(dtype)
        mixed = self.layer_mixture.to(dtype).softmax(0) @ stacked.flatten(1)
        return mixed.view(layers[0].shape)
