"""The PNG: a picture of the right size, the order of right-to-left words, and what it says it cannot show."""

from __future__ import annotations

import io

import matplotlib.image
import numpy as np
import pytest

from sot_nlp.explanation import picture as explanation_png
from sot_nlp.explanation.picture import direction_of, png, visual_order
from sot_nlp.explanation.view import View
from tests.support.fake_explanation import explanation

ALEF, BET, GIMEL = "\u05d0\u05d0", "\u05d1\u05d1", "\u05d2\u05d2"


def order(texts: list[str], base: str) -> list[str]:
    return [texts[i] for i, _ in visual_order(texts, base)]


@pytest.mark.parametrize(
    ("texts", "base", "shown"),
    [
        (["a", " ", "b", "."], "L", ["a", " ", "b", "."]),
        ([ALEF, " ", BET, "."], "R", [".", BET, " ", ALEF]),
        # A run of the other direction is turned around within the line.
        (["a", " ", ALEF, " ", BET, " ", "b"], "L", ["a", " ", BET, " ", ALEF, " ", "b"]),
        ([ALEF, " ", "a", " ", "b", " ", BET], "R", [BET, " ", "a", " ", "b", " ", ALEF]),
        # A number goes with what stands before it.
        (["a", " ", ALEF, " ", "3", " ", "b"], "L", ["a", " ", "3", " ", ALEF, " ", "b"]),
        ([ALEF, " ", "a", " ", "2", " ", BET], "R", [BET, " ", "a", " ", "2", " ", ALEF]),
        # A pair of brackets goes with what it holds; so does a number within.
        (["a", ALEF, "(", "3", "b", ")"], "L", ["a", ALEF, "(", "3", "b", ")"]),
        (["a", "(", ALEF, ")", "b"], "L", ["a", "(", ALEF, ")", "b"]),
        ([GIMEL, "(", "a", ")", "."], "R", [".", ")", "a", "(", GIMEL]),
    ],
)
def test_the_order_of_a_line(texts, base, shown):
    assert order(texts, base) == shown


def test_directions():
    assert [direction_of(t) for t in ("abc", "1 .", "1 " + ALEF, "\u0645")] == ["L", "", "R", "R"]


def picture(*views: View) -> tuple[np.ndarray, list[str]]:
    content, notes = png([views])
    assert content.startswith(b"\x89PNG")
    return (matplotlib.image.imread(io.BytesIO(content)) * 255).round().astype(int)[..., :3], notes


def test_it_shows_blue_for_and_orange_against():
    pixels, notes = picture(View(name="m", explanation=explanation()))
    assert notes == []
    assert pixels.shape[1] == 1520
    red, blue = pixels[..., 0], pixels[..., 2]
    assert (blue - red > 60).sum() > 1000
    assert (red - blue > 60).sum() > 500
    flat, _ = picture(View(name="m", explanation=explanation(values=(0.0, 0.0, 0.0))))
    assert (abs(flat[..., 0] - flat[..., 2]) > 20).sum() == 0


def test_it_grows_with_the_text():
    short, _ = picture(View(name="m", explanation=explanation()))
    long, _ = picture(View(name="m", explanation=explanation("wug dax " * 30)))
    two, _ = picture(View(name="m", explanation=explanation()), View(name="n", explanation=explanation()))
    assert long.shape[0] > short.shape[0]
    assert two.shape[0] > 1.6 * short.shape[0]


def test_odd_texts_are_drawn_and_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(explanation_png, "_fonts", lambda: ["DejaVu Sans"])
    mathlike = explanation("$\\frac{1 _x^ <b> \\alpha$ \x1b[31m")
    assert picture(View(name="$m^2", explanation=mathlike))[1] == []
    _, notes = picture(View(name="m", explanation=explanation("\u4e2d \U0001f469 wug")))
    assert notes == [
        "this machine's fonts lack \u4e2d \U0001f469; install some (Noto has them), or use --html"
    ]
    picture(View(name="m", explanation=explanation("", ())))


def test_older_matplotlib_says_that_it_mirrors(monkeypatch):
    hebrew = View(name="m", explanation=explanation(f"{ALEF} {BET}"))
    monkeypatch.setattr(matplotlib, "__version__", "3.10.8")
    assert any("mirrors right-to-left" in note for note in picture(hebrew)[1])
    monkeypatch.setattr(matplotlib, "__version__", "3.11.0")
    assert picture(hebrew)[1] == []
