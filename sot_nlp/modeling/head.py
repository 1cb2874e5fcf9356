"""The SoT head: maps -> covariance over the word tokens -> normalisation -> fusion -> logits.

Xie et al., "SoT: Delving Deeper into Classification Head for Transformer", arXiv 2104.10935, section 3.
Shapes: B batch, N tokens, C hidden size, M heads, P x Q a head's matrix, D pooled features a head, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from .batch_norm import MaskedBatchNorm
from .covariance import (
    attention_weights,
    center,
    cross_covariance,
    upper_triangle,
    weighted_sum,
    word_maximum,
    word_weights,
)
from .head_config import MATRIX_POOLINGS, SoTHeadConfig
from .normalization import (
    isqrt_covariance,
    layer_normalization,
    power_normalization,
    svpn,
    svpn_exact,
)


class SoTHeadOutput(NamedTuple):
    """What the head gives; a branch's own logits where it has them (fusion `sum`, `late` and single ones)."""

    logits: Tensor  # (B, K)
    word_logits: Tensor | None = None  # (B, K)
    class_token_logits: Tensor | None = None  # (B, K)


class CastingLinear(nn.Linear):
    """nn.Linear in its input's precision: a head whose weights are bf16 still computes in fp32."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        bias = None if self.bias is None else self.bias.to(input.dtype)
        return functional.linear(input, self.weight.to(input.dtype), bias)


class MapLayerNorm(nn.Module):
    """LayerNorm over each head's channels of each map, with a gain and a shift a channel."""

    def __init__(self, num_heads: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.groups = [(num_heads, width) for width in widths]
        self.weight = nn.Parameter(torch.ones(num_heads * sum(widths)))
        self.bias = nn.Parameter(torch.zeros(num_heads * sum(widths)))

    def forward(self, features: Tensor, word_mask: Tensor) -> Tensor:
        """(B, N, M (P + Q)) -> the same shape; the mask is not needed, each token stands alone."""
        parts = features.split([heads * width for heads, width in self.groups], -1)
        normalized = [
            functional.layer_norm(part.unflatten(-1, group), group[1:]).flatten(-2)
            for part, group in zip(parts, self.groups, strict=True)
        ]
        return torch.cat(normalized, -1) * self.weight.to(features.dtype) + self.bias.to(features.dtype)


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
        if config.num_layers > 1:
            self.layer_mixture = nn.Parameter(torch.empty(config.num_layers))
        if self.is_matrix:
            map_size = config.num_heads * sum(map_widths)
            self.maps = CastingLinear(hidden_size, map_size, bias=False)
            if config.map_norm == "batch_norm":
                self.map_norm: nn.Module = MaskedBatchNorm(map_size)
            elif config.map_norm == "layer_norm":
                self.map_norm = MapLayerNorm(config.num_heads, map_widths)
            if config.normalization == "svpn":
                self.start = nn.Parameter(torch.empty(width_x if config.start_side == "x" else width_y))
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
            self.scale = nn.Parameter(torch.empty(()))

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

    def mapped(self, hidden_states: Tensor, word_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The x and y of every token and head, before centring: (B, N, M, P) and (B, N, M, Q)."""
        config = self.config
        features = self.maps(hidden_states)  # (B, N, M (P + Q))
        if config.map_norm != "none":
            features = self.map_norm(features, word_mask)
        if config.map_activation == "relu":
            features = features.relu()
        width_x, width_y = config.widths
        x = features[..., : config.num_heads * width_x].unflatten(-1, (config.num_heads, width_x))
        if config.pooling == "covariance":
            return x, x
        y = features[..., config.num_heads * width_x :].unflatten(-1, (config.num_heads, width_y))
        return x, y

    def matrix(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """The heads' centred (cross-)covariances S: (B, M, P, Q)."""
        x, y = self.mapped(hidden_states, word_mask)
        x_centered = center(x, weights, self.config.centering)
        y_centered = x_centered if y is x else center(y, weights, self.config.centering)
        return cross_covariance(x_centered, y_centered, weights)

    def vector(self, hidden_states: Tensor, word_mask: Tensor, weights: Tensor) -> Tensor:
        """The pooled hidden states: (B, M, C), M = 1 but for attention."""
        if self.config.pooling == "mean":
            return weighted_sum(hidden_states, weights).unsqueeze(1)
        if self.config.pooling == "max":
            return word_maximum(hidden_states, word_mask).unsqueeze(1)
        return attention_weights(hidden_states, self.queries.to(weights.dtype), word_mask) @ hidden_states

    def normalize(self, pooled: Tensor) -> Tensor:
        """(B, M, P, Q) or (B, M, C) -> (B, M, D); of a covariance's matrix the upper triangle is kept."""
        config = self.config
        dtype = pooled.dtype
        if config.normalization == "svpn":
            pooled = svpn(
                pooled,
                self.start.to(dtype),
                alpha=config.alpha,
                num_singular_values=config.num_singular_values,
                num_iterations=config.num_iterations,
                start_side=config.start_side,
            )
        elif config.normalization == "svpn_exact":
            pooled = svpn_exact(pooled, config.alpha)
        elif config.normalization == "isqrt_cov":
            pooled = isqrt_covariance(pooled, config.num_newton_schulz_iterations)
        elif config.normalization == "layer_norm":
            pooled = layer_normalization(pooled, self.norm_weight.to(dtype), self.norm_bias.to(dtype))
        elif config.normalization == "fixed_scale":
            pooled = pooled * self.fixed_scale
        elif config.normalization == "learned_scale":
            pooled = pooled * self.scale.to(dtype)
        features = upper_triangle(pooled) if config.pooling == "covariance" else pooled.flatten(2)
        if config.normalization == "power":
            features = power_normalization(features, config.alpha)
        return features

    def mix_layers(self, hidden_states: Tensor | Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """One (B, N, C) of the last layer, or the learned mixture of the last `num_layers`."""
        layers = (hidden_states,) if isinstance(hidden_states, Tensor) else tuple(hidden_states)
        if len(layers) != self.config.num_layers:
            raise ValueError(
                f"hidden_states holds {len(layers)} layers, but num_layers is {self.config.num_layers}"
            )
        if len(layers) == 1:
            return layers[0].to(dtype)
        shares = self.layer_mixture.to(dtype).softmax(0)
        mixed = layers[0].to(dtype) * shares[0]
        for index in range(1, len(layers)):
            mixed = mixed + layers[index].to(dtype) * shares[index]
        return mixed


class SoTHead(nn.Module):
    """Logits from the word tokens, pooled to second order, and the classification token.

    All arithmetic is in fp32 with autocast off (float64 for float64 inputs), whatever the backbone's or the
    weights' precision. A text without words pools to zero.

    Args:
        config: the head's settings.
        hidden_size: C, the backbone's width.
        num_labels: K.
        class_token_bias: whether the classification token's linear has a bias (GPT's own head has none).
    """

    def __init__(
        self, config: SoTHeadConfig, *, hidden_size: int, num_labels: int, class_token_bias: bool = True
    ) -> None:
        super().__init__()
        problems = [
            f"{name}={value!r} is not a positive integer"
            for name, value in (("hidden_size", hidden_size), ("num_labels", num_labels))
            if not isinstance(value, int) or value < 1
        ]
        if problems:
            raise ValueError("head: " + "; ".join(problems))
        self.config = config
        self.dropout = nn.Dropout(config.dropout)
        if config.uses_words:
            self.words = WordPooling(config, hidden_size)
            joint_size = hidden_size if config.fusion == "concat" else 0
            self.word_output = CastingLinear(joint_size + self.words.output_size, num_labels)
        if config.uses_class_token and config.fusion != "concat":
            self.class_token_output = CastingLinear(hidden_size, num_labels, bias=class_token_bias)
        self.reset_parameters()

    def reset_parameters(self, std: float = 0.02) -> None:
        """Draw all weights anew; a pretrained model's own initialisation does the same by its rules."""
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, nn.Linear):
                    init.normal_(module.weight, mean=0.0, std=std)
                    if module.bias is not None:
                        init.zeros_(module.bias)
                init_head_weights(module, std)

    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        word_mask: Tensor | None = None,
        class_token: Tensor | None = None,
    ) -> SoTHeadOutput:
        """The logits of a batch.

        Args:
            hidden_states: (B, N, C) of the last layer, or the last `num_layers` of them, lowest first. Values
                at tokens outside the mask are never read.
            word_mask: (B, N) bool, the tokens to pool, from `tokens.word_mask`; for the fusion
                `aggregate_all` with the classification token among them.
            class_token: (B, C), the classification token, after the family's own transform where
                `config.class_token` is `stock`.

        Raises:
            ValueError: if something that the settings need is missing, or of a wrong shape.
        """
        config = self.config
        first = hidden_states if isinstance(hidden_states, Tensor) else hidden_states[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        with maybe_autocast(first.device.type, enabled=False):
            class_token_logits = word_logits = None
            if config.uses_class_token:
                if class_token is None:
                    raise ValueError(f"fusion={config.fusion!r} needs class_token")
                class_token = class_token.to(dtype)
                if config.fusion != "concat":
                    class_token_logits = self.class_token_output(class_token)
            if config.uses_words:
                pooled = self.dropout(self.pool(hidden_states, word_mask))
                if config.fusion == "concat":
                    assert class_token is not None
                    return SoTHeadOutput(self.word_output(torch.cat([class_token, pooled], -1)))
                word_logits = self.word_output(pooled)
            if word_logits is None:
                assert class_token_logits is not None
                return SoTHeadOutput(class_token_logits, None, class_token_logits)
            if class_token_logits is None:
                return SoTHeadOutput(word_logits, word_logits)
            return SoTHeadOutput(word_logits + class_token_logits, word_logits, class_token_logits)

    def pool(self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor | None) -> Tensor:
        """The normalised features that the word classifier sees: (B, M D)."""
        mixed, mask = self._words(hidden_states, word_mask)
        pooled: Tensor = self.words(mixed, mask)
        return pooled

    def _words(
        self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Hidden states in the head's precision, zero outside the words, and the mask as bool."""
        first = hidden_states if isinstance(hidden_states, Tensor) else hidden_states[0]
        if word_mask is None:
            raise ValueError(f"pooling={self.config.pooling!r} needs word_mask")
        if first.dim() != 3 or word_mask.shape != first.shape[:2]:
            raise ValueError(
                f"hidden_states {tuple(first.shape)} and word_mask {tuple(word_mask.shape)} do not fit: "
                "they must be (batch, tokens, hidden size) and (batch, tokens)"
            )
        mask = word_mask.bool()
        mixed = self.words.mix_layers(hidden_states, torch.promote_types(first.dtype, torch.float32))
        # Not a product: a backbone may leave NaN at padding, and NaN * 0 is NaN.
        return torch.where(mask.unsqueeze(-1), mixed, 0), mask


def init_head_weights(module: nn.Module, std: float) -> None:
    """Give the raw parameters and buffers of the head's modules their first values.

    To be called from a model's `_init_weights` for every module; the linears of the head are left to the
    model's own rule. Only `transformers.initialization` is used, which leaves loaded weights alone.
    """
    if isinstance(module, (MaskedBatchNorm, MapLayerNorm)):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    if isinstance(module, MaskedBatchNorm):
        init.zeros_(module.running_mean)
        init.ones_(module.running_var)
    if isinstance(module, WordPooling):
        config = module.config
        if config.num_layers > 1:
            init.zeros_(module.layer_mixture)  # equal shares
        if config.pooling == "attention":
            init.normal_(module.queries, mean=0.0, std=std)
        if config.normalization == "svpn" and module.is_matrix:
            init.normal_(module.start, mean=0.0, std=1.0)
        elif config.normalization == "layer_norm":
            init.ones_(module.norm_weight)
            init.zeros_(module.norm_bias)
        elif config.normalization == "learned_scale":
            init.constant_(module.scale, module.fixed_scale)
