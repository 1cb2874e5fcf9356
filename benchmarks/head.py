"""The head's forward and backward pass as a share of its backbone's, both timed in turn in one run.

On a CPU: one thread, fp32, against MiniLM's size (6 layers, 384 wide); time is the process' own, so that
other programs disturb it little. On a GPU: bf16 autocast against BERT-base, with and without torch.compile,
and the memory that the head needs beyond the backbone. Then whole models, with each head over the stock
head. Weights are random: time does not depend on them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from benchmarks._aims import AIMS, BF16_HEAD, Aim, judged
from benchmarks._head_over_stock import over_stock
from benchmarks._machine import described
from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import resolve_head

MINILM = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
BERT_BASE: dict[str, int] = {}
HEAD_CALLS_A_ROUND = 3
PRESETS = ("text", "vision")


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks head", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="times that each is timed in turn (20)")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument(
        "--parts", nargs="+", default=["share", "over_stock"], choices=("share", "over_stock"), help="(both)"
    )
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    on_cpu = options.device == "cpu"
    if on_cpu:
        torch.set_num_threads(1)
    sizes = MINILM if on_cpu else BERT_BASE
    results: list[dict[str, Any]] = []
    if "share" in options.parts:
        backbone = BertModel(BertConfig(**sizes), add_pooling_layer=False).to(options.device)
        for batch, tokens in [(32, 32), (8, 128)] if on_cpu else [(32, 128)]:
            for use_compile in [False] if on_cpu else [False, True]:
                results += compare(backbone, batch, tokens, use_compile, options)
    rows = [result["row"] for result in results if not result["compiled"]]
    if "over_stock" in options.parts:
        rows += over_stock(sizes, torch.device(options.device), options.rounds)
    return {
        "benchmark": "head",
        "machine": {
            **described(gpu=not on_cpu),
            "threads": 1,
            "precision": "fp32" if on_cpu else "bf16",
            "rounds": options.rounds,
        },
        "rows": rows,
        "results": results,
    }


def compare(
    backbone: torch.nn.Module,
    batch: int,
    tokens: int,
    use_compile: bool,
    options: argparse.Namespace,
) -> list[dict[str, Any]]:
    """One result for each preset at one size of batch."""
    device = torch.device(options.device)
    width: int = backbone.config.hidden_size
    lengths = torch.linspace(tokens // 2, tokens, batch, device=device).round()
    mask = torch.arange(tokens, device=device) < lengths.unsqueeze(-1)
    words = mask & (torch.arange(tokens, device=device) > 0)
    token_ids = torch.randint(1000, 2000, (batch, tokens), device=device)
    hidden = torch.randn(batch, tokens, width, device=device)
    gradient = torch.randn(batch, tokens, width, device=device)
    half = device.type == "cuda"
    if half:
        hidden, gradient = hidden.bfloat16(), gradient.bfloat16()
    hidden.requires_grad_()
    class_token = hidden[:, 0].detach().clone().requires_grad_()

    def backbone_step() -> None:
        backbone.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            output = backbone(input_ids=token_ids, attention_mask=mask.long()).last_hidden_state
        output.backward(gradient.to(output.dtype))

    heads = {
        preset: SoTHead(resolve_head(preset), hidden_size=width, num_labels=2).to(device)
        for preset in PRESETS
    }

    def head_step(head: torch.nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
        def step() -> None:
            head.zero_grad(set_to_none=True)
            hidden.grad = class_token.grad = None
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                logits: Tensor = forward(hidden, words, class_token).logits
            logits.sum().backward()

        return step

    steps = {"backbone": backbone_step}
    for preset, head in heads.items():
        steps[preset] = head_step(
            head, torch.compile(head, fullgraph=True, dynamic=True) if use_compile else head
        )
    memory = {name: peak_memory(step, device) for name, step in steps.items()}  # also warms up
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.rounds):
        times["backbone"].append(timed(backbone_step, device))
        for preset in heads:
            calls = [timed(steps[preset], device) for _ in range(HEAD_CALLS_A_ROUND)]
            times[preset].append(statistics.median(calls))

    results = []
    for preset, head in heads.items():
        percent = 100 * statistics.median(times[preset]) / statistics.median(times["backbone"])
        what = f"head `{preset}`, {batch}x{tokens}: % of the backbone"
        aim = BF16_HEAD if half else AIMS[what]
        if use_compile:
            aim = Aim(aim.bound, aim.value / 2)
        results.append(
            {
                "preset": preset,
                "matrices": f"{head.config.num_heads} x {head.config.width_x}x{head.config.width_y}",
                "batch": f"{batch}x{tokens}",
                "compiled": use_compile,
                "backbone_ms": round(1e3 * statistics.median(times["backbone"]), 3),
                "head_ms": round(1e3 * statistics.median(times[preset]), 3),
                "percent": round(percent, 2),
                "percent_of_fastest": round(100 * min(times[preset]) / min(times["backbone"]), 2),
                "row": judged(what, percent, aim=aim),
                # Products of the maps alone, of all that the backbone multiplies: the share that must be.
                "least_percent": round(100 * map_products(head) / layer_products(backbone), 2),
                **(
                    {"head_peak_mib": memory[preset], "backbone_peak_mib": memory["backbone"]} if half else {}
                ),
            }
        )
    return results


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call: of this process on a CPU, of the clock on a GPU."""
    if device.type == "cpu":
        start = time.process_time()
        step()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(step: Callable[[], None], device: torch.device) -> float:
    """MiB on the GPU at the call's peak beyond what was held before it; 0 on a CPU."""
    step()
    if device.type == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    step()
    return round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)


def map_products(head: SoTHead) -> int:
    """Multiplications of the head's maps for each token."""
    return head.words.maps.weight.numel()


def layer_products(backbone: torch.nn.Module) -> int:
    """Multiplications of the backbone's linear layers for each token."""
    linears = [module for module in backbone.modules() if isinstance(module, torch.nn.Linear)]
    return sum(linear.weight.numel() for linear in linears)
