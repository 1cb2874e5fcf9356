"""Faster CPU versions of torch's operations: dropout, attention, and sums and norms in bf16.

On a CPU torch draws dropout from a Bernoulli generator at about 11 ns per number, and has no fused attention
with dropout: on MiniLM that is a tenth of an update on short texts and a fifth on long ones. Autocast keeps
what comes from the embeddings in fp32, so each layer's sums and norms are fp32 too, and each of its products
casts its input.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate.utils import is_compiled_module
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from sot_nlp.modeling.layers import UniformDropout, draw_kept, keep_factors

# Backbones (transformers' model types) that compute positions in the precision of the embeddings.
POSITIONS_IN_STREAM = frozenset({"ctrl", "funnel", "reformer"})
# Numbers of fp32 in a register of AVX-512.
REGISTER = 16


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Apply dropout as `torch.nn.functional.dropout` does, with other random numbers."""
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
    """Compute `torch.nn.functional.scaled_dot_product_attention`, with the dropout above.

    Shapes: query (..., L, E), key (..., S, E), value (..., S, V) -> (..., L, V).

    What has L x S elements per head is read and written as seldom as possible, in the inputs' precision
    (softmax computes in fp32 inside): the mask is added, and dropout's factor is put on the values.
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
    weights = softmax(scores)
    if dropout_p == 0:
        return weights @ value
    kept, factor = draw_kept(weights, dropout_p)
    return (weights * kept) @ (value * factor)


def softmax(scores: Tensor) -> Tensor:
    """Compute `torch.softmax(scores, -1)`, (..., L, S) -> (..., L, S).

    torch's takes several times as long for a row that does not fill a register of the processor (16 numbers
    of AVX-512), so shorter ones are filled up.
    """
    missing = REGISTER - scores.shape[-1]
    if scores.dtype != torch.bfloat16 or not 0 < missing <= REGISTER // 2:
        return torch.softmax(scores, -1)
    filled = functional.pad(scores.float(), (0, missing), value=-math.inf)
    return torch.softmax(filled, -1)[..., :-missing].to(scores.dtype)


def pass_context(
    device: torch.device,
    model: nn.Module,
    *,
    autocast: bool = True,
    training: bool = True,
    recomputes: bool = False,
) -> Callable[[], contextlib.AbstractContextManager[Any]]:
    """Return what makes the context of a pass of `model`: `QuickCPU`, or nothing where nothing is to gain.

    That is not on a CPU, or without `autocast` where no dropout is drawn, in `training` or because the model
    has none: calling every function of torch through the mode is a tenth of a tiny model's update. Nothing,
    too, for a compiled model, whose compiler it would stop. Where the backward pass `recomputes` activations,
    without its dropout and attention, since torch leaves the mode for all of that.
    """
    modules = list(model.modules())
    compiled = any(is_compiled_module(m) or getattr(m, "_compiled_call_impl", None) for m in modules)
    if device.type != "cpu" or compiled or not (autocast or (training and _has_dropout(model))):
        return contextlib.nullcontext
    kinds = {getattr(getattr(module, "config", None), "model_type", None) for module in modules}
    return functools.partial(QuickCPU, dropout=not recomputes, stream=kinds.isdisjoint(POSITIONS_IN_STREAM))


def _has_dropout(model: nn.Module) -> bool:
    """Return whether `model` may draw dropout by torch's own function (the head has one of its own)."""
    for module in model.modules():
        config = getattr(module, "config", None)
        rates = [getattr(module, "p", 0)] if isinstance(module, nn.Dropout) else []
        if config is not None and hasattr(config, "to_dict"):
            rates += [value for name, value in config.to_dict().items() if "drop" in name]
        if not isinstance(module, UniformDropout) and any(
            isinstance(r, float | int) and r > 0 for r in rates
        ):
            return True
    return False


class QuickCPU(TorchFunctionMode):
    """Replace what a model asks of torch for CPU tensors by faster versions, inside the block.

    Args:
        dropout: dropout, and attention with it, are the ones above.
        stream: under autocast embeddings are in autocast's precision, so that all that is added to them is.
    """

    def __init__(self, *, dropout: bool = True, stream: bool = True) -> None:
        super().__init__()
        self.dropout, self.stream = dropout, stream

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch; torch calls this for each of them."""
        kwargs = kwargs or {}
        if func is functional.dropout and self.dropout and args[0].device.type == "cpu":
            return dropout(*args, **kwargs)
        if func is functional.embedding and self.stream and torch.is_autocast_enabled("cpu"):
            embedded: Tensor = func(*args, **kwargs)
            return embedded.to(torch.get_autocast_dtype("cpu")) if embedded.device.type == "cpu" else embedded
        if (
            func is functional.scaled_dot_product_attention
            and self.dropout
            and kwargs.get("dropout_p")
            and not kwargs.get("enable_gqa")
            and args[0].device.type == "cpu"
        ):
            kwargs.pop("enable_gqa", None)
            return attention(*args, **kwargs)
        return func(*args, **kwargs)
