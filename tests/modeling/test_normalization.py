"""Each normalisation against an independent formula, by hand, under scaling, and in its gradient."""

import pytest
import scipy.linalg
import torch

from sot_nlp.modeling.normalization import (
    isqrt_covariance,
    layer_normalization,
    power_normalization,
    smooth_norm,
    svpn,
    svpn_exact,
    svpn_gain,
    svpn_leading,
)


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_singular_values(values, rows, columns, seed=0):
    """A (rows, columns) matrix with random singular vectors."""
    u = torch.linalg.qr(rand(rows, rows, seed=seed)).Q[:, : len(values)]
    v = torch.linalg.qr(rand(columns, columns, seed=seed + 1)).Q[:, : len(values)]
    return u @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ v.T


def published_svpn(matrix, starts, alpha, iterations, start_side):
    """The published code's order of operations, for one matrix, but for a start vector a triple."""
    a = matrix if start_side == "y" else matrix.T
    powered, rest = torch.zeros_like(a), a.clone()
    for v in starts:
        for _ in range(iterations):
            u = rest @ v / (rest @ v).norm()
            v = rest.T @ u / (rest.T @ u).norm()
        s = u @ rest @ v
        rest = rest - s * torch.outer(u, v)
        powered = powered + s**alpha * torch.outer(u, v)
    result = powered + rest / s ** (1 - alpha)
    return result if start_side == "y" else result.T


@pytest.mark.parametrize("start_side", ["x", "y"])
@pytest.mark.parametrize(("r", "iterations"), [(1, 1), (1, 3), (2, 1), (3, 2)])
def test_svpn_equals_the_published_order_of_operations(r, iterations, start_side):
    matrices, starts = rand(2, 3, 5, 4), rand(r, 5 if start_side == "x" else 4, seed=1)
    result = svpn(matrices, starts, start_side=start_side, alpha=0.3, num_iterations=iterations)
    for b in range(2):
        for m in range(3):
            expected = published_svpn(matrices[b, m], starts, 0.3, iterations, start_side)
            torch.testing.assert_close(result[b, m], expected, rtol=1e-6, atol=1e-9)


def test_svpn_by_hand():
    # S = diag(4, 1), v = (1, 0): u = (1, 0), s = 4, and S / sqrt(4) = diag(2, 0.5).
    matrix = torch.diag(torch.tensor([4.0, 1.0])).view(1, 1, 2, 2)
    result = svpn(matrix, torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(result, torch.tensor([[[[2.0, 0.0], [0.0, 0.5]]]]))
    # With r = 2 from v = (1, 0) and (1, 1) both triples are exact: the square root, diag(2, 1).
    result = svpn(matrix, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    torch.testing.assert_close(result, torch.tensor([[[[2.0, 0.0], [0.0, 1.0]]]]))


@pytest.mark.parametrize("r", [1, 2, 3])
def test_svpn_with_many_iterations_powers_the_leading_singular_values(r):
    values = [8.0, 3.0, 1.0, 0.4]
    matrix = with_singular_values(values, 6, 4)
    result = svpn(matrix.view(1, 1, 6, 4), rand(r, 6, seed=4), alpha=0.5, num_iterations=80)
    expected = [s**0.5 if i < r else s / values[r - 1] ** 0.5 for i, s in enumerate(values)]
    torch.testing.assert_close(torch.linalg.svdvals(result[0, 0]), torch.tensor(expected).double())


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_svpn_of_full_rank_with_many_iterations_equals_svpn_exact(shape):
    matrix = with_singular_values([9.0, 4.0, 1.5], *shape)
    fast = svpn(matrix[None, None], rand(3, shape[0], seed=4), num_iterations=80)
    torch.testing.assert_close(fast[0, 0], svpn_exact(matrix), rtol=1e-6, atol=1e-6)


def test_svpn_gain_is_what_svpn_multiplies_by():
    matrix, start = rand(2, 3, 5, 4), rand(4, seed=1)
    gain = svpn_gain(matrix, start, alpha=0.7, num_iterations=2, start_side="y")
    result = svpn(matrix, start.unsqueeze(0), alpha=0.7, num_iterations=2, start_side="y")
    torch.testing.assert_close(matrix * gain[..., None, None], result)


@pytest.mark.parametrize("alpha", [0.25, 0.5, 0.9])
def test_svpn_exact_equals_the_svd(alpha):
    matrix = rand(2, 6, 4)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(svpn_exact(matrix, alpha), u @ torch.diag_embed(s**alpha) @ vh)


def test_svpn_exact_of_a_covariance_is_its_square_root():
    matrix = with_singular_values([9.0, 4.0, 1.5, 0.2], 4, 4)
    covariance = matrix @ matrix.T
    expected = torch.from_numpy(scipy.linalg.sqrtm(covariance.numpy()).real)
    torch.testing.assert_close(svpn_exact(covariance), expected)


DEGENERATE = {
    "distinct": with_singular_values([3.0, 2.0, 0.5], 4, 3),
    "wide": with_singular_values([3.0, 2.0, 0.5], 3, 5),
    "all equal": with_singular_values([2.0, 2.0, 2.0], 4, 3),
    "two equal": with_singular_values([2.0, 2.0, 0.5], 3, 3),
    "nearly equal": with_singular_values([2.0, 2.0 - 1e-9, 0.5], 3, 3),
    "rank one": with_singular_values([2.0], 3, 4),
    "zero": torch.zeros(3, 2, dtype=torch.float64),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_svpn_exact_has_an_exact_gradient_at_equal_and_zero_singular_values(name):
    matrix = DEGENERATE[name].clone().requires_grad_()
    # The slope changes within EPS = 1e-6 of a zero singular value, hence the small step.
    assert torch.autograd.gradcheck(lambda s: svpn_exact(s, 0.5), matrix, eps=1e-8, atol=1e-3, rtol=1e-3)


def test_svpn_exact_gradient_at_zero_by_hand():
    matrix = torch.zeros(3, 2, dtype=torch.float64, requires_grad=True)
    grad = rand(3, 2)
    svpn_exact(matrix, 0.5).backward(grad)
    torch.testing.assert_close(matrix.grad, 1e3 * grad)  # EPS^(alpha - 1)


@pytest.mark.parametrize("num_iterations", [1, 5, 12])
def test_isqrt_covariance_converges_to_the_square_root(num_iterations):
    matrix = with_singular_values([2.0, 1.5, 1.2, 1.0], 4, 4)
    covariance = matrix @ matrix.T
    expected = torch.from_numpy(scipy.linalg.sqrtm(covariance.numpy()).real)
    error = (isqrt_covariance(covariance, num_iterations) - expected).abs().max()
    assert error < {1: 1.0, 5: 1e-3, 12: 1e-5}[num_iterations]


def test_isqrt_covariance_by_hand():
    # trace 5: A = diag(.8, .2), T = 1.5 I - 0.5 A = diag(1.1, 1.4), Y = A T, times sqrt(5).
    covariance = torch.diag(torch.tensor([4.0, 1.0], dtype=torch.float64))
    expected = torch.diag(torch.tensor([0.88, 0.28], dtype=torch.float64)) * 5**0.5
    torch.testing.assert_close(isqrt_covariance(covariance, 1), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_power_normalization_equals_its_formula(alpha):
    features = rand(3, 2, 6)
    powered = features.sign() * features.abs() ** alpha
    expected = powered / powered.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(power_normalization(features, alpha), expected, rtol=1e-4, atol=1e-5)


def test_power_normalization_by_hand():
    result = power_normalization(torch.tensor([9.0, -16.0, 0.0]))
    torch.testing.assert_close(result, torch.tensor([0.6, -0.8, 0.0]), rtol=1e-6, atol=1e-6)


def test_layer_normalization_equals_its_formula():
    features, weight, bias = rand(3, 2, 6), rand(6, seed=1), rand(6, seed=2)
    mean, var = features.mean(-1, keepdim=True), features.var(-1, correction=0, keepdim=True)
    expected = (features - mean) / (var + 1e-5).sqrt() * weight + bias
    torch.testing.assert_close(layer_normalization(features, weight, bias), expected)


def test_smooth_norm_by_hand():
    assert smooth_norm(torch.tensor([3.0, 4.0])).item() == pytest.approx(5)
    assert smooth_norm(torch.zeros(4)).item() == pytest.approx(1e-6)
    assert smooth_norm(torch.tensor([3e30, 4e30])).item() == pytest.approx(5e30)


STARTS = rand(3, 4, seed=9)
# What S -> c S must do: the result is multiplied by c^exponent.
SCALING = {
    "svpn": (lambda s: svpn(s, STARTS[:2], alpha=0.3), 0.3),
    "svpn_exact": (lambda s: svpn_exact(s, 0.3), 0.3),
    "isqrt_cov": (lambda s: isqrt_covariance(s @ s.transpose(-1, -2)), 1.0),  # the argument grows by c^2
    "power": (lambda s: power_normalization(s, 0.5), 0.0),
    "layer_norm": (lambda s: layer_normalization(s, torch.ones(3).double(), torch.zeros(3).double()), 0.0),
}


@pytest.mark.parametrize("factor", [0.25, 100.0])
@pytest.mark.parametrize("name", SCALING)
def test_scaling_law(name, factor):
    function, exponent = SCALING[name]
    matrix = rand(2, 1, 4, 3) * 10
    expected = function(matrix) * factor**exponent
    torch.testing.assert_close(function(matrix * factor), expected, rtol=1e-4, atol=1e-6)


GRADCHECKED = {
    **{name: function for name, (function, _) in SCALING.items()},
    "svpn r=1": lambda s: svpn(s, STARTS[:1]),
    "svpn, 4 iterations": lambda s: svpn(s, STARTS, num_iterations=4),
}


@pytest.mark.parametrize("name", GRADCHECKED)
def test_gradcheck(name):
    assert torch.autograd.gradcheck(GRADCHECKED[name], rand(2, 1, 4, 3).requires_grad_())


def test_gradcheck_through_the_start_vectors():
    matrix = rand(1, 2, 4, 3)
    assert torch.autograd.gradcheck(
        lambda v: svpn(matrix, v, num_iterations=2), STARTS[:2].clone().requires_grad_()
    )


@pytest.mark.parametrize("scale", [0.0, 1e-24, 1e-12, 1.0, 1e12, 1e24])
@pytest.mark.parametrize("name", GRADCHECKED)
def test_values_and_gradients_are_finite_at_every_scale(name, scale):
    functions = {
        "svpn": lambda s: svpn(s, STARTS[:2].float(), alpha=0.3),
        "svpn r=1": lambda s: svpn(s, STARTS[:1].float()),
        "svpn, 4 iterations": lambda s: svpn(s, STARTS.float(), num_iterations=4),
        "isqrt_cov": isqrt_covariance,
        "layer_norm": lambda s: layer_normalization(s, torch.ones(4), torch.zeros(4)),
    }
    matrix = rand(2, 1, 4, 4).float()
    matrix = (matrix @ matrix.transpose(-1, -2) * scale).requires_grad_()
    result = functions.get(name, GRADCHECKED[name])(matrix)
    result.sum().backward()
    assert result.isfinite().all()
    assert matrix.grad.isfinite().all()


def test_the_estimate_of_one_iteration_is_rough_but_never_too_large():
    matrix, start = rand(500, 1, 24, 24), rand(24, seed=1)
    true = torch.linalg.svdvals(matrix[:, 0])[:, 0]
    ratios = [
        (svpn_gain(matrix, start, num_iterations=n).squeeze(-1) ** -2 / true).mean().item() for n in (1, 5)
    ]
    assert 0.5 < ratios[0] < 0.9 < ratios[1] <= 1


def by_plain_formula(matrix, start, **settings):
    return matrix * svpn_gain(matrix, start, **settings)[..., None, None]


@pytest.mark.parametrize("side", ["x", "y"])
@pytest.mark.parametrize("iterations", [1, 3])
def test_gradcheck_of_the_leading_triple_alone(side, iterations):
    start = rand({"x": 4, "y": 3}[side], seed=3).requires_grad_()
    settings = {"alpha": 0.3, "num_iterations": iterations, "start_side": side}
    matrix = rand(2, 2, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda s, v: svpn_leading(s, v, **settings), (matrix, start))
    torch.testing.assert_close(
        svpn_leading(matrix, start, **settings), by_plain_formula(matrix, start, **settings)
    )


@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-6, 1.0, 1e12, 1e24])
@pytest.mark.parametrize("iterations", [1, 2])
def test_the_leading_triples_gradient_is_that_of_the_plain_formula_at_every_scale(scale, iterations):
    matrix, start = (rand(2, 1, 5, 4) * scale).float(), rand(5, seed=1).float()
    upstream = rand(2, 1, 5, 4, seed=2).float()
    gradients = [
        torch.autograd.grad(function(*inputs, num_iterations=iterations, start_side="x"), inputs, upstream)
        for function in (svpn_leading, by_plain_formula)
        for inputs in [(matrix.clone().requires_grad_(), start.clone().requires_grad_())]
    ]
    for ours, expected in zip(*gradients, strict=True):
        assert ours.isfinite().all()
        torch.testing.assert_close(
            ours / expected.abs().max().clamp_min(1e-30),
            expected / expected.abs().max().clamp_min(1e-30),
            rtol=1e-3,
            atol=1e-5,
        )


def test_the_leading_triple_under_vmap_and_twice():
    matrices, starts = rand(3, 2, 1, 4, 3).requires_grad_(), rand(3, 4, seed=1).requires_grad_()
    together = torch.func.vmap(svpn_leading)(matrices, starts)
    alone = torch.stack([svpn_leading(m, v) for m, v in zip(matrices, starts, strict=True)])
    torch.testing.assert_close(together, alone)
    upstream = rand(3, 2, 1, 4, 3, seed=2)
    gradients = [torch.autograd.grad(out, (matrices, starts), upstream) for out in (together, alone)]
    torch.testing.assert_close(*gradients)
    (first,) = torch.autograd.grad(svpn_leading(matrices[0], starts[0]).sum(), matrices, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):  # refused, not silently wrong
        first.sum().backward()
