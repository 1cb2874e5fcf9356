"""Transform the classification token before its linear in the `stock` heads.

Only so does the baseline have the layers of the family's own Hugging Face head; the SoT recipes use the raw
token. Shapes: B batch, C hidden size, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import maybe_autocast

from .fusion import SoTHeadOutput
from .head import SoTHead
from .head_config import SoTHeadConfig
from .layers import CastingLinear


class DenseTransform(nn.Module):
    """dropout(tanh(dense(dropout(token)))), the stock head of RoBERTa and its kind: (B, C) -> (B, C)."""

    def __init__(self, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.dense = CastingLinear(hidden_size, hidden_size)

    def forward(self, class_token: Tensor) -> Tensor:
        """Map (B, C) -> (B, C)."""
        return self.dropout(torch.tanh(self.dense(self.dropout(class_token))))


class TransformedTokenHead(SoTHead):
    """A `SoTHead` with the family's transform of the classification token in front.

    The transform lives inside the head, so that what trains and saves the head (PEFT's `modules_to_save`, a
    learning rate of its own) covers it.
    """

    def __init__(self, config: SoTHeadConfig, transform: nn.Module, **kwargs: Any) -> None:
        super().__init__(config, **kwargs)
        self.class_token_transform = transform

    def forward(
        self,
        hidden_states: Tensor | Sequence[Tensor],
        word_mask: Tensor | None = None,
        class_token: Tensor | None = None,
    ) -> SoTHeadOutput:
        """Return what `SoTHead.forward` returns, from the raw classification token (B, C)."""
        if class_token is not None:
            class_token = self._transformed(class_token)
        return super().forward(hidden_states, word_mask, class_token)

    def class_token_contributions(self, class_token: Tensor) -> Tensor:
        """Return `SoTHead.class_token_contributions`, from the raw classification token (B, C)."""
        return super().class_token_contributions(self._transformed(class_token))

    def _transformed(self, class_token: Tensor) -> Tensor:
        dtype = torch.promote_types(class_token.dtype, torch.float32)
        with maybe_autocast(class_token.device.type, enabled=False):
            transformed: Tensor = self.class_token_transform(class_token.to(dtype))
            return transformed
