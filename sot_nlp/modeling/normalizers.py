"""The normalisations of `parts.NORMALIZATIONS` as modules; their mathematics is in the normalization file.

Shapes: B batch, M heads, P x Q matrix and D features per head, C hidden size.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .normalization import (
    isqrt_covariance,
    layer_normalization,
    power_normalization,
    svpn,
    svpn_exact,
    svpn_gain,
    svpn_leading,
)


class Normalization(nn.Module):
    """The base of all normalisations. One of your own has a constructor with these arguments and a `forward`.

    Ours keep their parameters in the pooling that they belong to (`build`), under the names that checkpoints
    have had since the first version; one of your own has them in itself.

    Args:
        config: the head's settings.
        widths: of what is pooled per head: (P, Q) of a matrix, (D,) of a vector.
    """

    def __init__(self, config: Any, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.widths = widths

    def build(self, words: Any) -> None:
        """Give the pooling `words` the parameters."""

    def reset(self, std: float) -> None:
        """Set the first values of raw parameters in itself (layers have theirs by the model's own rule)."""

    def reset_in(self, words: Any, std: float) -> None:
        """Set the first values of what `build` made, by `transformers.initialization` alone."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the normalised matrices (B, M, P, Q) or vectors (B, M, D), of the same shape."""
        raise NotImplementedError

    def gain(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the one number by which each head is multiplied, where it is such a one.

        (B, M, P, Q) or (B, M, D) -> (B, M), or (1, 1) where all texts and heads share it.
        """
        raise NotImplementedError

    def features(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the normalised features of each head: (B, M, P, Q) or (B, M, D) -> (B, M, D)."""
        flat: Tensor = words.flat(self(pooled))
        return flat


class ScalarGain(Normalization):
    """Each head times one number: word logits are sums over the words."""

    def features(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the features times `gain`."""
        gain = self.gain(words, pooled)
        flat: Tensor = words.flat(pooled * gain.view(*gain.shape, *[1] * (pooled.dim() - 2)))
        return flat


class NoNormalization(ScalarGain):
    """What is pooled, as it is."""

    def gain(self, words: Any, pooled: Tensor) -> Tensor:
        """Return 1."""
        return pooled.new_ones((1, 1))


class FixedScale(ScalarGain):
    """Times 1/sqrt(d); the published code's, for d x d matrices: here d is the widths' geometric mean."""

    @property
    def scale(self) -> float:
        """1/sqrt(d)."""
        return float(math.prod(self.widths) ** (-0.5 / len(self.widths)))

    def gain(self, words: Any, pooled: Tensor) -> Tensor:
        """Return 1/sqrt(d)."""
        return pooled.new_full((1, 1), self.scale)


class LearnedScale(FixedScale):
    """Times one learned number that starts at 1/sqrt(d)."""

    def build(self, words: Any) -> None:
        """Give `words` the number."""
        words.scale = nn.Parameter(torch.empty(1))  # not a scalar: sharded training has no place for those

    def reset_in(self, words: Any, std: float) -> None:
        """Start at 1/sqrt(d)."""
        init.constant_(words.scale, self.scale)

    def gain(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the number."""
        scale: Tensor = words.scale.to(pooled.dtype).unsqueeze(0)
        return scale


class Svpn(ScalarGain):
    """Singular value power normalisation by power iteration; for r = 1 one number for each head."""

    def build(self, words: Any) -> None:
        """Give `words` the start vectors."""
        width = self.widths[0] if self.config.start_side == "x" else self.widths[1]
        words.starts = nn.Parameter(torch.empty(self.config.num_singular_values, width))

    def reset_in(self, words: Any, std: float) -> None:
        """Draw the start vectors."""
        init.normal_(words.starts, mean=0.0, std=1.0)

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of the functions."""
        return {name: getattr(self.config, name) for name in ("alpha", "num_iterations", "start_side")}

    def gain(self, words: Any, pooled: Tensor) -> Tensor:
        """Return s_1^(alpha - 1) of each head."""
        return svpn_gain(pooled, words.starts[0].to(pooled.dtype), **self.settings)

    def features(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the features times one number, or for r > 1 what the leading triples make of them."""
        starts = words.starts.to(pooled.dtype)
        if self.config.num_singular_values == 1:
            normalized = svpn_leading(pooled, starts[0], **self.settings)
        else:
            normalized = svpn(pooled, starts, **self.settings)
        flat: Tensor = words.flat(normalized)
        return flat


class SvpnExact(Normalization):
    """Singular value power normalisation through an SVD."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, M, P, Q) -> (B, M, P, Q)."""
        return svpn_exact(pooled, self.config.alpha)


class IsqrtCovariance(Normalization):
    """The square root of a covariance."""

    def forward(self, pooled: Tensor) -> Tensor:
        """Map (B, M, P, P) -> (B, M, P, P)."""
        return isqrt_covariance(pooled, self.config.num_newton_schulz_iterations)


class LayerNormalization(Normalization):
    """LayerNorm over a vector, or over each row of a matrix."""

    def build(self, words: Any) -> None:
        """Give `words` a gain and a shift per column."""
        words.norm_weight = nn.Parameter(torch.empty(self.widths[-1]))
        words.norm_bias = nn.Parameter(torch.empty(self.widths[-1]))

    def reset_in(self, words: Any, std: float) -> None:
        """Start without either."""
        init.ones_(words.norm_weight)
        init.zeros_(words.norm_bias)

    def features(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the normalised rows."""
        weight, bias = words.norm_weight.to(pooled.dtype), words.norm_bias.to(pooled.dtype)
        flat: Tensor = words.flat(layer_normalization(pooled, weight, bias))
        return flat


class Power(Normalization):
    """sign(x) |x|^alpha of each feature, then length 1."""

    def features(self, words: Any, pooled: Tensor) -> Tensor:
        """Return the features that a linear sees, normalised: a covariance's upper triangle alone."""
        return power_normalization(words.flat(pooled), self.config.alpha)
