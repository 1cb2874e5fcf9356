import math

import numpy as np
import pytest

from sot_nlp.data.label_survey import LabelSurvey
from sot_nlp.data.label_values import LabelEncoder, read_label
from sot_nlp.data.tables import Table
from sot_nlp.errors import UserError


@pytest.mark.parametrize(
    ("value", "typed", "expected"),
    [
        ("3", False, ("integer", "3")),
        ("-3", False, ("integer", "-3")),
        ("03", False, ("text", "03")),
        (" 0.5 ", False, ("decimal", 0.5)),
        ("1e-3", False, ("decimal", 0.001)),
        ("nan", False, ("text", "nan")),
        ("", False, ("null", None)),
        ('["a", "b"]', False, ("list", ("a", "b"))),
        ("[a]", False, ("text", "[a]")),
        ("3", True, ("text", "3")),
        (" ", True, ("null", None)),
        (3, True, ("integer", "3")),
        (True, True, ("text", "true")),
        (3.0, True, ("decimal", 3.0)),
        (float("nan"), True, ("null", None)),
        (["a", 2], True, ("list", ("a", "2"))),
        ([], True, ("list", ())),
        ([0.5], True, ("other", None)),
        ({"a": 1}, True, ("other", None)),
    ],
)
def test_label_is_what_it_looks_like_or_what_its_format_says(value, typed, expected):
    assert read_label(value, typed) == expected


@pytest.mark.parametrize(
    ("values", "words", "expected"),
    [
        (["no", "yes", "no"], {}, ("classification", ("no", "yes"))),
        (["10", "9", "-1"], {}, ("classification", ("-1", "9", "10"))),
        (["1", "0"], {"0": "bad", "1": "good"}, ("classification", ("bad", "good"))),
        (["1", "0.5"], {}, ("regression", None)),
        (['["b"]', "[]", '["a", "b"]'], {}, ("multi_label", ("a", "b"))),
        (['["1"]', '["2"]'], {"1": "x"}, ("multi_label", ("2", "x"))),
    ],
)
def test_labels_tell_what_kind_of_task_they_make(values, words, expected):
    table = Table("t", [])
    table.typed = False
    survey = LabelSurvey(table, words)
    survey.add(values, range(2, 2 + len(values)))
    assert survey.finish() == expected


def test_names_of_the_source_keep_their_order():
    survey = LabelSurvey(Table("t", []), {})
    survey.add(["b", "a"], [1, 2])
    assert survey.finish(("b", "a", "unused")) == ("classification", ("b", "a", "unused"))


def encode(encoder: LabelEncoder, values: list, typed: bool = True) -> np.ndarray:
    return encoder.encode(values, list(range(len(values))), lambda line: f"f, line {line}", typed)


def test_classes_are_numbered_in_the_order_of_their_names_and_words():
    encoder = LabelEncoder("classification", ("no", "yes"), {"0": "no", "1": "yes"})
    for values, typed in ((["1", " no", "yes"], False), ([1, "no", 1.0], True)):
        encoded = encode(encoder, values, typed)
        assert encoded.tolist() == [1, 0, 1]
        assert encoded.dtype == np.int64


def test_scores_and_several_labels_are_floats():
    scores = encode(LabelEncoder("regression", None, {}, (0, 5)), ["5", "0.25"], typed=False)
    assert (scores.tolist(), scores.dtype) == ([5, 0.25], np.float32)
    several = encode(LabelEncoder("multi_label", ("a", "b", "c"), {"x": "c"}), [["c", "a"], [], ["x"]])
    assert several.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    assert several.dtype == np.float32
    # Two words for one label may hold together; one word twice is a slip.
    merged = LabelEncoder("multi_label", ("animal", "rock"), {"cat": "animal", "dog": "animal"})
    assert encode(merged, [["cat", "dog"], ["rock", "dog"]]).tolist() == [[1, 0], [1, 1]]
    with pytest.raises(UserError, match="label 'cat' occurs twice in the list"):
        encode(merged, [["cat", "cat"]])


def test_unknown_label_names_line_and_what_would_be_right():
    encoder = LabelEncoder("classification", ("no", "yes"), {"1": "yes"})
    with pytest.raises(UserError, match=r"f, line 1: label 'maybe' is not one of no, yes \(written 1\)"):
        encode(encoder, ["1", "maybe"], typed=False)


@pytest.mark.parametrize(
    ("kind", "score_range", "value", "expected"),
    [
        ("classification", None, -1, True),
        ("classification", None, " ", True),
        ("classification", None, None, True),
        ("classification", None, math.nan, True),
        ("regression", None, math.nan, True),
        ("classification", None, 0, False),
        ("regression", (0, 5), -1.0, True),
        ("regression", None, -1.0, False),
    ],
)
def test_missing_labels_of_test_data(kind, score_range, value, expected):
    encoder = LabelEncoder(kind, None, {}, score_range)
    assert encoder.is_missing(value) is expected
