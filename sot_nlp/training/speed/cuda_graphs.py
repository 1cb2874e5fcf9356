"""Replay a batch's forward and backward pass as one CUDA graph instead of launching kernel by kernel.

On a GPU the kernels of a small batch take less time than Python takes to launch them, some thousands per
update. A graph holds the launches of one shape of batch; replaying it costs the GPU's time alone. Random
numbers (dropout) are drawn again at each replay, from the generator's seed at that time.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor
from torch.overrides import TorchFunctionMode

from sot_nlp.errors import printable
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.evaluation import to_device

# (batch on the device, weight of its loss as a scalar tensor) -> loss times weight, gradients accumulated
Passes = Callable[[dict[str, Tensor], Tensor], Tensor]
# Graphs share the memory of their activations, but each holds its launches, some megabytes.
MOST_GRAPHS = 128
# What graphs hold, passes that run as they are cannot use: half of the device is left to them.
MOST_MEMORY = 0.5
HOST = torch.device("cpu")
HERE = Path(__file__)
# By these a forward brings to the GPU what it has on the host.
COPYING = frozenset({Tensor.to, Tensor.cuda, Tensor.type_as, torch.tensor, torch.as_tensor})
INDEXING = frozenset({Tensor.__getitem__, Tensor.__setitem__})
# Where Python drops whole layers at random, a graph would drop the same ones at every replay.
LAYER_DROP = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")


def rounded_length(longest: int) -> int:
    """Return the length to pad a batch of `longest` tokens to: few shapes, and some percent of padding.

    Every length up to 16, then multiples of 2 up to 32, of 4 up to 64, and so on.
    """
    step = 1
    while 16 * step < longest:
        step *= 2
    return -(-longest // step) * step


def batch_width(longest: int, examples: int, *, most: int | None, max_tokens: int | None) -> int:
    """Return the length to pad a batch to: the rounded one, within the model's length and the token budget.

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


def obstacle(model: Any, accelerator: Accelerator, arguments: Arguments) -> str | None:
    """Return why passes of `model` can't be replayed as graphs; None where each replay is the same pass."""
    config: Any = getattr(model, "config", None)
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    if accelerator.device.type != "cuda":
        return "they are for GPUs"
    if accelerator.distributed_type != DistributedType.NO:
        return "several processes exchange their gradients during a pass"
    if accelerator.mixed_precision not in ("no", "bf16"):
        return f"--mixed_precision {accelerator.mixed_precision} changes its scales from pass to pass"
    if arguments.gradient_checkpointing:
        return "--gradient_checkpointing computes parts of a pass again"
    if any(getattr(config, name, 0) for name in LAYER_DROP):
        return "the model leaves out layers at random"
    return None


class HostCopies(TorchFunctionMode):
    """Keep what a pass copies from the host to `device`, and return it again where a copy is forbidden.

    Some families compute their relative positions on the host in every forward (MPNet in versions of
    transformers before 5.20), or index by a list of numbers (Falcon), which torch copies to the device; a
    capture refuses both. They depend on the batch's shape alone, so the capture of a shape uses what the
    shape's first, plain pass copied: bit for bit the same.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        # Of each call that may copy: what was given, and the copy on the device; None if it made none.
        self.calls: list[tuple[Any, Tensor | None]] = []
        self.next: int | None = None  # the call to be answered; None while they are noted

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Note the calls of a plain pass inside, which does what its capture will do."""
        with _as_if_captured(), self:
            yield

    @contextlib.contextmanager
    def again(self) -> Iterator[None]:
        """Answer the calls of the same pass inside by what was noted.

        Raises RuntimeError inside where it does not copy the same.
        """
        self.next = 0
        with self:
            yield

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run a function of torch; torch calls this for each of them."""
        kwargs = kwargs or {}
        if func in INDEXING and args[0].device.type == self.device.type:
            return func(args[0], self._index_on_device(args[1]), *args[2:])
        if func not in COPYING or not args or getattr(args[0], "device", HOST).type != "cpu":
            return func(*args, **kwargs)
        return self._copy(func, args, kwargs)

    def _index_on_device(self, index: Any) -> Any:
        """Return `index` with tensors on the device for its lists of numbers and tensors on the host."""
        if isinstance(index, tuple):
            return tuple(self._index_on_device(part) for part in index)
        if isinstance(index, list) and index and all(type(number) is int for number in index):
            return self._copy(torch.tensor, (index,), {"device": self.device})
        if isinstance(index, Tensor) and index.dim() and index.device.type == "cpu":
            return self._copy(Tensor.to, (index, self.device), {})
        return index

    def _copy(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call `func`, which may copy its first argument, and note what it gives; or return that again."""
        given = args[0]
        if self.next is None:
            result: Tensor = func(*args, **kwargs)
            on_device = result.device.type == self.device.type
            source = given.clone() if isinstance(given, Tensor) else given
            self.calls.append((source, result.clone() if on_device else None))
            return result
        if self.next == len(self.calls) or not _same(given, self.calls[self.next][0]):
            raise RuntimeError("what it copies to the GPU differs from batch to batch")
        copy = self.calls[self.next][1]
        self.next += 1
        # (Cloned, since what is done to it in place would be repeated at every replay.)
        return func(*args, **kwargs) if copy is None else copy.clone()


@contextlib.contextmanager
def _as_if_captured() -> Iterator[None]:
    """Let a plain pass do what it does in a capture.

    transformers leaves out an attention mask of ones, but not in a capture, where it can't look at the
    numbers: so batches without padding would copy less than the capture of their shape.
    """
    is_capturing = torch.cuda.is_current_stream_capturing
    torch.cuda.is_current_stream_capturing = lambda: True
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = is_capturing


def _same(given: Any, before: Any) -> bool:
    if isinstance(given, Tensor) and isinstance(before, Tensor):
        return torch.equal(given, before)
    return type(given) is type(before) and bool(np.array_equal(given, before))


@dataclass
class _Graph:
    graph: Any
    batch: dict[str, Tensor]  # where it reads
    loss: Tensor  # where it writes


class GraphedPasses:
    """`passes` for batches of shapes that were met before by a replayed graph, for others as they are.

    The gradients of `parameters` are accumulated into the same tensors all the time, so they must be zeroed
    in place. Where a capture fails, as for a backbone whose forward waits for the GPU, `warn` is called once,
    `failed` is set, and all passes are run as they are from then on. With `keep_host_copies` what a forward
    copies from the host is no obstacle (`HostCopies`; not for compiled models, whose compiler it would stop).
    """

    def __init__(
        self,
        passes: Passes,
        parameters: Sequence[torch.nn.Parameter],
        device: torch.device,
        warn: Callable[[str], None],
        *,
        keep_host_copies: bool = True,
    ) -> None:
        self.keep_host_copies = keep_host_copies
        self.passes, self.parameters, self.device, self.warn = passes, list(parameters), device, warn
        self.weight = torch.ones((), device=device)
        self.stream = torch.cuda.Stream(device)
        self.met: dict[Any, HostCopies | None] = {}
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
            on_device = to_device(batch, self.device)
            if shape in self.met or self.failed:
                return self.passes(on_device, self.weight)
            copies = self.met[shape] = HostCopies(self.device) if self.keep_host_copies else None
            with copies.noted() if copies else contextlib.nullcontext():
                return self.passes(on_device, self.weight)
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
        static, copies = to_device(batch, self.device), self.met[shape]
        self.gradients = [parameter.grad for parameter in self.parameters]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(self.device)
        try:
            # (torch.cuda.graph would also empty the allocator's cache, which the next passes want back.)
            with torch.cuda.stream(self.stream):
                graph.capture_begin(pool=self.pool, capture_error_mode="thread_local")
                try:
                    with copies.again() if copies else contextlib.nullcontext():
                        loss = self.passes(static, self.weight)
                finally:
                    graph.capture_end()
        except RuntimeError as error:  # CUDA's, for what a graph can't hold
            self.failed = True
            self._end_broken_capture()
            self._forget()
            # The end of a broken capture fails too; what broke it is the error before that.
            self.warn(
                "this model's passes can't be captured as CUDA graphs, so they run without: "
                + _reason(error.__context__ or error)
            )
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


def _reason(error: BaseException) -> str:
    """Return an error's first line, and the file and line of the model's code that it comes from."""
    lines = str(error).strip().splitlines()
    folder = Path(torch.__file__).parent
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    places = [
        f"{file.name}, line {line}" for file, line in files if file != HERE and folder not in file.parents
    ]
    return printable(lines[0] if lines else repr(error), 200) + (f" ({places[-1]})" if places else "")
