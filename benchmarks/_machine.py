"""What a benchmark ran on: the processor, the GPU and its rate, the versions."""

from __future__ import annotations

import contextlib
import platform
import statistics
import time
from pathlib import Path
from typing import Any


def described(*, gpu: bool = False) -> dict[str, Any]:
    """Return the processor, or with `gpu` the GPU where there is one, and the versions."""
    from importlib.metadata import version

    device = processor()
    if gpu:
        import torch

        device = torch.cuda.get_device_name() if torch.cuda.is_available() else device
    return {"device": device, "torch": version("torch"), "transformers": version("transformers")}


def processor() -> str:
    """The processor's name and the widest vectors and matrices that it has."""
    name, flags = platform.processor() or platform.machine(), set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    has = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return " ".join([name, *has])


def matrix_flops(size: int = 8192, rounds: int = 20) -> float:
    """Operations a second of bf16 matrix products, `size` x `size`, on the GPU."""
    import torch

    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(rounds):
        torch.cuda.synchronize()
        started = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds)
