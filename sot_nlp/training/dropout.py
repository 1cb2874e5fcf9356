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

from sot_nlp.modeling.layers import keep_factors


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
    The softmax is in fp32 at least.
    """
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * scale) @ key.transpose(-2, -1)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        # Finite, so that a row with nothing to attend to gives no NaN.
        scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
    elif attn_mask is not None:
        scores = scores + attn_mask
    weights = torch.softmax(scores, -1).to(value.dtype)
    return dropout(weights, dropout_p) @ value


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
