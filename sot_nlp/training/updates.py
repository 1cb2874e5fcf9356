"""One update: forward and backward over its examples' shares, clipping, the optimizer's step.

Shapes: G examples per update, W processes. The loss of an update is the sum of its examples' losses over G,
however they are shared out, so accumulation, many processes and one big batch give the same gradient, but for
BatchNorm in the head: its statistics are those of one accumulation step, over all processes.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch.nn.utils import get_total_norm

from sot_nlp.data.token_split import Split
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training import signals
from sot_nlp.training.batching import micro_batches
from sot_nlp.training.evaluation import to_device
from sot_nlp.training.speed.cuda_graphs import GraphedPasses, batch_width, obstacle
from sot_nlp.training.speed.embedding_rows import RowGradients
from sot_nlp.training.speed.fast_cpu import pass_context
from sot_nlp.training.training_loss import BatchLoss

# On a GPU the numbers of an update are read this many updates later: the host never waits for the device.
READ_LATER = 4
# Added to the norm by which gradients are divided, as in torch's own clipping.
CLIP_EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """An update's outcome: its mean loss, the gradient's norm before clipping, and a signal (0: none).

    `applied` is False where loss or gradient were not finite: then nothing of the update took effect.
    """

    step: int
    examples: np.ndarray
    learning_rate: float
    loss: float
    grad_norm: float
    signum: int

    @property
    def applied(self) -> bool:
        """Whether the update took effect."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


class Updater:
    """Runs updates on the examples of `split`, which is to be set.

    `model` and `optimizer` are as `accelerator.prepare` gave them.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: Any,
        accelerator: Accelerator,
        *,
        arguments: Arguments,
        schedule: Callable[[int], float],
        loss: BatchLoss,
        pad_token_id: int,
        padding_side: str,
        warn: Callable[[str], None],
    ):
        self.model = model
        self.optimizer = optimizer
        self.accelerator = accelerator
        self.split: Split
        self.arguments = arguments
        self.schedule = schedule
        self.loss = loss
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.collation: dict[str, Any] = {"pad_token_id": pad_token_id, "padding_side": padding_side}
        unwrapped = accelerator.unwrap_model(model)
        self.max_tokens = getattr(unwrapped, "max_tokens", None)
        self.parameters = list(model.parameters())
        self.row_gradients = RowGradients(self.parameters)
        self.statistics = [
            b for name, b in model.named_buffers() if name.endswith(("running_mean", "running_var"))
        ]
        self.deepspeed = accelerator.distributed_type == DistributedType.DEEPSPEED
        self.later = READ_LATER if accelerator.device.type == "cuda" else 0
        self.pass_context = pass_context(
            accelerator.device,
            model,
            autocast=accelerator.mixed_precision != "no",
            recomputes=arguments.gradient_checkpointing,
        )
        # accelerate puts the forward pass of a model under autocast, but not one that it shards by FSDP 2.
        fsdp = accelerator.distributed_type == DistributedType.FSDP
        self.autocast: Callable[[], Any] = accelerator.autocast if fsdp else contextlib.nullcontext
        self.graphs: GraphedPasses | None = None
        reason = obstacle(unwrapped, accelerator, arguments)
        if arguments.cuda_graphs and reason is None:
            self.graphs = GraphedPasses(
                self._passes,
                self.parameters,
                accelerator.device,
                warn,
                keep_host_copies=not arguments.torch_compile,
            )
        elif arguments.cuda_graphs and (
            accelerator.device.type == "cuda" or "cuda_graphs" in arguments.sources
        ):
            warn(f"passes run without CUDA graphs: {reason}")
        self.pending: deque[tuple[dict[str, Any], torch.Tensor, Any]] = deque()

    def run(self, examples: np.ndarray, step: int) -> list[Outcome]:
        """Do update number `step` (0 for the first) on these examples; returns the outcomes now known."""
        rank, arguments = self.accelerator.process_index, self.arguments
        draw_anew(arguments.seed, step, rank, self.accelerator.device)
        factor = self.schedule(step)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        before = [statistic.clone() for statistic in self.statistics]
        plan = micro_batches(
            examples,
            self.split.lengths,
            num_processes=self.accelerator.num_processes,
            micro_batch_size=arguments.per_device_train_batch_size,
            max_tokens=arguments.max_tokens_per_batch,
            group_by_length=arguments.group_by_length,
        )
        loss = torch.zeros((), device=self.accelerator.device)
        for number, shares in enumerate(plan, start=1):
            last = number == len(plan)
            self.accelerator.sync_gradients = last
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss += self._backward(shares[rank], examples)
            self.row_gradients.take()
        self.row_gradients.give()
        norm = self._clip()
        values = self._over_processes(loss, norm)
        self._step(values, before)
        known = {"step": step + 1, "examples": examples, "learning_rate": arguments.learning_rate * factor}
        return self._read(known, values)

    def drain(self) -> list[Outcome]:
        """Return the outcomes of all updates so far that were not returned yet."""
        return [self._outcome() for _ in range(len(self.pending))]

    def _backward(self, share: np.ndarray, examples: np.ndarray) -> torch.Tensor:
        """Add the gradient of this process's share of the update; returns the share of the update's loss."""
        rows = share if len(share) else examples[:1]
        width = self._width(rows)
        # (No example is longer, so the multiple that it is padded to is the width itself.)
        batch = self.split.collate(rows, **self.collation, pad_to_multiple_of=width)
        if not len(share):
            # Nothing left for this process, but the others wait for it in collectives: one example, of which
            # only one token is real (no word enters BatchNorm's statistics), with a loss that counts nothing.
            mask = batch["attention_mask"]
            batch["attention_mask"] = torch.zeros_like(mask).scatter_(1, mask.argmax(1, keepdim=True), 1)
        weight = len(share) / len(examples)
        if self.graphs is not None:
            return self.graphs(batch, weight)
        return self._passes(to_device(batch, self.accelerator.device), weight)

    def _width(self, rows: np.ndarray) -> int | None:
        """Return the length to pad a batch to, where it is to be one of a few: for graphs and compilation."""
        if not (self._graphed or self.arguments.torch_compile):
            return None
        longest, budget = int(self.split.lengths[rows].max()), self.arguments.max_tokens_per_batch
        return batch_width(longest, len(rows), most=self.max_tokens, max_tokens=budget)

    @property
    def _graphed(self) -> bool:
        return self.graphs is not None and not self.graphs.failed

    def _passes(self, batch: dict[str, torch.Tensor], weight: float | torch.Tensor) -> torch.Tensor:
        """Run forward and backward on a batch on the device; return its mean loss times `weight`."""
        accelerator = self.accelerator
        with self.pass_context(), self.autocast():
            loss = self.loss(self.model, batch)
        # Processes' gradients are averaged; DeepSpeed divides by its configured number of steps as well.
        scale = accelerator.num_processes * (
            self.arguments.gradient_accumulation_steps if self.deepspeed else 1
        )
        scaled = loss * (weight * scale)
        if accelerator.scaler is None and not self.deepspeed:
            scaled.backward()  # accelerate would look for a package on disk at each step
        else:
            accelerator.backward(scaled)
        return loss.detach() * weight

    def _clip(self) -> Any:
        """Clip the update's gradient; returns its norm before that.

        A fused optimizer divides the gradient by a number while it reads it anyway: that spares a pass over
        all gradients, which on a CPU with short texts is some percent of an update.
        """
        most, inner = self.arguments.max_grad_norm, getattr(self.optimizer, "optimizer", self.optimizer)
        if not inner.defaults.get("fused") or self.accelerator.scaler is not None or self.deepspeed:
            return self.accelerator.clip_grad_norm_(self.parameters, most)
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        inner.grad_scale = ((norm + CLIP_EPSILON) / most).clamp(min=1.0)
        return norm

    def _over_processes(self, loss: torch.Tensor, norm: Any) -> torch.Tensor:
        """Return (loss, gradient norm, votes for each signal), equal everywhere."""
        votes = torch.tensor(signals.votes())
        local = torch.cat([loss.reshape(1), votes.to(loss.device, non_blocking=True)])
        if self.accelerator.num_processes > 1:
            local = self.accelerator.reduce(local, "sum")
        if hasattr(norm, "full_tensor"):  # a DTensor: each process of FSDP has a part of the gradient
            norm = norm.full_tensor()
        norm = torch.as_tensor(0.0 if norm is None else norm, dtype=local.dtype, device=local.device)
        return torch.cat([local[:1], norm.reshape(1), local[1:]])

    def _step(self, values: torch.Tensor, before: list[torch.Tensor]) -> None:
        """Apply the gradient where loss and norm are finite; else leave everything as it was."""
        inner = getattr(self.optimizer, "optimizer", self.optimizer)
        on_device = self.later and inner.defaults.get("fused") and self.accelerator.scaler is None
        finite = torch.isfinite(values[:2]).all()
        if on_device:
            # Fused kernels take a flag that makes them do nothing: no host needs to know.
            inner.found_inf = (~finite).float()
        if on_device or self.accelerator.scaler is not None or self.deepspeed or bool(finite):
            # (fp16's scaler looks for infinities itself, and halves its scale)
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=not self._graphed)
        if self.row_gradients.written:  # on a CPU: no device to wait for
            self.row_gradients.clear(finite=bool(finite))
        for statistic, old in zip(self.statistics, before, strict=True):
            statistic.copy_(torch.where(finite, statistic, old))

    def _read(self, known: dict[str, Any], values: torch.Tensor) -> list[Outcome]:
        event = None
        if self.later:
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((known, values, event))
        return [self._outcome()] if len(self.pending) > self.later else []

    def _outcome(self) -> Outcome:
        known, values, event = self.pending.popleft()
        if event is not None:
            event.synchronize()
        loss, norm, *votes = values.tolist()
        return Outcome(**known, loss=loss, grad_norm=norm, signum=signals.elected(votes))


def draw_anew(seed: int, step: int, rank: int, device: torch.device) -> None:
    """Seed all random numbers of an update (dropout) from the run's seed, the update and the process."""
    state = int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])
    random.seed(state)
    np.random.seed(state & 0xFFFFFFFF)
    # Not torch.manual_seed: on a machine without a GPU that queues a call with its stack, every time.
    torch.default_generator.manual_seed(state)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(state)
