import json
import re

import pytest
import yaml

from sot_nlp.errors import UserError
from sot_nlp.settings.yaml_file import read_yaml_mapping, scalar


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-5", 2e-5),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("-1.", -1.0),
        ("10", 10),
        ("+3", 3),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("yes", "yes"),
        ("no", "no"),
        ("'10'", "10"),
        ('"true"', "true"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        (".inf", ".inf"),
        ("2021-01-01", "2021-01-01"),
        ("1.2.3", "1.2.3"),
        ("9" * 31, "9" * 31),
    ],
)
def test_a_scalar_is_what_a_person_would_read(text, value):
    parsed = scalar(yaml.compose(text, Loader=yaml.SafeLoader))
    assert parsed == value
    assert type(parsed) is type(value)


def read(tmp_path, text):
    path = tmp_path / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return read_yaml_mapping(path)


def test_getters_give_the_values(tmp_path):
    top = read(tmp_path, "a: no\nb: [1, x]\nc: true\nd: 3\ne: {lr: 2e-5, on: 'true'}\nf:\n")
    assert top.text("a") == "no"
    assert top.texts("b") == ("1", "x")
    assert top.texts("a") == ("no",)
    assert top.flag("c") is True
    assert top.integer("d") == 3
    assert top.scalars("e") == {"lr": 2e-5, "on": "true"}
    assert top.text("f") is None
    assert top.text("absent") is None
    assert top.mapping("absent") is None
    assert top.scalars("absent") == {}
    top.finish()


def test_mistakes_come_together_in_the_order_of_their_lines(tmp_path):
    top = read(tmp_path, "e:\n  deep: {x: 1}\n  other: [2]\nd: 2.5\nzz: 1\na: {b: c}\n")
    top.text("a")
    top.integer("d")
    top.scalars("e")
    top.text("must", required=True)
    with pytest.raises(UserError) as caught:
        top.finish()
    lines = re.sub(r"(?m)^.*settings.yaml", "settings.yaml", str(caught.value)).splitlines()
    assert lines == [
        "settings.yaml:1: the key 'must' is missing",
        "settings.yaml:2: e.deep: must be a single value",
        "settings.yaml:3: e.other: must be a single value",
        "settings.yaml:4: d: '2.5' is not a whole number of at least 0",
        "settings.yaml:5: unknown key 'zz'; known: a, d, e, must",
        "settings.yaml:6: a: must be a non-empty text",
    ]


def test_control_characters_of_a_file_do_not_reach_the_terminal(tmp_path):
    top = read(tmp_path, '"a\\eb": 1\nkind: "x\\e[2J"\n')
    top.text("kind", choices=("one", "two"))
    with pytest.raises(UserError) as caught:
        top.finish()
    assert "\x1b" not in str(caught.value)
    assert "x1b" in str(caught.value)


def test_what_json_escapes_is_one_character(tmp_path):
    words = {"labels": ["\U0001f600", "b\u00e4\u2028"], "\U0001f600 \U0001f601": "a \U0001f680\U0001f680"}
    top = read(tmp_path, json.dumps(words))
    assert r"\ud83d\ude00" in (tmp_path / "settings.yaml").read_text()
    assert top.texts("labels") == tuple(words["labels"])
    assert top.text("\U0001f600 \U0001f601") == words["\U0001f600 \U0001f601"]
    assert list(top.values) == list(words)


@pytest.mark.parametrize(
    ("text", "line", "half"),
    [
        (r'a: ["\ud83d\ude00", "\ud83d"]', 1, "ud83d"),
        ('a: b\nc:\n  - x\n  - "\\ud83d\\ude00 \\ude01"', 4, "ude01"),
        ('a: b\n"\\ude00\\ud83d": c', 2, "ude00"),
        ('a: b\nc: "\\ud83d \\ude00"', 2, "ud83d"),
    ],
)
def test_half_of_a_character_is_refused(tmp_path, text, line, half):
    message = (
        rf"settings\.yaml:{line}: is not valid YAML: \\{half} is half of a surrogate pair; expected whole"
    )
    with pytest.raises(UserError, match=message):
        read(tmp_path, text)


@pytest.mark.parametrize("digits", ["00110000", "ffffffff"])
def test_an_escape_beyond_all_characters_is_refused(tmp_path, digits):
    with pytest.raises(UserError, match=r"is not valid YAML: an escape .* is beyond all characters"):
        read(tmp_path, f'a: "\\U{digits}"')
