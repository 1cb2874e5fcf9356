"""Passes replayed as CUDA graphs: the same weights as without, and what happens where they can't be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState

from sot_nlp.training.cuda_graphs import GraphedPasses, rounded_length
from tests.training_case import Split, run, settings, tiny_model

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True)
def fresh_state() -> Iterator[None]:
    """accelerate keeps the first device of a process."""
    yield
    AcceleratorState._reset_state(True)
    GradientState._reset_state()


def test_rounded_lengths_are_few_and_near() -> None:
    assert [rounded_length(n) for n in (1, 7, 16, 17, 31, 33, 64, 65, 129, 257)] == [
        *(1, 7, 16, 18, 32, 36, 64, 72, 144, 288)
    ]
    lengths = np.arange(1, 513)
    rounded = np.array([rounded_length(int(n)) for n in lengths])
    assert (rounded >= lengths).all()
    assert (rounded / lengths).max() < 9 / 8  # where it is worst
    assert len(set(rounded)) == 16 + 5 * 8


def on_gpu(folder: Path, model: Any, *, class_weights: Any = None, **overrides: Any) -> tuple[Any, Any]:
    AcceleratorState._reset_state(True)
    arguments = settings(**{"cpu": False, "checkpointing_steps": None, "num_train_epochs": 6.0, **overrides})
    return run(folder, arguments, model=model, split=Split(40, longest=6), class_weights=class_weights)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes of the graphs that are made."""
    found: list[Any] = []
    capture = GraphedPasses._capture

    def noting(self: GraphedPasses, shape: Any, batch: Any) -> Any:
        graph = capture(self, shape, batch)
        found.append(None if graph is None else shape)
        return graph

    monkeypatch.setattr(GraphedPasses, "_capture", noting)
    return found


@needs_gpu
@pytest.mark.parametrize("head", ["sot", "vision", "stock"])
@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_graphs_give_the_weights_of_plain_passes(
    head: str, precision: str, captured: list[Any], tmp_path: Path
) -> None:
    """Dropout included: a replay draws anew, from the update's seed."""
    results = []
    for graphs in (True, False):
        model = tiny_model(head=head, layers=4)
        results.append(on_gpu(tmp_path / str(graphs), model, cuda_graphs=graphs, mixed_precision=precision))
    (with_graphs, a), (without, b) = results

    # Without padding a backbone leaves the mask out, but not in a graph: other kernels round otherwise.
    tolerance = 1e-4 if precision == "no" else 2e-2
    found = with_graphs.state_dict()
    for name, tensor in without.state_dict().items():
        torch.testing.assert_close(found[name], tensor, atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)
    assert [e["loss"] for e in a.log_history] == pytest.approx(
        [e["loss"] for e in b.log_history], abs=10 * tolerance
    )
    assert not a.warnings
    assert 1 < len(captured) == len(set(captured))  # (none without graphs)


@needs_gpu
def test_class_weights_are_no_obstacle(captured: list[Any], tmp_path: Path) -> None:
    weights = np.array([1.0, 3.0])
    graphed, result = on_gpu(tmp_path / "graphs", tiny_model(), class_weights=weights)
    plain, _ = on_gpu(tmp_path / "plain", tiny_model(), class_weights=weights, cuda_graphs=False)

    assert captured
    assert not result.warnings
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(graphed.state_dict()[name], tensor, atol=1e-4, rtol=0)


@needs_gpu
@pytest.mark.parametrize(
    "cut",
    [
        {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 6, "max_tokens_per_batch": 14},
    ],
)
def test_accumulation_gives_the_big_batch_on_a_gpu(cut: dict[str, int], tmp_path: Path) -> None:
    one = on_gpu(tmp_path / "one", tiny_model(dropout=0.0), per_device_train_batch_size=6)
    parts = on_gpu(tmp_path / "parts", tiny_model(dropout=0.0), **cut)

    for name, tensor in one[0].state_dict().items():
        torch.testing.assert_close(parts[0].state_dict()[name], tensor, atol=1e-4, rtol=0)


@needs_gpu
def test_a_model_that_waits_for_the_gpu_runs_without_graphs(tmp_path: Path) -> None:
    model = tiny_model()
    forward = type(model).forward

    def waiting(self: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(self, *args, **kwargs)
        assert output.logits.sum().item() < 1e9
        return output

    model.forward = waiting.__get__(model)
    plain, _ = on_gpu(tmp_path / "plain", tiny_model(), cuda_graphs=False)
    trained, result = on_gpu(tmp_path / "waiting", model)

    [warning] = [warning for warning in result.warnings if "can't be held as CUDA graphs" in warning]
    assert "capture" in warning
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, atol=1e-4, rtol=0)


@needs_gpu
def test_new_gradient_tensors_are_written_to() -> None:
    device = torch.device("cuda")
    weight = torch.nn.Parameter(torch.ones(3, device=device))

    def passes(batch: dict[str, torch.Tensor], factor: torch.Tensor) -> torch.Tensor:
        loss = (weight * batch["x"]).sum() * factor
        loss.backward()
        return loss.detach()

    graphed = GraphedPasses(passes, [weight], device, pytest.fail)
    for number in range(1, 5):
        loss = graphed({"x": torch.full((3,), float(number))}, 0.5)
        assert loss.item() == pytest.approx(1.5 * number)
    assert weight.grad is not None
    assert weight.grad.tolist() == [5.0] * 3
    assert len(graphed.graphs) == 1
    weight.grad = None
    for _ in range(3):
        graphed({"x": torch.ones(3)}, 2.0)
    assert weight.grad.tolist() == [6.0] * 3
