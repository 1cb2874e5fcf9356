"""Draw examples from the training data."""

from __future__ import annotations

import numpy as np


def hold_out(labels: np.ndarray | None, count: int, fraction: float, seed: int) -> np.ndarray:
    """Return the positions (m,) int64, ascending, of the examples to hold out of `count`: at least one.

    The share is `fraction`, stratified: each class keeps its share, as near as whole examples go, and at
    least one example of a class stays in training; scores (float labels) are spread over their range, and
    several labels at once count as one class per combination. `labels` as in a TokenSplit; None draws from
    all alike. The draw is a function of the arguments alone.
    """
    # numpy promises the stream of RandomState for good, but not that of its newer generators.
    source = np.random.RandomState(seed)
    classes, keep_one = _strata(labels, count)
    sizes = np.bincount(classes)
    wanted = min(max(1, round(fraction * count)), count - 1)
    exact = wanted * sizes / count
    most = np.maximum(sizes - keep_one, 0)
    shares = np.minimum(np.floor(exact).astype(np.int64), most)
    # The rest goes to the largest remainders; equal ones in an order that is drawn.
    order = source.permutation(len(sizes))
    order = order[np.argsort(-(exact - np.floor(exact))[order], kind="stable")]
    while (missing := wanted - int(shares.sum())) > 0:
        open_classes = order[shares[order] < most[order]][:missing]
        if not len(open_classes):
            break
        shares[open_classes] += 1
    shuffled = source.permutation(count)
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    rank = np.arange(count) - np.repeat(starts, sizes)
    return np.sort(by_class[rank < np.repeat(shares, sizes)])


def _strata(labels: np.ndarray | None, count: int) -> tuple[np.ndarray, int]:
    """Return the class of each example, and how many of a class must stay in training."""
    if labels is None:
        return np.zeros(count, dtype=np.int64), 0
    if labels.ndim == 2:
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1), 0
    if labels.dtype.kind == "f":
        # Ten bins of equal size, by rank.
        rank = np.argsort(np.argsort(labels, kind="stable"), kind="stable")
        return rank * min(10, count) // count, 0
    return np.unique(labels, return_inverse=True)[1].reshape(-1), 1


def subset(count: int, size: int, seed: int) -> np.ndarray:
    """Draw positions (min(size, count),) int64, ascending, of examples out of `count`, all alike.

    A function of the arguments alone; with the same seed a larger draw contains every smaller one.
    """
    return np.sort(np.random.RandomState(seed).permutation(count)[:size])
