"""Check settings without loading anything."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sot_nlp.errors import printable

if TYPE_CHECKING:
    from sot_nlp.settings.arguments import Arguments
    from sot_nlp.settings.traits import Traits


def check(arguments: Arguments) -> list[tuple[str, str]]:
    """Return every `(field, problem)` of `arguments` that can be seen without loading anything."""
    problems: list[tuple[str, str]] = []
    for field in dataclasses.fields(arguments):
        traits: Traits | None = field.metadata.get("traits")
        value = getattr(arguments, field.name)
        if traits is None or value is None:
            continue
        if traits.choices and value not in traits.choices:
            problems.append((field.name, f"{printable(value)!r} is not one of {', '.join(traits.choices)}"))
        elif problem := traits.range_problem(value):
            problems.append((field.name, problem))
    steps = arguments.checkpointing_steps
    if steps not in (None, "epoch") and not (str(steps).isdecimal() and int(str(steps)) > 0):
        problems.append(
            ("checkpointing_steps", f"{printable(steps)!r} is neither a positive number nor 'epoch'")
        )
    if arguments.warmup_steps and arguments.warmup_ratio:
        problems.append(("warmup_ratio", "give either --warmup_steps or --warmup_ratio, not both"))
    if arguments.freeze_backbone and (arguments.trainable_layers or arguments.lora_r):
        problems.append(("freeze_backbone", "excludes --trainable_layers and --lora_r"))
    if arguments.lora_r and arguments.trainable_layers is not None:
        problems.append(("lora_r", "excludes --trainable_layers"))
    if arguments.early_stopping_patience and arguments.eval_strategy == "no":
        problems.append(("early_stopping_patience", "needs evaluations in training: --eval_strategy epoch"))
    if arguments.text_column_names and len(arguments.text_column_names) > 2:
        problems.append(("text_column_names", "expected one column, or two for pairs of texts"))
    if arguments.push_to_hub and arguments.hub_model_id and arguments.hub_model_id.count("/") > 1:
        problems.append(
            ("hub_model_id", f"{printable(arguments.hub_model_id)!r} is not of the form user/name")
        )
    return problems
