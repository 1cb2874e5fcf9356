"""Choose how a run trains: all weights by updates, the head in closed form, or one after the other.

With few texts the closed form is better and takes seconds; the benchmark `few_labels` measures the limits.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import FIELDS, TRAITS, Arguments
from sot_nlp.settings.training_and_output import TrainingSettings

if TYPE_CHECKING:
    from sot_nlp.data.task_data import TaskData
    from sot_nlp.training.closed_form import Solution

AUTO, FINE_TUNE, LINEAR_PROBE, PROBE_THEN_TUNE = METHODS = TRAITS["training_method"].choices
# With fewer texts per label, tuning on from the closed form gains nothing sure, for five times the time.
FEW_PER_LABEL = 16
# With more texts than this the usual recipe has updates enough.
FEW = 1000
HEAD = {"head": "word_mean"}
# What each method trains with where nothing else is asked for.
RECIPES: dict[str, dict[str, Any]] = {
    FINE_TUNE: {},
    LINEAR_PROBE: HEAD,
    PROBE_THEN_TUNE: {
        **HEAD,
        "learning_rate": 5e-5,
        "head_learning_rate": 1e-3,
        "num_train_epochs": 10.0,
        "warmup_ratio": 0.1,
    },
}
# Whoever asks for one of these has chosen how to train.
CHOOSING = (
    *(
        field.name
        for field in fields(TrainingSettings)
        if field.name not in ("training_method", "class_weights", "seed", "data_seed")
    ),
    *("freeze_backbone", "trainable_layers", "lora_r", "head", "head_overrides"),
)
# What a closed form has no use for.
OF_UPDATES = {*CHOOSING, "checkpointing_steps", "resume_from_checkpoint"} - {
    "freeze_backbone",
    "head",
    "head_overrides",
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """The way that a run takes, and why."""

    name: str
    reason: str

    @property
    def solves(self) -> bool:
        """Return whether the head is solved in closed form."""
        return self.name in (LINEAR_PROBE, PROBE_THEN_TUNE)

    @property
    def tunes(self) -> bool:
        """Return whether there are updates."""
        return self.name != LINEAR_PROBE


def check(arguments: Arguments) -> None:
    """Refuse what `--training_method` makes meaningless, before anything is loaded. Raises UserError."""
    if arguments.training_method == LINEAR_PROBE:
        useless = [f"--{name}" for name in FIELDS if name in OF_UPDATES and asked(arguments, name)]
        if useless:
            raise UserError(
                f"{', '.join(useless)}: of no effect with --training_method linear_probe, which solves the "
                "head without updates; omit it, or use --training_method probe_then_tune"
            )
    if arguments.training_method in (LINEAR_PROBE, PROBE_THEN_TUNE) and arguments.streaming:
        raise UserError(
            f"--training_method {arguments.training_method}: needs all training texts at once; "
            "omit --streaming"
        )


def asked(arguments: Arguments, name: str) -> bool:
    """Return whether a flag or the `--config` file gives the setting, not the defaults or a task's recipe."""
    if name in arguments.sources:
        return not arguments.sources[name].startswith("recipe")
    return bool(getattr(arguments, name) != getattr(Arguments(), name))  # made without layers


def folder_word(arguments: Arguments) -> str:
    """Return the part of a run folder's name for head and method, before the data is read."""
    if arguments.training_method in (LINEAR_PROBE, PROBE_THEN_TUNE):
        return arguments.training_method
    free = arguments.task is None and not any(asked(arguments, name) for name in ("head", "head_overrides"))
    return AUTO if free else arguments.head


def choose(
    arguments: Arguments,
    data: TaskData,
    *,
    pairs: bool = False,
    sot_checkpoint: bool,
    unfinished: dict[str, Any] | None = None,
) -> Method:
    """Return the method of `--training_method`; for `auto` by the number of texts, where the choice is free.

    It is not free for a task with a recipe, for a SoT checkpoint that is trained further, and where a setting
    of the training or another head was asked for. Of `pairs` of texts, and of scores, the backbone as it is
    knows too little: with 100 pairs of STS-B tuning has 50 where the closed form has 37. The `unfinished` run
    that this one resumes, by its record, keeps its method.
    """
    if arguments.training_method != AUTO:
        return Method(name=arguments.training_method, reason="as asked for")
    before = (unfinished or {}).get("method")
    if isinstance(before, dict) and before.get("name") in METHODS:
        return Method(name=before["name"], reason=str(before.get("reason")))
    if arguments.task is not None:
        return Method(name=FINE_TUNE, reason="the task's recipe")
    chosen = [f"--{name}" for name in CHOOSING if asked(arguments, name)]
    if chosen:
        return Method(name=FINE_TUNE, reason=f"because of {', '.join(chosen)}")
    if sot_checkpoint:
        return Method(name=FINE_TUNE, reason="the model is a SoT classifier, which is trained further")
    if data.stream is not None:
        return Method(name=FINE_TUNE, reason="the training data is a stream")
    if pairs or data.kind == "regression":
        return Method(name=FINE_TUNE, reason="pairs of texts" if pairs else "scores, not labels")
    return by_size(data)


def by_size(data: TaskData) -> Method:
    """Return the method that does best with so many texts."""
    import numpy as np

    labels = data.splits["train"].labels
    examples = len(data.splits["train"])
    if labels is None or len(np.unique(labels, axis=0)) < 2:
        return Method(name=FINE_TUNE, reason="all training texts have the same label")
    if examples > FEW:
        return Method(name=FINE_TUNE, reason=f"{examples:,} training texts, more than {FEW:,}")
    # Each label of several is learned from all texts: as one of two classes.
    classes = len(data.labels) if data.labels and data.kind == "classification" else 2
    texts_per_label = examples / classes
    if texts_per_label < FEW_PER_LABEL:
        return Method(
            name=LINEAR_PROBE,
            reason=f"{examples} training texts, {texts_per_label:.3g} per label, fewer than {FEW_PER_LABEL}",
        )
    return Method(
        name=PROBE_THEN_TUNE,
        reason=f"{examples} training texts, {texts_per_label:.3g} per label, at least {FEW_PER_LABEL}",
    )


def describe(method: Method, solution: Solution | None) -> list[str]:
    """Return the lines that say how a run trains; none where it is the usual way."""
    if not method.solves:
        return []
    what = {
        LINEAR_PROBE: "the head alone, in closed form",
        PROBE_THEN_TUNE: "the head in closed form, then updates of everything",
    }[method.name]
    return [
        f"training method {method.name}: {what} ({method.reason}); {solution}; "
        f"--training_method {FINE_TUNE} trains by updates alone"
    ]


def with_recipe(arguments: Arguments, method: Method) -> Arguments:
    """Return `arguments` with what `method` trains with, where nothing else was asked for."""
    if not method.solves:
        return arguments
    recipe = {
        name: value
        for name, value in RECIPES[method.name].items()
        if not asked(arguments, name) and not asked(arguments, TRAITS[name].rival or name)
    }
    if "head" in recipe:
        # Single fields of the head in a task's recipe belong to another head.
        recipe["head_overrides"] = arguments.head_overrides if asked(arguments, "head_overrides") else {}
    cleared = {rival: None for name in recipe if (rival := TRAITS[name].rival)}
    sources = arguments.sources | dict.fromkeys(recipe, f"recipe of {method.name}")
    return replace(arguments, **(recipe | cleared), sources=sources)
