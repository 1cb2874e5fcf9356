"""What the benchmarks' numbers are to reach: every aim, once, by the words of its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Aim:
    """A bound on a number, and a nearer one that comes first, if there is one."""

    bound: str  # "at least", "at most" or "under"
    value: float
    first: float | None = None

    def met(self, measured: float) -> bool:
        """Return whether `measured` reaches the aim itself."""
        if self.bound == "at least":
            return measured >= self.value
        return measured <= self.value if self.bound == "at most" else measured < self.value

    def __str__(self) -> str:
        return f"{self.bound} {self.value}" + ("" if self.first is None else f", first {self.first}")


def at_least(value: float, first: float | None = None) -> Aim:
    return Aim("at least", value, first)


def at_most(value: float) -> Aim:
    return Aim("at most", value)


def under(value: float) -> Aim:
    return Aim("under", value)


SPEED: dict[str, Aim] = {
    "training: defaults over Trainer's defaults": at_least(4.0, first=3.3),
    "training: over Trainer in random order, same precision": at_least(1.9),
    "training: over Trainer, same precision and grouping": at_least(1.1),
    "training: stock head on both sides, over Trainer's defaults": at_least(4.0),
    "training: stock head on both sides, over Trainer in random order, same precision": at_least(1.9),
    "training: SoT head over stock head": at_least(0.98),
    "training: SoT head over stock head, in one process": at_least(0.98, first=0.97),
    "evaluation: over Trainer.predict": at_least(1.5),
    "evaluation: over Trainer.predict, same precision": at_least(1.5),
    "prediction: over pipeline": at_least(1.5),
    "peak memory of training: over Trainer's": at_most(1.0),
    "padded over real tokens, training": at_most(1.05),
    "padded over real tokens, evaluation": at_most(1.05),
    "from command to first update: over Trainer's script": at_most(1.0),
    "sot-nlp, frozen backbone, text: seconds per epoch": under(3.0),
    "sot-nlp, frozen backbone, vision: seconds per epoch": under(3.0),
    "`run_glue_sot.py --help`, seconds": under(1.0),
    "`sot-nlp --help`, seconds": under(1.0),
}
GPU: dict[str, Aim] = {
    "training: CUDA graphs over none": at_least(1.0),
    "training: compiled, over Trainer's defaults": at_least(4.0),
    "training: compiled, over Trainer in random order, same precision": at_least(1.9),
    "training: compiled, SoT head over stock head": at_least(0.98),
    "BERT-base's step, 32x128: share of the card's matrix rate": at_least(0.5),
    "families whose passes are held as graphs, of those that run": at_least(1.0),
    "runs of a study per minute": at_least(20.0),
}
# Of a whole model's time, on a GPU as graphs.
PRESETS = ("text", "vision", "sot", "mapped_moments")
OVER_STOCK: dict[str, Aim] = {
    f"`{preset}` over stock head, forward and backward, {shape}": at_most(most)
    for shape, most in (("32x128", 1.02), ("32x16", 1.03))
    for preset in PRESETS
}
# Of the backbone's forward and backward pass, in percent. On a GPU `BF16_HEAD` holds for all presets.
HEAD: dict[str, Aim] = {
    f"head `{preset}`, {shape}: % of the backbone": at_most(most)
    for shape in ("32x32", "8x128")
    for preset, most in (("text", 2.5), ("vision", 1.5))
}
BF16_HEAD = at_most(3.0)
THREADS: dict[str, Aim] = {
    f"{size}-sized, {row}": aim
    for row, aim in (
        ("beside a busy process per core: examples/s over one thread", at_least(0.9)),
        ("alone: examples/s over all cores, spinning", at_least(1.0)),
    )
    for size in ("demo", "MiniLM")
} | {"`--mixed_precision auto` beside busy processes: share of equal answers": at_least(1.0)}
STUDY: dict[str, Aim] = {
    "start of a later run in a worker over a run of its own": at_most(0.5),
}
DEMO: dict[str, Aim] = {"`run_glue_sot.py --task demo`, two idle cores, seconds": at_most(60.0)}
DATA: dict[str, Aim] = {"5 million short texts prepared: peak memory, MiB": at_most(4096.0)}
FAULTS: dict[str, Aim] = {
    "50 kills: share that resumed bit-identical": at_least(1.0),
    "50 kills: checkpoints lost": at_most(0.0),
}

# What a benchmark of few labels is to win, whatever the task and the number of texts.
FEW_LABELS = at_least(0.0)

AIMS = SPEED | GPU | OVER_STOCK | HEAD | THREADS | STUDY | DEMO | DATA | FAULTS


def judged(
    what: str,
    value: float,
    *,
    digits: int = 2,
    each: Sequence[float] = (),
    aim: Aim | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Return a row: `value` beside its aim (default: the one of `AIMS`), with the range of `each`."""
    aim = aim or AIMS[what]
    spread = {"range": [round(pick(each), digits) for pick in (min, max)]} if each else {}
    return {
        "what": what,
        "measured": round(value, digits),
        **spread,
        "required": str(aim),
        "met": aim.met(value),
        **more,
    }
