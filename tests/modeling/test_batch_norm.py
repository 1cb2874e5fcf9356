"""The masked BatchNorm against torch's on the real tokens alone, and over two processes against one."""

import socket
from pathlib import Path

import torch
from torch import nn

from sot_nlp.modeling import batch_norm
from sot_nlp.modeling.batch_norm import MaskedBatchNorm
from tests.support import fresh_python

ROOT = Path(__file__).resolve().parents[2]

MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()


def features():
    return torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 + 5


def trained_pair():
    """Ours and torch's with the same weights."""
    ours, torchs = MaskedBatchNorm(3).double(), nn.BatchNorm1d(3).double()
    with torch.no_grad():
        ours.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        ours.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    torchs.load_state_dict(ours.state_dict(), strict=False)
    return ours, torchs


def test_training_equals_torch_on_the_real_tokens():
    ours, torchs = trained_pair()
    a, b = features().requires_grad_(), features().requires_grad_()
    for _ in range(3):
        result, expected = ours(a, MASK)[MASK], torchs(b[MASK])
        torch.testing.assert_close(result, expected)
    (result**3).sum().backward()
    (expected**3).sum().backward()
    torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.weight.grad, torchs.weight.grad)
    torch.testing.assert_close(ours.running_mean, torchs.running_mean)
    torch.testing.assert_close(ours.running_var, torchs.running_var)


def test_evaluation_equals_torch():
    ours, torchs = trained_pair()
    ours(features(), MASK)
    torchs(features()[MASK])
    torch.testing.assert_close(ours.eval()(features(), MASK)[MASK], torchs.eval()(features()[MASK]))


def test_padding_does_not_count():
    ours, other = trained_pair()[0], trained_pair()[0]
    changed = torch.where(MASK.unsqueeze(-1), features(), 1e6)
    torch.testing.assert_close(ours(features(), MASK)[MASK], other(changed, MASK)[MASK])
    torch.testing.assert_close(ours.running_var, other.running_var)


def test_by_hand():
    norm = MaskedBatchNorm(1, eps=0.0)
    result = norm(torch.tensor([[[1.0], [3.0], [99.0]]]), torch.tensor([[True, True, False]]))
    assert result[0, :2, 0].tolist() == [-1, 1]
    torch.testing.assert_close(norm.running_mean, torch.tensor([0.2]))
    torch.testing.assert_close(norm.running_var, torch.tensor([1.1]))  # 0.9 * 1 + 0.1 * 2, unbiased


def test_a_batch_without_words_leaves_the_running_statistics():
    norm = trained_pair()[0]
    inputs = features().requires_grad_()
    result = norm(inputs, torch.zeros_like(MASK))
    result.sum().backward()
    assert result.isfinite().all()
    assert inputs.grad.isfinite().all()
    assert norm.running_mean.tolist() == [0, 0, 0]
    assert norm.running_var.tolist() == [1, 1, 1]


def test_one_word_gives_the_bias():
    norm = trained_pair()[0]
    mask = torch.zeros_like(MASK)
    mask[2, 2] = True
    torch.testing.assert_close(norm(features(), mask)[2, 2], norm.bias)


def test_gradcheck():
    norm = trained_pair()[0]
    assert torch.autograd.gradcheck(lambda x: norm(x, MASK)[MASK], features().requires_grad_())


def test_gradcheck_of_all_inputs_at_padding_too():
    norm = trained_pair()[0]

    def function(x, weight, bias):
        return torch.func.functional_call(norm, {"weight": weight, "bias": bias}, (x, MASK))

    inputs = (features().requires_grad_(), norm.weight, norm.bias)
    assert torch.autograd.gradcheck(function, inputs)


def test_the_gradient_by_hand_is_that_of_the_plain_formula(monkeypatch):
    results = []
    for by_hand in (True, False):
        monkeypatch.setattr(batch_norm, "by_operation", lambda by_hand=by_hand: by_hand)
        norm, inputs = trained_pair()[0].float(), features().float().requires_grad_()
        result = norm(inputs, MASK)
        result.backward(torch.cos(features().float()))
        statistics = [norm.running_mean, norm.running_var]
        results.append([result, inputs.grad, norm.weight.grad, norm.bias.grad, *statistics])
    torch.testing.assert_close(*results)


def test_half_precision_weights_compute_in_the_inputs_precision():
    norm = trained_pair()[0].to(torch.bfloat16)
    assert norm(features().float(), MASK).dtype == torch.float32


def part_of_two(rank, port):
    """The result, input gradient and running statistics of one process' unequal part of the batch."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    try:
        norm = trained_pair()[0]
        rows = slice(0, 1) if rank == 0 else slice(1, 4)
        inputs = features()[rows].requires_grad_()
        result = norm(inputs, MASK[rows])
        (result[MASK[rows]] ** 3).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    return [t.detach() for t in (result, inputs.grad, norm.running_mean, norm.running_var)]


SECOND_PROCESS = """
import sys, torch
from tests.modeling.test_batch_norm import part_of_two
torch.save(part_of_two(1, sys.argv[1]), sys.argv[2])
"""


def test_two_processes_equal_one(tmp_path):
    norm = trained_pair()[0]
    inputs = features().requires_grad_()
    result = norm(inputs, MASK)
    (result[MASK] ** 3).sum().backward()

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = (port, tmp_path / "part")
    second = fresh_python.start(SECOND_PROCESS, *words, log=tmp_path / "log", path=(ROOT,))
    parts = [part_of_two(0, port)]
    assert second.wait() == 0, second.errors()
    parts.append(torch.load(tmp_path / "part"))

    for index, expected in ((0, result), (1, inputs.grad)):
        both = torch.cat([part[index] for part in parts])
        torch.testing.assert_close(both[MASK], expected[MASK])
    for part in parts:
        torch.testing.assert_close(part[2], norm.running_mean)
        torch.testing.assert_close(part[3], norm.running_var)
