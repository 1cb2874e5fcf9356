import json
from pathlib import Path
from typing import Any

import pytest

from sot_nlp.data.infer_task import guess_label, guess_texts, user_task
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.spec import TaskSpec

GOOD = "text,label\na zorp runs,yes\nthe dax likes wugs,no\nevery wug sees,yes\nno dax runs,no\n"


def task(folder: Path, content: str = GOOD, *, ending: str = "csv", **settings: Any) -> TaskSpec:
    path = folder / f"My words.{ending}"
    path.write_text(content, encoding="utf-8")
    return user_task(Arguments(train_file=str(path), **settings))


def test_task_of_own_files_has_name_columns_labels_and_metrics(tmp_path):
    spec = task(tmp_path)
    assert (spec.name, spec.title) == ("My-words", "My words")
    assert (spec.kind, spec.text_columns, spec.label_column) == ("classification", ("text",), "label")
    assert spec.labels == ("no", "yes")
    assert (spec.metrics, spec.main_metric) == (("accuracy", "macro_f1"), "accuracy")
    assert spec.splits == ("train", "validation")
    assert spec.files["validation"] == spec.files["train"]
    assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize(
    ("content", "ending", "kind", "labels"),
    [
        ("text,label\na,2\nb,10\nc,2\n", "csv", "classification", ("2", "10")),
        ("text,label\na,2\nb,2.5\n", "csv", "regression", None),
        ('{"text": "a", "label": true}\n{"text": "b", "label": false}', "jsonl", "classification",
         ("false", "true")),
        ('[{"text": "a", "label": ["x", "y"]}, {"text": "b", "label": []}]', "json", "multi_label",
         ("x", "y")),
        ("text\tlabel\na\tyes\nb\tno\n", "tsv", "classification", ("no", "yes")),
    ],
)  # fmt: skip
def test_kind_and_labels_are_what_the_training_file_holds(tmp_path, content, ending, kind, labels):
    spec = task(tmp_path, content, ending=ending)
    assert (spec.kind, spec.labels) == (kind, labels)


@pytest.mark.parametrize(
    ("columns", "texts", "label"),
    [
        (["id", "sentence1", "sentence2", "label"], ("sentence1", "sentence2"), "label"),
        (["premise", "hypothesis", "gold_label", "label"], ("premise", "hypothesis"), "label"),
        (["Question", "Sentence", "Class"], ("Question", "Sentence"), "Class"),
        (["idx", "tweet", "sentiment"], ("tweet",), "sentiment"),
        (["words", "label"], ("words",), "label"),
        (["text", "mood"], ("text",), "mood"),
        (["a", "b", "c"], (), None),
        (["a", "b", "label"], (), "label"),
        (["text", "label_text", "b"], ("text",), None),
    ],
)
def test_columns_are_guessed_by_their_names_or_not_at_all(columns, texts, label):
    guessed = guess_label(columns)
    assert guess_texts(columns, guessed) == texts
    assert (guessed or guess_label(columns, texts)) == label


def test_named_columns_come_before_guesses(tmp_path):
    content = "text,label,body,class\na,1,b,x\nc,2,d,y\n"
    spec = task(tmp_path, content, text_column_names=["body"], label_column_name="class")
    assert (spec.text_columns, spec.label_column, spec.labels) == (("body",), "class", ("x", "y"))
    assert task(tmp_path, content, label_column_name="class").text_columns == ("text",)


def test_mapping_says_what_labels_mean(tmp_path):
    content = "text,label\na,0\nb,1\nc,0\n"
    spec = task(tmp_path, content, label_mapping={"0": "bad", "1": "good"})
    assert (spec.labels, dict(spec.label_words)) == (("bad", "good"), {"0": "bad", "1": "good"})


def test_own_files_take_the_place_of_a_tasks_own(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("sentence,label\na zorp,1\nzorp a,0\n", encoding="utf-8")
    spec = user_task(Arguments(task="cola", train_file=str(path)))
    assert (spec.name, spec.labels) == ("cola", ("unacceptable", "acceptable"))
    assert spec.splits == ("train", "validation")
    assert spec.dataset_name is None
    assert dict(spec.submission) == {}
    # A test file alone leaves the rest as it is.
    spec = user_task(Arguments(task="mnli", test_file=str(path)))
    assert spec.test_splits == ("test",)
    assert spec.validation_splits == ("validation_matched", "validation_mismatched")
    assert dict(spec.submission) == {}


def test_tasks_without_own_files_are_themselves():
    from sot_nlp.tasks.spec import load_task

    for name in ("cola", "mnli", "ax", "demo"):
        assert user_task(Arguments(task=name)) == load_task(name)


def test_yaml_task_may_leave_labels_and_validation_to_its_training_file(tmp_path):
    (tmp_path / "a.csv").write_text(GOOD, encoding="utf-8")
    (tmp_path / "my.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nfiles: {train: a.csv}\n", encoding="utf-8"
    )
    spec = user_task(Arguments(task=str(tmp_path / "my.yaml")))
    assert (spec.name, spec.labels, spec.validation_splits) == ("my", ("no", "yes"), ("validation",))


def test_yaml_task_of_another_kind_than_its_labels_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,0.5\nb,0.25\n", encoding="utf-8")
    (tmp_path / "my.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nfiles: {train: a.csv}\n", encoding="utf-8"
    )
    with pytest.raises(UserError, match=r"is a classification, but the labels of .*a.csv make a regression"):
        user_task(Arguments(task=str(tmp_path / "my.yaml")))


@pytest.mark.parametrize(
    "extra", ["", "Unnamed: 0", "__index_level_0__", "level_0", "_id", "index", "row_id"]
)
def test_columns_that_number_the_rows_are_neither_text_nor_label(extra):
    assert guess_texts([extra, "words", "label"], "label") == ("words",)
    assert guess_label([extra, "text", "mood"], ("text",)) == "mood"


@pytest.mark.parametrize("columns", ["text,toxic,insult,threat", "id,comment_text,toxic,insult,threat"])
def test_a_column_of_zeros_and_ones_per_label_is_named_with_the_way(tmp_path, columns):
    row = "1,a zorp,0,1,0" if columns.startswith("id") else "a zorp,0,1,0"
    with pytest.raises(UserError, match=r"if toxic, insult, threat say of each label .*df.to_json\("):
        task(tmp_path, f"{columns}\n{row}\n")
    with pytest.raises(UserError, match=r"--label_column_name$"):
        task(tmp_path, "text,a,b\nx,y,z\n")
