"""What can be wrong with settings as such, seen without loading anything."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sot_nlp.errors import printable

if TYPE_CHECKING:
    from sot_nlp.settings.arguments import Arguments

CHOICES: dict[str, tuple[str, ...]] = {
    "problem_type": ("classification", "regression", "multi_label"),
    "lr_scheduler_type": ("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"),
    "mixed_precision": ("auto", "no", "bf16", "fp16", "fp8"),
    "eval_strategy": ("epoch", "no"),
    "on_nan": ("stop", "skip"),
    "hub_strategy": ("end", "every_save"),
}
# name -> (lowest allowed, whether it is itself allowed, highest allowed)
RANGES: dict[str, tuple[float, bool, float]] = {
    "max_length": (1, True, math.inf),
    "per_device_train_batch_size": (1, True, math.inf),
    "per_device_eval_batch_size": (1, True, math.inf),
    "gradient_accumulation_steps": (1, True, math.inf),
    "num_train_epochs": (0, False, math.inf),
    "max_train_steps": (1, True, math.inf),
    "max_train_samples": (1, True, math.inf),
    "max_eval_samples": (1, True, math.inf),
    "max_predict_samples": (1, True, math.inf),
    "max_tokens_per_batch": (1, True, math.inf),
    "learning_rate": (0, False, math.inf),
    "head_learning_rate": (0, False, math.inf),
    "layerwise_lr_decay": (0, False, 1),
    "warmup_steps": (0, True, math.inf),
    "warmup_ratio": (0, True, 1),
    "weight_decay": (0, True, math.inf),
    "adam_beta1": (0, True, 0.999999),
    "adam_beta2": (0, True, 0.999999),
    "adam_epsilon": (0, False, math.inf),
    "max_grad_norm": (0, False, math.inf),
    "label_smoothing": (0, True, 0.999999),
    "validation_fraction": (0, False, 0.9),
    "early_stopping_patience": (1, True, math.inf),
    "seed": (0, True, 2**32 - 1),
    "data_seed": (0, True, 2**32 - 1),
    "max_nan_skips": (0, True, math.inf),
    "trainable_layers": (0, True, math.inf),
    "lora_r": (1, True, math.inf),
    "lora_alpha": (1, True, math.inf),
    "lora_dropout": (0, True, 0.999999),
    "save_total_limit": (1, True, math.inf),
    "logging_steps": (1, True, math.inf),
}


def check(arguments: Arguments) -> list[tuple[str, str]]:
    """Every `(field, problem)` of `arguments` that can be seen without loading anything."""
    problems: list[tuple[str, str]] = []
    for name, choices in CHOICES.items():
        value = getattr(arguments, name)
        if value is not None and value not in choices:
            problems.append((name, f"{printable(value)!r} is not one of {', '.join(choices)}"))
    for name, (low, inclusive, high) in RANGES.items():
        value = getattr(arguments, name)
        if value is None:
            continue
        if value < low or (value == low and not inclusive) or value > high:
            least = f"at least {low:g}" if inclusive else f"above {low:g}"
            most = "" if high == math.inf else f" and at most {high:g}"
            problems.append((name, f"{value} is out of range: it must be {least}{most}"))
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
        problems.append(("early_stopping_patience", "needs evaluations on the way: --eval_strategy epoch"))
    if arguments.text_column_names and len(arguments.text_column_names) > 2:
        problems.append(("text_column_names", "one column, or two for pairs of texts"))
    if arguments.push_to_hub and arguments.hub_model_id and arguments.hub_model_id.count("/") > 1:
        problems.append(
            ("hub_model_id", f"{printable(arguments.hub_model_id)!r} is not of the form user/name")
        )
    return problems
