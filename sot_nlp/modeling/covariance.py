"""What is pooled over the word tokens: centred (cross-)covariance, and the vectors that compete with it.

Every function weighs tokens by `word_weights`, so that padding, batch mates and padding side change nothing.
Shapes: B batch, N tokens, M heads, P and Q a head's widths of the x and y map, D either, C hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def word_weights(word_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Each token's weight in a mean over the words: 1/n at words, 0 elsewhere; (B, N) bool -> (B, N).

    A text without words has weights of zero, and so everything that is pooled from it is zero.
    """
    weights = word_mask.to(dtype)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1)


def center(features: Tensor, weights: Tensor, mode: str) -> Tensor:
    """Take the mean over the words off: X - mean(X), paper Eq. (4).

    Args:
        features: (B, N, M, D), finite at padding too (the result there has no meaning).
        weights: (B, N), from `word_weights`.
        mode: `channel`, each channel's own mean (the definition, and what the text code computes); `scalar`,
            one mean over words and channels for each example and head (what the vision code computes);
            `none`.

    Returns:
        (B, N, M, D).
    """
    if mode == "none":
        return features
    mean = weighted_sum(features.flatten(2), weights).unflatten(-1, features.shape[2:])  # (B, M, D)
    if mode == "scalar":
        mean = mean.mean(-1, keepdim=True)
    return features - mean.unsqueeze(1)


def cross_covariance(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """S = (1/n) sum_t x_t^T y_t over the words of each head, paper Eq. (4).

    Args:
        x: (B, N, M, P), centred. y: (B, N, M, Q), centred. weights: (B, N), from `word_weights`.

    Returns:
        (B, M, P, Q). With `y = x` it is the covariance.
    """
    weighted = x * weights[..., None, None]
    return weighted.permute(0, 2, 3, 1) @ y.transpose(1, 2)  # (B, M, P, N) @ (B, M, N, Q)


def upper_triangle(matrix: Tensor) -> Tensor:
    """The entries on and above the diagonal, row by row: (B, M, P, P) -> (B, M, P (P + 1) / 2)."""
    size = matrix.shape[-1]
    rows, columns = torch.triu_indices(size, size, device=matrix.device)
    return matrix[..., rows, columns]


def weighted_sum(tokens: Tensor, weights: Tensor) -> Tensor:
    """sum_t w_t z_t, with `word_weights` the mean over the words: (B, N, C) by (B, N) -> (B, C)."""
    return (weights.unsqueeze(1) @ tokens).squeeze(1)


def word_maximum(tokens: Tensor, word_mask: Tensor) -> Tensor:
    """Each channel's largest value over the words, 0 without words: (B, N, C) by (B, N) -> (B, C)."""
    highest = tokens.masked_fill(~word_mask.unsqueeze(-1), -math.inf).amax(1)
    return torch.where(word_mask.any(-1, keepdim=True), highest, 0)


def attention_weights(tokens: Tensor, queries: Tensor, word_mask: Tensor) -> Tensor:
    """softmax over the words of z_t . q_m / sqrt(C), one learned query a head; zeros without words.

    Args:
        tokens: (B, N, C). queries: (M, C). word_mask: (B, N).

    Returns:
        (B, M, N).
    """
    affinity = queries @ tokens.transpose(1, 2) / math.sqrt(tokens.shape[-1])
    # A finite fill keeps the softmax of a text without words free of NaN; the product then zeroes it.
    filled = affinity.masked_fill(~word_mask.unsqueeze(1), torch.finfo(tokens.dtype).min)
    return filled.softmax(-1) * word_mask.unsqueeze(1)
