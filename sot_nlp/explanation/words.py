"""Tokens -> words, by the tokenizer's character offsets and the text itself.

What is a word depends on the text alone (and not on a tokenizer), so that models with different tokenizers
can be compared word by word; only where a token reaches over several words are those taken as one.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

# Scripts without spaces between words: there each character is a unit, and the tokens say what belongs
# together. Thai and Lao; Myanmar; Khmer; kana; Han and its extensions.
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
_ZERO_WIDTH_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_REGIONAL = range(0x1F1E6, 0x1F200)


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
    """The words of an example that have tokens, in order.

    Args:
        texts: the example's text, or its pair.
        offsets: for each token the characters that it stands for, first and one past the last.
        parts: for each token the text that it belongs to, None for special tokens, which are in no word.

    A token of white space alone goes with the word behind it, at the end with the one before.
    """
    words: list[Word] = []
    for part, text in enumerate(texts):
        units = _units(text)
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
    """The unit of each character, None for white space."""
    owner: list[int | None] = [None] * length
    for number, (start, end) in enumerate(units):
        owner[start:end] = [number] * (end - start)
    return owner


def _units(text: str) -> list[tuple[int, int]]:
    """The smallest spans that are never split: words, single signs, emoji with all that belongs to them."""
    units: list[tuple[int, int]] = []
    for i, character in enumerate(text):
        if character.isspace():
            continue
        if units and units[-1][1] == i and _belongs(text, units[-1][0], i):
            units[-1] = (units[-1][0], i + 1)
        else:
            units.append((i, i + 1))
    return units


def _belongs(text: str, start: int, i: int) -> bool:
    """Whether the character at `i` goes on with the unit that began at `start` and reaches up to it."""
    before, here = text[i - 1], text[i]
    if _extends(here) or before == _ZERO_WIDTH_JOINER:
        return True
    if ord(here) in _REGIONAL:  # two make a flag
        return i - start == 1 and ord(before) in _REGIONAL
    if _in_word(here):
        return _in_word(before) or (i - 1 > start and _links(text, i - 1))
    return _in_word(before) and _links(text, i)


def _links(text: str, i: int) -> bool:
    """Whether the sign at `i` holds a word together: isn't, well-known, 3.14."""
    if i + 1 >= len(text):
        return False
    before, sign, after = text[i - 1], text[i], text[i + 1]
    if sign in "'\u2019-\u2010\u2011":
        return _in_word(before) and _in_word(after)
    return sign in ".," and before.isdecimal() and after.isdecimal()


def _in_word(character: str) -> bool:
    if character.isascii():
        return character.isalnum() or character == "_"
    if any(low <= ord(character) <= high for low, high in _UNSPACED):
        return False
    return unicodedata.category(character)[0] in "LNM" or character in "\u200c\u200d"


def _extends(character: str) -> bool:
    """Marks, variation selectors, joiners and skin tones, which are nothing by themselves."""
    return (
        unicodedata.category(character)[0] == "M"
        or character in "\u200c\u200d"
        or ord(character) in _SKIN_TONES
    )
