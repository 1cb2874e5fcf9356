"""How fast each part of a model learns, and when: AdamW's groups and the learning-rate schedule."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from sot_nlp.errors import UserError, counted
from sot_nlp.settings.arguments import Arguments

logger = logging.getLogger(__name__)

# The names that transformers gives a classification head; everything else is the backbone.
HEAD_NAMES = {"classifier", "score"}


def is_head(name: str) -> bool:
    """Return whether the parameter `name` belongs to the classification head."""
    return not HEAD_NAMES.isdisjoint(name.split("."))


def backbone_layers(model: nn.Module) -> tuple[str, int]:
    """Return `(name, number)` of the backbone's layers, its longest module list; `("", 0)` if none."""
    lists = [(name, len(m)) for name, m in model.named_modules() if isinstance(m, nn.ModuleList)]
    return max((item for item in lists if not is_head(item[0])), key=lambda item: item[1], default=("", 0))


def depth(name: str, stack: str, layers: int) -> int:
    """Return a parameter's depth: 0 for embeddings, i + 1 for layer i, `layers + 1` for the head.

    What is in no layer and not an embedding (a final norm, a pooler) counts with the top layer.
    """
    if is_head(name):
        return layers + 1
    if match := re.match(re.escape(stack) + r"\.(\d+)\.", name):
        return int(match[1]) + 1
    return 0 if re.search(r"embed|wte|wpe", name) else layers


def class_token_parameters(model: nn.Module) -> set[str]:
    """Return the names of the parameters of the head's branch of the classification token."""
    heads = [(name, m) for name, m in model.named_modules() if hasattr(m, "class_token_parameters")]
    return {f"{prefix}.{name}" for prefix, head in heads for name in head.class_token_parameters()}


def parameter_groups(model: nn.Module, arguments: Arguments) -> list[dict[str, Any]]:
    """Return AdamW's groups of trained parameters: one per (rate, weight decay), with their names.

    The head learns at `head_learning_rate`, its branch of the classification token at
    `class_token_learning_rate`, layer i of L at `learning_rate * layerwise_lr_decay^(L - 1 - i)`,
    the embeddings one factor lower still. Vectors (biases, norms) have no weight decay. A frozen parameter is
    in no group, so it has no state. Raises UserError for a rate of parameters that there are none of.
    """
    stack, layers = backbone_layers(model)
    head_rate = arguments.head_learning_rate or arguments.learning_rate
    class_token_rate = arguments.class_token_learning_rate or head_rate
    of_class_token = class_token_parameters(model)
    if arguments.class_token_learning_rate is not None and not of_class_token:
        raise UserError(
            "--class_token_learning_rate: this head has no parameters for the classification token alone"
        )
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if is_head(name):
            rate = class_token_rate if name in of_class_token else head_rate
        else:
            rate = arguments.learning_rate * arguments.layerwise_lr_decay ** (
                layers - depth(name, stack, layers)
            )
        decay = arguments.weight_decay if parameter.ndim > 1 else 0.0
        group = groups.setdefault(
            (rate, decay), {"params": [], "lr": rate, "weight_decay": decay, "names": []}
        )
        group["params"].append(parameter)
        group["names"].append(name)
    if not groups:
        raise UserError("every parameter of the model is frozen: nothing is left to train")
    return list(groups.values())


def create_optimizer(
    groups: list[dict[str, Any]], arguments: Arguments, *, fused: bool = True
) -> torch.optim.AdamW:
    """Create AdamW over `groups`: one kernel per group where the device has it, else one per operation."""
    settings: dict[str, Any] = {
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
    }
    plain = [{key: value for key, value in group.items() if key != "names"} for group in groups]
    if fused:
        try:
            return torch.optim.AdamW(plain, fused=True, **settings)
        except RuntimeError as error:
            logger.warning("the fused AdamW does not run here (%s): using the plain one", error)
    return torch.optim.AdamW(plain, **settings)


def learning_rate_schedule(arguments: Arguments, total_steps: int) -> Callable[[int], float]:
    """Return the factor on every learning rate as a pure function of the update's number, 0 for the first.

    A function, not a stateful scheduler: it is the same at any number of processes and after any resumption.
    Warm-up is `warmup_steps`, or `warmup_ratio` of all updates.
    """
    kind = arguments.lr_scheduler_type
    warmup = _warmup(arguments, total_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        if kind == "linear":
            return 1.0 - progress
        if kind == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        if kind == "inverse_sqrt":
            shift = warmup or 10_000
            return math.sqrt(shift / (step - warmup + shift))
        return 1.0

    return factor


def check_warmup(arguments: Arguments, total_steps: int, warn: Callable[[str], None]) -> None:
    """Warn where the learning rate never reaches its peak in so many updates."""
    if (arguments.warmup_steps or 0) > total_steps and _warmup(arguments, total_steps):
        updates = counted(total_steps, "update", "updates")
        warn(
            f"--warmup_steps {arguments.warmup_steps}: the run has {updates}, so its learning rate never "
            "reaches the peak; --warmup_ratio 0.1 is a tenth of any run"
        )


def _warmup(arguments: Arguments, total_steps: int) -> int:
    """Return the number of updates in which the learning rate rises."""
    if arguments.lr_scheduler_type == "constant":
        return 0
    given = arguments.warmup_steps
    return math.ceil(arguments.warmup_ratio * total_steps) if given is None else given
