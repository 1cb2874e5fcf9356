"""Prepare an explanation for display: values toward one output, and the text in pieces. Draws nothing.

Shapes: T tokens, W words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from sot_nlp.errors import counted, decimal, printable
from sot_nlp.explanation.attribution import METHODS, Explanation
from sot_nlp.explanation.words import Word

# The most that is shown of what the length limit cut off.
CUT_SHOWN = 120
# Below this share of the largest value a word is left plain.
FAINT = 0.03
TOP_PAIRS = 8


@dataclass(frozen=True)
class Piece:
    """A stretch of the text, safe to print: a word with its number, or what is between words.

    `cut`: what the length limit took away.
    """

    text: str
    word: int | None = None
    cut: bool = False


@dataclass(frozen=True)
class PairCell:
    """A pair's place in the matrix: its share, its colour from -1 to 1, and its sign where it can be seen."""

    value: float
    strength: float
    sign: str


@dataclass(frozen=True, kw_only=True)
class View:
    """One model's explanation of one text, seen toward one of its outputs.

    `name` of the model. `truth`: the right label's number, or the right score of a regression; None where
    unknown, and for several labels per text. `output`: the one explained; None for the predicted one.
    """

    name: str
    explanation: Explanation
    truth: float | None = None
    output: int | None = None

    @property
    def target(self) -> int:
        """The number of the output explained."""
        return self.explanation.predicted if self.output is None else self.output

    @cached_property
    def values(self) -> np.ndarray:
        """(W,): each word's share."""
        return self.explanation.toward(self.explanation.word_scores, self.target)

    @cached_property
    def pairs(self) -> np.ndarray | None:
        """(W, W): each pair's share, x side first; None for other methods."""
        pairs = self.explanation.word_pairs
        return None if pairs is None else self.explanation.toward(pairs, self.target)

    @cached_property
    def apart(self) -> list[tuple[str, float]]:
        """Special tokens, the classification token and the bias, or the baseline: (name, share) each."""
        explanation = self.explanation
        parts = []
        if explanation.method != "occlusion":
            shares = explanation.toward(explanation.scores, self.target)
            parts = [
                (explanation.tokens[t], float(shares[t]))
                for t in np.flatnonzero(explanation.special)
                if shares[t]
            ]
        if explanation.class_token.any():
            share = float(explanation.toward(explanation.class_token, self.target))
            parts.insert(0, ("classification token", share))
        if explanation.base is not None:
            name = "baseline" if explanation.method == "integrated_gradients" else "bias"
            parts.append((name, float(explanation.toward(explanation.base, self.target))))
        return parts

    @property
    def total(self) -> float:
        """The score that all shares make up: the logit, less the mean of the others' where one label wins."""
        return float(self.explanation.toward(self.explanation.logits, self.target))

    @cached_property
    def scale(self) -> float:
        """The value of the fullest colour: the largest of a word's."""
        return float(np.abs(self.values).max(initial=0.0)) or 1.0

    def strength(self, word: int) -> float:
        """Return the colour of a word, -1 (against) to 1 (for); 0 where it is too small to show."""
        share = float(self.values[word]) / self.scale
        return share if abs(share) >= FAINT else 0.0

    def number(self, value: float) -> str:
        """Return a share with its sign, in as many digits as this text's values need."""
        return signed(value, self.scale)

    @property
    def label(self) -> str:
        """The name of the output explained."""
        labels = self.explanation.labels
        return "score" if labels is None else printable(labels[self.target], 60)

    @property
    def prediction(self) -> str:
        """What the model says, in a few words."""
        explanation = self.explanation
        chances = explanation.probabilities
        if chances is None:
            return f"score {decimal(explanation.logits[0], 3)}"
        assert explanation.labels is not None
        names = [printable(name, 60) for name in explanation.labels]
        if explanation.kind == "multi_label":
            held = [
                f"{name} {chance:.0%}" for name, chance in zip(names, chances, strict=True) if chance > 0.5
            ]
            return ", ".join(held) or "no label"
        return f"{names[explanation.predicted]} {chances[explanation.predicted]:.0%}"

    @property
    def is_right(self) -> bool | None:
        """Whether the prediction is right; None where unknown, or a score."""
        explanation = self.explanation
        if self.truth is None or explanation.kind != "classification":
            return None
        return explanation.predicted == int(self.truth)

    @property
    def verdict(self) -> str:
        """Whether the prediction is right, in words; empty where unknown."""
        explanation = self.explanation
        if self.truth is None:
            return ""
        if explanation.labels is None:
            return f"the right score is {self.truth:g}"
        return (
            "right" if self.is_right else f"wrong: it is {printable(explanation.labels[int(self.truth)], 60)}"
        )

    @property
    def method(self) -> str:
        """How it was found."""
        return METHODS[self.explanation.method]

    @property
    def notes(self) -> list[str]:
        """What a reader has to know beside the picture."""
        explanation = self.explanation
        notes = []
        if not explanation.words:
            notes.append("no word in this text")
        if explanation.lost:
            tokens = counted(explanation.lost, "token was", "tokens were")
            notes.append(f"{tokens} cut off by the length limit, which the model did not see")
        if explanation.method == "integrated_gradients" and explanation.delta is not None:
            gap = float(explanation.toward(explanation.delta, self.target))
            if abs(gap) > 0.05 * max(abs(self.total), self.scale):
                notes.append(f"the path was too coarse: {self.number(gap)} is missing in the sum")
        return notes

    @property
    def summary(self) -> list[tuple[str, float]]:
        """The words together and what counts apart from them; with what is missing they add up to `total`.

        Empty for occlusion, whose values do not add up to anything.
        """
        if self.explanation.base is None:
            return []
        return [("words", float(self.values.sum())), *self.apart]

    def top_pairs(self) -> list[tuple[str, str, float]]:
        """Return the strongest pairs of words, the two orders of a pair taken together."""
        if self.pairs is None:
            return []
        both = self.pairs + self.pairs.T
        both[np.diag_indices(len(both))] /= 2
        first, second = np.triu_indices(len(both))
        strongest = np.argsort(-np.abs(both[first, second]), kind="stable")[:TOP_PAIRS]
        names = [shown(word.text) for word in self.explanation.words]
        named = [(names[a], names[b], float(both[a, b])) for a, b in zip(first, second, strict=True)]
        return [named[i] for i in strongest.tolist() if named[i][2]]

    def pair_cells(self) -> list[list[PairCell]]:
        """Return the matrix of pairs, a row per word of the x side; empty for other methods."""
        if self.pairs is None:
            return []
        largest = float(np.abs(self.pairs).max(initial=0.0)) or 1.0

        def cell(value: float) -> PairCell:
            sign = "" if abs(value) <= FAINT * largest else "+" if value > 0 else "\u2212"
            return PairCell(value, value / largest, sign)

        return [[cell(value) for value in row] for row in self.pairs.tolist()]

    def pieces(self, part: int) -> list[Piece]:
        """Return the text numbered `part` as pieces, in order."""
        text = self.explanation.texts[part]
        pieces: list[Piece] = []
        at = 0
        for number, word in enumerate(self.explanation.words):
            if word.part != part:
                continue
            if word.start > at:
                pieces.append(Piece(shown(text[at : word.start])))
            pieces.append(Piece(shown(word.text) if word.text.strip() else "\u2423", number))
            at = word.end
        rest = text[at:]
        if rest.strip() and self.explanation.lost:
            more = "…" if len(rest) > CUT_SHOWN else ""
            pieces.append(Piece(shown(rest[:CUT_SHOWN]) + more, cut=True))
        elif rest:
            pieces.append(Piece(shown(rest[:CUT_SHOWN])))
        return pieces

    def tip(self, number: int) -> str:
        """Return a word's share, with those of its tokens where it has several."""
        tokens = self.tokens_of(self.explanation.words[number])
        value = self.number(self.values[number])
        return f"{value} ({tokens})" if tokens else value

    def tokens_of(self, word: Word) -> str:
        """Return a word's tokens with their shares, if it has several."""
        if len(word.tokens) < 2:
            return ""
        explanation = self.explanation
        shares = explanation.toward(explanation.scores, self.target)
        return " ".join(f"{shown(explanation.tokens[t])} {self.number(shares[t])}" for t in word.tokens)


def signed(value: float, scale: float) -> str:
    """Return `value` with its sign and three digits relative to `scale`."""
    digits = min(8, max(2, 2 - math.floor(math.log10(scale))))
    return decimal(value, digits, signed=True).replace("-", "\u2212")


def shown(text: str) -> str:
    """Return `text` with control and direction characters escaped and white space as plain spaces.

    Joiners stay: scripts and emoji are made with them.
    """
    return "".join(
        " " if c.isspace() else c if c in "\u200c\u200d" else printable(c, len(c) * 10) for c in text
    )
