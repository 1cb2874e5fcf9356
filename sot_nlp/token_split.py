"""One split as token ids on disk, and batches of it.

Shapes: n examples, T tokens of the file, B examples of a batch, N tokens of its longest, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


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
        """The examples at `indices` (B,) as one batch, padded to the longest.

        `input_ids`, `attention_mask` and, where there are any, `token_type_ids` (B, N) int64; `labels` (B,)
        or (B, K) where the split has them.
        """
        import torch

        rows = np.asarray(indices, dtype=np.int64)
        starts, lengths = self.starts[rows], self.lengths[rows]
        width = int(lengths.max()) if len(rows) else 0
        if pad_to_multiple_of:
            width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        # (B, N): where each place of the batch comes from, and whether it is a token at all.
        shift = width - lengths if padding_side == "left" else np.zeros_like(lengths)
        token = np.arange(width) - shift[:, None]
        real = (token >= 0) & (token < lengths[:, None])
        place = np.where(real, starts[:, None] + token, 0)
        batch = {
            "input_ids": np.where(real, self.input_ids[place], pad_token_id),
            "attention_mask": real,
        }
        if self.token_type_ids is not None:
            batch["token_type_ids"] = self.token_type_ids[place] * real
        tensors = {name: torch.from_numpy(array.astype(np.int64)) for name, array in batch.items()}
        if self.labels is not None:
            tensors["labels"] = torch.from_numpy(self.labels[rows])
        return tensors
