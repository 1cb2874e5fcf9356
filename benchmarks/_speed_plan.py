"""What the speed benchmark times, and which side of it is compared with which other."""

from __future__ import annotations

from typing import Any

# side -> (kind of work, a key of `_speed_sides.KINDS`; settings)
Sides = dict[str, tuple[str, dict[str, Any]]]
# Stands for whether sot-nlp computes in bf16 on this device.
BF16 = object()

TRAINING: Sides = {
    "sot-nlp": ("our training", {}),
    "sot-nlp, stock head": ("our training", {"head": "stock"}),
    "Trainer": ("Trainer", {"bf16": False, "grouped": False}),
    "Trainer, same precision": ("Trainer", {"bf16": BF16, "grouped": False}),
    "Trainer, same precision, grouped": ("Trainer", {"bf16": BF16, "grouped": True}),
}
# On a GPU also without what spares launches, and with what fuses them.
GPU_TRAINING: Sides = {
    "sot-nlp, no CUDA graphs": ("our training", {"cuda_graphs": False}),
}
COMPILED: Sides = {
    "sot-nlp, compiled": ("our training", {"torch_compile": True}),
    "sot-nlp, compiled, stock head": ("our training", {"torch_compile": True, "head": "stock"}),
}
HEADS: Sides = {"sot-nlp, both heads in one process": ("our two heads", {})}
INFERENCE: Sides = {
    "sot-nlp, evaluation": ("our evaluation", {}),
    "Trainer.predict": ("Trainer.predict", {"bf16": False}),
    "Trainer.predict, same precision": ("Trainer.predict", {"bf16": BF16}),
    "sot-nlp predict": ("our prediction", {}),
    "pipeline": ("pipeline", {}),
}
FROZEN: Sides = {
    f"sot-nlp, frozen backbone, {head}": ("our frozen training", {"head": head})
    for head in ("text", "vision")
}
# (what, side, over which side); the aims are in `_aims`
RATIOS = (
    ("training: defaults over Trainer's defaults", "sot-nlp", "Trainer"),
    ("training: over Trainer in random order, same precision", "sot-nlp", "Trainer, same precision"),
    (
        "training: over Trainer, same precision and grouping",
        "sot-nlp",
        "Trainer, same precision, grouped",
    ),
    ("training: SoT head over stock head", "sot-nlp", "sot-nlp, stock head"),
    ("training: stock head on both sides, over Trainer's defaults", "sot-nlp, stock head", "Trainer"),
    (
        "training: stock head on both sides, over Trainer in random order, same precision",
        "sot-nlp, stock head",
        "Trainer, same precision",
    ),
)
INFERENCE_RATIOS = (
    ("evaluation: over Trainer.predict", "sot-nlp, evaluation", "Trainer.predict"),
    (
        "evaluation: over Trainer.predict, same precision",
        "sot-nlp, evaluation",
        "Trainer.predict, same precision",
    ),
    ("prediction: over pipeline", "sot-nlp predict", "pipeline"),
)
GPU_RATIOS = (("training: CUDA graphs over none", "sot-nlp", "sot-nlp, no CUDA graphs"),)
COMPILED_RATIOS = (
    ("training: compiled, over Trainer's defaults", "sot-nlp, compiled", "Trainer"),
    (
        "training: compiled, over Trainer in random order, same precision",
        "sot-nlp, compiled",
        "Trainer, same precision",
    ),
    (
        "training: compiled, SoT head over stock head",
        "sot-nlp, compiled",
        "sot-nlp, compiled, stock head",
    ),
)
