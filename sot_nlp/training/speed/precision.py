"""Choose the number format of a run's matrix products: by what the device reports, never by a clock.

The same machine gives the same answer whatever else it does, so the arms of a comparison agree, and a saved
model is scored as it was trained.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from sot_nlp.errors import UserError, printable
from sot_nlp.settings import launcher
from sot_nlp.settings.arguments import TRAITS
from sot_nlp.training.speed.fast_cpu import pass_context

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
KNOWN = frozenset(TRAITS["mixed_precision"].choices) - {"auto"}


def choose(requested: str, device: torch.device, before: str | None = None) -> tuple[str, str]:
    """Return `(mixed_precision for accelerate, why)` for "auto", "no", "bf16", "fp16" or "fp8" on `device`.

    "auto" takes what `accelerate launch` was asked for, else what the run had `before`, if the device has
    that, else bf16 on a GPU or CPU that reports units for it and on which it runs. Raises UserError for a
    format that was asked for and that the device can't compute in.
    """
    reason = "asked for"
    if requested == "auto" and (asked := launched()):
        requested, reason = asked, f"asked for by {launcher.SOURCE}"
    if requested == "auto":
        # The run may be from another machine, and would be another one in another precision.
        if before is None or before not in KNOWN or _refusal(before, device):
            return _automatic(device)
        requested, reason = before, "the checkpoint's"
    if refusal := _refusal(requested, device):
        raise UserError(f"--mixed_precision {requested}: {refusal}")
    if requested == "bf16" and device.type == "cpu" and not cpu_has_bf16():
        return "bf16", f"{reason}; this processor has no bf16 units, so it is emulated and slower than fp32"
    return requested, reason


def launched() -> str | None:
    """Return the precision that `accelerate launch` was asked for; None without it or where it was not."""
    mode = launcher.launcher_settings().get("mixed_precision")
    return None if mode is None else str(mode)


@contextlib.contextmanager
def computing_in(mode: str, model: torch.nn.Module, device: torch.device) -> Iterator[None]:
    """Compute passes of `model` inside as an evaluation in the precision `mode` does."""
    if mode not in DTYPES:
        yield
        return
    with torch.autocast(device.type, dtype=DTYPES[mode]), pass_context(device, model)():
        yield


def autocast_of(accelerator: Any) -> contextlib.AbstractContextManager[Any]:
    """Return autocast in the accelerator's own precision; accelerate's takes that of the one made last."""
    if not accelerator.native_amp:
        return contextlib.nullcontext()
    # Beside fp8's own layers the others compute in bf16.
    dtype = DTYPES.get(accelerator.mixed_precision, torch.bfloat16)
    return torch.autocast(accelerator.device.type, dtype=dtype)


def _refusal(mode: str, device: torch.device) -> str | None:
    """Return why `device` can't train in `mode` at all, and what would do; None where it can."""
    if mode == "fp16" and device.type == "cpu":
        return "a CPU has no fp16 training; give bf16, no or auto"
    if mode == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
        return f"{torch.cuda.get_device_name(device)} has no bf16; give fp16, no or auto"
    return None


def as_trained(record: Mapping[str, Any], *, cpu: bool) -> str | None:
    """Return the precision that `record`'s run computed in, where this machine can; else None."""
    mode = _recorded(record)
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    return None if mode is None or mode == "fp8" or _refusal(mode, device) else mode


def beside_training(record: Mapping[str, Any], mode: str) -> str | None:
    """Return a line about `mode` beside the precision of `record`'s run; None where it names none."""
    before = _recorded(record)
    if before is None or before == mode:
        return before and f"precision {mode}, as in training"
    if mode == launched():
        return f"precision {mode}, asked for by {launcher.SOURCE}; the training's was {before}"
    return f"precision {mode}, for the training's {before} does not run here: scores may differ slightly"


def _recorded(record: Mapping[str, Any]) -> str | None:
    environment = record.get("environment")
    mode = environment.get("mixed_precision") if isinstance(environment, Mapping) else None
    return mode if isinstance(mode, str) and mode in KNOWN else None


def _automatic(device: torch.device) -> tuple[str, str]:
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16", "this GPU has bf16 units"
        return "no", "this GPU has no bf16 units"
    if device.type != "cpu":
        return "no", f"bf16 is asked for by name on {device.type}"
    if not cpu_has_bf16():
        return "no", "this processor has no bf16 units"
    problem = bf16_problem()
    if problem is not None:
        return "no", f"this processor has bf16 units, but torch can't use them: {problem}"
    return "bf16", "this processor has bf16 units"


def cpu_has_bf16() -> bool:
    """Return whether the CPU reports instructions for bf16 products (AVX-512 BF16, AMX; BF16 on Arm)."""
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, name)() for name in names if hasattr(torch.cpu, name))


def bf16_problem() -> str | None:
    """Return why a product in bf16, forward and backward, does not run on this CPU; None where it does."""
    if not (torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled):
        return "oneDNN, which computes bf16 products on a CPU, is not available"
    weight = torch.ones(32, 32, requires_grad=True)
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            product = torch.nn.functional.linear(torch.ones(32, 32), weight)
        torch.autograd.grad(product.float().sum(), weight)
    except RuntimeError as error:
        return printable(str(error).partition("\n")[0], 200)
    return None
