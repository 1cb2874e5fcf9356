"""A run's processes: the accelerator that connects them, and how they agree."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    InitProcessGroupKwargs,
    ProjectConfiguration,
    broadcast_object_list,
    is_torch_xla_available,
)

from sot_nlp.errors import UserError, counted, printable
from sot_nlp.settings import launcher
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training import signals
from sot_nlp.training.logs import tracker_names
from sot_nlp.training.signals import LostProcessError
from sot_nlp.training.speed import precision

try:
    import resource
except ImportError:  # not on Windows
    resource = None  # type: ignore[assignment]

T = TypeVar("T")
logger = logging.getLogger(__name__)

# A collective waits so long for the slowest process: the main one may be writing a large checkpoint. That a
# process has died is noticed by its launcher within seconds, not by this.
TIMEOUT = timedelta(minutes=15)
# What a launcher may ask accelerate to shard the model by, and by which variable it does.
SHARDERS = {"FSDP": "ACCELERATE_USE_FSDP", "DeepSpeed": "ACCELERATE_USE_DEEPSPEED"}
# By what the messages of gloo and NCCL are known that say that the other side of a connection is gone.
LOST = ("closed by peer", "connection reset", "connection closed", "broken pipe", "timed out waiting", "nccl")


def create_accelerator(
    arguments: Arguments, run_folder: Path = Path(), *, precision_before: str | None = None
) -> Accelerator:
    """Create a run's accelerator: precision, trackers, and the devices that the launcher chose.

    Trackers that write files do so in `run_folder`'s `logs`. Warnings of the package come from the main
    process alone. `precision_before` is the precision of the run being resumed, for "auto" to reuse; the
    main process's counts. Processes that share a GPU talk over gloo, and a line says so.

    Gradient accumulation is the loop's own business (the shares of an update differ in size), so accelerate
    is configured for one step; only DeepSpeed, which divides by it, gets the real number. Raises UserError
    for a precision that the device lacks, for trackers that are not there, and where processes share a GPU
    that can't (`sharing_gpus`).
    """
    # A process may hold several runs, one after the other, of different precision.
    AcceleratorState._reset_state()
    GradientState._reset_state()
    # Each process of FSDP loads the weights itself: from the main one accelerate can't spread buffers, which
    # BatchNorm has, and on CPUs, where it shards nothing, it would leave the others without weights.
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "false"
    group = InitProcessGroupKwargs(timeout=TIMEOUT)
    # On a CPU-only machine accelerate lets each process of a launcher run alone unless cpu=True is passed.
    launched = "cpu" not in arguments.sources and bool(launcher.launcher_settings().get("cpu"))
    cpu = arguments.cpu or launched or not (torch.accelerator.is_available() or is_torch_xla_available())
    sharder = next((name for name, asked in SHARDERS.items() if os.environ.get(asked) == "true"), None)
    sharing = None if cpu else sharing_gpus(sharder)
    state = PartialState(cpu=cpu, timeout=TIMEOUT, **({"backend": "gloo"} if sharing else {}))
    if sharing:
        # accelerate numbers the GPU of DDP and of barriers by this, as if each process had one.
        state.local_process_index = state.device.index
    mode, reason = precision.choose(arguments.mixed_precision, state.device, precision_before)
    # The processes' machines may differ; the main one's counts.
    mode, reason = broadcast_object_list([mode, reason])
    trackers = tracker_names(arguments)
    try:
        accelerator = Accelerator(
            cpu=cpu,
            mixed_precision=mode,
            dynamo_backend="no",  # the loop compiles, by the launcher's choices
            log_with=trackers,
            project_config=ProjectConfiguration(
                project_dir=str(run_folder), logging_dir=str(run_folder / "logs")
            ),
            kwargs_handlers=[group, DistributedDataParallelKwargs(gradient_as_bucket_view=True)],
        )
    except (ValueError, ImportError) as error:
        what = f"accelerate's {sharder}" if sharder and mode != "fp8" else f"--mixed_precision {mode}"
        raise UserError(f"{what}: {error}") from None
    accelerator.gradient_accumulation_steps = 1
    if accelerator.distributed_type == DistributedType.FSDP:
        # It would cast the head's weights, the logits and the loss; autocast alone leaves them in fp32.
        accelerator.state.fsdp_plugin.mixed_precision_policy = None
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = arguments.per_device_train_batch_size
        config["gradient_accumulation_steps"] = arguments.gradient_accumulation_steps
        config["gradient_clipping"] = arguments.max_grad_norm
    if not accelerator.is_main_process:
        logging.getLogger("sot_nlp").setLevel(logging.ERROR)  # one process says what all would say
    if sharder and not is_sharded(accelerator):
        logger.warning(
            "%s: accelerate shards no model on %s; each process has it all", sharder, state.device.type
        )
    if cpu and state.num_processes == 1 and (asked := launcher.processes_asked()) > 1:
        logger.warning(
            "`accelerate launch --num_processes %d` starts one process on a CPU; "
            "`torchrun --nproc_per_node %d` starts as many",
            asked,
            asked,
        )
    if sharing:
        logger.warning(
            "%s, which NCCL refuses: they talk over gloo, by way of the host; one process with a larger "
            "--per_device_train_batch_size is faster",
            sharing,
        )
    logger.info("precision %s: %s", mode, reason)
    return accelerator


@contextlib.contextmanager
def separate_state() -> Iterator[None]:
    """Leave accelerate's state, which all accelerators of a process share, as it was before the block.

    A training or a classifier that is open would otherwise go on in the precision of what came after it.
    """
    shared = [AcceleratorState._shared_state, GradientState._shared_state]
    before = [dict(state) for state in shared]
    try:
        yield
    finally:
        for state, values in zip(shared, before, strict=True):
            state.clear()
            state.update(values)


def separate_accelerator(arguments: Arguments, *, precision_before: str | None) -> Accelerator:
    """Create an accelerator for evaluation, as `create_accelerator`, with a state of its own."""
    with separate_state():
        accelerator = create_accelerator(arguments, precision_before=precision_before)
        accelerator.state.__dict__ = dict(accelerator.state.__dict__)
    return accelerator


def sharing_gpus(sharder: str | None) -> str | None:
    """Return that this machine's processes share its GPUs, in words; None where each has one or has none.

    NCCL wants a GPU for each process. What data parallelism calls on tensors of a GPU (all-reduce, broadcast,
    all-gather, barrier) gloo does, too. Raises UserError for a model that `sharder` (FSDP, DeepSpeed) is to
    divide, and for processes on several machines, which may not choose alike.
    """
    processes, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.cuda.device_count()
    if not 0 < gpus < processes:
        return None
    sharing = f"{processes} processes share {counted(gpus, 'GPU', 'GPUs')}"
    several = int(os.environ.get("WORLD_SIZE", processes)) > processes
    if sharder or several:
        what = f"accelerate's {sharder}" if sharder else "several machines"
        fewer = (
            f"`torchrun --nproc_per_node {gpus}`"
            if several
            else f"`accelerate launch --num_processes {gpus}`"
        )
        raise UserError(
            f"{what}: {sharing}, and NCCL wants one for each; start fewer ({fewer}), with a larger "
            "--per_device_train_batch_size"
        )
    return sharing


def is_sharded(accelerator: Accelerator) -> bool:
    """Return whether no process holds the whole model (FSDP, DeepSpeed): accelerate then saves it."""
    return accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)


def count_weights(parameters: Iterable[torch.nn.Parameter]) -> int:
    """Return the number of weights in `parameters`, in full where DeepSpeed's ZeRO-3 has divided them.

    To be called before `accelerator.prepare`, which divides a model for FSDP.
    """
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


def whole_weights(accelerator: Accelerator, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """Gather a sharded model's weights for the main process; return None where each process has them all.

    `model` is as `accelerator.prepare` gave it. All processes call it together.
    """
    if not is_sharded(accelerator):
        return None
    weights: dict[str, torch.Tensor] = accelerator.get_state_dict(model)
    return weights


def on_main(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """Do `action` on the main process alone; all processes wait, get its result, and raise its UserError."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = action()
        except UserError as error:
            if accelerator.num_processes == 1:
                raise
            outcome[1] = str(error)
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise UserError(outcome[1])
    result: T = outcome[0]
    return result


def agreed_signal(accelerator: Accelerator) -> int:
    """Return the signal that any process received, 0 for none. All processes call it together."""
    if accelerator.num_processes == 1:
        return signals.received()
    votes = torch.tensor(signals.votes(), device=accelerator.device)
    return signals.elected(accelerator.reduce(votes, "sum").tolist())


@contextlib.contextmanager
def lost_process_as_error(accelerator: Accelerator, arguments: Arguments) -> Iterator[None]:
    """Convert what a collective raises when another process is gone into a LostProcessError."""
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not any(sign in str(error).lower() for sign in LOST):
            raise
        raise LostProcessError(
            f"another process of this run has ended; {signals.same_command(arguments)} resumes from the "
            f"last checkpoint, if one was written ({printable(error)})",
            first=_first("lost process"),
        ) from error


def _first(what: str) -> bool:
    """Return whether no other process of the run has asked this about `what` before."""
    try:
        return bool(torch.distributed.distributed_c10d._get_default_store().add(f"sot-nlp: {what}", 1) == 1)
    except (RuntimeError, ValueError):
        return True  # the store is gone, with the process that kept it


def peak_memory(device: torch.device) -> int:
    """Return the run's peak memory in bytes: the GPU's, else this process's (0 where unknown)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
