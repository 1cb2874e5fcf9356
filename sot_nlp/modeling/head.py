"""The SoT head: maps -> covariance over the word tokens -> normalisation -> fusion -> logits.

Xie et al., "SoT: Delving Deeper into Classification Head for Transformer", arXiv 2104.10935.
Shapes: B batch, N tokens, C hidden size, M heads, P x Q matrix and D pooled features per head, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import initialization as init
from transformers.utils.generic import maybe_autocast

from .batch_norm import MaskedBatchNorm
from .fusion import Fusion, SoTHeadOutput
from .head_config import SoTHeadConfig, resolve_head
from .layers import CastingLinear, MapLayerNorm, UniformDropout
from .matrix_pooling import CrossCovariance  # noqa: F401  (remote code finds files by such lines alone)
from .normalizers import Normalization
from .parts import CLASS_TOKENS, FUSIONS, HEADS, NORMALIZATIONS, POOLINGS, is_own
from .token_branch import TokenBranch
from .word_pooling import WordPooling

# Marks of modules whose first values are set in another way than the model's rule.
STARTS_AT_ZERO, OF_OWN_PART = "starts_at_zero", "of_own_part"


class SoTHead(nn.Module):
    """Logits from the word tokens, pooled to second order, and the classification token.

    All arithmetic is in fp32 with autocast off (float64 for float64 inputs), whatever the backbone's or the
    weights' precision. A text without words pools to zero.

    Args:
        config: the head's settings, or a ready module that takes the place of all parts: it is called with
            what `forward` is given, and returns logits (B, K).
        hidden_size: C, the backbone's width.
        num_labels: K.
        class_token_bias: whether the classification token's linear has a bias (GPT's own head has none).
    """

    def __init__(
        self,
        config: SoTHeadConfig | nn.Module,
        *,
        hidden_size: int,
        num_labels: int,
        class_token_bias: bool = True,
    ) -> None:
        super().__init__()
        problems = [
            f"{name}={value!r} is not a positive integer"
            for name, value in (("hidden_size", hidden_size), ("num_labels", num_labels))
            if not isinstance(value, int) or value < 1
        ]
        if problems:
            raise ValueError("head: " + "; ".join(problems))
        self.config: SoTHeadConfig = resolve_head(config) if isinstance(config, nn.Module) else config
        self.num_labels = num_labels
        self.dropout = UniformDropout(self.config.dropout)
        if self.config.module:
            sizes = {"hidden_size": hidden_size, "num_labels": num_labels}
            self.module = config if isinstance(config, nn.Module) else self._own_head(sizes)
        else:
            self._build_parts(hidden_size, num_labels, class_token_bias)
        adopt_own_parts(self)
        if not isinstance(config, nn.Module):
            self.reset_parameters()

    def _own_head(self, sizes: dict[str, int]) -> nn.Module:
        own: nn.Module = HEADS[self.config.module].load()(**sizes, **self.config.part_settings)
        return own

    def _build_parts(self, hidden_size: int, num_labels: int, class_token_bias: bool) -> None:
        config = self.config
        if config.uses_words:
            self.words: WordPooling = POOLINGS[config.pooling].load()(config, hidden_size)
        self.fusion: Fusion = FUSIONS[config.fusion].load()(
            config,
            word_size=self.words.output_size if config.uses_words else 0,
            class_token_size=hidden_size if config.uses_class_token else 0,
            num_labels=num_labels,
        )
        if config.token_of_layers:
            self.token_branch: TokenBranch = CLASS_TOKENS[config.class_token].load()(config, hidden_size)
        self.fusion.build(self, class_token_bias=class_token_bias)
        if config.word_output_init == "zero":
            setattr(self.word_output, STARTS_AT_ZERO, True)

    def reset_parameters(self, std: float = 0.02) -> None:
        """Reinitialise all weights; a pretrained model's own initialisation does the same by its rules."""
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
        """Return the logits of a batch.

        Args:
            hidden_states: (B, N, C) of the last layer, or the last `num_layers` of them, lowest first. Values
                at tokens outside the mask are never read.
            word_mask: (B, N) bool, the tokens to pool, from `tokens.word_mask`; for the fusion
                `aggregate_all` with the classification token among them.
            class_token: (B, C), the classification token, after the family's own transform where
                `config.class_token` is `stock`; or (B, L, C), of the layers of `hidden_states`, where that
                reads several layers (`config.token_of_layers`).

        Raises:
            ValueError: if something that the settings need is missing, or of a wrong shape.
        """
        config = self.config
        first = hidden_states if isinstance(hidden_states, Tensor) else hidden_states[0]
        dtype = torch.promote_types(first.dtype, torch.float32)
        with maybe_autocast(first.device.type, enabled=False):
            if config.uses_class_token:
                if class_token is None:
                    raise ValueError(f"fusion={config.fusion!r} needs class_token")
                class_token = class_token.to(dtype)
            else:
                class_token = None
            if config.token_of_layers:
                class_token = self._of_layers(class_token, hidden_states, word_mask)
            if config.module:
                return self._of_own_head(hidden_states, word_mask, class_token, dtype)
            words = self.dropout(self.pool(hidden_states, word_mask)) if config.uses_words else None
            return self.fusion.fuse(self, words, class_token)

    def _of_layers(
        self, class_token: Tensor | None, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor | None
    ) -> Tensor:
        """Return the vector (B, C) that `token_branch` makes of the layers' classification tokens."""
        layers = (hidden_states,) if isinstance(hidden_states, Tensor) else tuple(hidden_states)
        if class_token is None or class_token.dim() != 3:
            raise ValueError(
                f"class_token={self.config.class_token!r} needs the token of each layer: (B, L, C)"
            )
        if self.config.token_reads_words and word_mask is None:
            raise ValueError(f"class_token={self.config.class_token!r} needs word_mask")
        class_token = self._scaled(class_token)
        if self.config.token_reads_words:
            layers = tuple(map(self._scaled, layers))
        mask = None if word_mask is None else word_mask.bool()
        mixture = self.words.layer_mixture if self.config.uses_words and len(layers) > 1 else None
        token: Tensor = self.token_branch(class_token, layers, mask, mixture)
        return token

    def _of_own_head(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        word_mask: Tensor | None,
        class_token: Tensor | None,
        dtype: torch.dtype,
    ) -> SoTHeadOutput:
        if isinstance(hidden_states, Tensor):
            states: Any = self._scaled(hidden_states).to(dtype)
        else:
            states = tuple(self._scaled(layer).to(dtype) for layer in hidden_states)
            states = states[0] if len(states) == 1 else states
        result = self.module(states, word_mask, class_token)
        output = SoTHeadOutput(result) if isinstance(result, Tensor) else result
        if output.logits.shape[-1] != self.num_labels:
            raise ValueError(
                f"module={self.config.module!r} gives {output.logits.shape[-1]} logits, but there are "
                f"{self.num_labels} labels"
            )
        return output

    def pool(self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor | None) -> Tensor:
        """Return the normalised features that the word classifier sees: (B, M D)."""
        pooled: Tensor = self.words(*self._words(hidden_states, word_mask))
        return pooled

    def word_contributions(self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor) -> Tensor:
        """Return what each word adds to each word logit, exactly, from a forward pass alone.

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
        """Return what each pair of words (s on the x side, t on the y side) adds to each word logit, exactly.

        `contributions.pair_shares` defines it; unlike a word's share, it counts what a word does through the
        mean that is taken off the others. For matrix poolings. Arguments as in `forward`.

        Returns:
            (B, N, N, K), [b, s, t], zero outside the words; sums as in `word_contributions`.

        Raises:
            ValueError: naming the setting for which no exact sum exists, or in training mode.
        """
        return self._contributions(hidden_states, word_mask, pairs=True)

    def class_token_contributions(self, class_token: Tensor) -> Tensor:
        """Return what the classification token adds to each logit, exactly, where it has its own branch.

        Args:
            class_token: (B, C) or (B, L, C), as in `forward`.

        Returns:
            (B, K), without a bias; with the words' contributions and `output_bias` it makes the logits.

        Raises:
            ValueError: where the fusion gives the classification token no branch.
        """
        if not self.config.uses_class_token:
            raise ValueError(f"fusion={self.config.fusion!r} gives the classification token no branch")
        if self.config.token_reads_words:
            raise ValueError(
                f"no exact contributions: class_token={self.config.class_token!r} reads the words"
            )
        class_token = class_token.to(torch.promote_types(class_token.dtype, torch.float32))
        with maybe_autocast(class_token.device.type, enabled=False):
            if self.config.token_of_layers:
                class_token = self._of_layers(class_token, [class_token[:, 0]] * self.config.num_layers, None)
            return class_token @ self.fusion.class_token_readout(self).to(class_token.dtype).T

    def class_token_parameters(self) -> list[str]:
        """Return the names of the parameters of the classification token's branch; the others are the words'.

        With the fusion `concat` one linear serves both: it counts among the words'.
        """
        branch = ("class_token_output.", "class_token_transform.", "token_branch.")
        return [name for name, _ in self.named_parameters() if name.startswith(branch)]

    @property
    def outputs(self) -> list[CastingLinear]:
        """The linears whose outputs add up to the logits, one or two."""
        linears = [getattr(self, name, None) for name in ("word_output", "class_token_output")]
        return [linear for linear in linears if linear is not None]

    @property
    def output_bias(self) -> Tensor:
        """What the head adds to every text's logits: (K,)."""
        bias = self.outputs[0].weight.new_zeros(self.outputs[0].out_features, dtype=torch.float32)
        for output in self.outputs:
            bias = bias if output.bias is None else bias + output.bias
        return bias

    def _contributions(
        self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor, *, pairs: bool
    ) -> Tensor:
        self._refuse_inexact_contributions(pairs)
        first = hidden_states if isinstance(hidden_states, Tensor) else hidden_states[0]
        with maybe_autocast(first.device.type, enabled=False):
            layers, mask = self._words(hidden_states, word_mask)
            mixed = self.words.words_of(layers, mask)
            readout = self.fusion.word_readout(self).to(mixed.dtype)
            return self.words.shares(mixed, mask, readout, pairs=pairs)

    def _refuse_inexact_contributions(self, pairs: bool) -> None:
        config = self.config
        if config.module:
            raise ValueError(f"no exact contributions: module={config.module!r} is a head of its own")
        problems = []
        pooling = POOLINGS[config.pooling]
        if pooling.inexact:
            problems.append(f"pooling={config.pooling!r} {pooling.inexact}")
        elif pairs and not config.pools_matrix:
            matrices = " or ".join(name for name, part in POOLINGS.items() if part.gives == "matrix")
            problems.append(f"pooling={config.pooling!r} has no pairs of words: use {matrices}")
        if not config.has_scalar_gain:
            name, value = "normalization", config.normalization
            if value == "svpn":
                name, value = "num_singular_values", str(config.num_singular_values)
            exact = [other for other, part in NORMALIZATIONS.items() if part.exact == "yes"]
            problems.append(
                f"{name}={value} does not multiply a head by one number: use svpn with "
                f"num_singular_values=1, {', '.join(exact[:-1])} or {exact[-1]}"
            )
        if self.training:
            problems.append("the head is in training mode: call eval() first")
        if problems:
            raise ValueError("no exact contributions: " + "; ".join(problems))

    def _scaled(self, states: Tensor) -> Tensor:
        """Return (..., C) as `token_norm` says, if scaled in at least fp32."""
        if self.config.token_norm != "layer_norm":
            return states
        dtype = torch.promote_types(states.dtype, torch.float32)
        return functional.layer_norm(states.to(dtype), states.shape[-1:])

    def _words(
        self, hidden_states: Tensor | Sequence[Tensor], word_mask: Tensor | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return the layers that the words are mixed from, as `token_norm` says, and the mask as bool."""
        first = hidden_states if isinstance(hidden_states, Tensor) else hidden_states[0]
        if word_mask is None:
            raise ValueError(f"pooling={self.config.pooling!r} needs word_mask")
        if first.dim() != 3 or word_mask.shape != first.shape[:2]:
            raise ValueError(
                f"hidden_states {tuple(first.shape)} and word_mask {tuple(word_mask.shape)} do not fit: "
                "they must be (batch, tokens, hidden size) and (batch, tokens)"
            )
        layers = (hidden_states,) if isinstance(hidden_states, Tensor) else hidden_states
        return [self._scaled(layer) for layer in layers], word_mask.bool()


def adopt_own_parts(head: SoTHead) -> None:
    """Mark the modules of a user's own parts, whose `reset_parameters` is then called for their first values.

    Raises:
        ValueError: if one has parameters whose first values nothing sets: loading would leave them random.
    """
    for module in _own_modules(head):
        bases = [base for base in (WordPooling, Normalization, Fusion) if isinstance(module, base)]
        own: Any = type(module)
        sets = hasattr(module, "reset_parameters") or any(own.reset is not base.reset for base in bases)
        raw = [*module._parameters, *module._buffers]
        if "layer_mixture" in raw:  # of every pooling
            raw.remove("layer_mixture")
        if raw and not sets:
            method = "reset(std)" if bases else "reset_parameters()"
            raise ValueError(
                f"head: {type(module).__name__} has parameters of its own ({', '.join(raw)}) whose first "
                f"values nothing sets: give it a method {method} that does"
            )
        setattr(module, OF_OWN_PART, True)


def _own_modules(head: SoTHead) -> list[nn.Module]:
    """Return the modules of parts that a user registered, but for torch's layers and ours."""
    config = head.config
    if config.module:
        roots: list[nn.Module] = [head.module]
    else:
        roots = [head.fusion] if is_own(FUSIONS[config.fusion]) else []
        if config.uses_words:
            inner = head.words.normalization
            roots += [inner] if is_own(NORMALIZATIONS[config.normalization]) else []
            if is_own(POOLINGS[config.pooling]):
                roots.append(head.words)
    modules = {id(module): module for root in roots for module in root.modules()}
    known = (MaskedBatchNorm, MapLayerNorm, CastingLinear, UniformDropout)
    return [
        module
        for module in modules.values()
        if not isinstance(module, known) and not type(module).__module__.startswith("torch.")
    ]


def init_head_weights(module: nn.Module, std: float) -> None:
    """Give the raw parameters and buffers of the head's modules their first values.

    To be called from a model's `_init_weights` for every module; the linears of the head are left to the
    model's own rule. Only `transformers.initialization` is used, which leaves loaded weights alone.
    """
    if getattr(module, STARTS_AT_ZERO, False) and isinstance(module, nn.Linear):
        init.zeros_(module.weight)
    if isinstance(module, (MaskedBatchNorm, MapLayerNorm)):
        init.ones_(module.weight)
        init.zeros_(module.bias)
    if isinstance(module, MaskedBatchNorm):
        init.zeros_(module.running_mean)
        init.ones_(module.running_var)
    # A user's own part may set its values by torch.nn.init: loaded ones are left alone by that, too.
    with init.guard_torch_init_functions():
        if isinstance(module, WordPooling):
            module.reset_all(std)
        if isinstance(module, (Fusion, Normalization, TokenBranch)):
            module.reset(std)
        own: Any = module if getattr(module, OF_OWN_PART, False) else None
        if hasattr(own, "reset_parameters"):
            own.reset_parameters()
