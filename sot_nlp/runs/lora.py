"""LoRA on the backbone, with the head trained in full, by PEFT: create, save as an adapter, merge."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import Arguments

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ADAPTER = "adapter"


def check_installed() -> None:
    """Raise UserError where PEFT is missing; called before a model is loaded."""
    if importlib.util.find_spec("peft") is None:
        raise UserError("--lora_r: needs the package peft: pip install 'sot-nlp[lora]'")


def with_lora(model: PreTrainedModel, rank: int, arguments: Arguments) -> Any:
    """Return `model` with adapters of `rank` on its backbone (a peft.PeftModel); its head learns in full.

    Wraps the query and value projections unless `--lora_target_modules` names others. Raises UserError.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    from sot_nlp.modeling.lora import lora_target_modules

    try:
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=rank,
            lora_alpha=arguments.lora_alpha,
            lora_dropout=arguments.lora_dropout,
            target_modules=arguments.lora_target_modules or lora_target_modules(model),
            modules_to_save=["classifier"],
        )
        return get_peft_model(model, config)
    except ValueError as error:
        raise UserError(f"--lora_target_modules: {printable(error, 600)}") from None


def num_parameters(model: PreTrainedModel) -> int:
    """Return the number of parameters of `model`, its adapters included.

    PEFT keeps the head that it was given beside the copy that it trains; the head counts once.
    """
    from sot_nlp.training.distributed import count_weights

    return count_weights(p for name, p in model.named_parameters() if ".original_module." not in name)


def merged_copy(model: Any) -> PreTrainedModel:
    """Return a copy of `model` with its adapter merged; the training of `model` itself may go on."""
    merged: PreTrainedModel = copy.deepcopy(model).merge_and_unload()
    return merged


def save_and_merge(model: Any, folder: Path) -> PreTrainedModel:
    """Write the adapter to `folder/adapter`; returns the model with the adapter merged into its weights."""
    model.save_pretrained(folder / ADAPTER)
    merged: PreTrainedModel = model.merge_and_unload()
    return merged
