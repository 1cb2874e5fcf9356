"""Read lists that JSON, Python, numpy and pandas wrote into a text."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

_ITEM = re.compile(
    r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+]?[0-9]+(?:\.[0-9]*)?|True|False)(\s*,\s*|\s+|$)""", re.DOTALL
)
# How Python writes what is no plain list: array([...], dtype=object), Index([...]), frozenset({...}).
_WRAPPED = re.compile(r"[A-Za-z][\w.]*\(([\[({].*?[\])}])(?:,\s*\w+=[^()]*)?\)", re.DOTALL)
_NUMPY_SCALAR = re.compile(r"np\.\w+\(([^()]*)\)")
_BRACKETS = {"[": "]", "(": ")", "{": "}"}


def read_list_text(text: str) -> list[Any] | None:
    """Return the texts and numbers of a list that `text` writes; None where it writes none.

    Read are `["a", "b"]`, `['a', 'b']`, `['a' 'b']` (numpy), `[0 1 0]`, `[0. 1.]`, `array([0, 1])`,
    `Index(['a'])`, `[np.str_('a')]`, `('a', 'b')`, `{'a', 'b'}`, `[]`, `()` and `set()`.
    """
    if not text.endswith((*_BRACKETS.values(),)) or ("(" not in text and not text.startswith((*_BRACKETS,))):
        return None
    try:
        value = json.loads(text)
        return value if isinstance(value, list) else None
    except (ValueError, RecursionError):
        pass
    if text == "()" or re.fullmatch(r"[a-z]*set\(\)", text):
        return []
    if wrapped := _WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
    text = _NUMPY_SCALAR.sub(r"\1", text)
    if len(text) < 2 or _BRACKETS.get(text[0]) != text[-1]:
        return None
    if text[0] != "[" and "," not in text and not re.search("['\"]", text):
        return None  # a name in brackets, such as (1)
    return _items(text[1:-1].strip())


def _items(text: str) -> list[Any] | None:
    items: list[Any] = []
    position = 0
    while position < len(text):
        item = _ITEM.match(text, position)
        if item is None:
            return None
        token = item[1]
        if token[0] in "'\"":
            try:
                items.append(ast.literal_eval(token))
            except (ValueError, SyntaxError):
                return None
        elif token in ("True", "False"):
            items.append(int(token == "True"))
        else:
            items.append(float(token) if "." in token else int(token))
        position = item.end()
    return items


def looks_like_list(text: str) -> bool:
    """Return whether an unreadable text was meant as a list or an object, like `[news, sport]`."""
    if text.startswith("{") and text.endswith("}"):
        return ":" in text
    return text.startswith("[") and text.endswith("]") and re.search(r"[,\s]", text.strip("[] ")) is not None
