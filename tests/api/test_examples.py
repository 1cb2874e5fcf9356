"""In-memory examples become the file that a run reads; what is none is refused in one line."""

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet
import pytest
import torch

from sot_nlp.api.examples import as_file, text_columns
from sot_nlp.data.infer_task import user_task
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments

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
        datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]}, features=FEATURES).with_format(
            "arrow"
        ),
        datasets.Dataset.from_list(ROWS).with_transform(lambda rows: {**rows, "text": rows["text"]}),
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
        "arrow",
        "transform",
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


def test_class_names_take_the_place_of_numbers_in_lists_too_and_minus_one_is_no_label(tmp_path):
    lists = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.List(datasets.ClassLabel(names=["x", "y", "z"]))}
    )
    several = datasets.Dataset.from_dict({"text": TEXTS, "label": [[0, 2], [], [1]]}, features=lists)
    table = pyarrow.parquet.read_table(as_file(several, "train_data", tmp_path))
    assert table.column("label").to_pylist() == [["x", "z"], [], ["y"]]
    private = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, -1, 0]}, features=FEATURES)
    table = pyarrow.parquet.read_table(as_file(private, "train_data", tmp_path))
    assert table.column("label").to_pylist() == ["pos", None, "neg"]


@pytest.mark.parametrize("several", [False, True])
def test_classes_keep_the_order_of_their_numbers(tmp_path, several):
    """A user compares the columns of probabilities with the dataset's own numbers."""
    feature = datasets.ClassLabel(names=["World", "Sports", "Business"])
    numbers = [[1], [0, 1], [1]] if several else [1, 0, 1]
    features = {"text": datasets.Value("string"), "label": datasets.List(feature) if several else feature}
    dataset = datasets.Dataset.from_dict({"text": TEXTS, "label": numbers}, datasets.Features(features))
    spec = user_task(Arguments(train_file=as_file(dataset, "train_data", tmp_path)))
    assert spec.labels == ("World", "Sports", "Business")


def test_tensors_are_the_numbers_in_them(tmp_path):
    numbers = datasets.Dataset.from_dict({"text": TEXTS, "label": [1, 0, 1]})
    for examples in (numbers.with_format("torch"), (TEXTS, torch.tensor([1, 0, 1]))):
        table = pyarrow.parquet.read_table(as_file(examples, "train_data", tmp_path))
        assert table.column("label").to_pylist() == [1, 0, 1]


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
        (pd.DataFrame([["a", 0, 1]], columns=["text", 1, "1"]), "has the column 1 more than once"),
        (
            {"text": ["a"], "label": pd.DataFrame({"label": [1]})},
            r"\['label'\]: .* got a DataFrame; give one col",
        ),
        (
            {"text": ["a \ud800"], "label": [1]},
            r"\['text'\]: a text contains \\ud800, half of a surrogate pair",
        ),
        ((["a \ud800"], [1]), r"texts\[0\]: contains \\ud800, half"),
        (
            [{"text": "a", "label": 1, "meta": {}}],
            "struct type 'meta' .*give the columns of texts and labels",
        ),
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
    assert text_columns(np.array([["a", "b"], ["c", "d"]])) == [["a", "c"], ["b", "d"]]


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
        (pd.DataFrame({"text": ["a"]}), None, "got a DataFrame; give one column of it"),
        (["a"], pd.DataFrame({"text": ["a"]}), "text_pairs: .* got a DataFrame"),
        (np.array("a"), None, "got ndarray"),
        (["a", "b \ud800"], None, r"texts\[1\]: contains \\ud800, half of a surrogate pair"),
    ],
)
def test_what_is_no_text_is_refused(texts, pairs, message):
    with pytest.raises(UserError, match=message):
        text_columns(texts, pairs)


def test_a_cache_that_can_not_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"train_data: its copy .* can't be written .*--cache_dir"):
        as_file(ROWS, "train_data", tmp_path / "file" / "cache")
