"""Split the word logits exactly into sums over tokens, and over pairs of tokens, by a forward pass alone.

Where the normalisation multiplies each head by one number g (`SoTHeadConfig.has_scalar_gain`), a word logit
is linear in the pooled matrix, and that is a sum over tokens. The number itself is taken as given: it depends
on all tokens, as the softmax of attention does.
Shapes: B batch, N tokens, M heads, P x Q matrix per head, C hidden size, K labels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_shares(x: Tensor, y: Tensor, weights: Tensor, readout: Tensor) -> Tensor:
    """Return w_t sum_m g_m x_tm^T W_m y_tm: what each token's own product adds to each word logit.

    Args:
        x: (B, N, M, P), centred, and multiplied by the heads' gains g.
        y: (B, N, M, Q), centred.
        weights: (B, N), from `word_weights`.
        readout: (K, M, P, Q), the word classifier's weights.

    Returns:
        (B, N, K); over the tokens it sums to the word logits without their bias.
    """
    read = torch.einsum("bnmp,kmpq->bnkmq", x, readout)
    return torch.einsum("bnkmq,bnmq,bn->bnk", read, y, weights)


def pair_shares(x: Tensor, y: Tensor, weights: Tensor, readout: Tensor, centering: str) -> Tensor:
    """Return what each pair of tokens, s on the x side and t on the y side, adds to each word logit.

    Centring makes each token's features depend on all of them. Written in the uncentred ones, with
    `h(s, t) = sum_m g_m x_sm^T W_m y_tm` and n words, channel centring gives the pair (s, t)
    `[s = t] h(t, t) / n - h(s, t) / n^2`: a token's product with itself, less its part in the product of the
    means. Without centring only s = t remains; with scalar centring `h(s, t) / n^2` loses the part of h that
    is left when each token's mean over channels is taken off, since only that mean is centred.

    Args:
        x: (B, N, M, P), not centred, and multiplied by the heads' gains g.
        y: (B, N, M, Q), not centred.
        weights, readout: as in `token_shares`.
        centering: `channel`, `scalar` or `none`.

    Returns:
        (B, N, N, K), [b, s, t]; over both tokens it sums to the word logits without their bias.
    """
    products = _products(x, y, readout)
    coefficients = torch.diag_embed(weights)  # (B, N, N)
    of_means = weights.unsqueeze(-1) * weights.unsqueeze(-2)
    if centering != "none":
        coefficients = coefficients - of_means
    shares = products * coefficients.unsqueeze(1)
    if centering == "scalar":
        rest = _products(x - x.mean(-1, keepdim=True), y - y.mean(-1, keepdim=True), readout)
        shares = shares + rest * of_means.unsqueeze(1)
    return shares.permute(0, 2, 3, 1)


def vector_shares(tokens: Tensor, token_weights: Tensor, readout: Tensor) -> Tensor:
    """Return sum_m w_tm z_t . W_m: each token's part of each word logit after mean or attention pooling.

    Args:
        tokens: (B, N, C). token_weights: (B, M, N), the weights of the pooling, gains included.
        readout: (K, M, C), the word classifier's weights.

    Returns:
        (B, N, K); over the tokens it sums to the word logits without their bias.
    """
    return torch.einsum("bnc,kmc,bmn->bnk", tokens, readout, token_weights)


def _products(x: Tensor, y: Tensor, readout: Tensor) -> Tensor:
    """Return h(s, t) of every pair: (B, K, N, N)."""
    read = torch.einsum("bsmp,kmpq->bskmq", x, readout)
    return torch.einsum("bskmq,btmq->bkst", read, y)
