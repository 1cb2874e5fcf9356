"""Explanations as HTML: no script, nothing loaded, light and dark, any width, any writing system.

The templates are in this folder: `page.html` for a page, `card.html` for a piece of one, `article.html`
for one model's view of one text.
"""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.explanation.view import View, shown
from sot_nlp.templates import render

# Words in a text beyond which a matrix of pairs is unreadable, and only the strongest pairs are listed.
MATRIX_WORDS = 40


def page(groups: Sequence[Sequence[View]], title: str = "What drives the decision") -> str:
    """Return a self-contained page: a block per text, with a part per model's view of it."""
    return _render("page.html", title=title, groups=groups)


def card(views: Sequence[View]) -> str:
    """Return a piece of HTML with its own style, for a notebook or within another page."""
    return _render("card.html", views=views)


def _render(template: str, **values: object) -> str:
    constants = {"matrix_words": MATRIX_WORDS, "zip": zip}
    return render("sot_nlp.explanation", template, {**constants, **values}, {"shown": shown})
