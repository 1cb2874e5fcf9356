"""Which number format the matrix products of a run use: what the device has, and what is faster on it."""

from __future__ import annotations

import os
import time

import torch

from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import TRAITS

# bf16 must win the trial by this much: below it, its rounding buys nothing.
WORTHWHILE = 1.2


def choose(requested: str, device: torch.device, before: str | None = None) -> tuple[str, str]:
    """`(mixed_precision for accelerate, why)` for "auto", "no", "bf16", "fp16" or "fp8" on `device`.

    "auto" takes what `accelerate launch --mixed_precision` asked for (unless that is "no", its default), else
    what the run had `before` it was stopped, else bf16 on a GPU with bf16 units and on a CPU that reports
    them and where a trial of milliseconds is faster with it. Raises UserError for a format that the device
    can't compute in at all.
    """
    reason = "asked for"
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if requested == "auto" and launched != "no":
        requested = launched
    elif requested == "auto" and before is not None and before in TRAITS["mixed_precision"].choices:
        # A trial may come out otherwise than that of the start, and the run would be another.
        requested, reason = before, "the checkpoint's"
    if requested == "auto":
        return _automatic(device)
    if requested == "fp16" and device.type == "cpu":
        raise UserError("--mixed_precision fp16: a CPU has no fp16 training; give bf16, no or auto")
    if requested == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        raise UserError(
            f"--mixed_precision bf16: {torch.cuda.get_device_name(device)} has no bf16; give fp16, no or auto"
        )
    if requested == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        return "bf16", f"{reason}; this processor has no bf16 units, so it is emulated and slower than fp32"
    return requested, reason


def _automatic(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU has bf16 units"
        return "no", "this GPU has no bf16 units"
    if device.type != "cpu":
        return "no", f"no trial is made on {device.type}"
    if not cpu_has_bf16():
        return "no", "this processor has no bf16 units"
    ratio = bf16_speedup()
    return ("bf16" if ratio >= WORTHWHILE else "no"), f"bf16 ran {ratio:.1f} times as fast as fp32 in a trial"


def cpu_has_bf16() -> bool:
    """Whether the processor reports instructions for bf16 products (AVX-512 BF16, AMX; BF16 on Arm)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name))


def bf16_speedup(rounds: int = 8) -> float:
    """How many times faster a feed-forward layer's forward and backward run in bf16 on this CPU.

    The two take turns, and the best of the rounds counts: other work on the machine must not decide.
    """
    x = torch.ones(512, 384)
    weight = torch.ones(1536, 384, requires_grad=True)
    best = {False: float("inf"), True: float("inf")}
    for _ in range(rounds):
        for enabled in best:
            start = time.perf_counter()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
                y = torch.nn.functional.linear(x, weight)
            torch.autograd.grad(y.float().sum(), weight)
            best[enabled] = min(best[enabled], time.perf_counter() - start)
    return best[False] / best[True]
