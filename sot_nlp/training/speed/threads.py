"""Decide how many CPU threads compute, and what threads do while they wait for others.

OpenMP's threads spin while they wait. Where other programs keep the cores busy, the thread that is waited for
may have no core, and the spinning ones take its place: two threads on two busy cores then train a tiny model
several times slower than one. Threads that sleep at once lose a sixth on an idle machine, where the next work
comes within microseconds: so they spin for a moment, then sleep. OpenMP reads its variables once, when torch
is imported, so importing this package sets them first. What the user's environment says is not changed, but
for a number of threads that the machine lacks.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, counted, printable

if TYPE_CHECKING:
    import torch

COUNTS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Any of these says how OpenMP's threads wait: the standard's variable, GNU's and LLVM's (and Intel's) own.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# About 0.1 ms in GNU's OpenMP, where it precedes the policy. LLVM's threads sleep at once.
MOMENT = "10000"
# Models with fewer weights in their products compute on one thread: those are too small to be shared.
WORTH_SHARING = 1_000_000
QUOTA = Path("/sys/fs/cgroup/cpu.max")


def let_waiting_threads_sleep() -> None:
    """Make OpenMP's waiting threads sleep soon, unless the environment decides or torch is imported."""
    if "torch" not in sys.modules and not any(os.environ.get(name) for name in WAITING):
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": MOMENT}


def usable_cores() -> int:
    """Return how many cores this process may use: its affinity, or its container's quota if less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):  # "max 100000", or microseconds of each period
        allowed, period = map(int, QUOTA.read_text(encoding="ascii").split())
        cores = min(cores, max(1, math.ceil(allowed / period)))
    return cores


def check_environment() -> list[str]:
    """Lower the environment's numbers of threads to the cores at hand; return a line per number lowered.

    To be called before torch is imported. Raises UserError for what is no number of threads.
    """
    cores, lines = usable_cores(), []
    for name in COUNTS:
        value = os.environ.get(name)
        if not value:
            continue
        first, *rest = value.split(",")  # OpenMP takes a list: a number for each nesting of parallel loops
        if not first.strip().isdecimal() or int(first) == 0:
            raise UserError(f"{name}={printable(value)!r}: expected a number of threads, 1 to {cores}")
        if int(first) > cores:
            os.environ[name] = ",".join([str(cores), *rest])
            lines.append(
                f"{name}={printable(value)}: this process may use {counted(cores, 'core', 'cores')}, "
                f"so {counted(cores, 'thread is', 'threads are')} started"
            )
    return lines


@contextlib.contextmanager
def threads_for(model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Compute inside with as many threads as pay on a CPU: one for a tiny `model`, never more than cores.

    The number depends on the model and the machine, not on a trial, so that a run is repeatable. A number in
    the environment (`OMP_NUM_THREADS`) is the user's and stays. Outside, torch has its own number again.
    """
    import torch

    before = torch.get_num_threads()
    if device.type == "cpu" and not any(os.environ.get(name) for name in COUNTS):
        torch.set_num_threads(1 if _weights(model) < WORTH_SHARING else min(before, usable_cores()))
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def _weights(model: Any) -> int:
    """Return how many numbers each token is multiplied by: the matrices that are no embeddings."""
    import torch

    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    return sum(p.numel() for p in model.parameters() if p.ndim > 1 and id(p) not in embeddings)
