"""Explanations written down by hand, for the tests of pictures."""

from __future__ import annotations

from typing import Any

import numpy as np

from sot_nlp.explanation.attribution import Explanation
from sot_nlp.explanation.words import words_of


def explanation(
    text: str = "Good dog !", values: tuple[float, ...] | None = None, **changes: Any
) -> Explanation:
    """One of `text`, a token a word, between [CLS] and [SEP]; `values` speak for the second label of two.

    By default they are 0.5, -0.25, 0, 0.5, ... The class token adds 1, the bias 0.25, [SEP] 0.125.
    """
    spans, at = [], 0
    for word in text.split():
        start = text.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    values = values or tuple((0.5, -0.25, 0.0)[i % 3] for i in range(len(spans)))
    own = np.array([0.0, *values, 0.125], dtype=np.float32)
    scores = np.stack([-own, own], -1)
    class_token, base = np.array([-1, 1], dtype=np.float32), np.array([-0.25, 0.25], dtype=np.float32)
    offsets, parts = [(0, 0), *spans, (0, 0)], [None, *[0] * len(spans), None]
    return Explanation(
        **{
            "method": "exact",
            "texts": (text,),
            "kind": "classification",
            "labels": ("bad", "good"),
            "logits": scores.sum(0) + class_token + base,
            "tokens": ("[CLS]", *text.split(), "[SEP]"),
            "special": np.array([part is None for part in parts]),
            "scores": scores,
            "class_token": class_token,
            "base": base,
            "delta": np.zeros(2, dtype=np.float32),
            "pairs": None,
            "words": words_of([text], offsets, parts),
            "lost": 0,
            **changes,
        }
    )
