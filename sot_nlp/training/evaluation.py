"""Predict a split: one row of logits per example, in the split's order; their loss and probabilities.

Shapes: n examples in the split, K logits per example.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from sot_nlp.data.token_split import Split
from sot_nlp.training import signals
from sot_nlp.training.batching import evaluation_batches
from sot_nlp.training.speed.fast_cpu import pass_context
from sot_nlp.training.speed.precision import autocast_of
from sot_nlp.training.speed.threads import threads_for

# Batches between two checks whether any process received a signal: each check is a collective.
LOOK_EVERY = 16


class EvaluationStopped(Exception):  # noqa: N818 - asked for, not an error
    """A signal came while a split was being predicted: on every process at once."""


def predict(
    model: torch.nn.Module,
    split: Split,
    accelerator: Any,
    *,
    batch_size: int | None,
    pad_token_id: int,
    padding_side: str = "right",
) -> np.ndarray:
    """Return logits (n, K) float32 for every example of `split`, in its order, the same on every process.

    The batches hold examples of similar length and are shared between the processes; each example's logits
    are checked to have been computed exactly once. The model is left in the mode that it had. `batch_size`
    None is 64, on a GPU 256.
    """
    lengths = np.asarray(split.lengths)
    if not len(lengths):
        return np.zeros((0, 0), dtype=np.float32)
    steps = evaluation_batches(
        lengths,
        num_processes=accelerator.num_processes,
        batch_size=batch_size,
        on_gpu=accelerator.device.type == "cuda",
    )
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    # DDP's own forward would only add a broadcast of buffers; sharded models need their wrapper's forward.
    forward = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    done: list[tuple[np.ndarray, torch.Tensor]] = []
    try:
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            stack.enter_context(autocast_of(accelerator))
            stack.enter_context(attention_of_any_shape())
            stack.enter_context(threads_for(forward, accelerator.device))
            autocast = accelerator.mixed_precision != "no"
            stack.enter_context(
                pass_context(accelerator.device, forward, autocast=autocast, training=False)()
            )
            for number, shares in enumerate(steps):
                _stop_if_signalled(accelerator, number)
                share = shares[accelerator.process_index]
                # Without a share this process still takes part in whatever collectives a forward holds.
                indices = share if len(share) else steps[-1][0][:1]
                batch = split.collate(indices, pad_token_id=pad_token_id, padding_side=padding_side)
                batch.pop("labels", None)
                logits = forward(**to_device(batch, accelerator.device)).logits.float()
                done.append((share, logits[: len(share)]))
    finally:
        for module in was_training:
            module.training = True
    return _assemble(done, len(lengths), accelerator)


@contextlib.contextmanager
def attention_of_any_shape() -> Iterator[None]:
    """Disable cuDNN's attention inside: it compiles for each shape of batch, and there are many."""
    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Move `batch` to `device`; to a GPU through pinned memory, so that the copy waits for nothing."""
    if device.type != "cuda":
        return {name: tensor.to(device) for name, tensor in batch.items()}
    return {name: tensor.pin_memory().to(device, non_blocking=True) for name, tensor in batch.items()}


def _stop_if_signalled(accelerator: Any, number: int) -> None:
    if accelerator.num_processes == 1:
        stop = bool(signals.received())
    elif number % LOOK_EVERY == 0:
        flag = torch.tensor(float(bool(signals.received())), device=accelerator.device)
        stop = bool(accelerator.reduce(flag, "sum").item())
    else:
        stop = False
    if stop:
        raise EvaluationStopped


def _assemble(done: list[tuple[np.ndarray, torch.Tensor]], total: int, accelerator: Any) -> np.ndarray:
    """Combine every process's rows into one array, on every process; each row must occur exactly once."""
    indices = torch.from_numpy(np.concatenate([share for share, _ in done])).to(accelerator.device)
    rows = torch.cat([logits for _, logits in done])
    # A sum over processes of arrays that are zero where a process has nothing: x + 0 is exactly x.
    table = rows.new_zeros(total, rows.shape[1] + 1)
    table[indices, :-1] = rows
    table[:, -1].index_add_(0, indices, torch.ones_like(rows[:, 0]))
    if accelerator.num_processes > 1:
        table = accelerator.reduce(table, "sum")
    array = table.cpu().numpy()
    wrong = int((array[:, -1] != 1).sum())
    if wrong:
        raise RuntimeError(f"{wrong} of {total} examples were not predicted exactly once")
    return np.ascontiguousarray(array[:, :-1])


def loss(logits: np.ndarray, labels: np.ndarray, kind: str, *, weights: np.ndarray | None = None) -> float:
    """Return the mean loss of `logits` (n, K) by the `kind` of labels, computed in float64.

    Cross-entropy for "classification", labels int64 (n,); squared error for "regression", float32 (n,);
    binary cross-entropy for "multi_label", float32 (n, K). `weights` (n,) are those of the examples.
    """
    if len(logits) != len(labels):
        raise ValueError(f"{len(logits)} rows of logits, {len(labels)} labels")
    values = torch.from_numpy(logits.astype(np.float64))
    if kind == "classification":
        targets = torch.from_numpy(labels.astype(np.int64))
        losses = torch.nn.functional.cross_entropy(values, targets, reduction="none")
    else:
        targets = torch.from_numpy(labels.astype(np.float64)).reshape(values.shape)
        of_kind: Any = (
            torch.nn.functional.mse_loss
            if kind == "regression"
            else torch.nn.functional.binary_cross_entropy_with_logits
        )
        losses = of_kind(values, targets, reduction="none").mean(-1)
    return float(np.average(losses.numpy(), weights=weights))


def probabilities(logits: np.ndarray, kind: str) -> np.ndarray:
    """Return probabilities (n, K) float32: softmax, for "multi_label" sigmoid; a regression's scores."""
    values = torch.from_numpy(logits.astype(np.float64))
    if kind == "classification":
        values = values.softmax(-1)
    elif kind == "multi_label":
        values = values.sigmoid()
    return values.numpy().astype(np.float32)
