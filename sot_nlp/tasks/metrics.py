"""GLUE's metrics, and F1 for any number of classes, over scikit-learn and scipy; nothing is downloaded.

Every score is finite, so that a record of it is plain JSON; where a definition divides by zero, what the
score is stands at its function. Scores are computed once, on all predictions: gather one prediction an
example from the processes first. Neither library is imported before a score is asked for.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from sot_nlp.errors import UserError, did_you_mean, printable

if TYPE_CHECKING:
    import numpy as np


def matthews_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Matthews' correlation of two or more classes, -1 to 1; 0 where either side holds a single class."""
    from sklearn.metrics import matthews_corrcoef

    if (references == references[0]).all() or (predictions == predictions[0]).all():
        return 0.0
    return float(matthews_corrcoef(references, predictions))


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """The share of examples whose class is right."""
    return float((predictions == references).mean())


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of class 1 against class 0, GLUE's for paraphrases; 0 where neither side holds class 1."""
    from sklearn.metrics import f1_score

    highest = max(predictions.max(), references.max())
    if highest > 1:
        raise UserError(f"f1 is for the classes 0 and 1, here is a {highest}; use macro_f1 or micro_f1")
    return float(f1_score(references, predictions, zero_division=0.0))


def micro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """F1 of all decisions taken together; of one class an example this is the accuracy."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="micro", zero_division=0.0))


def macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """The mean of the labels' own F1.

    Of classes, those that occur on either side count. Of several labels an example, all count, and one
    that is never right nor predicted scores 0.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="macro", zero_division=0.0))


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    """Pearson's correlation, -1 to 1; 0 where a side is constant: such predictions order nothing."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    """Spearman's rank correlation, -1 to 1, ties by their mean rank; 0 where a side is constant."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predictions, references)


def _correlation(correlate: Callable[..., Any], predictions: np.ndarray, references: np.ndarray) -> float:
    import numpy as np

    if np.ptp(predictions) == 0 or np.ptp(references) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy's, of sides that vary by less than rounding: dealt with below
        value = float(correlate(predictions, references)[0])
    return value if np.isfinite(value) else 0.0


class Metric(NamedTuple):
    """A metric, the kinds of task that it scores, and which way is better."""

    score: Callable[[np.ndarray, np.ndarray], float]
    kinds: tuple[str, ...]
    higher_is_better: bool = True


METRICS = {
    "matthews_correlation": Metric(matthews_correlation, ("classification",)),
    "accuracy": Metric(accuracy, ("classification",)),
    "f1": Metric(f1, ("classification",)),
    "micro_f1": Metric(micro_f1, ("classification", "multi_label")),
    "macro_f1": Metric(macro_f1, ("classification", "multi_label")),
    "pearson": Metric(pearson, ("regression",)),
    "spearman": Metric(spearman, ("regression",)),
}


def default_metrics(kind: str) -> tuple[str, ...]:
    """The metrics of a task of that kind whose YAML file names none, the main one first."""
    return {
        "classification": ("accuracy", "macro_f1"),
        "regression": ("pearson", "spearman"),
        "multi_label": ("micro_f1", "macro_f1"),
    }[kind]


def higher_is_better(name: str) -> bool:
    """Whether more of `name`, a metric or `loss`, is better. UserError where there is none of that name."""
    return name != "loss" and _metric(name).higher_is_better


def compute(names: str | Iterable[str], predictions: Any, references: Any) -> dict[str, float]:
    """The scores of `names`, in their order; each is finite.

    `predictions` and `references` are arrays or lists of one length: class ids (n,), scores (n,), or a
    0 or 1 for each label (n, K). Raises UserError where they are empty, differ in length or shape, hold
    a value that is not finite or not of the metric's kind, or where a name is unknown.
    """
    names = [names] if isinstance(names, str) else list(names)
    return {name: _score(name, predictions, references) for name in names}


def _metric(name: str) -> Metric:
    if name not in METRICS:
        raise UserError(f"unknown metric {printable(name)!r}: {did_you_mean(name, METRICS)}")
    return METRICS[name]


def _score(name: str, predictions: Any, references: Any) -> float:
    metric = _metric(name)
    predicted, expected = _array(name, "predictions", predictions), _array(name, "references", references)
    if predicted.shape != expected.shape:
        raise UserError(f"{name}: predictions of shape {predicted.shape}, references of {expected.shape}")
    if len(expected) == 0:
        raise UserError(f"{name}: there are no examples to score")
    if metric.kinds == ("regression",):
        return metric.score(predicted, expected)
    return metric.score(predicted.astype("int64"), expected.astype("int64"))


def _array(name: str, side: str, values: Any) -> np.ndarray:
    """`values` as float64 (n,) or (n, K), checked for the metric `name`; exact for class ids below 2^53."""
    import numpy as np

    kinds = METRICS[name].kinds
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {side} must be numbers, the same count for each example") from None
    if array.ndim != 1 and not (array.ndim == 2 and "multi_label" in kinds):
        raise UserError(f"{name}: {side} of shape {array.shape}; one value for each example was expected")
    bad = ~np.isfinite(array)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise UserError(
            f"{name}: {side} {row} is {array[row]}: not a finite number; has the training diverged?"
        )
    whole = (array == np.round(array)) & (array >= 0)
    if array.ndim == 2:
        whole &= array <= 1
    if kinds != ("regression",) and not whole.all():
        row = int(np.argwhere(~whole)[0][0])
        expected = "0 or 1 for each label" if array.ndim == 2 else "a class id, 0 or more"
        raise UserError(f"{name}: {side} {row} is {array[row]}; {expected} was expected")
    return array
