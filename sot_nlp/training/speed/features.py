"""Hidden states of a split under a frozen backbone: computed once, stored in half precision, memory-mapped.

Shapes: n examples, T real tokens in the split, L last layers, C hidden size, B batch size, N tokens of the
longest.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sot_nlp.data.token_cache import ArrayWriter, DamagedCacheError, read_arrays
from sot_nlp.modeling.tokens import classification_index, gather_token, word_mask
from sot_nlp.training.batching import evaluation_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sot_nlp.data.token_split import TokenSplit

FORMAT_VERSION = 2
CLASS_TOKEN, SEPARATOR, WORD = 0, 1, 2
# A chunk's examples are batched by length, computed, and written in the split's order.
CHUNK = 4096


@dataclass(frozen=True, kw_only=True)
class Features:
    """The hidden states of a split or of some of its examples.

    Example i has the `lengths[i]` tokens from `starts[i]` on. Pickled, it is the path of its arrays.
    """

    folder: Path
    states: np.ndarray  # (T, L, C) float16, the last layer last
    kinds: np.ndarray  # (T,) uint8: CLASS_TOKEN, SEPARATOR or WORD
    starts: np.ndarray  # (n,) int64
    lengths: np.ndarray  # (n,) int64
    rows: np.ndarray  # (n,) int64: of each example in the two arrays below
    class_tokens: np.ndarray  # (*, C) float16
    stock_class_tokens: np.ndarray  # (*, C) float16: through the backbone's own pooler where it has one
    labels: np.ndarray  # (n,) int64 | (n,) float32 | (n, K) float32
    indices: np.ndarray  # (n,) int64

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def hidden_size(self) -> int:
        """C."""
        return int(self.states.shape[2])

    def subset(self, rows: np.ndarray) -> Features:
        """Return the examples at `rows`."""
        names = ("starts", "lengths", "rows", "labels", "indices")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped, (self.folder, self.starts, self.lengths, self.rows, self.labels, self.indices)

    def batch(self, examples: np.ndarray, num_layers: int = 1) -> tuple[Tensor, Tensor]:
        """Return the examples (...): hidden states (..., N, l, C) in half precision, kinds (..., N) uint8.

        The states are those of the last l = `num_layers` layers. An example of -1 means none. What is no
        token has the kind 255; its state has no meaning.
        """
        real = examples >= 0
        safe = np.where(real, examples, 0)
        lengths = np.where(real, self.lengths[safe], 0)
        token = np.arange(max(1, int(lengths.max(initial=0))))
        inside = token < lengths[..., None]
        places = np.where(inside, self.starts[safe][..., None] + token, 0)
        kinds = np.where(inside, self.kinds[places], 255).astype(np.uint8)
        return torch.from_numpy(self.states[:, -num_layers:][places]), torch.from_numpy(kinds)

    def class_token(self, examples: np.ndarray, *, stock: bool) -> Tensor:
        """Return the classification tokens of the examples (...) in half precision: (..., C)."""
        table = self.stock_class_tokens if stock else self.class_tokens
        # Fancy indexing copies, except of a single row, which would be a read-only view.
        return torch.from_numpy(np.array(table[self.rows[np.maximum(examples, 0)]]))


def _mapped(folder: Path, starts: Any, lengths: Any, rows: Any, labels: Any, indices: Any) -> Features:
    arrays, _ = read_arrays(folder)
    return Features(
        folder=folder, starts=starts, lengths=lengths, rows=rows, labels=labels, indices=indices, **arrays
    )


def load_features(
    model: PreTrainedModel, split: TokenSplit, *, cache: Path, pad_token_id: int, num_layers: int = 1
) -> Features:
    """Return the features of `split` under the last layers of `model`, read from or computed into `cache`.

    `model` is a SoT classifier with the `stock` head (its backbone is what counts), on its device, in fp32.
    The cache's key is the content: the backbone's weights and settings, the split's tokens. A damaged cache
    is computed again. Raises UserError where the disk is full.
    """
    folder = cache / _key(model, split, num_layers)
    if not _usable(folder):
        with ArrayWriter(folder) as writer:
            _write(writer, model, split, pad_token_id, num_layers)
            writer.finish({"model": type(model).__name__, "examples": len(split)})
    lengths = np.asarray(split.lengths, dtype=np.int64)
    rows = np.arange(len(split))
    return _mapped(folder, np.cumsum(lengths) - lengths, lengths, rows, split.labels, split.indices)


def _usable(folder: Path) -> bool:
    """Return whether the features are there and whole; remove what is damaged."""
    try:
        read_arrays(folder)
    except FileNotFoundError:
        return False
    except DamagedCacheError:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
        return False
    return True


def _key(model: PreTrainedModel, split: TokenSplit, num_layers: int) -> str:
    """Return a name that changes with whatever changes the features."""
    digest = hashlib.blake2b(digest_size=20)
    settings = {
        key: value
        for key, value in model.config.to_dict().items()
        if not key.startswith(("head", "_", "id2label", "label2id", "problem_type", "transformers_version"))
    }
    digest.update(
        json.dumps([FORMAT_VERSION, num_layers, type(model).__name__, settings], default=str).encode()
    )
    for name, tensor in sorted(model.base_model.state_dict().items()):
        digest.update(name.encode())
        # As bytes: numpy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    places = token_places(split)
    digest.update(np.asarray(split.lengths, dtype=np.int64).tobytes())
    digest.update(split.input_ids[places].astype(np.int32).tobytes())
    if split.token_type_ids is not None:
        digest.update(split.token_type_ids[places].tobytes())
    return digest.hexdigest()


def token_places(split: TokenSplit) -> np.ndarray:
    """Return where the tokens of the split's examples are in its flat arrays, in the split's order: (T,)."""
    starts = np.repeat(split.starts, split.lengths)
    first = np.cumsum(split.lengths) - split.lengths
    return starts + np.arange(len(starts)) - np.repeat(first, split.lengths)


def _write(
    writer: ArrayWriter, model: PreTrainedModel, split: TokenSplit, pad_token_id: int, num_layers: int
) -> None:
    for start in range(0, len(split), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(split)))
        by_row: dict[int, tuple[np.ndarray, ...]] = {}
        for examples in _batches(split, rows):
            encoded = _encode(model, split, examples, pad_token_id, num_layers)
            for row, arrays in zip(examples, encoded, strict=True):
                by_row[int(row)] = arrays
        for name, parts in zip(
            ("states", "kinds", "class_tokens", "stock_class_tokens"),
            zip(*(by_row[int(row)] for row in rows), strict=True),
            strict=True,
        ):
            writer.append(name, np.concatenate(parts) if name in ("states", "kinds") else np.stack(parts))


def _batches(split: TokenSplit, rows: np.ndarray) -> Iterable[np.ndarray]:
    lengths = np.asarray(split.lengths)[rows]
    for (batch,) in evaluation_batches(lengths, num_processes=1, batch_size=None):
        yield rows[batch]


@torch.inference_mode()
def _encode(
    model: Any, split: TokenSplit, examples: np.ndarray, pad_token_id: int, num_layers: int
) -> list[tuple[np.ndarray, ...]]:
    """Return (states, kinds, class token, stock class token) of each example."""
    batch = split.collate(examples, pad_token_id=pad_token_id)
    device = next(model.parameters()).device
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    ids, mask = batch["input_ids"], batch["attention_mask"]
    options = {"output_hidden_states": True} if num_layers > 1 else {}
    outputs = model.encode(ids, mask, batch.get("token_type_ids"), **options)
    states = outputs.last_hidden_state
    # The last entry of hidden_states lacks the final norm in some families.
    layers = [*outputs.hidden_states[-num_layers:-1], states] if num_layers > 1 else [states]
    index = classification_index(mask, causal=model.config.causal)
    separators = model.config.separator_token_ids or ()
    words = word_mask(mask, index)
    inner = word_mask(mask, index, input_ids=ids, separator_ids=separators)
    kinds = words.to(torch.uint8) * SEPARATOR + inner.to(torch.uint8) * (WORD - SEPARATOR)
    arrays = [
        _half(torch.stack(layers, 2)),
        kinds.cpu().numpy(),
        _half(gather_token(states, index)),
        _half(model.pick_class_token(states, index)),
    ]
    lengths = mask.sum(1).tolist()
    return [
        (arrays[0][i, :length], arrays[1][i, :length], arrays[2][i], arrays[3][i])
        for i, length in enumerate(lengths)
    ]


def _half(states: Tensor) -> np.ndarray:
    """Convert to half precision; what is beyond its range is clipped."""
    most = torch.finfo(torch.float16).max
    return states.float().clamp(-most, most).half().cpu().numpy()
