"""Prepare a model for training: freeze parts of it, checkpoint gradients, compile it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn

from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.optimization import backbone_layers, depth


def prepare(model: Any, arguments: Arguments, warn: Callable[[str], None]) -> None:
    """Set up `model`'s gradient checkpointing and compilation, as the settings say. Raises UserError."""
    if arguments.gradient_checkpointing:
        try:
            # transformers renamed it within version 5.
            new, old = "activation_checkpointing_enable", "gradient_checkpointing_enable"
            getattr(model, new if hasattr(model, new) else old)({"use_reentrant": False})
        except (ValueError, AttributeError) as error:
            raise UserError(f"--gradient_checkpointing: {printable(error)}") from None
    if arguments.torch_compile:
        options = compile_options()
        problem = compile_problem(options)
        if problem is None:
            model.compile(**options)
        else:
            warn(f"--torch_compile: not compiled, since a trial failed on this machine: {problem}")


def compile_options() -> dict[str, Any]:
    """Return the options of torch.compile: those of `accelerate launch` where it was asked to compile."""
    plugin = TorchDynamoPlugin()  # reads the launcher's variables
    if plugin.backend == DynamoBackend.NO:
        return {"dynamic": True}
    return plugin.to_kwargs() | {"dynamic": True}


def compile_problem(options: Mapping[str, Any]) -> str | None:
    """Return why torch.compile does not work on this machine (no compiler, ...); None where a trial works."""
    try:
        torch.compile(lambda x: (x * 2 + 1).relu(), **options)(torch.ones(8))
    except (RuntimeError, OSError, ImportError) as error:
        lines = str(error).strip().splitlines()
        return printable(lines[0] if lines else repr(error))
    return None


def freeze(model: nn.Module, *, freeze_backbone: bool, trainable_layers: int | None) -> None:
    """Stop the gradient of the backbone, or of all of it but the top `trainable_layers` layers.

    Raises UserError where the backbone has fewer layers.
    """
    if not freeze_backbone and trainable_layers is None:
        return
    stack, layers = backbone_layers(model)
    keep = 0 if freeze_backbone else int(trainable_layers or 0)
    if keep > layers:
        raise UserError(f"--trainable_layers {keep}: the backbone has {layers} layers")
    for name, parameter in model.named_parameters():
        # With no layer trained, what counts with the top layer is frozen too.
        lowest = layers + 1 - keep
        if depth(name, stack, layers) < lowest:
            parameter.requires_grad_(False)


def train_mode(model: nn.Module) -> None:
    """Put `model` into training mode, and the parts of it that are frozen as a whole into evaluation mode.

    A frozen part yields constant features: no dropout is drawn in what does not learn. Modules without
    parameters follow the part that they are in.
    """
    model.train()
    _frozen_to_eval(model)


def _frozen_to_eval(module: nn.Module) -> None:
    parameters = list(module.parameters())
    if parameters and not any(p.requires_grad for p in parameters):
        module.eval()
        return
    for child in module.children():
        _frozen_to_eval(child)
