"""Choose the layers of a model that LoRA adapts."""

from __future__ import annotations

from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

# What the families call the query and value projections, alone or fused with the others.
ATTENTION_PROJECTIONS = {
    "query", "value", "q_proj", "v_proj", "q_lin", "v_lin", "query_proj", "value_proj", "in_proj",
    "query_key_value", "qkv_proj", "Wqkv", "c_attn", "q", "v",
}  # fmt: skip


def lora_target_modules(model: Any) -> list[str]:
    """Return `target_modules` for PEFT's LoRA: the backbone's query and value projections.

    These are what the LoRA paper (arXiv 2106.09685, section 7.1) adapts; `modules_to_save=["classifier"]`,
    which PEFT adds for sequence classification, trains the head beside them.

    Raises:
        ValueError: if the backbone names its projections otherwise; the message lists its linear layers.
    """
    linear = {
        name.rpartition(".")[2]
        for name, module in model.base_model.named_modules()
        if isinstance(module, (nn.Linear, Conv1D))
    }
    names = sorted(linear & ATTENTION_PROJECTIONS)
    if not names:
        raise ValueError(
            f"{type(model).__name__}: no query or value projection found; name the layers for LoRA, of "
            f"{', '.join(sorted(linear))}"
        )
    return names
