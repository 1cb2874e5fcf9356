"""Tokens -> words: what the text holds together, and what a tokenizer cuts or glues."""

from __future__ import annotations

import pytest

from sot_nlp.explanation.words import words_of
from tests.support import tiny


def split(text: str) -> list[str]:
    """The words of a text when each character is a token."""
    offsets = [(i, i + 1) for i in range(len(text))]
    return [word.text for word in words_of([text], offsets, [0] * len(text))]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the zorps run.", ["the", "zorps", "run", "."]),
        ("it isn\u2019t well-known", ["it", "isn\u2019t", "well-known"]),
        ("'quoted' a--b x-", ["'", "quoted", "'", "a", "-", "-", "b", "x", "-"]),
        ("3.14, 1,000 e.g.", ["3.14", ",", "1,000", "e", ".", "g", "."]),
        ("snake_case caf\u00e9 cafe\u0301", ["snake_case", "caf\u00e9", "cafe\u0301"]),
        # Emoji of several characters: a family, a flag, a skin tone, a variation selector.
        (
            "\U0001f469\u200d\U0001f52c\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
            ["\U0001f469\u200d\U0001f52c", "\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"],
        ),
        ("\U0001f44d\U0001f3fd\u2764\ufe0f!", ["\U0001f44d\U0001f3fd", "\u2764\ufe0f", "!"]),
        ("\u2764\ufe0fyou (1)", ["\u2764\ufe0f", "you", "(", "1", ")"]),
        # Hebrew, Persian with its joiner, Hindi with its vowel signs.
        ("\u05e9\u05dc\u05d5\u05dd, \u05e2\u05dc", ["\u05e9\u05dc\u05d5\u05dd", ",", "\u05e2\u05dc"]),
        ("\u0645\u06cc\u200c\u062e\u0648\u0627", ["\u0645\u06cc\u200c\u062e\u0648\u0627"]),
        ("\u0939\u093f\u0928\u094d \u092e\u0947\u0902", ["\u0939\u093f\u0928\u094d", "\u092e\u0947\u0902"]),
        # Scripts without spaces: the tokens decide, here one a character.
        ("\u4e2d\u6587 ab\u5b57", ["\u4e2d", "\u6587", "ab", "\u5b57"]),
        ("", []),
    ],
)
def test_what_is_a_word(text, words):
    assert split(text) == words


def test_tokens_that_reach_over_words_join_them():
    # "New York" as one token, "!!" as one, and a script without spaces in tokens of two characters.
    text = "New York!! \u4e2d\u6587\u5b57\u7b26"
    offsets = [(0, 8), (8, 10), (11, 13), (13, 15)]
    words = words_of([text], offsets, [0] * 4)
    assert [word.text for word in words] == ["New York", "!!", "\u4e2d\u6587", "\u5b57\u7b26"]
    assert [word.tokens for word in words] == [(0,), (1,), (2,), (3,)]


def test_bytes_of_one_character_are_one_word():
    words = words_of(["\u4e2d a"], [(0, 1), (0, 1), (0, 1), (1, 3)], [0] * 4)
    assert [(word.text, word.tokens) for word in words] == [("\u4e2d", (0, 1, 2)), ("a", (3,))]


def test_white_space_tokens_go_with_the_next_word():
    words = words_of(["a  b "], [(0, 1), (1, 2), (2, 2), (3, 4), (4, 5)], [0] * 5)
    assert [(word.text, word.tokens) for word in words] == [("a", (0,)), ("b", (1, 2, 3, 4))]
    (only,) = words_of([" \n "], [(0, 1), (1, 3)], [0, 0])
    assert (only.text, only.start, only.end, only.tokens) == (" \n ", 0, 3, (0, 1))


def test_a_pair_and_its_special_tokens():
    parts = [None, 0, 0, None, 1, None]
    offsets = [(0, 0), (0, 2), (2, 4), (0, 0), (0, 3), (0, 0)]
    words = words_of(["zorp", "wug"], offsets, parts)
    assert [(word.text, word.part, word.tokens) for word in words] == [("zorp", 0, (1, 2)), ("wug", 1, (4,))]


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_real_tokenizers_lose_no_token(family):
    tokenizer = tiny.tokenizer(family)
    text = "the zorps isn't \U0001f469\u200d\U0001f52c \u05e9\u05dc \u4e2d\u6587,  <b>\x1b[31m wendlexyz"
    encoded = tokenizer(text, return_offsets_mapping=True)
    parts = encoded.sequence_ids(0)
    words = words_of([text], encoded["offset_mapping"], parts)
    owned = [token for word in words for token in word.tokens]
    assert owned == [t for t, part in enumerate(parts) if part is not None]
    assert [word.text for word in words][:3] == ["the", "zorps", "isn't"]
    assert words[-1].text == "wendlexyz"
    assert len(words[-1].tokens) > 1
    assert all(word.text == text[word.start : word.end] for word in words)
