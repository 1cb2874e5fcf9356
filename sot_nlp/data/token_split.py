"""One split as token ids on disk, and its batches.

Shapes: n examples, T tokens of the file, B examples in a batch, N tokens of its longest, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypedDict

import numpy as np

if TYPE_CHECKING:
    import torch
    from typing_extensions import Required, Unpack


class Padding(TypedDict, total=False):
    """How a batch is filled up; by default on the right, to the length of its longest example."""

    pad_token_id: Required[int]
    padding_side: str
    pad_to_multiple_of: int | None


class Split(Protocol):
    """What training and evaluation read of examples: `TokenSplit`, or cached features in its place."""

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, (n,) int64."""

    @property
    def indices(self) -> np.ndarray:
        """Each example's position in its file, (n,) int64."""

    @property
    def labels(self) -> np.ndarray | None:
        """As `TokenSplit.labels`."""

    def collate(
        self, indices: Sequence[int] | np.ndarray, **padding: Unpack[Padding]
    ) -> dict[str, torch.Tensor]:
        """Return the examples at `indices` as one batch."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSplit:
    """Examples of a split in the file's order.

    Example i has the ids `input_ids[starts[i] : starts[i] + lengths[i]]`. The flat arrays hold the whole
    file's tokens, memory-mapped, whatever part of it the split is.
    """

    name: str
    input_ids: np.ndarray  # (T,) int32
    token_type_ids: np.ndarray | None  # (T,) uint8, where the tokenizer makes them
    starts: np.ndarray  # (n,) int64
    lengths: np.ndarray  # (n,) int64, at least 1
    labels: np.ndarray | None  # (n,) int64 | (n,) float32 | (n, K) float32
    indices: np.ndarray  # (n,) int64, each example's position in its file

    def __len__(self) -> int:
        return len(self.starts)

    def collate(
        self,
        indices: Sequence[int] | np.ndarray,
        *,
        pad_token_id: int,
        padding_side: str = "right",
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the examples at `indices` (B,) as one batch, padded to the longest.

        `input_ids`, `attention_mask` and, where there are any, `token_type_ids` (B, N) int64; `labels` (B,)
        or (B, K) where the split has them.
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        starts, lengths = self.starts[rows], self.lengths[rows]
        width = int(lengths.max()) if len(rows) else 0
        if pad_to_multiple_of:
            width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        # (B, N): the number of the token at each place of the batch, and whether there is one.
        token = np.arange(width)
        if padding_side == "left":
            token = token - (width - lengths)[:, None]
            real = token >= 0
        else:
            real = token < lengths[:, None]
        place = np.where(real, starts[:, None] + token, 0)
        input_ids = self.input_ids[place].astype(np.int64)
        input_ids[~real] = pad_token_id
        mask = real.astype(np.int64)
        tensors = {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(mask)}
        if self.token_type_ids is not None:
            tensors["token_type_ids"] = torch.from_numpy(self.token_type_ids[place] * mask)
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels[rows])
        return tensors
