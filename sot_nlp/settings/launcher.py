"""Read what `accelerate launch` was asked for, as a layer of settings below `--config` and flags.

The launcher passes its choices on as environment variables. It sets them to a default where it was asked for
nothing, and gradient accumulation only for DeepSpeed, so its own command and config file are read, too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sot_nlp.errors import printable

SOURCE = "accelerate launch"


def launcher_settings() -> dict[str, Any]:
    """Return the settings that `accelerate launch`, or its environment variables, ask for."""
    return from_environment(os.environ) | from_command(_command()) if _launched() else {}


def processes_asked() -> int:
    """Return the number of processes that `accelerate launch` was asked for; 0 where that is unknown."""
    given, config = _asked(_command()) if _launched() else (None, None)
    return getattr(given, "num_processes", None) or getattr(config, "num_processes", None) or 0


def _launched() -> bool:
    return any(name.startswith("ACCELERATE_") for name in os.environ)


def describe(settings: Mapping[str, Any]) -> list[str]:
    """Return a line with settings that come from the launcher; none where there are none."""
    given = ", ".join(f"{name} {printable(value)}" for name, value in settings.items())
    return [f"from {SOURCE}: {given}"] if given else []


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return what the variables say that is not what the launcher sets them to by itself."""
    wanted: dict[str, Any] = {}
    precision = environment.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    if precision != "no":
        wanted["mixed_precision"] = precision
    if environment.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1", "yes"):
        wanted["cpu"] = True
    if environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower() != "no":
        wanted["torch_compile"] = True  # with the backend and options of further variables
    steps = environment.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps.isdecimal() and steps != "1":
        wanted["gradient_accumulation_steps"] = int(steps)
    with contextlib.suppress(ValueError):
        wanted["max_grad_norm"] = float(environment.get("ACCELERATE_GRADIENT_CLIPPING", "none"))
    return wanted


def _command() -> list[str]:
    """Return the command of the launcher, this process's parent."""
    try:
        import psutil

        words: list[str] = psutil.Process(os.getppid()).cmdline()
    except Exception:  # whatever keeps a process from being read: the variables are all there is to know
        return []
    return words


def _asked(words: list[str]) -> tuple[Any, Any]:
    """Return the flags in the words of an `accelerate launch`, and what its config file holds; else None."""
    if "launch" not in words or not any("accelerate" in word for word in words[: words.index("launch")]):
        return None, None
    from accelerate.commands.config.config_args import default_config_file, load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    given, _ = launch_command_parser().parse_known_args(words[words.index("launch") + 1 :])
    file = given.config_file or (default_config_file if Path(default_config_file).is_file() else None)
    return given, load_config_from_file(file) if file and (given.config_file or not given.cpu) else None


def from_command(words: list[str]) -> dict[str, Any]:
    """Return what the words of an `accelerate launch` ask for in precision and gradient accumulation."""
    given, config = _asked(words)
    if given is None:
        return {}
    precision = given.mixed_precision or getattr(config, "mixed_precision", None)
    steps = given.gradient_accumulation_steps
    if steps is None:
        steps = (getattr(config, "deepspeed_config", None) or {}).get("gradient_accumulation_steps")
    wanted = {"mixed_precision": precision, "gradient_accumulation_steps": steps}
    return {name: value for name, value in wanted.items() if value is not None and value != "auto"}
