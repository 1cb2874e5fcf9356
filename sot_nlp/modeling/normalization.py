"""Normalisations of the pooled matrix or vector, as functions with finite gradients everywhere.

Near zero, x^alpha has an infinite slope, and a text of one word pools an exact zero. Every function here
therefore measures sizes by sqrt(x^2 + EPS^2), which is x itself wherever x is above rounding.
Shapes: B batch, M heads, P x Q a head's matrix, R = min(P, Q), D features; leading dimensions "..." are free.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

EPS = 1e-6
# Above this size a square may leave fp32's range, and values are scaled down first.
LARGE = 1e10


def smooth_norm(vectors: Tensor, eps: float = EPS) -> Tensor:
    """Return sqrt(sum(x^2) + eps^2) over the last dimension, without overflow; (..., D) -> (..., 1)."""
    scale = _overflow_scale(vectors)
    # eps in the units of the scale: the addition of a constant as small as 1e-12, ONNX Runtime leaves out.
    return scale * ((vectors / scale).square().sum(-1, keepdim=True) + (eps / scale).square()).sqrt()


def svpn(
    matrix: Tensor,
    starts: Tensor,
    *,
    alpha: float = 0.5,
    num_iterations: int = 1,
    start_side: str = "x",
) -> Tensor:
    """Normalise singular values by power iteration (arXiv 2104.10935, fast svPN).

    The r leading singular triples (u_i, s_i, v_i) are found one after the other, each on what is left of
    the matrix; they are raised to alpha, and the remainder is divided by s_r^(1 - alpha). Written out, with
    `g_i = s_i^(alpha - 1)`, that is `S g_r + sum_{i < r} s_i (g_i - g_r) u_i v_i^T`: for the published r = 1
    just `S g_1` (see `svpn_gain`). Few iterations give rough triples by design.

    Departure: the published code starts every triple from the same vector. After one iteration, what is left
    of the matrix maps that vector to zero, so each triple has a start of its own here.

    Args:
        matrix: (B, M, P, Q).
        starts: (r, P) for `start_side` "x", (r, Q) for "y"; shared by the heads.
        alpha: exponent in (0, 1).
        num_iterations: power iterations for each triple.
        start_side: the side of the matrix on which the start vectors live.

    Returns:
        (B, M, P, Q).
    """
    remainder = _towards_start(matrix, start_side)
    triples: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in starts.unbind():
        if triples:
            u, size, v = triples[-1]
            remainder = remainder - size.unsqueeze(-1) * u.unsqueeze(-1) * v.unsqueeze(-2)
        triples.append(_leading_triple(remainder, start, num_iterations))
    last_gain = triples[-1][1].unsqueeze(-1) ** (alpha - 1)  # (B, M, 1, 1)
    normalized = matrix * last_gain
    for u, size, v in triples[:-1]:
        size = size.unsqueeze(-1)
        left, right = (u, v) if start_side == "y" else (v, u)
        normalized = normalized + (
            size * (size ** (alpha - 1) - last_gain) * left.unsqueeze(-1) * right.unsqueeze(-2)
        )
    return normalized


def svpn_gain(
    matrix: Tensor, start: Tensor, *, alpha: float = 0.5, num_iterations: int = 1, start_side: str = "x"
) -> Tensor:
    """Return s_1^(alpha - 1), by which the fast svPN of r = 1 multiplies the matrix: (B, M, P, Q) -> (B, M).

    One iteration is two matrix-vector products. `start` is one vector, (P,) or (Q,); the other arguments are
    as in `svpn`.
    """
    _, size, _ = _leading_triple(_towards_start(matrix, start_side), start, num_iterations)
    return size.squeeze(-1) ** (alpha - 1)


def svpn_leading(
    matrix: Tensor, start: Tensor, *, alpha: float = 0.5, num_iterations: int = 1, start_side: str = "x"
) -> Tensor:
    """Multiply by `svpn_gain`, the fast svPN of r = 1: (B, M, P, Q) -> (B, M, P, Q); arguments as there."""
    if by_operation():
        normalized: Tensor = _LeadingSvpn.apply(matrix, start, alpha, num_iterations, start_side)[0]
        return normalized
    settings: dict[str, Any] = {"num_iterations": num_iterations, "start_side": start_side}
    return matrix * svpn_gain(matrix, start, alpha=alpha, **settings)[..., None, None]


def by_operation() -> bool:
    """Return whether autograd records one operation after the other.

    Each is then a node that costs more than a small product, and a gradient written by hand pays. Compilers
    see through plain formulas instead, and exporters need them.
    """
    return torch.is_grad_enabled() and not torch.compiler.is_compiling()


def _towards_start(matrix: Tensor, start_side: str) -> Tensor:
    """Return the matrix, or its transpose, whose columns are on the side of the start vector."""
    return matrix if start_side == "y" else matrix.transpose(-1, -2)


def _leading_triple(matrix: Tensor, start: Tensor, num_iterations: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return u (..., P), s (..., 1) and v (..., Q) after power iterations u = A v / |A v|, s v = A^T u."""
    _, u, size, v = _power_iterations(matrix, start, num_iterations)[-1]
    return u, size, v


def _power_iterations(matrix: Tensor, start: Tensor, num_iterations: int) -> list[tuple[Tensor, ...]]:
    """Return |A v|, u = A v / |A v|, s = |A^T u| and the next v = A^T u / s of each iteration."""
    v = start.expand(*matrix.shape[:-2], -1)
    steps: list[tuple[Tensor, ...]] = []
    for _ in range(num_iterations):
        # Rows times matrices: matrices times columns take a CPU several times as long.
        image = _row_times(v, matrix.transpose(-1, -2))
        length = smooth_norm(image)
        u = image / length
        image = _row_times(u, matrix)
        size = smooth_norm(image)
        v = image / size
        steps.append((length, u, size, v))
    return steps


def _row_times(row: Tensor, matrix: Tensor) -> Tensor:
    """Multiply (..., P) by (..., P, Q) -> (..., Q)."""
    return (row.unsqueeze(-2) @ matrix).squeeze(-2)


class _LeadingSvpn(torch.autograd.Function):
    """`svpn_leading`; its forty operations leave one node, whose gradient is a few passes over the matrix."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        matrix: Tensor, start: Tensor, alpha: float, num_iterations: int, start_side: str
    ) -> tuple[Tensor, ...]:
        steps = _power_iterations(_towards_start(matrix, start_side), start, num_iterations)
        gain = (steps[-1][2] ** (alpha - 1)).unsqueeze(-1)  # (B, M, 1, 1)
        return matrix * gain, gain, *(value for step in steps for value in step)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        matrix, start, ctx.alpha, _, ctx.start_side = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(matrix, start, *output[1:])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 5
        # With A the matrix towards the start: p = A v, u = p / |p|, q = A^T u, s = |q|, next v = q / s. A
        # length's gradient is its unit vector; each product with A gives A the outer product of two vectors.
        matrix, start, gain, *values = ctx.saved_tensors
        towards = _towards_start(matrix, ctx.start_side)
        steps = [values[first : first + 4] for first in range(0, len(values), 4)]
        starts = [start.expand(*towards.shape[:-2], -1), *(step[3] for step in steps[:-1])]
        of_gain = (grad * matrix).sum((-1, -2)).unsqueeze(-1)
        of_size = of_gain * gain.squeeze(-1) * ((ctx.alpha - 1) / steps[-1][2])
        of_image = of_size * steps[-1][3]
        rows, columns = [], []
        for (length, u, _, _), v, before in zip(
            steps[::-1], starts[::-1], [*steps[-2::-1], None], strict=True
        ):
            of_u = _row_times(of_image, towards.transpose(-1, -2))
            of_product = (of_u - u * (u * of_u).sum(-1, keepdim=True)) / length
            rows += [u, of_product]
            columns += [of_image, v]
            of_v = _row_times(of_product, towards)
            if before is not None:
                of_image = (of_v - v * (v * of_v).sum(-1, keepdim=True)) / before[2]
        left, right = torch.stack(rows, -1), torch.stack(columns, -2)  # (B, M, P, 2 k) and (B, M, 2 k, Q)
        if ctx.start_side == "x":
            left, right = right.transpose(-1, -2), left.transpose(-1, -2)
        of_matrix = torch.addcmul(left @ right, grad, gain)
        return of_matrix, of_v.flatten(0, -2).sum(0), None, None, None


def svpn_exact(matrix: Tensor, alpha: float = 0.5) -> Tensor:
    """Normalise singular values through an SVD (arXiv 2104.10935, svPN): U diag(f(s)) V^T.

    f(s) = s (s^2 + e^2)^((alpha - 1) / 2) is s^alpha with a finite slope at zero; e is EPS, or the largest
    singular value's rounding where that is more. The gradient is written out, because an SVD's own divides by
    differences of singular values: it is exact and finite for equal and for zero ones.

    Args:
        matrix: (..., P, Q), finite. alpha: exponent in (0, 1).

    Returns:
        (..., P, Q).
    """
    normalized: Tensor = _ExactSvpn.apply(matrix, alpha)
    return normalized


class _ExactSvpn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, matrix: Tensor, alpha: float) -> Tensor:
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)  # (P, R), (R,), (R, Q)
        # Squares are taken in units of the largest singular value c: f(s) = c^alpha f'(s / c), e' = e / c.
        unit = s[..., :1].clamp_min(EPS)
        relative = s / unit
        floor = (EPS / unit).clamp_min(torch.finfo(s.dtype).eps)
        squares = relative.square() + floor.square()
        gain = unit ** (alpha - 1) * squares ** ((alpha - 1) / 2)  # f(s) / s
        ctx.save_for_backward(u, relative, vh, squares, gain, unit)
        ctx.alpha = alpha
        return (u * (s * gain).unsqueeze(-2)) @ vh

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # A perturbation dS is split in the basis of the singular vectors. Its symmetric part is scaled by
        # (f(a) - f(b)) / (a - b) for each pair of singular values, its antisymmetric part by
        # (f(a) + f(b)) / (a + b), and what is outside U or V by f(s) / s (the odd function f of the
        # matrix [0 S; S^T 0], Daleckii and Krein). The map is its own adjoint.
        u, s, vh, squares, gain, unit = ctx.saved_tensors
        exponent = (ctx.alpha - 1) / 2
        a, b = s.unsqueeze(-1), s.unsqueeze(-2)
        high, low = torch.maximum(a, b), torch.minimum(a, b)
        high_square = torch.maximum(squares.unsqueeze(-1), squares.unsqueeze(-2))
        low_square = torch.minimum(squares.unsqueeze(-1), squares.unsqueeze(-2))
        mean_gain = (gain.unsqueeze(-1) + gain.unsqueeze(-2)) / 2
        # With q = s^2 + e^2 and t = q_b / q_a - 1: (q_a^k - q_b^k) / (q_a - q_b) is
        # q_a^(k-1) expm1(k log(1 + t)) / t, accurate however close a and b are, and k q_a^(k-1) at a = b.
        t = (low - high) * (low + high) / high_square
        log_ratio = torch.where(t > -0.5, torch.log1p(t.clamp_min(-0.5)), torch.log(low_square / high_square))
        slope = torch.expm1(exponent * log_ratio) / torch.where(t == 0, 1, t)
        slope = torch.where(t == 0, exponent, slope)
        slope = unit.unsqueeze(-1) ** (ctx.alpha - 1) * high_square ** (exponent - 1) * slope
        # f = s q^k: divided difference, then divided sum.
        symmetric = mean_gain + (a + b).square() / 2 * slope
        antisymmetric = mean_gain + (a - b).square() / 2 * slope

        ut, v = u.transpose(-1, -2), vh.transpose(-1, -2)
        left = ut @ grad  # (R, Q)
        core = left @ v  # (R, R)
        swapped = core.transpose(-1, -2)
        inner = symmetric * (core + swapped) / 2 + antisymmetric * (core - swapped) / 2
        right_rest = gain.unsqueeze(-1) * (left - core @ vh)  # inside U, outside V
        left_rest = (grad @ v - u @ core) * gain.unsqueeze(-2)  # inside V, outside U
        return u @ (inner @ vh + right_rest) + left_rest @ vh, None


def isqrt_covariance(covariance: Tensor, num_iterations: int = 5) -> Tensor:
    """Return the square root of a covariance by coupled Newton-Schulz steps (iSQRT-COV, arXiv 1712.01034).

    Args:
        covariance: (..., P, P), symmetric and positive semi-definite.
        num_iterations: steps, published 5. The small eigenvalues come last: they are too small by then.

    Returns:
        (..., P, P). The trace gets EPS added, so that a zero matrix gives zero.
    """
    trace = covariance.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] + EPS
    identity = torch.eye(covariance.shape[-1], dtype=covariance.dtype, device=covariance.device)
    root = covariance / trace
    inverse_root = identity.expand_as(covariance)
    for step in range(num_iterations):
        correction = 1.5 * identity - 0.5 * (inverse_root @ root)
        root = root @ correction
        if step + 1 < num_iterations:
            inverse_root = correction @ inverse_root
    return root * trace.sqrt()


def power_normalization(features: Tensor, alpha: float = 0.5) -> Tensor:
    """Return sign(x) |x|^alpha of each feature, then length 1; (..., D) -> (..., D)."""
    size = features.abs()
    small = size < LARGE
    # The inner choice keeps overflowing squares out of the gradient (torch.hypot would do, but not in ONNX).
    # What is added is 1, for the reason that `smooth_norm` names.
    near = EPS * ((torch.where(small, features, 0) / EPS).square() + 1).sqrt()
    powered = features * torch.where(small, near, size) ** (alpha - 1)
    # EPS in the units of |x|^alpha: the slope at a zero vector is then 1 / EPS, which fp16 can still hold.
    return powered / smooth_norm(powered, EPS**alpha)


def layer_normalization(features: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    """Apply LayerNorm over the last dimension, without overflow; (..., D) by (D,) and (D,) -> (..., D)."""
    return functional.layer_norm(features / _overflow_scale(features), features.shape[-1:], weight, bias, eps)


def _overflow_scale(features: Tensor) -> Tensor:
    """Return 1 for features whose squares fp32 can hold, else what scales the largest to LARGE; (..., 1)."""
    return (features.detach().abs().amax(-1, keepdim=True) / LARGE).clamp_min(1)
