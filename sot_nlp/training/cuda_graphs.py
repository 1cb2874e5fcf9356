"""The passes of a batch, forward and backward, as one CUDA graph: launched at once, not kernel by kernel.

On a GPU the kernels of a small batch take less time than Python takes to launch them, some thousands an
update. A graph holds the launches of one shape of batch; replaying it costs the GPU's time alone. Randomness
(dropout) is drawn anew at each replay, from the generator's seed at that time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sot_nlp.errors import printable

# (batch on the device, weight of its loss as a scalar tensor) -> loss times weight, gradients accumulated
Passes = Callable[[dict[str, Tensor], Tensor], Tensor]
# Graphs share the memory of their activations, but each holds its launches, some megabytes.
MOST_GRAPHS = 128


def rounded_length(longest: int) -> int:
    """The length that a batch of `longest` tokens is padded to: few shapes, and some percent of padding.

    Every length up to 16, then multiples of 2 up to 32, of 4 up to 64, and so on.
    """
    step = 1
    while 16 * step < longest:
        step *= 2
    return -(-longest // step) * step


@dataclass
class _Graph:
    graph: Any
    batch: dict[str, Tensor]  # where it reads
    loss: Tensor  # where it writes


class GraphedPasses:
    """`passes` for batches of shapes that were met before by a replayed graph, for others as they are.

    The gradients of `parameters` are accumulated into the same tensors all the time, so they must be zeroed
    in place. Where a capture fails, as for a backbone whose forward waits for the GPU, `warn` is told once
    and all passes are run as they are from then on.
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
        """Accumulate the gradients of a batch in the host's memory; returns its loss times `weight`."""
        self.weight.fill_(weight)
        shape = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in batch.items())
        if self.graphs and not self._same_gradients():
            self._forget()  # they would write where nobody reads
        graph = self.graphs.get(shape)
        if graph is None and shape in self.met and not self.failed and len(self.graphs) < MOST_GRAPHS:
            graph = self._capture(shape, batch)
        if graph is None:
            self.met.add(shape)
            return self.passes(self._on_device(batch), self.weight)
        for name, tensor in batch.items():
            graph.batch[name].copy_(tensor.pin_memory(), non_blocking=True)
        graph.graph.replay()
        return graph.loss

    def _capture(self, shape: Any, batch: dict[str, Tensor]) -> _Graph | None:
        static = self._on_device(batch)
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
        except Exception as error:  # whatever a model does that a graph can't hold
            self.failed = True
            self._forget()
            lines = str(error).strip().splitlines()
            reason = printable(lines[0] if lines else repr(error), 200)
            self.warn(f"this model's passes can't be held as CUDA graphs, so they run without: {reason}")
            return None
        self.graphs[shape] = _Graph(graph, static, loss)
        return self.graphs[shape]

    def _forget(self) -> None:
        self.graphs, self.gradients = {}, []
        self.pool = torch.cuda.graph_pool_handle()  # the old one ends with its last graph

    def _same_gradients(self) -> bool:
        pairs = zip(self.parameters, self.gradients, strict=True)
        return all(parameter.grad is gradient for parameter, gradient in pairs)

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor.pin_memory().to(self.device, non_blocking=True) for name, tensor in batch.items()
        }
