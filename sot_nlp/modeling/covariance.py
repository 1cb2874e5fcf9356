"""Pool the word tokens: centred (cross-)covariance, and the vectors that compete with it.

Every function weighs tokens by `word_weights`, so that padding, batch mates and padding side change nothing.
Shapes: B batch, N tokens, M heads, P and Q widths of the x and y map per head, D channels of all maps, C
hidden size.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

# (heads, width of a head) of the x map and, where there is one, of the y map.
Groups = tuple[tuple[int, int], ...]


def word_weights(word_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each token's weight in a mean over the words: 1/n at words, 0 elsewhere; (B, N) -> (B, N).

    A text without words has weights of zero, and so everything that is pooled from it is zero.
    """
    weights = word_mask.to(dtype)
    return weights / weights.sum(-1, keepdim=True).clamp_min(1)


def split_heads(features: Tensor, groups: Groups) -> list[Tensor]:
    """Split each map's channels by head: (..., M (P + Q)) -> (..., M, P) and (..., M, Q)."""
    parts = features.split([heads * width for heads, width in groups], -1)
    return [part.unflatten(-1, group) for part, group in zip(parts, groups, strict=True)]


def center(features: Tensor, weights: Tensor, mode: str, groups: Groups) -> Tensor:
    """Take the mean over the words off: X - mean(X) (arXiv 2104.10935, cross-covariance pooling).

    Args:
        features: (B, N, D), the maps' channels side by side, finite at padding too.
        weights: (B, N), from `word_weights`.
        mode: `channel`, each channel's own mean (the definition, and what the text code computes); `scalar`,
            one mean over words and channels for each example, head and map (what the vision code computes);
            `none`.
        groups: the heads and their width in each map, which `scalar` needs.

    Returns:
        (B, N, D); at padding it has no meaning.
    """
    if mode == "none":
        return features
    mean = weighted_sum(features, weights)  # (B, D)
    if mode == "scalar":
        by_head = split_heads(mean, groups)  # (B, M, P) and (B, M, Q)
        mean = torch.cat([m.mean(-1, keepdim=True).expand_as(m).flatten(1) for m in by_head], -1)
    return features + (-mean).unsqueeze(1)  # a difference's gradient would negate all of `features`' size


def cross_covariance(x: Tensor, y: Tensor, weights: Tensor) -> Tensor:
    """Compute S = (1/n) sum_t x_t^T y_t over the words of each head (arXiv 2104.10935, the same).

    Args:
        x: (B, N, M, P), centred. y: (B, N, M, Q), centred. weights: (B, N), from `word_weights`.

    Returns:
        (B, M, P, Q). With `y = x` it is the covariance.
    """
    # Head by head in memory: the copies cost less than a batched product over strided operands.
    x_by_head = (x * weights[..., None, None]).transpose(1, 2).contiguous()  # (B, M, N, P)
    y_by_head = y.transpose(1, 2).contiguous()  # (B, M, N, Q)
    return x_by_head.transpose(-1, -2) @ y_by_head


def upper_triangle(matrix: Tensor) -> Tensor:
    """Return the entries on and above the diagonal, row by row: (B, M, P, P) -> (B, M, P (P + 1) / 2)."""
    size = matrix.shape[-1]
    rows, columns = torch.triu_indices(size, size, device=matrix.device)
    return matrix[..., rows, columns]


def from_upper_triangle(values: Tensor, size: int) -> Tensor:
    """Invert `upper_triangle`, zero below the diagonal: (..., P (P + 1) / 2) -> (..., P, P)."""
    rows, columns = torch.triu_indices(size, size, device=values.device)
    matrix = values.new_zeros(*values.shape[:-1], size, size)
    matrix[..., rows, columns] = values
    return matrix


def weighted_sum(tokens: Tensor, weights: Tensor) -> Tensor:
    """Return sum_t w_t z_t, with `word_weights` the mean over words: (B, N, C) by (B, N) -> (B, C)."""
    return (weights.unsqueeze(1) @ tokens).squeeze(1)


def word_maximum(tokens: Tensor, word_mask: Tensor) -> Tensor:
    """Return each channel's largest value over the words, 0 without: (B, N, C) by (B, N) -> (B, C)."""
    highest = tokens.masked_fill(~word_mask.unsqueeze(-1), -math.inf).amax(1)
    return torch.where(word_mask.any(-1, keepdim=True), highest, 0)


def attention_weights(tokens: Tensor, queries: Tensor, word_mask: Tensor) -> Tensor:
    """Return softmax over the words of z_t . q_m / sqrt(C), one learned query per head; zeros without words.

    Args:
        tokens: (B, N, C). queries: (M, C). word_mask: (B, N).

    Returns:
        (B, M, N).
    """
    affinity = queries @ tokens.transpose(1, 2) / math.sqrt(tokens.shape[-1])
    # A finite fill keeps the softmax of a text without words free of NaN; the product then zeroes it.
    filled = affinity.masked_fill(~word_mask.unsqueeze(1), torch.finfo(tokens.dtype).min)
    return filled.softmax(-1) * word_mask.unsqueeze(1)
