"""Train only the rows of the word embedding that the data uses.

Shapes: V rows of the vocabulary, U of them in use, C embedding size.

The embedding is half of a small model and a fifth of BERT, and a fine-tuning task uses a part of it. The
other rows get no gradient: at each update AdamW would read and write their weights and moments to leave them
as they are. (Weight decay would change them, so with it all rows are kept.)
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from sot_nlp.data.token_split import TokenSplit
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.distributed import is_sharded

if TYPE_CHECKING:
    from accelerate import Accelerator

# Where more of the vocabulary is in use, little is gained.
MOST_IN_USE = 0.8
_PIECE = 1 << 22


def tokens_in_use(splits: Iterable[TokenSplit], *others: int) -> np.ndarray:
    """Return the sorted ids (U,) int64 in the files of `splits` and in `others` (the pad token, for one)."""
    seen = np.zeros(1 + max(others, default=0), dtype=bool)
    seen[list(others)] = True
    for split in splits:
        for start in range(0, len(split.input_ids), _PIECE):
            piece = split.input_ids[start : start + _PIECE]
            seen = np.pad(seen, (0, max(0, int(piece.max()) + 1 - len(seen))))
            seen[piece] = True
    return np.flatnonzero(seen)


@contextlib.contextmanager
def rows_in_use(
    model: Any, ids: np.ndarray | None, arguments: Arguments, accelerator: Accelerator
) -> Iterator[dict[str, Any]]:
    """Reduce the word embedding of `model` inside to the rows of `ids` (U,), as a (U, C) parameter.

    It still takes the ids of the whole vocabulary; one that is not in `ids` is an IndexError. On leaving, the
    embedding is whole again, with these rows as they were trained. Where `ids` is None, or the training would
    not be the same, nothing happens. Yields what a checkpoint of these rows must share.
    """
    embedding: nn.Embedding = model.get_input_embeddings()
    if ids is None or is_sharded(accelerator) or not _reducible(model, embedding, ids, arguments):
        yield {}
        return
    whole, padding = embedding.weight, embedding.padding_idx
    used = torch.from_numpy(ids)
    slots = torch.full((embedding.num_embeddings,), -1)
    slots[used] = torch.arange(len(used))
    places = {slots.device: slots}

    def to_slots(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        device = inputs[0].device
        if device not in places:
            places[device] = slots.to(device)
        return (places[device][inputs[0]],)

    hook = embedding.register_forward_pre_hook(to_slots)
    was_sparse = embedding.sparse
    # (several processes would have to agree on the rows, CUDA graphs and compiled code on their number)
    alone = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
    embedding.sparse = alone and not arguments.torch_compile
    embedding.weight = nn.Parameter(whole.detach()[used.to(whole.device)])
    embedding.num_embeddings = len(used)
    # (a padding row without a slot is not in use: there is nothing to keep at zero)
    embedding.padding_idx = None if padding is None or slots[padding] < 0 else int(slots[padding])
    try:
        yield {"vocabulary": hashlib.sha256(ids.tobytes()).hexdigest()}
    finally:
        hook.remove()
        embedding.sparse = was_sparse
        trained = embedding.weight.detach()
        whole = whole.detach().to(trained.device)
        whole[used.to(trained.device)] = trained
        embedding.weight = nn.Parameter(whole)
        embedding.num_embeddings, embedding.padding_idx = len(whole), padding


class RowGradients:
    """Adds up the gradients of `parameters` that hold a batch's rows alone, (u, C) of (U, C), to whole ones.

    A whole one lasts from update to update, and only rows that were written are cleared: else torch would
    allocate and clear all of it each time.
    """

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.whole: dict[nn.Parameter, torch.Tensor] = {}
        self.written: dict[nn.Parameter, list[torch.Tensor]] = {}

    def take(self) -> None:
        """Take the rows that a pass gave, so that those of many passes need no more memory than one's."""
        for parameter in self.parameters:
            rows = parameter.grad
            if rows is None or not rows.is_sparse:
                continue
            if parameter not in self.whole:
                self.whole[parameter] = torch.zeros_like(parameter)
            places = rows._indices()[0]
            self.whole[parameter].index_add_(0, places, rows._values())
            self.written.setdefault(parameter, []).append(places)
            parameter.grad = None

    def give(self) -> None:
        """Make what was taken the parameters' gradients."""
        for parameter in self.written:
            parameter.grad = self.whole[parameter]

    def clear(self, *, finite: bool) -> None:
        """Make the whole gradients zero again, once they are no parameter's any more.

        Where the update was not `finite`, clipping may have multiplied all rows by what is no number.
        """
        for parameter, places in self.written.items():
            if finite:
                self.whole[parameter].index_fill_(0, torch.cat(places), 0)
            else:
                self.whole[parameter].zero_()
        self.written.clear()


def _reducible(model: Any, embedding: Any, ids: np.ndarray, arguments: Arguments) -> bool:
    """Return whether training some rows of `embedding` equals training all of it, and is worthwhile."""
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None or arguments.weight_decay:
        return False
    if not embedding.weight.requires_grad:
        return False
    uses = sum(p is embedding.weight for _, p in model.named_parameters(remove_duplicate=False))
    return uses == 1 and len(ids) <= MOST_IN_USE * embedding.num_embeddings
