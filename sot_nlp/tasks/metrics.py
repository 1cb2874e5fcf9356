"""Metrics, each registered once, with its direction; a task's YAML file names its own.

GLUE's, F1 for any number of classes, errors of a regression and the log loss, over scikit-learn and scipy;
nothing is downloaded. Their scores are finite, so that a record of them is plain JSON; where a definition
divides by zero, the function's docstring says what the score is. Compute a score once, on all predictions:
gather one prediction per example from the processes first. No library is imported before a score is computed.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, did_you_mean, printable

if TYPE_CHECKING:
    import numpy as np


def matthews_correlation(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Matthews' correlation of two or more classes, -1 to 1; 0 where either side holds one class."""
    from sklearn.metrics import matthews_corrcoef

    if (references == references[0]).all() or (predictions == predictions[0]).all():
        return 0.0
    return float(matthews_corrcoef(references, predictions))


def accuracy(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the share of examples whose class is right."""
    return float((predictions == references).mean())


def f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return F1 of class 1 against class 0, GLUE's for paraphrases; 0 where neither side holds class 1."""
    from sklearn.metrics import f1_score

    highest = max(predictions.max(), references.max())
    if highest > 1:
        raise UserError(f"f1 is for the classes 0 and 1, but there is a {highest}; use macro_f1 or micro_f1")
    return float(f1_score(references, predictions, zero_division=0.0))


def micro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return F1 of all decisions taken together; with one class per example this is the accuracy."""
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="micro", zero_division=0.0))


def macro_f1(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean of the labels' own F1.

    Of classes, those that occur on either side count. With several labels per example all count, and a label
    that is never right nor predicted scores 0.
    """
    from sklearn.metrics import f1_score

    return float(f1_score(references, predictions, average="macro", zero_division=0.0))


def pearson(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Pearson's correlation, -1 to 1; 0 where a side is constant: such predictions order nothing."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predictions, references)


def spearman(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return Spearman's rank correlation, -1 to 1, ties by their mean rank; 0 where a side is constant."""
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


def mean_squared_error(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean of the squared differences, in the square of the scores' unit."""
    return float(((predictions - references) ** 2).mean())


def root_mean_squared_error(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the square root of the mean squared difference, in the scores' unit."""
    return math.sqrt(mean_squared_error(predictions, references))


def mean_absolute_error(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean of the absolute differences, in the scores' unit."""
    return float(abs(predictions - references).mean())


def log_loss(predictions: np.ndarray, references: np.ndarray) -> float:
    """Return the mean of -log p of the right class, in nats; p is the model's, at least 1e-15."""
    chosen = predictions[range(len(references)), references]
    return float(-math.fsum(math.log(max(p, 1e-15)) for p in chosen) / len(references))


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A registered metric; `register_metric` says what the fields mean."""

    name: str
    score: Callable[[np.ndarray, np.ndarray], float]
    kinds: tuple[str, ...]
    title: str
    hub_name: str
    higher_is_better: bool
    value_range: tuple[float, float]
    no_skill: float | None
    reads: str

    @property
    def traits(self) -> Traits:
        """What a reader of its scores must know, for records that outlive this process."""
        bounded = self.value_range[0] >= -1 and self.value_range[1] <= 1
        return Traits(title=self.title, higher_is_better=self.higher_is_better, times=100 if bounded else 1)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """A metric's name for readers, its direction, and what its scores are multiplied by in tables."""

    title: str
    higher_is_better: bool = True
    times: int = 100

    def to_dict(self) -> dict[str, Any]:
        """Return the traits as JSON values."""
        return asdict(self)


METRICS: dict[str, Metric] = {}
_OURS: set[str] = set()
KINDS = ("classification", "regression", "multi_label")
# What an evaluation's entry in a record holds beside the metrics.
RESERVED = ("loss", "split", "splits", "epoch", "step")


def register_metric(
    name: str,
    score: Callable[[np.ndarray, np.ndarray], float],
    *,
    kinds: str | Sequence[str],
    title: str | None = None,
    hub_name: str | None = None,
    higher_is_better: bool = True,
    value_range: tuple[float, float] = (-math.inf, math.inf),
    no_skill: float | None = None,
    reads: str = "decisions",
) -> Metric:
    """Register a metric, so that a task's YAML file may name it under `metrics` and as `main_metric`.

    Its direction then decides which epoch is kept, when early stopping stops, and what counts as an
    improvement in studies. Register it in every process that reads the task.

    Args:
        name: letters, digits and `_`. An own metric may be registered again; those of this package may not.
        score: called with `predictions` and `references`, arrays of one length: class ids (n,), scores (n,)
            in float64, or 0 or 1 per label (n, K). Returns a number; where that is not finite, the
            evaluation has no score and ranks last.
        kinds: the kinds of task that it scores: `classification`, `regression`, `multi_label`.
        title: its name for readers; the name with spaces when not given.
        hub_name: the name by which the Hub's leaderboards know it; the name when not given.
        higher_is_better: whether more of it is better.
        value_range: its lowest and highest value. Scores within -1 to 1 are shown times 100.
        no_skill: the score of predictions that know nothing, such as 0 for a correlation: a run at it is
            reported as collapsed.
        reads: `decisions`, or `probabilities`: then `predictions` are those of each class, (n, K).

    Raises:
        UserError: for a name that is taken or can't be one, and for an unknown kind.
    """
    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    where = f"metric {printable(name)!r}"
    if not re.fullmatch(r"[A-Za-z]\w*", name) or name in RESERVED:
        raise UserError(f"{where}: a name has letters, digits and `_`, and is none of {', '.join(RESERVED)}")
    if name in _OURS:
        raise UserError(f"{where}: a metric of that name exists; give another name")
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(f"{where}: kind {printable(kind)!r}: {did_you_mean(kind, KINDS)}")
    if not kinds or not callable(score):
        raise UserError(f"{where}: needs a function, and at least one kind of task ({', '.join(KINDS)})")
    if reads not in ("decisions", "probabilities") or (reads == "probabilities" and "regression" in kinds):
        raise UserError(f"{where}: reads `decisions`, or `probabilities`, which a regression lacks")
    metric = Metric(
        name=name,
        score=score,
        kinds=kinds,
        title=title or name.replace("_", " "),
        hub_name=hub_name or name,
        higher_is_better=higher_is_better,
        value_range=value_range,
        no_skill=no_skill,
        reads=reads,
    )
    METRICS[name] = metric
    return metric


def _register_ours() -> None:
    one, several, scores = ("classification",), ("classification", "multi_label"), ("regression",)
    share, correlation, error = (0.0, 1.0), (-1.0, 1.0), (0.0, math.inf)
    register_metric(
        "matthews_correlation",
        matthews_correlation,
        kinds=one,
        title="Matthews correlation",
        value_range=correlation,
        no_skill=0.0,
    )
    register_metric("accuracy", accuracy, kinds=one, title="Accuracy", value_range=share)
    register_metric("f1", f1, kinds=one, title="F1", value_range=share)
    register_metric("micro_f1", micro_f1, kinds=several, title="F1 (micro)", hub_name="f1", value_range=share)
    register_metric("macro_f1", macro_f1, kinds=several, title="F1 (macro)", hub_name="f1", value_range=share)
    for name, function, hub_name in (("pearson", pearson, "pearsonr"), ("spearman", spearman, "spearmanr")):
        register_metric(
            name,
            function,
            kinds=scores,
            title=f"{name.capitalize()} correlation",
            hub_name=hub_name,
            value_range=correlation,
            no_skill=0.0,
        )
    falls: dict[str, Any] = {"higher_is_better": False, "value_range": error}
    register_metric("mse", mean_squared_error, kinds=scores, title="Mean squared error", **falls)
    register_metric("rmse", root_mean_squared_error, kinds=scores, title="Root mean squared error", **falls)
    register_metric("mae", mean_absolute_error, kinds=scores, title="Mean absolute error", **falls)
    register_metric("log_loss", log_loss, kinds=one, title="Log loss", reads="probabilities", **falls)


_register_ours()
_OURS.update(METRICS)


def default_metrics(kind: str) -> tuple[str, ...]:
    """Return the metrics of a task of that kind whose YAML file names none, the main one first."""
    return {
        "classification": ("accuracy", "macro_f1"),
        "regression": ("pearson", "spearman"),
        "multi_label": ("micro_f1", "macro_f1"),
    }[kind]


def higher_is_better(name: str) -> bool:
    """Return whether more of `name`, a metric or `loss`, is better. UserError where none is."""
    return name != "loss" and metric_of(name).higher_is_better


def traits(name: str, record: Mapping[str, Any] | None = None) -> Traits:
    """Return the traits of `name`: as registered, else as the run's `record` has them, else defaults."""
    if name in METRICS:
        return METRICS[name].traits
    kept = (record or {}).get("main_metric_traits")
    if isinstance(kept, Mapping) and (record or {}).get("main_metric") == name:
        return Traits(
            title=str(kept.get("title", name)),
            higher_is_better=kept.get("higher_is_better") is not False,
            times=1 if kept.get("times") == 1 else 100,
        )
    return Traits(title=name.replace("_", " "), higher_is_better=name != "loss")


def compute(
    names: str | Iterable[str], predictions: Any, references: Any, *, probabilities: Any = None
) -> dict[str, float]:
    """Return the scores of `names`, in their order; those of this package are finite.

    `predictions` and `references` are arrays or lists of one length: class ids (n,), scores (n,), or a
    0 or 1 for each label (n, K). `probabilities` (n, K) are what metrics that read them get as predictions;
    they are needed by those alone. Raises UserError where the arrays are empty, differ in length or shape,
    hold a value that is not finite or not of the metric's kind, or where a name is unknown.
    """
    scores = {}
    for name in [names] if isinstance(names, str) else names:
        reads = metric_of(name).reads
        scores[name] = _score(name, probabilities if reads == "probabilities" else predictions, references)
    return scores


def metric_of(name: str) -> Metric:
    """Return the metric that is registered under `name`. UserError where there is none."""
    if name not in METRICS:
        hint = did_you_mean(name, METRICS)
        raise UserError(
            f"unknown metric {printable(name)!r}: {hint}; register your own with sot_nlp.register_metric"
        )
    return METRICS[name]


def _score(name: str, predictions: Any, references: Any) -> float:
    metric = metric_of(name)
    if metric.reads == "probabilities":
        predicted, expected = _probabilities(name, predictions), _array(name, "references", references)
        fits = len(predicted) == len(expected) and (expected < predicted.shape[1]).all()
    else:
        predicted, expected = _array(name, "predictions", predictions), _array(name, "references", references)
        fits = predicted.shape == expected.shape
    if not fits:
        raise UserError(f"{name}: predictions of shape {predicted.shape}, references of {expected.shape}")
    if len(expected) == 0:
        raise UserError(f"{name}: there are no examples to score")
    if metric.kinds != ("regression",):
        expected = expected.astype("int64")
        predicted = predicted if metric.reads == "probabilities" else predicted.astype("int64")
    value = metric.score(predicted, expected)
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{name}: its function returned {printable(value)}; expected a number") from None


def _probabilities(name: str, values: Any) -> np.ndarray:
    """Return `values` as float64 (n, K), checked."""
    import numpy as np

    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        array = np.zeros(0)
    if array.ndim != 2:
        raise UserError(f"{name}: reads the probability of each class, (n, K), which was not given")
    if not np.isfinite(array).all() or (array < 0).any() or (array > 1 + 1e-6).any():
        raise UserError(f"{name}: a probability is not within 0 to 1; has the training diverged?")
    return array


def _array(name: str, side: str, values: Any) -> np.ndarray:
    """Return `values` as float64 (n,) or (n, K), checked for `name`; exact for class ids below 2^53."""
    import numpy as np

    kinds = METRICS[name].kinds
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name}: {side} must be numbers, the same count per example") from None
    if array.ndim != 1 and not (array.ndim == 2 and "multi_label" in kinds):
        raise UserError(f"{name}: {side} of shape {array.shape}; expected one value per example")
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
        expected = "0 or 1 per label" if array.ndim == 2 else "a class id, 0 or more"
        raise UserError(f"{name}: {side} {row} is {array[row]}; expected {expected}")
    return array
