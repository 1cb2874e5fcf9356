"""How a finished run's model, or what became of it, scores on the run's own validation data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sot_nlp import preparation, records
from sot_nlp.arguments import FIELDS, build_arguments
from sot_nlp.errors import UserError, printable

if TYPE_CHECKING:
    import torch


def validation_score(folder: str | Path) -> Callable[[torch.nn.Module], Mapping[str, float]]:
    """The function that scores a model on the validation split of the run in `folder`, in fp32 on the CPU.

    It returns the task's metrics, of the split that the best model was chosen by. Raises UserError where the
    folder has no record, or the data is no longer where the record says.
    """
    saved = records.read(folder).get("arguments")
    if not isinstance(saved, dict):
        raise UserError(f"{printable(folder)}: its record holds no settings to find the validation data by")
    known = {name: value for name, value in saved.items() if name in FIELDS and value is not None}
    here = {"model_name_or_path": str(folder), "mixed_precision": "no", "cpu": True, "with_tracking": False}
    arguments = build_arguments([("record", {**known, **here, "output_dir": None})])

    from sot_nlp.processes import create_accelerator
    from sot_nlp.scoring import Scorer

    spec = preparation.task_of(arguments)
    accelerator = create_accelerator(arguments)
    tokenizer = preparation.load_tokenizer(arguments)
    splits = spec.validation_splits[:1]
    data = preparation.load_data(arguments, spec, tokenizer, accelerator, splits)
    _, alignment = preparation.load_saved(arguments, data)
    scorer = Scorer(
        spec=spec,
        labels=data.labels,
        splits={name: data.splits[name] for name in splits},
        accelerator=accelerator,
        batch_size=arguments.per_device_eval_batch_size,
        pad_token_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        alignment=alignment,
    )

    def score(model: torch.nn.Module) -> Mapping[str, float]:
        return {name: value for name, value in scorer(model).items() if name in spec.metrics}

    return score
