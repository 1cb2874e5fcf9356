"""Train a regression on standardised scores, and give the saved model the scores' own scale.

A head starts near 0 and learns at rates that suit outputs of about 1: scores from 0 to 100 would take it more
updates than a run has, and correlations, which know no scale, would not show it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from sot_nlp.data.task_data import TaskData
    from sot_nlp.tasks.spec import TaskSpec

# The head's output linears, whose sum the score is; the shift goes to the first bias.
OUTPUTS = ("word_output", "class_token_output")


@dataclass(frozen=True)
class ScoreScale:
    """What training makes of scores: (score - `mean`) / `deviation`."""

    mean: float
    deviation: float

    def standardized(self, scores: np.ndarray) -> np.ndarray:
        """Return the scores to train on, float32."""
        return ((scores - self.mean) / self.deviation).astype("float32")

    def restored(self, outputs: np.ndarray) -> np.ndarray:
        """Return the scores, float32, that the outputs of a model in training mean."""
        return (outputs * self.deviation + self.mean).astype("float32")

    def folded(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a state dict whose output linears give scores on their own scale."""
        outputs = _outputs(weights)
        changed = {name: value * self.deviation for name, value in outputs.items()}
        for name in _first_biases(outputs):
            changed[name] += self.mean
        return {**weights, **changed}

    def fold_into(self, model: nn.Module) -> None:
        """Give a model's outputs the scores' own scale."""
        state = model.state_dict()  # which shares the parameters' memory
        for name, value in _outputs(self.folded(state)).items():
            state[name].copy_(value)

    def inverse(self) -> ScoreScale:
        """Return the scale that undoes this one: a trained model's outputs folded by it are standardised."""
        return ScoreScale(mean=-self.mean / self.deviation, deviation=1 / self.deviation)

    def to_dict(self) -> dict[str, float]:
        """Return what a record says of it."""
        return asdict(self)

    def __str__(self) -> str:
        return (
            f"scores: standardised for training (mean {self.mean:.4g}, standard deviation "
            f"{self.deviation:.4g}); the model gives them on their own scale"
        )


def score_scale(spec: TaskSpec, data: TaskData, model: Any) -> ScoreScale | None:
    """Return the scale of the training scores of `data`; None where they are trained on as they are.

    That is so for a public data set with a recipe for its scores as they are (STS-B), for a stream, whose
    scores are not known before it is read, and for a head without linear outputs of its own. A head without
    a bias can't be shifted: its scores are divided by their root mean square alone.
    """
    scores = None if data.stream is not None else data.splits["train"].labels
    return None if scores is None else scale_of(scores, spec, model.classifier)


def scale_of(scores: np.ndarray, spec: TaskSpec, head: Any) -> ScoreScale | None:
    """Return the scale of training scores (n,) for a head; None as in `score_scale`."""
    outputs = getattr(head, "outputs", [])
    if spec.kind != "regression" or (spec.dataset_name and spec.recipe) or not outputs:
        return None
    mean = float(scores.mean(dtype="float64")) if any(o.bias is not None for o in outputs) else 0.0
    deviation = float(((scores.astype("float64") - mean) ** 2).mean() ** 0.5)
    return ScoreScale(mean=mean, deviation=deviation) if deviation > 0 else None


def _outputs(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the output linears' tensors; PEFT keeps the head that it was given beside the one it trains."""
    return {name: value for name, value in weights.items() if f".{name}".split(".")[-2] in OUTPUTS}


def _first_biases(outputs: dict[str, Tensor]) -> list[str]:
    """Return the names of the first bias of each head; they all have the same linears."""
    biases = ([name for name in outputs if name.endswith(f"{linear}.bias")] for linear in OUTPUTS)
    return next(filter(None, biases), [])
