"""A whole model's forward and backward pass with each head, over the same with the stock head.

On a GPU in bf16, as CUDA graphs, timed by events; on a CPU in fp32 on one thread, in the process' own time.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks._aims import PRESETS, judged
from benchmarks._machine import matrix_flops
from sot_nlp.training.speed.malloc import keep_freed_memory

SHAPES = ((32, 128), (32, 16))
WARM_UP = 3
Step = Callable[[], None]


def over_stock(sizes: dict[str, int], device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Return a row per head and shape, and on a GPU the share of its matrix rate."""
    from sot_nlp import AutoSoTForSequenceClassification, SoTBertConfig
    from sot_nlp.modeling.head_config import resolve_head

    models = {
        preset: AutoSoTForSequenceClassification.from_config(
            SoTBertConfig(**sizes, head=resolve_head(preset))
        )
        .to(device)
        .train()
        for preset in ("stock", *PRESETS)
    }
    if device.type == "cpu":
        keep_freed_memory()  # as the training does
    rows = []
    for batch, tokens in SHAPES:
        steps = {preset: step(model, batch, tokens) for preset, model in models.items()}
        timed = events if device.type == "cuda" else processor_seconds
        if device.type == "cuda":
            steps = {preset: captured(plain) for preset, plain in steps.items()}
        for plain in steps.values():
            plain()
        seconds: dict[str, list[float]] = {preset: [] for preset in steps}
        for number in range(rounds):
            for preset in list(steps)[:: -1 if number % 2 else 1]:
                seconds[preset].append(timed(steps[preset]))
        middle = {preset: statistics.median(each) for preset, each in seconds.items()}
        for preset in PRESETS:
            each = [ours / stock for ours, stock in zip(seconds[preset], seconds["stock"], strict=True)]
            what = f"`{preset}` over stock head, forward and backward, {batch}x{tokens}"
            ms = [round(1e3 * middle[name], 2) for name in (preset, "stock")]
            rows.append(judged(what, middle[preset] / middle["stock"], digits=3, each=each, ms=ms))
        if device.type == "cuda" and tokens == 128:
            share = operations(models["sot"], batch * tokens) / middle["sot"] / matrix_flops()
            rows.append(judged(f"BERT-base's step, {batch}x{tokens}: share of the card's matrix rate", share))
    return rows


def step(model: Any, batch: int, tokens: int) -> Step:
    """Return forward and backward on a batch that stays, with half its texts shorter."""
    device = model.device
    ids = torch.randint(1000, 2000, (batch, tokens), device=device)
    lengths = torch.linspace(tokens // 2, tokens, batch, device=device).round()
    mask = (torch.arange(tokens, device=device) < lengths.unsqueeze(-1)).long()
    labels = torch.arange(batch, device=device) % 2

    def run() -> None:
        model.zero_grad(set_to_none=False)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()

    return run


def captured(plain: Step) -> Step:
    """Return a CUDA graph's replay of `plain`."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            plain()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plain()
    return graph.replay  # type: ignore[no-any-return]


def events(plain: Step) -> float:
    """Seconds of one call by the GPU's own clock."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    plain()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def processor_seconds(plain: Step) -> float:
    """Seconds of one call, of this process alone: other programs disturb it little."""
    import time

    begin = time.process_time()
    plain()
    return time.process_time() - begin


def operations(model: Any, tokens: int) -> float:
    """Of the backbone's linears, forward and backward: six per weight and token."""
    linears = [module for module in model.base_model.modules() if isinstance(module, torch.nn.Linear)]
    return 6.0 * tokens * sum(linear.weight.numel() for linear in linears)
