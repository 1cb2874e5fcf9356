"""Train many heads on frozen features: passes of some seeds each, several processes at once.

Shapes: G seeds in a pass, n examples, K logits.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch
from rich.progress import track

from sot_nlp.modeling.head import SoTHead
from sot_nlp.runs.score_scale import ScoreScale
from sot_nlp.runs.scoring import decisions, metrics_of_logits
from sot_nlp.settings.arguments import Arguments
from sot_nlp.studies.probe.parallel_heads import SeedBatch, seed_updates
from sot_nlp.studies.results import DATA_SEED_OFFSET
from sot_nlp.training.optimization import learning_rate_schedule
from sot_nlp.training.speed.features import Features


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What one process trains at once: heads of one arm, one per seed."""

    arm: str
    heads: list[SoTHead]
    seeds: tuple[int, ...]
    arguments: Arguments
    kind: str
    metric: str
    train: Features
    validation: Features
    device: str
    every_epoch: bool
    scale: ScoreScale | None = None


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A pass's result, one row per seed: the metric after the epochs, the decisions after the last."""

    curves: list[list[tuple[float, float]]]
    decisions: np.ndarray  # (G, n) or (G, n, K)
    weights: dict[str, Any]  # of the first seed's head
    seconds: float


def train_passes(
    passes: Sequence[Pass], *, jobs: int, description: str = "", quiet: bool = False
) -> list[Trained]:
    """Train every pass, `jobs` at once in processes of one thread each; the longest are started first."""
    order = sorted(range(len(passes)), key=lambda i: -_work(passes[i]))
    numbered = (
        ((i, train_pass(passes[i])) for i in order) if jobs == 1 else _in_processes(passes, order, jobs)
    )
    shown = track(numbered, description=description, total=len(passes), transient=True, disable=quiet)
    done = dict(shown)
    return [done[i] for i in range(len(passes))]


def _in_processes(passes: Sequence[Pass], order: list[int], jobs: int) -> Iterable[tuple[int, Trained]]:
    context = get_context("spawn")
    with _one_thread(), ProcessPoolExecutor(min(jobs, len(passes)), mp_context=context) as pool:
        waiting = {pool.submit(train_pass, passes[i]): i for i in order}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let processes that start inside compute with one thread each."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict(zip(names, ("1", "1", "false"), strict=True)))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _work(one_pass: Pass) -> float:
    """Estimate how long a pass takes, in no unit."""
    config = one_pass.heads[0].config
    maps = config.num_heads * sum(config.widths) if config.uses_words else 0
    return len(one_pass.seeds) * (1 + (maps if config.pools_matrix else 50))


def train_pass(one_pass: Pass) -> Trained:
    """Train the heads of a pass over all epochs."""
    started = time.perf_counter()
    # Of numbers too small to matter, which cost a processor a hundred times what others do.
    torch.set_flush_denormal(True)
    arguments, size = one_pass.arguments, one_pass.arguments.per_device_train_batch_size
    batch = SeedBatch(
        one_pass.heads, arguments=arguments, kind=one_pass.kind, seeds=one_pass.seeds, device=one_pass.device
    )
    epochs = int(arguments.num_train_epochs)
    per_epoch = math.ceil(len(one_pass.train) / size)
    factor = learning_rate_schedule(arguments, epochs * per_epoch)
    train, scale = one_pass.train, one_pass.scale
    if scale is not None:
        train = replace(train, labels=scale.standardized(train.labels))
    data_seeds = [seed + DATA_SEED_OFFSET for seed in one_pass.seeds]
    curves: list[list[tuple[float, float]]] = [[] for _ in one_pass.seeds]
    step = 0
    for epoch in range(epochs):
        for examples in seed_updates(one_pass.train.lengths, data_seeds, epoch, size):
            batch.step(train, examples, factor(step))
            step += 1
        if one_pass.every_epoch or epoch + 1 == epochs:
            logits = batch.logits(one_pass.validation)
            if scale is not None:
                logits = scale.restored(logits)
            for curve, of_seed in zip(curves, logits, strict=True):
                scores = metrics_of_logits(
                    [one_pass.metric], of_seed, one_pass.validation.labels, one_pass.kind
                )
                curve.append((float(epoch + 1), scores[one_pass.metric]))
    return Trained(
        curves=curves,
        decisions=np.stack([decisions(of_seed, one_pass.kind) for of_seed in logits]),
        weights=batch.state_dict(0) if scale is None else scale.folded(batch.state_dict(0)),
        seconds=time.perf_counter() - started,
    )
