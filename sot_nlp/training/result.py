"""The result of a training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(kw_only=True)
class TrainingResult:
    """What came out of `train`, apart from the weights.

    `model` is the trained model as predictions need it: the one given, unless it is sharded (then
    accelerate's wrapper). `best` is {metric, value, epoch, step} of the weights that it holds. Speeds and
    seconds count training alone, not evaluations and checkpoints. `peak_memory_bytes` is the GPU's, else the
    process's. `stream` is what was found in a streamed training split (`stream.add_found`), empty for others.
    `num_trainable_parameters` is of the whole model, however processes divide it.
    """

    model: torch.nn.Module
    best: dict[str, Any] | None
    evaluations: list[dict[str, Any]]
    log_history: list[dict[str, Any]]
    train_examples_per_second: float
    train_seconds: float
    steps: int
    skipped_updates: list[dict[str, Any]]
    resumed_from: list[dict[str, Any]]
    warnings: list[str]
    peak_memory_bytes: int
    stream: dict[str, Any]
    num_trainable_parameters: int
