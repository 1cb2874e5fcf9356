"""Find which token is which, from the attention mask alone.

Padding side, pad token and end-of-text token never matter here: only the mask says what is real.
Shapes: B batch, N tokens, C hidden size, K separator ids.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def classification_index(attention_mask: Tensor, *, causal: bool) -> Tensor:
    """Return where each text's classification token is: first of the real ones, or last in a causal model.

    Args:
        attention_mask: (B, N), non-zero at real tokens.
        causal: whether tokens see only what precedes them, so that the last one has seen all.

    Returns:
        (B,) int64; a text without a real token gives 0 (its first, or in a causal model too).

    Raises:
        ValueError: if the mask is not of shape (B, N).
    """
    real, place = _real_tokens(attention_mask)
    if causal:
        return ((place + 1) * real).amax(-1).sub(1).clamp_min(0)
    length = attention_mask.shape[1]
    # The largest of N - place over real tokens belongs to the first; without any it is 0, and the place 0.
    # (A remainder by N would say the same, but its export to ONNX with dynamic shapes fails.)
    first = length - ((length - place) * real).amax(-1)
    return first * (first < length)


def word_mask(
    attention_mask: Tensor,
    class_index: Tensor,
    *,
    include_class_token: bool = False,
    input_ids: Tensor | None = None,
    separator_ids: Sequence[int] = (),
) -> Tensor:
    """Return which tokens the head pools: the real ones, without the classification token.

    Args:
        attention_mask: (B, N), non-zero at real tokens.
        class_index: (B,), from `classification_index`.
        include_class_token: keep the classification token, for the fusion `aggregate_all`.
        input_ids: (B, N), needed only to exclude separators.
        separator_ids: token ids that do not count as words.

    Returns:
        (B, N) bool.

    Raises:
        ValueError: if the mask is not of shape (B, N), or separators are named without `input_ids`.
    """
    real, place = _real_tokens(attention_mask)
    words = real if include_class_token else real & (place != class_index.unsqueeze(-1))
    if separator_ids:
        if input_ids is None:
            raise ValueError("separators can be left out only where input_ids are given (not inputs_embeds)")
        # One id after another: a tensor of them would be copied to the GPU, and the host would wait for it.
        separators = torch.stack([input_ids == id for id in separator_ids]).any(0)  # (K, B, N) -> (B, N)
        if include_class_token:
            separators = separators & (place != class_index.unsqueeze(-1))
        words = words & ~separators
    return words


def position_ids(attention_mask: Tensor, offset: int = 0) -> Tensor:
    """Count positions by real tokens only, so that left and right padding give the same ones.

    Args:
        attention_mask: (B, N), non-zero at real tokens.
        offset: position of the first real token (0; RoBERTa: 2).

    Returns:
        (B, N) int64; padding takes a neighbour's valid position, which nothing reads.
    """
    real, _ = _real_tokens(attention_mask)
    return (real.long().cumsum(-1) - 1).clamp_min(0) + offset


def gather_token(hidden_states: Tensor, index: Tensor) -> Tensor:
    """Gather one token of each text: (B, N, C) at (B,) -> (B, C)."""
    rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows, index]


def _real_tokens(attention_mask: Tensor) -> tuple[Tensor, Tensor]:
    if attention_mask.dim() != 2:
        raise ValueError(
            f"attention_mask has shape {tuple(attention_mask.shape)}: it must be (batch, tokens), "
            "non-zero at real tokens"
        )
    place = torch.arange(attention_mask.shape[1], device=attention_mask.device)  # (N,)
    return attention_mask != 0, place
