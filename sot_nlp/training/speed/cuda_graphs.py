"""The passes of a batch, forward and backward, as one CUDA graph: launched at once, not kernel by kernel.

On a GPU the kernels of a small batch take less time than Python takes to launch them, some thousands an
update. A graph holds the launches of one shape of batch; replaying it costs the GPU's time alone. Random
numbers (dropout) are drawn anew at each replay, from the generator's seed at that time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor

from sot_nlp.errors import printable
from sot_nlp.training.evaluation import to_device

# (batch on the device, weight of its loss as a scalar tensor) -> loss times weight, gradients accumulated
Passes = Callable[[dict[str, Tensor], Tensor], Tensor]
# Graphs share the memory of their activations, but each holds its launches, some megabytes.
MOST_GRAPHS = 128
# What graphs hold, passes that run as they are cannot use: half of the device is left to them.
MOST_MEMORY = 0.5
# Where Python drops whole layers at random, a graph would drop the same ones at every replay.
LAYER_DROP = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")


def rounded_length(longest: int) -> int:
    """The length that a batch of `longest` tokens is padded to: few shapes, and some percent of padding.

    Every length up to 16, then multiples of 2 up to 32, of 4 up to 64, and so on.
    """
    step = 1
    while 16 * step < longest:
        step *= 2
    return -(-longest // step) * step


def batch_width(longest: int, examples: int, *, most: int | None, max_tokens: int | None) -> int:
    """The length to pad so many examples to: the rounded one, within the model's length and the token budget.

    Args:
        longest: tokens of the longest example, which `most` and `max_tokens` allow.
        examples: of the batch.
        most: the longest text that the model takes, in tokens, if there is such a limit.
        max_tokens: padded tokens that the batch may have, if there is such a budget.
    """
    width = rounded_length(longest)
    if most is not None:
        width = min(width, most)
    if max_tokens is not None:
        width = min(width, max_tokens // examples)
    return max(width, longest)


def can_be_graphed(model: Any, accelerator: Accelerator, arguments: Any) -> bool:
    """Whether the passes of `model` may be replayed: asked for, on one GPU, and the same at every replay."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    return bool(
        arguments.cuda_graphs
        and accelerator.device.type == "cuda"
        and accelerator.distributed_type == DistributedType.NO
        and accelerator.mixed_precision in ("no", "bf16")
        and not arguments.gradient_checkpointing
        and not any(getattr(config, name, 0) for name in LAYER_DROP)
    )


@dataclass
class _Graph:
    graph: Any
    batch: dict[str, Tensor]  # where it reads
    loss: Tensor  # where it writes


class GraphedPasses:
    """`passes` for batches of shapes that were met before by a replayed graph, for others as they are.

    The gradients of `parameters` are accumulated into the same tensors all the time, so they must be zeroed
    in place. Where a capture fails, as for a backbone whose forward waits for the GPU, `warn` is told once,
    `failed` is set, and all passes are run as they are from then on.
    """

    def __init__(
        self,
        passes: Passes,
        parameters: Sequence[torch.nn.Parameter],
        device: torch.device,
        warn: Callable[[str], None],
    ) -> None:
        self.passes, self.parameters, self.device, self.warn = passes, list(parameters), device, warn
        self.weight = torch.ones((), device=device)
        self.stream = torch.cuda.Stream(device)
        self.met: set[Any] = set()
        self.graphs: dict[Any, _Graph] = {}
        self.gradients: list[Tensor | None] = []
        self.pool = torch.cuda.graph_pool_handle()
        self.failed = False

    def __call__(self, batch: dict[str, Tensor], weight: float) -> Tensor:
        """Accumulate the gradients of a batch, which is in the host's memory.

        Returns its loss times `weight`, a scalar on the device that holds until the next call.
        """
        self.weight.fill_(weight)
        shape = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items())
        if self.graphs and not self._same_gradients():
            self._forget()  # they would write where nobody reads
        graph = self.graphs.get(shape)
        if graph is None and shape in self.met and self._has_room():
            graph = self._capture(shape, batch)
        if graph is None:
            self.met.add(shape)
            return self.passes(to_device(batch, self.device), self.weight)
        for name, tensor in batch.items():
            graph.batch[name].copy_(tensor.pin_memory(), non_blocking=True)
        graph.graph.replay()
        return graph.loss

    def _has_room(self) -> bool:
        if self.failed or len(self.graphs) >= MOST_GRAPHS:
            return False
        whole = torch.cuda.get_device_properties(self.device).total_memory
        return torch.cuda.memory_reserved(self.device) < MOST_MEMORY * whole

    def _capture(self, shape: Any, batch: dict[str, Tensor]) -> _Graph | None:
        static = to_device(batch, self.device)
        self.gradients = [parameter.grad for parameter in self.parameters]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            # (torch.cuda.graph would also empty the allocator's cache, which the next passes want back.)
            with torch.cuda.stream(self.stream):
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    loss = self.passes(static, self.weight)
                finally:
                    graph.capture_end()
        except RuntimeError as error:  # CUDA's, for what a graph can't hold
            self.failed = True
            self._end_broken_capture()
            self._forget()
            # The end of a broken capture fails too; what broke it stands behind that.
            lines = str(error.__context__ or error).strip().splitlines()
            reason = printable(lines[0] if lines else repr(error), 200)
            self.warn(f"this model's passes can't be held as CUDA graphs, so they run without: {reason}")
            return None
        self.graphs[shape] = _Graph(graph, static, loss)
        return self.graphs[shape]

    def _end_broken_capture(self) -> None:
        """Undo what torch leaves behind where `capture_end` fails: generator and allocator in a capture."""
        index = torch.cuda.current_device() if self.device.index is None else self.device.index
        generator = torch.cuda.default_generators[index]
        generator.graphsafe_set_state(generator.clone_state())
        # (Refused where the capture had ended, and absent from some versions.)
        with contextlib.suppress(AttributeError, RuntimeError):
            torch._C._cuda_endAllocateToPool(index, self.pool)

    def _forget(self) -> None:
        self.graphs, self.gradients = {}, []
        self.pool = torch.cuda.graph_pool_handle()  # the old one ends with its last graph

    def _same_gradients(self) -> bool:
        pairs = zip(self.parameters, self.gradients, strict=True)
        return all(parameter.grad is gradient for parameter, gradient in pairs)
