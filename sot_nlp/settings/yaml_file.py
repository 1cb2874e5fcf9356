"""Read a YAML file against a schema, reporting all mistakes at once, each by file, line and key.

PyYAML's nodes are read rather than its Python values: they know their line, and a label written
`no` or `1` stays the text that the user wrote instead of becoming `False` or an integer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml

from sot_nlp.errors import UserError, did_you_mean, printable

Scalar = str | int | float | bool | None
_T = TypeVar("_T")
_NUMBER = re.compile(r"[-+]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][-+]?\d{1,3})?")
_LARGEST = 1 << 20  # bytes; a settings file is small, and parsing is slow
_WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}


class YamlMapping:
    """One mapping of a YAML file; each getter checks its key's value and notes what is wrong with it.

    A getter returns None where the key is absent or wrong; `finish` on the outermost mapping reports
    every mistake, keys that no getter asked for among them.
    """

    def __init__(self, node: yaml.MappingNode, file: str, key: str = "", problems: list | None = None):
        self.node, self.file, self.key = node, file, key
        self.problems: list[tuple[int, str]] = [] if problems is None else problems
        self.asked: dict[str, None] = {}
        self.children: list[YamlMapping] = []
        self.values: dict[str, yaml.Node] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem("a key must be one word", key_node)
            elif key_node.value in self.values:
                self.problem(f"the key {printable(key_node.value)!r} occurs twice", key_node)
            else:
                self.values[key_node.value] = value_node
        self._key_nodes = {k.value: k for k, _ in reversed(node.value) if isinstance(k, yaml.ScalarNode)}

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def problem(self, message: str, node: yaml.Node | None = None, key: str = "") -> None:
        """Note a mistake at `node`, else at `key`'s value, else at this mapping."""
        place = node if node is not None else self.values.get(key, self.node)
        name = ".".join(part for part in (self.key, key) if part)
        self.problems.append(
            (place.start_mark.line + 1, f"{printable(name)}: {message}" if name else message)
        )

    def finish(self) -> None:
        """Raise UserError naming every mistake of the file, in the order of its lines, if there is one."""
        self._note_unknown_keys()
        if self.problems:
            lines = [f"{self.file}:{line}: {message}" for line, message in sorted(self.problems)]
            raise UserError("\n".join(lines))

    def _note_unknown_keys(self) -> None:
        for key in self.values:
            if key not in self.asked:
                self.problem(
                    f"unknown key {printable(key)!r}; {did_you_mean(key, self.asked)}", self._key_nodes[key]
                )
        for child in self.children:
            child._note_unknown_keys()

    def text(self, key: str, *, required: bool = False, choices: Iterable[str] = ()) -> str | None:
        """Return the key's value as the text in the file, whatever type YAML would make of it."""
        node = self._get(key, required)
        text = None if node is None else self._scalar_text(node, key)
        if text is not None and choices and text not in choices:
            self.problem(f"{printable(text)!r} is not known; {did_you_mean(text, choices)}", key=key)
            return None
        return text

    def texts(
        self,
        key: str,
        *,
        required: bool = False,
        choices: Iterable[str] = (),
        hint: Callable[[str], str] = lambda text: "",
    ) -> tuple[str, ...] | None:
        """Return the key's list of texts, none of them twice; a single text counts as a list of one.

        `hint` gives the end of the message about a text that is not among `choices`.
        """
        node = self._get(key, required)
        if node is None:
            return None
        items = node.value if isinstance(node, yaml.SequenceNode) else [node]
        texts: list[str] = []
        problems = len(self.problems)
        for item in items:
            text = self._scalar_text(item, key)
            if text is None:
                continue
            if choices and text not in choices:
                message = f"{printable(text)!r} is not known; {did_you_mean(text, choices)}{hint(text)}"
                self.problem(message, item, key)
            elif text in texts:
                self.problem(f"{printable(text)!r} occurs twice", item, key)
            else:
                texts.append(text)
        return tuple(texts) if len(self.problems) == problems else None

    def flag(self, key: str) -> bool | None:
        """Return the key's value, `true` or `false`."""
        return self._typed(key, bool, "true or false")

    def integer(self, key: str, *, least: int = 0) -> int | None:
        """Return the key's value, a whole number of at least `least`."""
        value = self._typed(key, int, f"a whole number of at least {least}")
        if value is not None and value < least:
            self.problem(f"{value} is too small: a whole number of at least {least}", key=key)
            return None
        return value

    def scalars(self, key: str, nested: Container[str] = ()) -> dict[str, Any]:
        """Return the key's mapping of names to single values (texts, numbers, true, false, null).

        Those of the names in `nested` may be lists or mappings, of texts as the file has them.
        """
        child = self.mapping(key)
        if child is None:
            return {}
        values: dict[str, Any] = {}
        for name, node in child.values.items():
            child.asked[name] = None
            if isinstance(node, yaml.ScalarNode):
                values[name] = scalar(node)
            elif name in nested:
                values[name] = child.written(name)
            else:
                child.problem("must be a single value", node, name)
        return values

    def mapping(self, key: str) -> YamlMapping | None:
        """Return the key's value as a mapping whose own mistakes are reported with this one's."""
        node = self._get(key, required=False)
        if node is None:
            return None
        if not isinstance(node, yaml.MappingNode):
            self.problem("must be a mapping (`name: value` lines, indented)", key=key)
            return None
        name = ".".join(part for part in (self.key, key) if part)
        child = YamlMapping(node, self.file, name, self.problems)
        self.children.append(child)
        return child

    def written(self, key: str) -> Any:
        """Return the key's value with every scalar as the text in the file; None where it is `null`."""
        self.asked[key] = None
        node = self.values[key]
        if isinstance(node, yaml.ScalarNode):
            return None if _is_null(node) else node.value
        child = self.mapping(key) if isinstance(node, yaml.MappingNode) else None
        if child is not None:
            child.asked = dict.fromkeys(child.values)
            items: list[yaml.Node] = list(child.values.values())
        else:
            items = list(node.value)
        if not all(isinstance(item, yaml.ScalarNode) for item in items):
            self.problem("must hold single values", key=key)
            return None
        texts = [item.value for item in items]
        return texts if child is None else dict(zip(child.values, texts, strict=True))

    def is_text(self, key: str) -> bool:
        """Return whether the key's value is a single word or number rather than a list or a mapping."""
        return isinstance(self.values.get(key), yaml.ScalarNode)

    def _get(self, key: str, required: bool) -> yaml.Node | None:
        self.asked[key] = None
        node = self.values.get(key)
        if node is None and required:
            self.problem(f"the key {key!r} is missing")
        empty = node is not None and _is_null(node)
        if empty and required:
            self.problem("has no value", key=key)
        return None if empty else node

    def _scalar_text(self, node: yaml.Node, key: str) -> str | None:
        if not isinstance(node, yaml.ScalarNode) or not node.value.strip():
            self.problem("must be a non-empty text", node, key)
            return None
        return node.value

    def _typed(self, key: str, kind: type[_T], expected: str) -> _T | None:
        node = self._get(key, required=False)
        if node is None:
            return None
        value = scalar(node) if isinstance(node, yaml.ScalarNode) else node.value
        if type(value) is not kind:
            shown = printable(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
            self.problem(f"{shown!r} is not {expected}", key=key)
            return None
        return value


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and not node.style and node.value in ("", "~", "null")


def scalar(node: yaml.ScalarNode) -> Scalar:
    """Return a scalar's value: quoted text stays text; `2e-5` is a number, though text in YAML 1.1."""
    text = node.value
    if node.style is not None:
        return text
    if text.lower() in _WORDS:
        return _WORDS[text.lower()]
    if _NUMBER.fullmatch(text):
        return float(text) if any(c in text for c in ".eE") else int(text)
    return text


class _Loader(yaml.SafeLoader):
    """YAML in which the two escapes that JSON writes for an emoji, `"\\ud83d\\ude00"`, are one character."""

    def compose_scalar_node(self, anchor: dict[Any, yaml.Node]) -> yaml.ScalarNode:
        """Return the scalar. Raises a YAML error for half of a character."""
        node = super().compose_scalar_node(anchor)
        try:
            node.value = node.value.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
        except UnicodeDecodeError as error:
            half = error.object[error.start : error.start + 2].decode("utf-16-le", "surrogatepass")
            problem = f"{printable(half)} is half of a surrogate pair; expected whole characters"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        return node


def read_yaml_mapping(path: Path, *, may_be_empty: bool = False) -> YamlMapping:
    """Return the mapping that the YAML file at `path` holds; UserError where it can't be read or is none."""
    shown = printable(path)
    if not path.is_file():
        state = "is a folder" if path.is_dir() else "is not a file" if path.exists() else "no such file"
        raise UserError(f"{shown}: {state}; expected a YAML file")
    if path.stat().st_size > _LARGEST:
        raise UserError(f"{shown}: has more than {_LARGEST:,} bytes, too many for a YAML file of settings")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{shown}: cannot be read ({error.strerror})") from None
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{shown}:{line}: is not UTF-8 text (byte 0x{content[error.start]:02x})") from None
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{shown}:{mark.line + 1}" if mark else shown
        raise UserError(f"{where}: is not valid YAML: {printable(error.problem or error.context)}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{shown}: is not valid YAML: {printable(error)}") from None
    except (ValueError, OverflowError):  # of PyYAML's chr
        raise UserError(f"{shown}: is not valid YAML: an escape \\U... is beyond all characters") from None
    except RecursionError:
        raise UserError(f"{shown}: is nested too deeply") from None
    if node is None and may_be_empty:
        node = yaml.MappingNode("tag:yaml.org,2002:map", [])
    if node is None:
        raise UserError(f"{shown}: is empty")
    if not isinstance(node, yaml.MappingNode):
        raise UserError(f"{shown}:{node.start_mark.line + 1}: must hold `key: value` lines")
    return YamlMapping(node, shown)
