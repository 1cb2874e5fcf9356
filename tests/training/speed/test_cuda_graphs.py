"""Passes replayed as CUDA graphs: the same weights as without, and what happens where they can't be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import DistributedType
from transformers import AutoConfig

from sot_nlp import AutoSoTForSequenceClassification
from sot_nlp.training.speed.cuda_graphs import (
    GraphedPasses,
    batch_width,
    obstacle,
    rounded_length,
)
from sot_nlp.training.training_loss import model_loss
from sot_nlp.training.updates import Updater
from tests.support import tiny
from tests.support.training_case import PAD, Split, run, settings, tiny_model

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


@pytest.mark.parametrize(
    ("longest", "examples", "most", "max_tokens", "wanted"),
    [
        (65, 8, None, None, 72),
        (65, 8, 70, None, 70),  # the model takes no more
        (65, 8, 65, None, 65),
        (65, 63, None, 4096, 65),  # 63 x 72 would be over the budget
        (65, 56, None, 4096, 72),
        (65, 60, 70, 4096, 68),
    ],
)
def test_the_width_of_a_batch_keeps_to_its_limits(
    longest: int, examples: int, most: int | None, max_tokens: int | None, wanted: int
) -> None:
    assert batch_width(longest, examples, most=most, max_tokens=max_tokens) == wanted


def test_what_can_not_be_graphed_is_named() -> None:
    def reason(layerdrop: float = 0.0, **changes: Any) -> str | None:
        accelerator = SimpleNamespace(
            device=torch.device(changes.pop("device", "cuda")),
            distributed_type=changes.pop("distributed_type", DistributedType.NO),
            mixed_precision=changes.pop("mixed_precision", "bf16"),
        )
        model = SimpleNamespace(config=SimpleNamespace(encoder_layerdrop=layerdrop))
        return obstacle(model, accelerator, settings(**changes))

    assert reason() is None
    assert reason(mixed_precision="no") is None
    for word, changes in {
        "GPUs": {"device": "cpu"},
        "several processes": {"distributed_type": DistributedType.MULTI_GPU},
        "--mixed_precision fp16": {"mixed_precision": "fp16"},
        "--gradient_checkpointing": {"gradient_checkpointing": True},
        "layers": {"layerdrop": 0.1},
    }.items():
        assert word in (reason(**changes) or "")


@pytest.mark.parametrize("given", ["default", "asked for", "off"])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_passes_without_graphs_are_said_where_graphs_were_meant(given: str, device: str) -> None:
    accelerator: Any = SimpleNamespace(
        device=torch.device(device),
        distributed_type=DistributedType.MULTI_GPU,
        mixed_precision="no",
        unwrap_model=lambda model: model,
        autocast=contextlib.nullcontext,
    )
    model, said = tiny_model(), []
    sources = {} if given == "default" else {"cuda_graphs": "flag"}
    updater = Updater(
        model,
        torch.optim.AdamW(model.parameters()),
        accelerator,
        arguments=settings(cuda_graphs=given != "off", sources=sources),
        schedule=lambda step: 1.0,
        loss=model_loss,
        pad_token_id=PAD,
        padding_side="right",
        warn=said.append,
    )
    assert updater.graphs is None
    assert len(said) == ((given == "asked for") or (given == "default" and device == "cuda"))
    assert all("without CUDA graphs" in line for line in said)


class FakeGraph:
    """Stands for `torch.cuda.CUDAGraph`, on a machine without a GPU: a capture runs as any pass."""

    fails: str | None = None
    capturing = False

    def capture_begin(self, **settings: Any) -> None:
        FakeGraph.capturing = True

    def capture_end(self) -> None:
        FakeGraph.capturing = False
        if self.fails:
            raise RuntimeError(self.fails)

    def replay(self) -> None:
        pass


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the CPU pass for a GPU with memory to spare; the states that its generator was reset to."""
    reset: list[str] = []
    generator = SimpleNamespace(clone_state=lambda: "clone", graphsafe_set_state=reset.append)
    fakes = {
        "CUDAGraph": FakeGraph,
        "Stream": lambda device: None,
        "stream": lambda stream: contextlib.nullcontext(),
        "graph_pool_handle": lambda: (0, 1),
        "synchronize": lambda device: None,
        "current_device": lambda: 0,
        "default_generators": [generator],
        "get_device_properties": lambda device: SimpleNamespace(total_memory=100),
        "memory_reserved": lambda device: 10,
        "is_current_stream_capturing": lambda: FakeGraph.capturing,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
    return reset


@pytest.mark.parametrize("family", ["mpnet", "falcon", "xlm-roberta", "llama"])
def test_a_batch_without_padding_is_no_obstacle(family: str, fake_gpu: list[str]) -> None:
    """The plain pass before a capture must do what the capture does, where no mask can be looked at."""
    config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family], attn_implementation="eager")
    model = AutoSoTForSequenceClassification.from_config(config, num_labels=2).eval()
    ids = torch.randint(5, 50, (2, 9))
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": torch.tensor([0, 1])}

    def passes(batch: dict[str, torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():  # (what is noted here, where all is on the host, would have gradients)
            loss: torch.Tensor = model(**batch).loss * weight
        return loss

    graphed = GraphedPasses(passes, list(model.parameters()), torch.device("cpu"), pytest.fail)
    plain = graphed(batch, 0.5)
    assert torch.equal(graphed(batch, 0.5), plain)
    assert len(graphed.graphs) == 1
    assert torch.cuda.is_current_stream_capturing() is False


def test_a_broken_capture_is_told_once_and_the_passes_go_on(
    fake_gpu: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeGraph, "fails", "operation failed due to a previous error during capture")
    weight = torch.nn.Parameter(torch.ones(3))
    warnings: list[str] = []

    def passes(batch: dict[str, torch.Tensor], factor: torch.Tensor) -> torch.Tensor:
        if FakeGraph.capturing:
            raise RuntimeError("operation not permitted when stream is capturing\n(advice)")
        loss = (weight * batch["x"]).sum() * factor
        loss.backward()
        return loss.detach()

    graphed = GraphedPasses(passes, [weight], torch.device("cpu"), warnings.append)
    for number in range(1, 5):
        assert graphed({"x": torch.full((3,), float(number))}, 0.5).item() == 1.5 * number

    assert graphed.failed
    assert weight.grad is not None
    assert weight.grad.tolist() == [5.0] * 3  # each batch once
    assert fake_gpu == ["clone"]
    [warning] = warnings
    reason = (
        "so they run without: operation not permitted when stream is capturing (test_cuda_graphs.py, line "
    )
    assert reason in warning
    assert warning.removesuffix(")").rpartition(" ")[2].isdecimal()  # where the model's code is


def test_no_graph_is_made_where_the_device_is_half_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: (0, 1))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=100))
    graphed = GraphedPasses(lambda batch, weight: weight, [], torch.device("cpu"), pytest.fail)
    for reserved, room in ((49, True), (50, False)):
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device, reserved=reserved: reserved)
        assert graphed._has_room() == room


def on_gpu(folder: Path, model: Any, *, class_weights: Any = None, **overrides: Any) -> tuple[Any, Any]:
    AcceleratorState._reset_state(True)
    arguments = settings(**{"cpu": False, "checkpointing_steps": None, "num_train_epochs": 6.0, **overrides})
    return run(folder, arguments, model=model, split=Split(40, longest=6), class_weights=class_weights)


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The shapes of the graphs that are made."""
    shapes: list[Any] = []
    capture = GraphedPasses._capture

    def noting(self: GraphedPasses, shape: Any, batch: Any) -> Any:
        graph = capture(self, shape, batch)
        shapes.append(None if graph is None else shape)
        return graph

    monkeypatch.setattr(GraphedPasses, "_capture", noting)
    return shapes


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
    weights = with_graphs.state_dict()
    for name, tensor in without.state_dict().items():
        torch.testing.assert_close(weights[name], tensor, atol=tolerance, rtol=0, msg=lambda m, n=name: n + m)
    assert [e["loss"] for e in a.log_history] == pytest.approx(
        [e["loss"] for e in b.log_history], abs=10 * tolerance
    )
    assert not a.warnings
    assert 1 < len(captured) == len(set(captured))  # (none without graphs)


@needs_gpu
@pytest.mark.parametrize("family", tiny.OTHER_BACKBONES)
def test_every_family_is_held_as_graphs_or_says_why_not(
    family: str, captured: list[Any], tmp_path: Path
) -> None:
    config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
    model = AutoSoTForSequenceClassification.from_config(config, num_labels=2)
    plain = AutoSoTForSequenceClassification.from_config(config, num_labels=2)
    plain.load_state_dict(model.state_dict())
    trained, result = on_gpu(tmp_path / "graphs", model)
    expected, _ = on_gpu(tmp_path / "plain", plain, cuda_graphs=False)

    refusals = [warning for warning in result.warnings if "can't be captured as CUDA graphs" in warning]
    print(family, refusals or f"{len(captured)} graphs")  # `pytest -rP` shows it
    assert len(refusals) == (captured == [None])
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(trained.state_dict()[name], tensor, atol=1e-3, rtol=0)


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

    [warning] = [warning for warning in result.warnings if "can't be captured as CUDA graphs" in warning]
    assert "captur" in warning  # CUDA's own words differ by version
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
