"""Decide where a study's runs go: the GPUs, cores and memory for runs at once."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from sot_nlp.errors import counted
from sot_nlp.training.speed.threads import usable_cores


def room(
    jobs: int | None, threads: int | None, *, cpu: bool, models: Sequence[str]
) -> tuple[list[dict[str, str]], list[str]]:
    """Return `slots` as far as cores and memory allow, and a line for each number that was lowered."""
    lines, cores = [], usable_cores()
    if threads is not None and threads > cores:
        lines.append(
            f"--threads {threads}: this process may use {counted(cores, 'core', 'cores')}, "
            f"so each run computes on {counted(cores, 'thread', 'threads')}"
        )
        threads = cores
    places, said = fitting(slots(jobs, threads, cpu=cpu), models)
    return places, lines + [said] * bool(said)


def slots(jobs: int | None, threads: int | None, *, cpu: bool) -> list[dict[str, str]]:
    """Return the environments of the processes that run at once.

    With GPUs, each has one in turn (`jobs`: as many as there are); without, `jobs` (default: the cores over
    `threads`) processes of `threads` (default 1) each.
    """
    devices = [] if cpu else gpus()
    common = {"TOKENIZERS_PARALLELISM": "false"}
    if devices:
        count = jobs or len(devices)
        return [{**common, "CUDA_VISIBLE_DEVICES": devices[i % len(devices)]} for i in range(count)]
    threads_per_run = threads or 1
    return [
        {**common, **thread_limits(threads_per_run)}
        for _ in range(jobs or max(1, usable_cores() // threads_per_run))
    ]


def thread_limits(threads: int) -> dict[str, str]:
    """Return the environment of a process that computes with so many threads."""
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))


def gpus() -> list[str]:
    """Return the GPUs that processes may use, as CUDA_VISIBLE_DEVICES names them."""
    if shutil.which("nvidia-smi") is None and not Path("/dev/nvidiactl").exists():
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip() not in ("", "-1")]
    import torch

    return [str(i) for i in range(torch.cuda.device_count())]


# Memory of a process with torch, transformers and a dataset, before its model.
PROCESS_BYTES = 900e6
# Weights, gradients, AdamW's two moments and the best weights, each as large as the stored fp32 weights.
COPIES = 5
# Of a model that is not here yet, as for BERT-base.
UNKNOWN_WEIGHTS = 440e6


def fitting(places: list[dict[str, str]], models: Sequence[str]) -> tuple[list[dict[str, str]], str]:
    """Return as many of `places` as the memory holds runs, at least one, and a line where those are fewer.

    `places` are `slots`'; `models` the backbones' names or folders. A run is taken to need what its largest
    backbone needs for training, which is an estimate: activations depend on the texts.
    """
    need = COPIES * max(map(weight_bytes, models), default=UNKNOWN_WEIGHTS)
    # A GPU's runs keep their model there; the machine's memory holds it once, while loading.
    on_gpu = any("CUDA_VISIBLE_DEVICES" in place for place in places)
    memory_per_run = PROCESS_BYTES + (need / COPIES if on_gpu else need)
    limits = [(available_memory(), memory_per_run, places)]
    if on_gpu:
        for device in {place["CUDA_VISIBLE_DEVICES"] for place in places}:
            of_device = [place for place in places if place["CUDA_VISIBLE_DEVICES"] == device]
            limits.append((gpu_memory(device), PROCESS_BYTES + need, of_device))
    kept = list(range(len(places)))
    for free, size, group in limits:
        inside = [i for i in kept if places[i] in group]
        room = len(inside) if free is None else max(1, int(free // size))
        kept = [i for i in kept if i not in inside[room:]]
    if len(kept) == len(places):
        return places, ""
    taken = [places[i] for i in kept]
    return taken, (
        f"{len(taken)} runs at once instead of {len(places)}: each needs about {memory_per_run / 1e9:.1f} GB "
        "of memory"
    )


def fitting_jobs(jobs: int) -> tuple[int, str]:
    """Return as many of `jobs` processes as the memory holds, at least one, and a line where they are fewer.

    Their data is mapped from disk, so that each needs little beside its libraries.
    """
    free = available_memory()
    held = jobs if free is None else max(1, min(jobs, int(free // PROCESS_BYTES)))
    if held == jobs:
        return jobs, ""
    return (
        held,
        f"{held} processes instead of {jobs}: each needs about {PROCESS_BYTES / 1e9:.1f} GB of memory",
    )


def weight_bytes(model: str) -> float:
    """Return the size of a backbone's weights in fp32, as far as its folder says; `UNKNOWN_WEIGHTS` else."""
    folder = Path(model)
    sizes = [path.stat().st_size for name in ("*.safetensors", "*.bin") for path in folder.glob(name)]
    return float(sum(sizes)) or UNKNOWN_WEIGHTS


def available_memory() -> float | None:
    """Return the bytes of memory that new processes may take: the machine's, or the container's if less."""
    import psutil

    free = float(psutil.virtual_memory().available)
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = Path("/sys/fs/cgroup/memory.current").read_text().strip()
    except OSError:
        return free
    return free if limit == "max" else min(free, float(limit) - float(used))


def gpu_memory(device: str) -> float | None:
    """Return the free bytes of a GPU; None where nvidia-smi does not say."""
    command = ["nvidia-smi", f"--id={device}", "--query-gpu=memory.free", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
        return float(shown.strip()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
