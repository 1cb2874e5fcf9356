"""Model and optimizer tensors as safetensors, written and read back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from sot_nlp.errors import printable
from sot_nlp.training.checkpointing.folders import CheckpointError


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write named tensors as safetensors; those that share memory once, under the first name."""
    first: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    unique: dict[str, torch.Tensor] = {}
    same: dict[str, str] = {}
    for name, tensor in tensors.items():
        where = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        if tensor.numel() and first.setdefault(where, name) != name:
            same[name] = first[where]
            continue
        unique[name] = tensor.detach().contiguous()
        storage = unique[name].untyped_storage().data_ptr()
        if storage in storages:  # another view of memory that is written already
            unique[name] = unique[name].clone()
        storages.add(storage)
    # One entry: the order of several is not fixed, and equal states are to give equal files.
    save_file(unique, path, metadata={"same": json.dumps(same)})


def load_tensors(path: Path, into: dict[str, torch.Tensor], what: str) -> None:
    """Copy a file's tensors into those of `into`, in place. Raises CheckpointError where they differ."""
    try:
        with safe_open(path, framework="pt") as file:
            same = json.loads((file.metadata() or {}).get("same", "{}"))
            names = set(file.keys()) | set(same)
            if names != set(into):
                raise CheckpointError(f"{path.name}: not the {what} of this run: {_differ(names, set(into))}")
            with torch.no_grad():
                for name in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                    tensor = file.get_tensor(name)
                    if tensor.shape != into[name].shape or tensor.dtype != into[name].dtype:
                        raise CheckpointError(
                            f"{path.name}: {name} is {tuple(tensor.shape)} {tensor.dtype}, "
                            f"expected {tuple(into[name].shape)} {into[name].dtype}"
                        )
                    into[name].copy_(tensor)
                for name, source in same.items():
                    if into[name].data_ptr() != into[source].data_ptr():
                        into[name].copy_(into[source])
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path.name}: cannot be read: {printable(error)}") from None


def _differ(present: Iterable[str], wanted: Iterable[str]) -> str:
    missing, extra = sorted(set(wanted) - set(present)), sorted(set(present) - set(wanted))
    parts = [
        f"{what} {', '.join(names[:3])}" for what, names in (("lacks", missing), ("has", extra)) if names
    ]
    return printable("; ".join(parts))


def save_model(path: Path, model: torch.nn.Module) -> None:
    """Write every parameter and persistent buffer of `model`."""
    save_tensors(path, model.state_dict())


def load_model(path: Path, model: torch.nn.Module) -> None:
    """Read what `save_model` wrote back into `model`, bit for bit. Raises CheckpointError."""
    load_tensors(path, model.state_dict(), "model")


def save_optimizer(path: Path, optimizer: torch.optim.Optimizer, names: list[list[str]]) -> None:
    """Write the optimizer's state; `names` are the names of its parameters, group by group.

    Its settings are not in it: they are the run's arguments, and the rates a function of the update's number.
    """
    tensors = {
        f"{name}/{kind}": tensor
        for parameter, name in _named(optimizer, names)
        for kind, tensor in optimizer.state.get(parameter, {}).items()
    }
    save_tensors(path, tensors)


def load_optimizer(path: Path, optimizer: torch.optim.Optimizer, names: list[list[str]]) -> None:
    """Read what `save_optimizer` wrote. Raises CheckpointError."""
    parameters = {name: parameter for parameter, name in _named(optimizer, names)}
    steps_on_device = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - a safetensors file is no mapping
                name, _, kind = key.rpartition("/")
                parameter = parameters[name]
                tensor = file.get_tensor(key)
                if kind == "step":
                    tensor = tensor.to(parameter.device) if steps_on_device else tensor
                else:
                    # In the memory order of its parameter, as the optimizer made it.
                    tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
                optimizer.state[parameter][kind] = tensor.detach()
    except KeyError as error:
        raise CheckpointError(f"{path.name}: {printable(error)} is not trained in this run") from None
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path.name}: cannot be read: {printable(error)}") from None


def _named(
    optimizer: torch.optim.Optimizer, names: list[list[str]]
) -> Iterator[tuple[torch.nn.Parameter, str]]:
    for group, group_names in zip(optimizer.param_groups, names, strict=True):
        yield from zip(group["params"], group_names, strict=True)
