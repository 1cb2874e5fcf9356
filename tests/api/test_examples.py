"""In-memory examples become the file that a run reads; what is none is refused in one line."""

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest

from sot_nlp.api.examples import as_file, text_columns
from sot_nlp.errors import UserError

TEXTS, LABELS = ["good film", "bad film", "fine"], ["pos", "neg", "pos"]
ROWS = [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)]
FEATURES = datasets.Features(
    {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
)


@pytest.mark.parametrize(
    "examples",
    [
        ROWS,
        {"text": TEXTS, "label": LABELS},
        {"text": np.array(TEXTS), "label": np.array(LABELS)},
        (TEXTS, LABELS),
        pd.DataFrame(ROWS),
        pd.DataFrame(ROWS, index=[7, 3, 3]),
        pd.DataFrame(ROWS).astype({"label": "category"}),
        datasets.Dataset.from_list(ROWS),
        datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]}, features=FEATURES),
        datasets.Dataset.from_list([ROWS[2], *ROWS]).select([1, 2, 3]),
    ],
    ids=[
        "rows",
        "columns",
        "arrays",
        "pair",
        "frame",
        "index",
        "category",
        "dataset",
        "class names",
        "selection",
    ],
)
def test_every_form_of_the_same_examples_gives_the_same_table(examples, tmp_path):
    table = pyarrow.parquet.read_table(as_file(examples, "train_data", tmp_path))
    assert [{"text": r["text"], "label": r["label"]} for r in table.to_pylist()] == ROWS
    assert table.column_names == ["text", "label"]


def test_the_same_examples_are_written_once_and_a_path_stays_itself(tmp_path):
    first = as_file(ROWS, "train_data", tmp_path)
    assert as_file(list(ROWS), "train_data", tmp_path) == first
    assert as_file(ROWS[:2], "train_data", tmp_path) != first
    assert as_file(tmp_path / "a.csv", "train_data", tmp_path) == str(tmp_path / "a.csv")


def test_pairs_and_lists_of_labels(tmp_path):
    pairs = as_file(([("a", "b"), ("c", "d")], [0.5, 1.5]), "train_data", tmp_path)
    assert pyarrow.parquet.read_table(pairs).to_pydict() == {
        "sentence1": ["a", "c"],
        "sentence2": ["b", "d"],
        "label": [0.5, 1.5],
    }
    lists = as_file((["a", "b"], [["x"], ["x", "y"]]), "train_data", tmp_path)
    assert pyarrow.parquet.read_table(lists).column("label").to_pylist() == [["x"], ["x", "y"]]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "train_data: holds no examples"),
        ({}, "train_data: holds no columns"),
        ({"text": [], "label": []}, "train_data: holds no examples"),
        (pd.DataFrame({"text": [], "label": []}), "train_data: holds no examples"),
        ({"text": TEXTS, "label": LABELS[:2]}, "unequal lengths: text 3, label 2"),
        ((TEXTS, LABELS[:2]), "train_data: 3 texts, but 2 labels"),
        ((["a", None], [0, 1]), r"train_data: texts\[1\]: expected a string"),
        ({"text": "one text", "label": LABELS}, r"train_data\['text'\]: expected a list, got str"),
        ({"text": TEXTS, "label": ["a", 1, "b"]}, r"train_data\['label'\]: its values are not of one kind"),
        ([{"text": "a"}, {"txt": "b"}], r"train_data\[1\]: its keys are txt"),
        (["a", "b"], r"train_data\[0\]: expected a dict"),
        (5, "train_data: expected a file's path"),
        (
            datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
            r"is a DatasetDict, not a Dataset; did you mean train_data\['train'\]",
        ),
        ({"train": datasets.Dataset.from_list(ROWS)}, r"did you mean train_data\['train'\]"),
        (datasets.Dataset.from_list(ROWS).to_iterable_dataset(), "is an IterableDataset"),
        (pd.DataFrame({"text": ["a", 1], "label": [0, 1]}), "column of mixed types"),
    ],
)
def test_what_is_no_set_of_examples_is_refused_in_one_line(examples, message, tmp_path):
    with pytest.raises(UserError, match=message) as caught:
        as_file(examples, "train_data", tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_texts_for_a_prediction():
    assert text_columns(["a", "b"]) == [["a", "b"]]
    assert text_columns([("a", "b"), ["c", "d"]]) == [["a", "c"], ["b", "d"]]
    assert text_columns(pd.Series(["a", "b"]), np.array(["c", "d"])) == [["a", "b"], ["c", "d"]]


@pytest.mark.parametrize(
    ("texts", "pairs", "message"),
    [
        ([], None, "texts: is empty"),
        ("one", None, r"put it into a list: \[text\]"),
        (["a", 3], None, r"texts\[1\]: expected a string or a pair of strings, got int 3"),
        (["a"], ["b", "c"], "text_pairs: 2 for 1 texts"),
        ([("a", "b"), "c"], None, r"texts\[0\]: expected a string"),
        ({"text": ["a"]}, None, "expected a list of strings, got dict"),
        (None, None, "expected a list of strings, got NoneType"),
    ],
)
def test_what_is_no_text_is_refused(texts, pairs, message):
    with pytest.raises(UserError, match=message):
        text_columns(texts, pairs)
