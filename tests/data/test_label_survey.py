"""Columns of labels as users have them: what kind of task they make, or what to do."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sot_nlp.data.data_report import describe
from sot_nlp.data.infer_task import Trained, user_task
from sot_nlp.data.label_survey import LabelSurvey
from sot_nlp.data.label_values import LabelEncoder
from sot_nlp.data.list_text import read_list_text
from sot_nlp.data.tables import Table
from sot_nlp.data.task_data import load_data
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from tests.support import tiny

FORMATS = ("csv", "tsv", "json", "jsonl", "parquet")


def write(path: Path, labels: list[Any]) -> Path:
    """A file of the labels beside a text, as pandas writes it."""
    frame = pd.DataFrame({"text": [f"a zorp {'wug ' * i}" for i in range(len(labels))], "label": labels})
    ending = path.suffix[1:]
    if ending == "parquet":
        frame.to_parquet(path)
    elif ending in ("json", "jsonl"):
        frame.to_json(path, orient="records", lines=ending == "jsonl")
    else:
        frame.to_csv(path, sep="," if ending == "csv" else "\t", index=False)
    return path


def kind_and_labels(path: Path, **settings: Any) -> tuple[str, tuple[str, ...] | None]:
    spec = user_task(Arguments(train_file=str(path), **settings))
    return spec.kind, spec.labels


@pytest.mark.parametrize(
    ("text", "items"),
    [
        ("['news', 'sport']", ["news", "sport"]),
        ("['news' 'sport']", ["news", "sport"]),
        ("[\"it's\"\n 'b c']", ["it's", "b c"]),
        ("[0 1 0]", [0, 1, 0]),
        ("[0. 1.]", [0.0, 1.0]),
        ("[True, False]", [1, 0]),
        ("array([0, 2])", [0, 2]),
        ("array(['a'], dtype=object)", ["a"]),
        ("Index(['a', 'b'], dtype='object')", ["a", "b"]),
        ("frozenset({'a'})", ["a"]),
        ("frozenset()", []),
        ("Series(['a'])", ["a"]),
        ("[np.str_('a'), np.int64(3)]", ["a", 3]),
        ("('a', 'b')", ["a", "b"]),
        ("{'a'}", ["a"]),
        ("[]", []),
        ("set()", []),
        ("()", []),
        ("[news, sport]", None),
        ("[0 1 ... 0]", None),
        ("['a' + 'b']", None),
        ("(a)", None),
        ("news (art)", None),
        ("f(1)", None),
        ('{"a": 1}', None),
        ("good", None),
    ],
)
def test_lists_in_a_text(text, items):
    assert read_list_text(text) == items


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("name", [str, lambda labels: str(np.array(labels)), json.dumps])
def test_lists_written_into_a_cell_are_lists(tmp_path, ending, name):
    labels = [name(labels) for labels in (["news", "sport"], ["sport"], [], ["art"])]
    path = write(tmp_path / f"a.{ending}", labels)
    assert kind_and_labels(path) == ("multi_label", ("art", "news", "sport"))
    encoder = LabelEncoder("multi_label", ("art", "news", "sport"), {})
    rows = encoder.encode(labels, range(4), str, typed=ending not in ("csv", "tsv"))
    assert rows.tolist() == [[0, 1, 1], [0, 0, 1], [0, 0, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([f"{month:02}" for month in range(12, 0, -1)], tuple(f"{month:02}" for month in range(1, 13))),
        (["-1", "0", "+1", "0"], ("-1", "0", "+1")),
        (["4+", "10", "2", "1"], ("1", "2", "10", "4+")),
        (["0", "1", "0.0", "1.0"], ("0", "1")),
        (["0.0", "1.0", "1.0"], ("0", "1")),
        (["1.0", "2.0", "n/a"], ("1", "2", "n/a")),
        (["+1", "1", "-1"], ("-1", "1")),
        (["2B7", "1E5", "3D1"], ("1E5", "2B7", "3D1")),
        (["1.0e+00", "0.0e+00", "1"], ("0", "1")),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_numbers_in_any_spelling_and_texts_among_them_are_classes(tmp_path, labels, expected, ending):
    path = write(tmp_path / f"a.{ending}", labels)
    assert kind_and_labels(path) == ("classification", expected)
    assert kind_and_labels(path, problem_type="classification")[1] == expected


@pytest.mark.parametrize(
    ("ending", "labels", "expected"),
    [
        ("jsonl", [1, "4+", 2], ("classification", ("1", "2", "4+"))),
        ("json", [0.0, 1.0, 1.0], ("classification", ("0", "1"))),
        ("parquet", [0.0, 1.0, 1.0], ("classification", ("0", "1"))),
        ("parquet", [Decimal("1.00"), Decimal("2.00")], ("classification", ("1", "2"))),
        ("parquet", [Decimal("1"), Decimal("2")], ("classification", ("1", "2"))),
        ("parquet", [Decimal("1.50"), Decimal("2.00")], ("regression", None)),
        ("parquet", [np.float32(0.5), np.float32(2)], ("regression", None)),
        ("parquet", [b"yes", b"no"], ("classification", ("no", "yes"))),
        ("csv", [float(i) for i in range(30)], ("regression", None)),
        ("csv", list(range(30)), ("classification", tuple(map(str, range(30))))),
    ],
)
def test_numbers_of_typed_formats(tmp_path, ending, labels, expected):
    assert kind_and_labels(write(tmp_path / f"a.{ending}", labels)) == expected


@pytest.mark.parametrize("labels", [["0", "1", "1"], ["0.0", "1.0", "0.0"], [0.0, 1.0, 1.0], [0, 1, 1]])
@pytest.mark.parametrize("ending", FORMATS)
def test_mapping_names_a_number_in_any_spelling(tmp_path, labels, ending):
    path = write(tmp_path / f"a.{ending}", labels)
    for mapping in ({"0": "bad", "1": "good"}, {"0.0": "bad", "1.0": "good"}):
        spec = user_task(Arguments(train_file=str(path), label_mapping=mapping))
        assert (spec.kind, spec.labels) == ("classification", ("bad", "good"))
        encoder = LabelEncoder(spec.kind, spec.labels, spec.label_words)
        typed = ending not in ("csv", "tsv")
        values = [str(label) for label in labels] if not typed else labels
        assert encoder.encode(values, range(3), str, typed).tolist() == [int(float(x)) for x in labels]


def test_classes_of_a_model_take_other_spellings_of_their_numbers():
    for labels, values in ((("01", "02"), ["1", "2.0"]), (("-1", "1"), ["-1", "+1"]), (("0", "1"), [0.0, 1])):
        typed = not isinstance(values[0], str)
        assert LabelEncoder("classification", labels, {}).encode(values, [1, 2], str, typed).tolist() == [
            0,
            1,
        ]


@pytest.mark.parametrize(
    ("labels", "settings", "message"),
    [
        ([0.5, 0.75], {"label_mapping": {"0": "bad"}}, "--label_mapping: 0=bad: a is a regression, whose"),
        (["0", "1", "2"], {"label_mapping": {"0": "bad", "1": "good"}},
         r"line 4: label 2 has no name in --label_mapping, .*: add 2=NAME"),
        (["0.0", "0.5", "1.0"], {"label_mapping": {"0": "bad", "1": "good"}},
         "line 3: label 0.5 has no name in --label_mapping, .*or leave --label_mapping out for a regression"),
        (["0", "1", "-1"], {"label_mapping": {"0": "bad", "1": "good"}}, "add -1=NAME, or .*; if -1 means"),
        (["0.0", "0.5"], {"label_mapping": {"0": "bad"}}, "label 0.5 has no name in --label_mapping"),
        (["x", "y"], {"label_mapping": {"0": "bad"}}, "a.csv has none of 0; its labels are x, y"),
        (["[0 1 0]", "[1 0 0]"], {}, r"zeros and ones; expected lists of the names .*df.to_json\("),
        (["[0. 1.]", "[1. 0.]"], {}, "zeros and ones"),
        (["[True, False]", "[False, True]"], {}, "zeros and ones"),
        (["[news, sport]", "[art]"], {}, r"'\[news, sport\]' looks like a list, but can't .*--problem"),
        (["{'a': 1, 'b': 0}", "{'a': 0, 'b': 0}"], {}, "looks like a list"),
        (["['a']", "b"], {}, "labels of mixed types: .*expected lists in every row"),
        (["a;b", "a", "b"], {}, "line 2: label 'a;b' looks like several labels in one cell; .*--prob"),
        (["a|b", "b|c", "a|c"], {}, "label 'a|b' looks like several"),
        (["a, b", "b", "a"], {}, "label 'a, b' looks like several"),
        (["1 2", "1", "2"], {}, "label '1 2' looks like several"),
        (["3,5", "4", "2,75"], {}, "label '3,5' looks like a number with a decimal comma; .*decimal="),
        (["3,5", "4.5"], {}, "labels of mixed types: .*decimal="),
        (["0.5", "n/a"], {}, "line 3: 'n/a' is a text; .*--problem_type classification reads all"),
        (["a", "b"], {"problem_type": "multi_label"}, "line 2: label 'a' is not a list"),
        (["['a']", "['b']"], {"problem_type": "classification"}, "is a list; expected one name, or --"),
        (["1.1", "2.1", "1.10"], {"problem_type": "classification"},
         r"line 4: the labels 1.1 and 1.10 are one number: --label_mapping 1.10=1.1 makes"),
        (["1E5", "10E4", "x"], {}, "labels 1E5 and 10E4 are one number"),
    ],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused_with_a_way_out(tmp_path, labels, settings, message):
    with pytest.raises(UserError, match=message) as caught:
        kind_and_labels(write(tmp_path / "a.csv", labels), **settings)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [["R&B", "pop"], ["C", "C/C++"], ["news/world", "news/art"], ["a-b", "a"]])
def test_names_with_separators_are_names(tmp_path, labels):
    assert kind_and_labels(write(tmp_path / "a.csv", labels)) == ("classification", tuple(sorted(labels)))


def test_problem_type_decides(tmp_path):
    path = write(tmp_path / "a.csv", ["1.0", "2.0", "0.5"])
    assert kind_and_labels(path) == ("regression", None)
    assert kind_and_labels(path, problem_type="classification") == ("classification", ("0.5", "1", "2"))
    path = write(tmp_path / "b.csv", ["a;b", "a", "b"])
    assert kind_and_labels(path, problem_type="classification")[1] == ("a", "a;b", "b")
    assert kind_and_labels(write(tmp_path / "c.csv", [0, 1]), problem_type="regression") == (
        "regression",
        None,
    )
    with pytest.raises(UserError, match="--problem_type regression: task cola is a classification"):
        user_task(Arguments(task="cola", problem_type="regression"))


def test_a_models_regression_has_no_names(tmp_path):
    arguments = Arguments(
        validation_file=str(write(tmp_path / "a.csv", [0.5, 1])), label_mapping={"0": "bad"}
    )
    with pytest.raises(UserError, match="--label_mapping: 0=bad: a is a regression"):
        user_task(arguments, Trained(kind="regression", labels=None))
    with pytest.raises(UserError, match="--label_mapping: 0=bad: stsb is a regression"):
        user_task(Arguments(task="stsb", label_mapping={"0": "bad"}))


def test_words_of_a_regression_are_scores():
    encoder = LabelEncoder("regression", None, {"low": "0", "high": "1.5"})
    assert encoder.encode(["low", "high", "2"], [1, 2, 3], str, typed=False).tolist() == [0, 1.5, 2]


def told(path: Path, **settings: Any) -> list[str]:
    """What a run says of its training data's labels."""
    arguments = Arguments(
        train_file=str(path),
        validation_file=str(path),
        cache_dir=str(path.parent),
        disable_tqdm=True,
        **settings,
    )
    lines = describe(load_data(user_task(arguments), arguments, tiny.tokenizer("bert")))
    return [line.removeprefix("train: ") for line in lines if line.startswith("train: ")]


@pytest.mark.parametrize("ending", FORMATS)
def test_white_space_around_labels_is_left_out_everywhere(tmp_path, ending):
    path = write(tmp_path / f"a.{ending}", ["pos", "pos ", " neg", "neg", "\u00a0neg"])
    assert kind_and_labels(path) == ("classification", ("neg", "pos"))
    lines = told(path)
    assert "3 labels have white space around them: it is ignored" in lines
    assert "labels: neg 3, pos 2" in lines


def test_white_space_in_lists_is_left_out(tmp_path):
    path = write(tmp_path / "a.jsonl", [["a ", "b"], ["a"], ["\tb"]])
    assert kind_and_labels(path) == ("multi_label", ("a", "b"))


def test_names_of_older_models_keep_their_white_space():
    encoder = LabelEncoder("classification", ("pos", "pos "), {})
    assert encoder.encode(["pos", "pos ", " pos"], [1, 2, 3], str, typed=True).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("labels", "settings", "line"),
    [
        ([0, 1, 2, -1, 1], {}, "warning: 1 example has the label -1 beside 0 to 2: a class of its own"),
        (
            [0.0, 1.0, 1.0],
            {},
            "3 labels are written as decimals (1.0) and read as whole numbers (1); --problem",
        ),
        ([0.5, 1.5, 0.5], {}, "the scores have 2 different values only; --problem_type classification"),
        (list(range(30)), {}, "the labels are 30 different whole numbers, read as classes; --problem_type"),
        (["1", "2", "4+"], {}, "numbers and texts (4+) are both names of classes"),
        (
            ["a", "b", "-", "a"],
            {},
            "warning: 1 example has the label -: a class of its own here; if it",
        ),
        ([0, 1, 2, -100], {}, "warning: 1 example has the label -100: a class of its own here; if it means"),
        (["a;b", "c;d", "e"], {}, "warning: a;b, c;d: one name each here; several labels of an example"),
        (["a|b", "c", "a"], {}, "warning: a|b: one name each here"),
        (["a, b", "a", "c, d"], {}, "warning: a, b: one name each here"),
        (["Pos", "pos", "neg"], {}, "warning: the labels Pos, pos differ in their spelling alone, and are 2"),
        (["1", "01", "2"], {}, "warning: the labels 01, 1 differ in their spelling alone"),
    ],
)
def test_what_is_ambiguous_is_said(tmp_path, labels, settings, line):
    assert [note for note in told(write(tmp_path / "a.csv", labels), **settings) if note.startswith(line)]


def test_decimals_that_are_names_are_written_as_in_the_file(tmp_path):
    path = write(tmp_path / "a.csv", ["2.10", "1.20", "1.3"])
    assert kind_and_labels(path, problem_type="classification")[1] == ("1.20", "1.3", "2.10")
    path = write(tmp_path / "b.csv", ["1.1", "2.1", "1.10"])
    merged = kind_and_labels(path, problem_type="classification", label_mapping={"1.10": "1.1"})
    assert merged[1] == ("1.1", "2.1")


def test_numbers_may_be_mapped_to_numbers(tmp_path):
    path = write(tmp_path / "a.csv", ["0.0", "0.5", "1.0", "0.25"])
    spec = user_task(Arguments(train_file=str(path), label_mapping={"0": "0.1", "1": "2"}))
    assert (spec.kind, spec.labels) == ("regression", None)
    encoder = LabelEncoder(spec.kind, None, spec.label_words)
    scores = encoder.encode(["0.0", "0.5", "1.0", "0.25"], range(4), str, typed=False)
    np.testing.assert_allclose(scores, [0.1, 0.5, 2, 0.25])


def test_decimals_beside_texts_are_not_offered_as_scores(tmp_path):
    lines = told(write(tmp_path / "a.csv", ["1.0", "2.0", "unknown"]))
    assert not any("--problem_type regression" in line for line in lines)


@pytest.mark.parametrize("labels", [["0.5", "1.5", "2.0"], ["1.5", "2.5", "1.5"]])
def test_numbers_written_as_texts_are_names_and_said_to_be(tmp_path, labels):
    path = write(tmp_path / "a.jsonl", labels)
    assert kind_and_labels(path) == ("classification", tuple(sorted(set(labels))))
    line = (
        "the labels are numbers written as texts, read as names of classes; --problem_type regression makes"
    )
    notes = told(path)
    assert any(note.startswith(line) for note in notes)
    assert not any("written as decimals" in note for note in notes)
    assert kind_and_labels(path, problem_type="regression") == ("regression", None)


@pytest.mark.parametrize("labels", [[-1, 0, 1], ["a", "b"], [0.1 * i for i in range(40)], [0, 1]])
def test_what_is_clear_is_not_remarked_on(tmp_path, labels):
    for line in told(write(tmp_path / "a.csv", labels)):
        assert not line.startswith("warning")
        assert "--problem_type" not in line


def test_equal_numbers_are_one_label_in_the_survey():
    survey = LabelSurvey(Table("t", []), {})
    survey.add([1, 1.0, Decimal("1.0"), 2, True], [1, 2, 3, 4, 5])
    assert survey.finish() == ("classification", ("1", "2", "true"))
