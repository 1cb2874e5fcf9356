"""Dropout at the price of a few random bits, for training on a CPU.

There torch draws dropout from a Bernoulli generator at about 11 ns a number, and has no fused attention with
dropout: on MiniLM that is a tenth of an update on short texts and a fifth on long ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sot_nlp.modeling.layers import draw_kept, keep_factors


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """As `torch.nn.functional.dropout`, of other random numbers."""
    if not training or p == 0:
        return input
    factors = keep_factors(input, p)
    return input.mul_(factors) if inplace else input * factors


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """As `torch.nn.functional.scaled_dot_product_attention`, with the dropout above.

    Shapes: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    What has L x S elements a head is passed over as seldom as can be, in the inputs' precision (torch's
    softmax computes in fp32 inside): the mask is added, and dropout's factor is put on the values.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # Finite, so that a row with nothing to attend to gives no NaN.
        masked = torch.zeros(attn_mask.shape, dtype=scores.dtype)
        attn_mask = masked.masked_fill_(~attn_mask, torch.finfo(scores.dtype).min)
    if attn_mask is not None:
        scores = scores + attn_mask.to(scores.dtype)
    weights = torch.softmax(scores, -1)
    if dropout_p == 0:
        return weights @ value
    kept, factor = draw_kept(weights, dropout_p)
    return (weights * kept) @ (value * factor)


class QuickDropout(TorchFunctionMode):
    """Within it, dropout on CPU tensors is the one above, wherever a model asks torch for it."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Called by torch for every function of it."""
        kwargs = kwargs or {}
        if func is functional.dropout and args[0].device.type == "cpu":
            return dropout(*args, **kwargs)
        if (
            func is functional.scaled_dot_product_attention
            and kwargs.get("dropout_p")
            and not kwargs.get("enable_gqa")
            and args[0].device.type == "cpu"
        ):
            kwargs.pop("enable_gqa", None)
            return attention(*args, **kwargs)
        return func(*args, **kwargs)
