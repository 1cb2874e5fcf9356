"""Run a frozen backbone once over the data; from then on read its token states from disk.

Shapes: n examples, B of a batch, N tokens of its longest, L last layers, C hidden size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from sot_nlp.data.token_split import Padding, TokenSplit
from sot_nlp.training.distributed import on_main
from sot_nlp.training.speed.features import Features, load_features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from accelerate import Accelerator
    from typing_extensions import Unpack


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureSplit(TokenSplit):
    """A split whose batches also bring the backbone's hidden states, as `encoder_outputs`."""

    features: Features

    def collate(self, indices: Sequence[int] | np.ndarray, **padding: Unpack[Padding]) -> dict[str, Tensor]:
        """Return `TokenSplit.collate`'s batch with `encoder_outputs` (B, N, L, C) float32, 0 at padding."""
        batch = super().collate(indices, **padding)
        real = batch["attention_mask"].numpy().astype(bool)
        rows = np.asarray(indices, dtype=np.int64)
        token = real.cumsum(1) - 1
        places = np.where(real, self.features.starts[rows][:, None] + token, 0)
        states = torch.from_numpy(self.features.states[places]).float()
        batch["encoder_outputs"] = states.masked_fill_(torch.from_numpy(~real)[..., None, None], 0.0)
        return batch


def with_cached_backbone(
    model: Any,
    splits: Mapping[str, TokenSplit],
    accelerator: Accelerator,
    *,
    cache: Path,
    pad_token_id: int,
) -> dict[str, TokenSplit]:
    """Return `splits` with the backbone's hidden states in their batches, so that `model` does not run it.

    Training and evaluation then cost what the head costs. The states are kept below `cache` in half
    precision, mapped into memory, under a key of their content: the backbone's weights, the tokens. Made by
    the main process, where they are not there yet or damaged: of as many layers as the head mixes. Raises
    UserError where the disk is full.
    """
    num_layers = model.head_config.num_layers
    model.eval().to(accelerator.device)
    features: dict[str, Features] = {}
    for name, split in splits.items():

        def load(split: TokenSplit = split) -> Features:
            return load_features(model, split, cache=cache, pad_token_id=pad_token_id, num_layers=num_layers)

        made = on_main(accelerator, load)
        features[name] = made if accelerator.is_main_process else load()
    return {name: _with(split, features[name]) for name, split in splits.items()}


def _with(split: TokenSplit, features: Features) -> FeatureSplit:
    fields = {field.name: getattr(split, field.name) for field in dataclasses.fields(TokenSplit)}
    return FeatureSplit(**fields, features=features)
