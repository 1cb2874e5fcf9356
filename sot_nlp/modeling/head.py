"""The SoT head: maps -> covariance over the word tokens -> normalisation -> fusion -> logits.

Xie et al., "SoT: Delving Deeper into Classification Head for Transformer", arXiv 2104.10935.
Shapes: B batch, N tokens, C hidden size, M heads, P x Q a head's matrix, D pooled features a head, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from .batch_norm import MaskedBatchNorm
from .contributions import pair_shares, token_shares, vector_shares
from .covariance import cross_covariance, word_weights
from .head_config import MATRIX_POOLINGS, SoTHeadConfig
from .layers import CastingLinear, MapLayerNorm, UniformDropout
from .word_pooling import WordPooling


class SoTHeadOutput(NamedTuple):
    """What the head gives; a branch's own logits where it has them (fusion `sum`, `late` and single ones)."""

    logits: Tensor  # (B, K)
    word_logits: Tensor | None = None  # (B, K)
    class_token_logits: Tensor | None = None  # (B, K)


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
        self.dropout = UniformDropout(config.dropout)
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

    def word_contributions(self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor) -> Tensor:
        """What each word adds to each word logit, exactly, from a forward pass alone.

        A word's share is its own centred product in S (or its own weighted hidden state, for the poolings
        `mean` and `attention`), times the normaliser, through the word classifier. Arguments as in `forward`.

        Returns:
            (B, N, K), zero outside the words. Their sum and the word classifier's bias are the word logits;
            with the fusion `concat`, the logits less the classification token's part.

        Raises:
            ValueError: naming the setting for which no exact sum exists, or in training mode.
        """
        return self._contributions(hidden_states, word_mask, pairs=False)

    def pair_contributions(self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor) -> Tensor:
        """What each pair of words (s on the x side, t on the y side) adds to each word logit, exactly.

        `contributions.pair_shares` defines it; unlike a word's share, it counts what a word does through the
        mean that is taken off the others. For matrix poolings. Arguments as in `forward`.

        Returns:
            (B, N, N, K), [b, s, t], zero outside the words; sums as in `word_contributions`.

        Raises:
            ValueError: naming the setting for which no exact sum exists, or in training mode.
        """
        return self._contributions(hidden_states, word_mask, pairs=True)

    def class_token_contributions(self, class_token: Tensor) -> Tensor:
        """What the classification token adds to each logit, exactly, where it has a branch of its own.

        Args:
            class_token: (B, C), as in `forward`.

        Returns:
            (B, K), without a bias; with the words' contributions and `output_bias` it makes the logits.

        Raises:
            ValueError: where the fusion gives the classification token no branch.
        """
        if not self.config.uses_class_token:
            raise ValueError(f"fusion={self.config.fusion!r} gives the classification token no branch")
        class_token = class_token.to(torch.promote_types(class_token.dtype, torch.float32))
        with maybe_autocast(class_token.device.type, enabled=False):
            if self.config.fusion == "concat":
                weight = self.word_output.weight[:, : -self.words.output_size]
            else:
                weight = self.class_token_output.weight
            return class_token @ weight.to(class_token.dtype).T

    @property
    def output_bias(self) -> Tensor:
        """What the head adds to every text's logits: (K,)."""
        outputs = [getattr(self, name, None) for name in ("word_output", "class_token_output")]
        present = [output for output in outputs if output is not None]
        bias = present[0].weight.new_zeros(present[0].out_features, dtype=torch.float32)
        for output in present:
            bias = bias if output.bias is None else bias + output.bias
        return bias

    def _contributions(
        self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor, *, pairs: bool
    ) -> Tensor:
        self._refuse_inexact_contributions(pairs)
        words = self.words
        first = hidden_states if isinstance(hidden_states, Tensor) else hidden_states[0]
        with maybe_autocast(first.device.type, enabled=False):
            mixed, mask = self._words(hidden_states, word_mask)
            weights = word_weights(mask, mixed.dtype)
            # With `concat` the classification token's columns come first.
            readout = words.readout(self.word_output.weight[:, -words.output_size :].to(mixed.dtype))
            if not words.is_matrix:
                token_weights = words.token_weights(mixed, mask, weights)
                return vector_shares(mixed, token_weights * words.gain(mixed)[..., None], readout)
            mapped = words.mapped(mixed, mask)
            x, y = words.sides(words.centered(mapped, weights))
            gain = words.gain(cross_covariance(x, y, weights))[:, None, :, None]  # (B, 1, M, 1)
            if pairs:
                x, y = words.sides(mapped)
                return pair_shares(x * gain, y, weights, readout, self.config.centering)
            return token_shares(x * gain, y, weights, readout)

    def _refuse_inexact_contributions(self, pairs: bool) -> None:
        config = self.config
        problems = []
        if config.pooling in ("none", "max"):
            problems.append(f"pooling={config.pooling!r} is not a sum over words")
        elif pairs and config.pooling not in MATRIX_POOLINGS:
            problems.append(
                f"pooling={config.pooling!r} has no pairs of words: use {' or '.join(MATRIX_POOLINGS)}"
            )
        if not config.has_scalar_gain:
            name, value = "normalization", config.normalization
            if value == "svpn":
                name, value = "num_singular_values", str(config.num_singular_values)
            problems.append(
                f"{name}={value} does not multiply a head by one number: use svpn with "
                "num_singular_values=1, fixed_scale, learned_scale or none"
            )
        if self.training:
            problems.append("the head is in training mode: call eval() first")
        if problems:
            raise ValueError("no exact contributions: " + "; ".join(problems))

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
            init.normal_(module.starts, mean=0.0, std=1.0)
        elif config.normalization == "layer_norm":
            init.ones_(module.norm_weight)
            init.zeros_(module.norm_bias)
        elif config.normalization == "learned_scale":
            init.constant_(module.scale, module.fixed_scale)
