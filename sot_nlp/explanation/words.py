"""Group tokens into words, by the tokenizer's character offsets and the text itself.

What is a word depends on the text alone (and not on a tokenizer), so that models with different tokenizers
can be compared word by word; only where a token spans several words are those treated as one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import regex  # type: ignore[import-untyped]

# Letters, numbers and marks; but where a script puts no spaces between words, each character is a unit, and
# the tokens say what belongs together: Thai and Lao; Myanmar; Khmer; kana; Han and its extensions.
_LETTER = (
    r"[[_\p{L}\p{N}\p{M}\u200c\u200d]--[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff"
    r"\uf900-\ufaff\U00020000-\U0003ffff]]"
)
# The smallest spans that are never split: words, with the signs that hold one together (isn't, well-known,
# 3.14), or single signs and emoji; with all marks, joiners and skin tones behind them.
_UNIT = regex.compile(
    rf"""(?xV1)
    (?: {_LETTER}+ (?: (?: ['\u2019\-\u2010\u2011] | (?<=\p{{Nd}}) [.,] (?=\p{{Nd}}) ) {_LETTER}+ )*
      | (?!\s) \X )
    (?: [\p{{M}}\u200c\u200d\U0001f3fb-\U0001f3ff] | (?<=\u200d) \S )*
    """
)


@dataclass(frozen=True)
class Word:
    """A word with the positions of its tokens: characters `start` to `end` of the text numbered `part`."""

    text: str
    part: int
    start: int
    end: int
    tokens: tuple[int, ...]


def words_of(
    texts: Sequence[str], offsets: Sequence[tuple[int, int]], parts: Sequence[int | None]
) -> tuple[Word, ...]:
    """Return the words of an example that have tokens, in order.

    Args:
        texts: the example's text, or its pair.
        offsets: for each token the characters that it covers, first and one past the last.
        parts: for each token the text that it belongs to, None for special tokens, which are in no word.

    A token of white space alone goes with the word behind it, at the end with the one before.
    """
    words: list[Word] = []
    for part, text in enumerate(texts):
        units = [match.span() for match in _UNIT.finditer(text)]
        owner = _owners(units, len(text))
        groups: list[tuple[list[int], list[int]]] = []  # (tokens, units) of each word
        waiting: list[int] = []
        for token, (start, end) in enumerate(offsets):
            if parts[token] != part:
                continue
            touched = sorted({unit for unit in owner[start:end] if unit is not None})
            if not touched:
                waiting.append(token)
            elif groups and touched[0] <= groups[-1][1][-1]:
                groups[-1][0].extend([*waiting, token])
                groups[-1][1].extend(touched)
                waiting = []
            else:
                groups.append(([*waiting, token], touched))
                waiting = []
        if waiting and groups:
            groups[-1][0].extend(waiting)
        elif waiting:
            start, end = offsets[waiting[0]][0], offsets[waiting[-1]][1]
            words.append(Word(text[start:end], part, start, end, tuple(waiting)))
        for tokens, held in groups:
            start, end = units[min(held)][0], units[max(held)][1]
            words.append(Word(text[start:end], part, start, end, tuple(tokens)))
    return tuple(words)


def _owners(units: Sequence[tuple[int, int]], length: int) -> list[int | None]:
    """Return the unit of each character, None for white space."""
    owner: list[int | None] = [None] * length
    for number, (start, end) in enumerate(units):
        owner[start:end] = [number] * (end - start)
    return owner
