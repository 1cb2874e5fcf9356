"""Choose the settings of a run that neither the user nor a task's recipe gave, by rules that need no search.

They follow what full fine-tuning was shown with (`studies/full.yaml`, chosen on held-out training data): 1e-4
for a backbone of width 384, ten times that for the head, a tenth of the updates as warm-up. A wider backbone
needs a smaller rate, in inverse proportion; few examples get smaller batches and more epochs, so that there
are enough updates (Zhang et al., arXiv 2006.05987; Mosbach et al., arXiv 2006.04884).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sot_nlp.modeling.head_config import DEFAULT_PRESET
from sot_nlp.runs.method import asked
from sot_nlp.training.optimization import class_token_parameters

if TYPE_CHECKING:
    from torch import nn

    from sot_nlp.settings.arguments import Arguments

SOURCE = "default recipe"
RATE, RATE_WIDTH = 1e-4, 384
# New weights, a linear head's and LoRA's, take rates that would harm pretrained ones (`studies/map.yaml`).
HEAD_RATE_FACTOR, LORA_RATE_FACTOR = 10.0, 5.0
WARMUP = 0.1
FEW_EXAMPLES, FEW_EXAMPLES_BATCH = 1000, 16
UPDATES, MOST_EPOCHS = 300, 20


def all_learns(arguments: Arguments) -> bool:
    """Return whether all weights of the backbone are trained."""
    return not arguments.freeze_backbone and arguments.trainable_layers is None and arguments.lora_r is None


def with_default_head(
    arguments: Arguments, *, causal: bool, sot_checkpoint: bool
) -> tuple[Arguments, list[str]]:
    """Return `arguments` with the simplest head of those that do best, where none was asked for, and why.

    Where all of a causal model learned (SmolLM2-135M, docs/results.md), no head that pools the words was
    ahead of its own, which is the simplest. A task's recipe keeps its head; then the line alone says so.
    """
    chosen = any(asked(arguments, name) for name in ("head", "head_overrides"))
    if (
        chosen
        or sot_checkpoint
        or not causal
        or not all_learns(arguments)
        or arguments.head != DEFAULT_PRESET
    ):
        return arguments, []
    reason = "all of a causal model learns; no head that pools the words has been ahead of its own there"
    if "head" in arguments.sources:
        return arguments, [f"note: {reason}: compare with --head stock"]
    line = f"{SOURCE}: head stock ({reason}); --head {arguments.head} pools them"
    return replace(arguments, head="stock", sources={**arguments.sources, "head": SOURCE}), [line]


def transforms_class_token(model: nn.Module) -> bool:
    """Return whether a new dense layer or attention is between the classification token and its linear.

    The stock heads of RoBERTa and its kind do; BERT's pooler is the backbone's own, and GPT has none.
    """
    names = class_token_parameters(model)
    branch = [(name, p) for name, p in model.named_parameters() if name in names]
    return any(p.ndim > 1 and "class_token_output" not in name for name, p in branch)


def with_default_recipe(
    arguments: Arguments,
    *,
    new_transform: bool,
    hidden_size: int,
    num_examples: int | None,
    num_processes: int = 1,
) -> tuple[Arguments, list[str]]:
    """Return `arguments` with the rules' values where no layer gave one, and a line on those in effect.

    Args:
        arguments: the run's settings. With a task's recipe they are returned as they are.
        new_transform: what `transforms_class_token` says. Where all of the backbone learns, a linear head's
            rate harmed such a layer (MPNet, RTE); where less does, that layer has most to learn.
        hidden_size: the backbone's width.
        num_examples: training examples; None for a stream, whose number is unknown.
        num_processes: that share an update's examples.
    """
    given = arguments.sources
    if any(source.startswith("recipe") for source in given.values()):
        return arguments, []
    chosen: dict[str, Any] = {}
    reasons = []
    if "learning_rate" not in given:
        rate = RATE * RATE_WIDTH / max(hidden_size, RATE_WIDTH)
        lora = arguments.lora_r is not None
        chosen["learning_rate"] = float(f"{rate * (LORA_RATE_FACTOR if lora else 1):.2g}")
        reasons.append(f"width {hidden_size}{', LoRA' if lora else ''}")
        if "head_learning_rate" not in given:
            factor = 1 if new_transform and all_learns(arguments) else HEAD_RATE_FACTOR
            chosen["head_learning_rate"] = float(f"{rate * factor:.2g}")
    if not {"warmup_ratio", "warmup_steps"} & given.keys():
        chosen["warmup_ratio"] = WARMUP
    if num_examples is not None:
        reasons.append(f"{num_examples} training examples")
        batch = arguments.per_device_train_batch_size
        if "per_device_train_batch_size" not in given and num_examples < FEW_EXAMPLES:
            chosen["per_device_train_batch_size"] = batch = FEW_EXAMPLES_BATCH
        if not {"num_train_epochs", "max_train_steps"} & given.keys():
            update_size = batch * arguments.gradient_accumulation_steps * num_processes
            per_epoch = -(-num_examples // update_size)
            epochs = -(-UPDATES // max(per_epoch, 1))
            chosen["num_train_epochs"] = float(min(max(epochs, arguments.num_train_epochs), MOST_EPOCHS))
    if not chosen:
        return arguments, []
    arguments = replace(arguments, **chosen, sources={**given, **dict.fromkeys(chosen, SOURCE)})
    # (a frozen backbone has no rate)
    said = [name for name in chosen if name != "learning_rate" or not arguments.freeze_backbone]
    if not said:
        return arguments, []
    shown = ", ".join(f"{name} {chosen[name]:g}" for name in said)
    return arguments, [f"{SOURCE} ({', '.join(reasons)}): {shown}" if reasons else f"{SOURCE}: {shown}"]
