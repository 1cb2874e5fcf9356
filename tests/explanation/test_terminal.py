"""The terminal: colours where there are enough of them, numbers elsewhere, and no escape of a text's own."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from sot_nlp.explanation.terminal import show
from sot_nlp.explanation.view import View
from tests.support.fake_explanation import explanation


def printed(*views: View, color_system: str | None = None, width: int = 70) -> str:
    stream = io.StringIO()
    terminal = color_system is not None
    show([views], Console(file=stream, force_terminal=terminal, color_system=color_system, width=width))
    return stream.getvalue()


def test_without_colour_each_word_has_its_number():
    text = printed(View(name="m", explanation=explanation(), truth=0))
    assert text.splitlines() == [
        "m  good 96%  wrong: it is bad  (the head's own sum over tokens, toward good)",
        "  Good(+1.00) dog(\u22120.50) !(0.00)",
        "  words +0.50  classification token +2.00  [SEP] +0.25  bias +0.50  = +3.25",
    ]


def test_a_piped_text_is_one_line():
    text = printed(View(name="m", explanation=explanation("wug " * 100)))
    assert len(text.splitlines()[1]) > 800


def test_colours_and_a_line_under_what_speaks_against():
    text = printed(View(name="m", explanation=explanation()), color_system="truecolor")
    assert "\x1b[38;2;0;0;0;48;2;90;170;230mGood\x1b[0m" in text
    assert "\x1b[4;38;2;0;0;0;48;2;248;202;168mdog\x1b[0m" in text
    assert "(+1.00)" not in text


def test_sixteen_colours_are_too_few_for_shades():
    assert "Good(+1.00)" in printed(View(name="m", explanation=explanation()), color_system="standard")


@pytest.mark.parametrize("color_system", [None, "truecolor"])
def test_escapes_and_markup_of_a_text_are_shown(color_system):
    text = "\x1b]0;pwned\x07 [bold]red[/bold] \u202eevil [link=x]"
    labels = ("bad", "\x1b[31mgood")
    shown = printed(
        View(name="\x1bm", explanation=explanation(text, labels=labels)), color_system=color_system
    )
    assert "\x07" not in shown
    assert "\u202e" not in shown
    assert "\x1b]" not in shown
    assert "\x1b[31mgood" not in shown
    assert "\\x1b]0;pwned\\x07" in shown
    for piece in ("[bold]red[/bold]", "\\u202eevil", "\\x1bm", "\\x1b[31mgood"):
        assert piece in shown


def test_notes_and_pairs_stand_below():
    pairs = np.zeros((5, 5, 2), dtype=np.float32)
    pairs[1, 2, 1] = 0.25
    text = printed(View(name="m", explanation=explanation(method="pairs", pairs=pairs, lost=4)))
    assert "  +0.25  Good \u00d7 dog" in text
    assert "  note: 4 tokens were cut off" in text
