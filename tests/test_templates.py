"""Templates: what is escaped, what is refused, what is included."""

import sys

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from sot_nlp.templates import render


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A package of templates."""
    folder = tmp_path_factory.mktemp("rooms")
    package = folder / "some_room"
    package.mkdir()
    for name, text in {
        "__init__.py": "",
        "page.html": "<style>{% include 'page.css' %}</style><i title='{{ text }}'>{{ text }}</i>\n",
        "page.css": "a > b { color: red }\n",
        "card.md": "{% for word in words %}\n- {{ word | loud }}\n{% endfor %}\n",
    }.items():
        (package / name).write_text(text, encoding="utf-8")
    sys.path.insert(0, str(folder))
    yield "some_room"
    sys.path.remove(str(folder))
    sys.modules.pop("some_room", None)


def test_a_page_escapes_what_it_prints_but_not_its_style_nor_what_is_markup(room):
    made = render(room, "page.html", {"text": "<b>'\"&"})
    text = "&lt;b&gt;&#39;&#34;&amp;"
    assert made == f"<style>a > b {{ color: red }}\n</style><i title='{text}'>{text}</i>\n"
    assert "<i title='<b>'><b></i>" in render(room, "page.html", {"text": Markup("<b>")})


def test_a_card_prints_text_as_it_is_through_the_filters_given(room):
    assert render(room, "card.md", {"words": ["a<", "b"]}, {"loud": str.upper}) == "- A<\n- B\n"
    assert render(room, "card.md", {"words": ["a<"]}, {"loud": str.title}) == "- A<\n"


def test_a_name_that_was_not_given_is_an_error(room):
    with pytest.raises(UndefinedError, match="text"):
        render(room, "page.html", {})
