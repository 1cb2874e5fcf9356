"""Second-order poolings, the centred (cross-)covariance of linear maps of the words; and the first order.

Shapes: B batch, N tokens, C hidden size, M heads, P x Q matrix and D pooled features per head, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .batch_norm import MaskedBatchNorm
from .contributions import pair_shares, token_shares, vector_shares
from .covariance import (
    Groups,
    center,
    cross_covariance,
    from_upper_triangle,
    split_heads,
    upper_triangle,
    weighted_sum,
    word_weights,
)
from .layers import CastingLinear, MapLayerNorm
from .normalization import smooth_norm
from .word_pooling import WordPooling


class MappedPooling(WordPooling):
    """The base of what is pooled over linear maps of the words, with `num_maps` maps per head.

    The maps of all heads, x and y, are one linear: one matrix product, whose output columns are
    [x of head 1 .. M, y of head 1 .. M].
    """

    num_maps = 1

    def build(self, hidden_size: int) -> None:
        """Make the maps and what is behind them."""
        config = self.config
        self.num_groups = config.num_heads
        self.widths = config.widths
        self.groups = tuple((config.num_heads, width) for width in self.widths[: self.num_maps])
        groups = (*self.groups, *self.further_groups())
        map_size = sum(heads * width for heads, width in groups)
        self.maps = CastingLinear(hidden_size, map_size, bias=False)
        if config.map_norm == "batch_norm":
            self.map_norm: nn.Module = MaskedBatchNorm(map_size)
        elif config.map_norm == "layer_norm":
            self.map_norm = MapLayerNorm(groups)

    def further_groups(self) -> Groups:
        """Return the maps beside those of `groups`: their columns follow."""
        return ()

    def mapped(self, hidden_states: Tensor, word_mask: Tensor) -> Tensor:
        """Return the maps of every token and head side by side, before centring: (B, N, M (P + Q))."""
        features: Tensor = self.maps(hidden_states)
        if self.config.map_norm != "none":
            features = self.map_norm(features, word_mask)
        return features.relu() if self.config.map_activation == "relu" else features


class MappedMean(MappedPooling):
    """The words' mean of the x map: the first order of what `Covariance` takes the second of."""

    def build(self, hidden_size: int) -> None:
        """Make the map; a head's features are its channels."""
        super().build(hidden_size)
        self.widths = self.widths[:1]

    def pooled(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return the heads' means: (B, M, P)."""
        mean = weighted_sum(self.mapped(hidden_states, word_mask), weights)
        return mean.unflatten(-1, (self.num_groups, self.num_features))

    def shares(self, hidden_states: Tensor, word_mask: Tensor, readout: Tensor, *, pairs: bool) -> Tensor:
        """Return each word's own mapped state, through normaliser and readout: (B, N, K)."""
        weights = word_weights(word_mask, hidden_states.dtype)
        mapped = self.mapped(hidden_states, word_mask)
        tokens = mapped.unflatten(-1, (self.num_groups, self.num_features))
        gain = self.normalization.gain(self, self.pooled(hidden_states, word_mask, weights))
        weighted = (tokens * gain[:, None, :, None]).flatten(2)
        return vector_shares(weighted, weights.unsqueeze(1), readout.unsqueeze(1))


class CrossCovariance(MappedPooling):
    """The cross-covariance of an x and a y map."""

    num_maps = 2

    def centered(self, mapped: Tensor, weights: Tensor) -> Tensor:
        """Return the same, with the mean over the words subtracted."""
        return center(mapped, weights, self.config.centering, self.groups)

    def sides(self, mapped: Tensor) -> tuple[Tensor, Tensor]:
        """Return x (B, N, M, P) and y (B, N, M, Q); for a covariance the same tensor twice."""
        by_head = split_heads(mapped, self.groups)
        return by_head[0], by_head[-1]

    def pooled(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """Return the heads' centred (cross-)covariances S: (B, M, P, Q)."""
        return self.matrices(self.mapped(hidden_states, word_mask), weights)

    def matrices(self, mapped: Tensor, weights: Tensor) -> Tensor:
        """Return S of the maps: (B, N, M (P + Q)) by (B, N) -> (B, M, P, Q)."""
        x, y = self.sides(self.centered(mapped, weights))
        return cross_covariance(x, y, weights)

    def readout_matrices(self, readout: Tensor) -> Tensor:
        """Return a linear's weights on the features as matrices: (K, M D) -> (K, M, P, Q)."""
        return readout.unflatten(-1, (self.num_groups, *self.widths))

    def shares(self, hidden_states: Tensor, word_mask: Tensor, readout: Tensor, *, pairs: bool) -> Tensor:
        """Return each word's own centred product in S through normaliser and readout, or each pair's."""
        weights = word_weights(word_mask, hidden_states.dtype)
        return self.matrix_shares(self.mapped(hidden_states, word_mask), weights, readout, pairs=pairs)

    def matrix_shares(self, mapped: Tensor, weights: Tensor, readout: Tensor, *, pairs: bool) -> Tensor:
        """Return the same of the maps, (B, N, M (P + Q))."""
        matrices = self.readout_matrices(readout)
        x, y = self.sides(self.centered(mapped, weights))
        gain = self.normalization.gain(self, cross_covariance(x, y, weights))[
            :, None, :, None
        ]  # (B, 1, M, 1)
        if pairs:
            x, y = self.sides(mapped)
            return pair_shares(x * gain, y, weights, matrices, self.config.centering)
        return token_shares(x * gain, y, weights, matrices)


class Moments(CrossCovariance):
    """A mean of the words beside their cross-covariance: centring takes the mean away from S.

    As G2DeNet, which embeds both moments of a Gaussian (Wang, Li, Zhang, CVPR 2017). The mean z is divided by
    |z|^(1 - alpha), as svPN would divide a one-row matrix. With `mean_width` 0 it is the hidden states', and
    stays as it is with the normalisation `none`. With a larger width it is that of so many further maps, as
    `mapped_mean` takes it, and alpha is `mean_alpha`.
    """

    def build(self, hidden_size: int) -> None:
        """Make the maps of the covariance, and those of the mean where it has any."""
        super().build(hidden_size)
        self.mean_size = self.config.mean_width or hidden_size

    def further_groups(self) -> Groups:
        """Return the mean's maps."""
        return ((1, self.config.mean_width),) if self.config.mean_width else ()

    @property
    def output_size(self) -> int:
        """C, or `mean_width`, features of the mean and M P Q of the covariance."""
        return self.mean_size + super().output_size

    def inputs(self, hidden_states: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the mean is taken of, (B, N, C) or (B, N, `mean_width`), and the covariance's maps."""
        mapped = self.mapped(hidden_states, word_mask)
        if not self.config.mean_width:
            return hidden_states, mapped
        of_matrix, of_mean = mapped.split([mapped.shape[-1] - self.mean_size, self.mean_size], -1)
        return of_mean, of_matrix

    def mean_gain(self, mean: Tensor) -> Tensor:
        """Return the number by which the mean is multiplied: (B, D) -> (B, 1)."""
        config = self.config
        alpha = config.mean_alpha if config.mean_width else config.alpha
        if alpha == 1 or (config.normalization == "none" and not config.mean_width):
            return mean.new_ones((1, 1))
        return smooth_norm(mean) ** (alpha - 1)

    def features(self, hidden_states: Tensor, word_mask: Tensor) -> Tensor:
        """Pool (B, N, C) by (B, N) bool -> (B, D + M P Q), the mean first."""
        weights = word_weights(word_mask, hidden_states.dtype)
        of_mean, of_matrix = self.inputs(hidden_states, word_mask)
        mean = weighted_sum(of_mean, weights)
        second = self.normalization.features(self, self.matrices(of_matrix, weights))
        return torch.cat([mean * self.mean_gain(mean), second.flatten(1)], -1)

    def shares(self, hidden_states: Tensor, word_mask: Tensor, readout: Tensor, *, pairs: bool) -> Tensor:
        """Return each word's part of the mean and of S; the mean's counts as the word's pair with itself."""
        read_mean, read_matrix = readout.split([self.mean_size, super().output_size], -1)
        weights = word_weights(word_mask, hidden_states.dtype)
        of_mean, of_matrix = self.inputs(hidden_states, word_mask)
        gain = self.mean_gain(weighted_sum(of_mean, weights))
        first = vector_shares(of_mean, (weights * gain).unsqueeze(1), read_mean.unsqueeze(1))  # (B, N, K)
        second = self.matrix_shares(of_matrix, weights, read_matrix, pairs=pairs)
        return second + (torch.diag_embed(first.transpose(1, 2)).permute(0, 2, 3, 1) if pairs else first)


class Covariance(CrossCovariance):
    """The covariance of the x map, of which the upper triangle is kept."""

    num_maps = 1

    @property
    def num_features(self) -> int:
        """P (P + 1) / 2."""
        return self.widths[0] * (self.widths[0] + 1) // 2

    def flat(self, pooled: Tensor) -> Tensor:
        """Return the upper triangle of each head: (B, M, P, P) -> (B, M, P (P + 1) / 2)."""
        return upper_triangle(pooled)

    def readout_matrices(self, readout: Tensor) -> Tensor:
        """Return the readout as matrices, zero below the diagonal."""
        by_head = readout.unflatten(-1, (self.num_groups, self.num_features))
        return from_upper_triangle(by_head, self.widths[0])
