"""The page: what it says, that no text can become markup, and how it looks to a parser."""

from __future__ import annotations

import html.parser
import re
from pathlib import Path

import numpy as np
import pytest

from sot_nlp.explanation import page as explanation_html
from sot_nlp.explanation.attribution import Explanations
from sot_nlp.explanation.view import View
from tests.support.fake_explanation import explanation

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> \" ' & \x1b[31m \u202eabc </p></style>"


class Parsed(html.parser.HTMLParser):
    """Elements as (tag, attributes, own text), void ones included."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.open: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        self.elements.append(element)
        if tag not in ("meta", "br"):
            self.open.append(element)

    def handle_endtag(self, tag):
        while self.open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        for element in self.open:
            element[2].append(data)

    def of_class(self, name: str) -> list[tuple[dict[str, str | None], str]]:
        return [
            (attributes, "".join(text))
            for _, attributes, text in self.elements
            if name in (attributes.get("class") or "").split()
        ]


def page(*views: View) -> Parsed:
    return Parsed(explanation_html.page([views]))


def test_words_carry_their_value_and_side():
    parsed = page(View(name="m", explanation=explanation()))
    words = [element for element in parsed.of_class("w") if "title" in element[0]]
    assert [text for _, text in words] == ["Good", "dog", "!"]
    assert [attributes["title"] for attributes, _ in words] == ["+1.00", "\u22120.50", "0.00"]
    assert [attributes["class"] for attributes, _ in words] == ["w pro", "w con", "w"]
    assert words[1][0]["style"] == "--s:0.50"
    assert parsed.of_class("text")[0][1] == "Good dog !"
    assert "classification token +2.00" in parsed.of_class("apart")[0][1]
    assert "= +3.25" in parsed.of_class("apart")[0][1]


def test_several_models_one_under_another_with_their_verdicts():
    views = [View(name=name, explanation=explanation(), truth=truth) for name, truth in (("a", 1), ("b", 0))]
    parsed = page(*views)
    assert len([element for element in parsed.elements if element[0] == "section"]) == 1
    assert len([element for element in parsed.elements if element[0] == "article"]) == 2
    assert parsed.of_class("right")[0][1] == "\u2713 right"
    assert parsed.of_class("wrong")[0][1] == "\u2717 wrong: it is bad"


def test_no_text_becomes_markup():
    text = explanation_html.page(
        [[View(name=HOSTILE, explanation=explanation(HOSTILE, labels=("bad", HOSTILE)))]], title=HOSTILE
    )
    parsed = Parsed(text)
    tags = {tag for tag, _, _ in parsed.elements}
    assert not tags & {"script", "img", "link", "iframe", "object", "a"}
    assert not any(name.startswith("on") for _, attributes, _ in parsed.elements for name in attributes)
    assert text.count("<style>") == text.count("</style>") == 1
    assert "<script>alert(1)</script>" in parsed.of_class("text")[0][1]
    assert "\\x1b[31m" in parsed.of_class("text")[0][1]
    assert "\\u202eabc" in parsed.of_class("text")[0][1]
    assert not re.search("[\x00-\x08\x0b-\x1f\u202e]", text)
    policy = next(a["content"] for _, a, _ in parsed.elements if a.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_it_needs_nothing_else_and_knows_both_themes():
    text = explanation_html.page([[View(name="m", explanation=explanation())]])
    assert not re.search(r"https?:|url\(|@import|src=", text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text


def test_direction_is_the_texts_own():
    hebrew = "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd"
    parsed = page(View(name="m", explanation=explanation(hebrew)))
    assert parsed.of_class("text")[0][0]["dir"] == "auto"
    assert parsed.of_class("text")[0][1] == hebrew


def test_a_pair_is_two_paragraphs_and_what_was_cut_is_marked():
    explained = explanation("Good dog !", texts=("Good dog ! and more", "unseen"), lost=3)
    parsed = page(View(name="m", explanation=explained))
    assert [text for _, text in parsed.of_class("text")] == ["Good dog ! and more", "unseen"]
    assert [text for _, text in parsed.of_class("cut")] == [" and more", "unseen"]
    assert any("3 tokens were cut off" in text for _, text in parsed.of_class("note"))


@pytest.mark.parametrize("words", [3, 41])
def test_a_matrix_of_pairs_while_it_can_be_read(words):
    pairs = np.zeros((words + 2, words + 2, 2), dtype=np.float32)
    pairs[1, 2, 1] = 0.5
    explained = explanation(" ".join(["wug"] * words), method="pairs", pairs=pairs)
    parsed = page(View(name="m", explanation=explained))
    cells = parsed.of_class("pro-cell") + parsed.of_class("con-cell")
    assert len(cells) == (words * words if words <= explanation_html.MATRIX_WORDS else 0)
    text = "".join("".join(own) for _, _, own in parsed.elements)
    assert "+1.00" in text
    assert "wug \u00d7 wug" in text


def test_in_a_notebook_an_explanation_shows_itself_without_touching_the_page_around_it():
    explained = explanation(HOSTILE)
    text = explained._repr_html_()
    assert text == explanation_html.card([View(name="", explanation=explained)])
    parsed = Parsed(text)
    assert parsed.elements[0][0] == "div"
    assert not {tag for tag, _, _ in parsed.elements} & {"script", "img", "html", "body"}
    assert parsed.of_class("text")[0][1].startswith("<script>alert(1)</script>")
    style = re.sub(r"/\*.*?\*/", "", parsed.elements[1][2][0], flags=re.DOTALL)
    selectors = re.findall(r"^([^\s@}].*?) \{", style, re.MULTILINE)
    assert len(selectors) > 20
    assert all(selector.startswith((".sot-view", ".sot-card")) for selector in selectors)
    several = Explanations([explained, explanation("another dog")])
    assert [text for _, text in Parsed(several._repr_html_()).of_class("text")][1] == "another dog"


def contrast(first: tuple[float, ...], second: tuple[float, ...]) -> float:
    """WCAG's contrast of two colours."""

    def luminance(color: tuple[float, ...]) -> float:
        parts = [c / 255 for c in color]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(first), luminance(second)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("side", ["for", "against"])
def test_text_on_the_fullest_colour_can_be_read(theme, side):
    look = (Path(explanation_html.__file__).parent / "view.css").read_text(encoding="utf-8")
    light, dark = look.split("@media (prefers-color-scheme: dark)")
    style = light if theme == "light" else dark

    def color(name: str) -> tuple[int, ...]:
        if rgb := re.search(rf"--{name}: (\d+) (\d+) (\d+)", style):
            return tuple(int(part) for part in rgb.groups())
        value = re.search(rf"--{name}: #(\w+)", style)[1]
        value = value if len(value) == 6 else "".join(c * 2 for c in value)
        return tuple(int(value[i : i + 2], 16) for i in (0, 2, 4))

    mix = float(re.search(r"--mix: ([.\d]+)", style)[1])
    full = tuple(mix * a + (1 - mix) * b for a, b in zip(color(side), color("card"), strict=True))
    assert contrast(full, color("text")) >= 4.5
    assert contrast(color("card"), color("faint")) >= 4.5
    assert contrast(color("card"), color("good")) >= 4.5
    assert contrast(color("card"), color("bad")) >= 4.5
