import dataclasses
import os
import re

import pytest

from sot_nlp.errors import UserError
from sot_nlp.modeling.head_config import resolve_head
from sot_nlp.settings.arguments import build_arguments
from sot_nlp.tasks import spec as task_spec
from sot_nlp.tasks.metrics import METRICS
from sot_nlp.tasks.spec import FrozenMapping, load_task, read_task, tasks_folder


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


SMALL = "text_columns: [review]\nlabel_column: verdict\nfiles: {train: a.csv, validation: b.csv}\n"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("colla", "unknown task 'colla'; did you mean cola"),
        ("imagenet", "known: cola, mine, rte"),
        ("", "unknown task ''"),
        ("a\x1b[2J", r"x1b"),
        ("nowhere.yaml", r"nowhere.yaml: no such file"),
        ("mine.csv", "mine.csv: a task is a YAML file that names its data under `files`"),
        ("mine.json", "data as it is goes into --train_file"),
        ("some/where.parquet", "data as it is goes into --train_file"),
        ("no/where", r"no/where: no such file"),
    ],
)
def test_an_unknown_task(given, message, monkeypatch, tmp_path):
    for name in ("cola", "mine", "rte"):
        write(tmp_path / f"{name}.yaml", SMALL)
    monkeypatch.setattr(task_spec, "tasks_folder", lambda: tmp_path)
    with pytest.raises(UserError, match=message):
        load_task(given)


def test_a_user_s_file_needs_little(tmp_path):
    spec = load_task(write(tmp_path / "my reviews.yaml", SMALL))
    assert spec.name == "my-reviews"
    assert spec.kind == "classification"
    assert spec.labels is None
    assert spec.metrics == ("accuracy", "macro_f1")
    assert spec.main_metric == "accuracy"
    assert spec.splits == ("train", "validation")
    assert spec.file_path("train", None) == tmp_path / "a.csv"
    assert spec.file_path("train", tmp_path / "data") == tmp_path / "data" / "a.csv"
    assert spec.file_path("test", None) is None


def test_labels_are_the_texts_in_the_file(tmp_path):
    text = (
        SMALL + "labels: [no, 1, 1.0, ~x, 'null']\nlabel_words: {0: no, 1: '1', on: 1.0, 3: ~x, 4: 'null'}\n"
    )
    spec = read_task(write(tmp_path / "t.yaml", text))
    assert spec.labels == ("no", "1", "1.0", "~x", "null")
    assert spec.label_words == {"0": "no", "1": "1", "on": "1.0", "3": "~x", "4": "null"}


def test_glue_s_files_lie_in_the_task_s_folder(tmp_path):
    spec = load_task("cola")
    assert spec.file_path("validation", tmp_path) == tmp_path / "CoLA" / "dev.tsv"
    assert spec.file_path("validation", tmp_path / "CoLA") == tmp_path / "CoLA" / "dev.tsv"
    assert spec.file_path("validation", None) is None


def test_one_mapping_of_columns_serves_all_files(tmp_path):
    text = SMALL + "columns: {review: body}\n"
    text = text.replace("b.csv", "{file: b.tsv, header: false, columns: {review: 2, verdict: 0}}")
    spec = read_task(write(tmp_path / "t.yaml", text))
    assert spec.files["train"].columns == {"review": "body"}
    assert spec.files["validation"].columns == {"review": 2, "verdict": 0}


def test_all_mistakes_of_a_file_are_named_at_once(tmp_path):
    text = """\
kind: clasification
text_colums: [a, b]
label_column: label
labels: [x, x]
metrics: [pearson]
files:
  train: {fil: a.csv, header: perhaps, quoting: 1}
  validate: b.csv
rows: {train: -3}
label_column: again
"""
    path = write(tmp_path / "t.yaml", text)
    with pytest.raises(UserError) as caught:
        read_task(path)
    lines = str(caught.value).replace(str(path), "t.yaml").splitlines()
    of_classes = [name for name, metric in METRICS.items() if "classification" in metric.kinds]
    assert lines == [
        "t.yaml:1: kind: 'clasification' is not known; did you mean classification?",
        "t.yaml:1: the key 'text_columns' is missing",
        "t.yaml:2: unknown key 'text_colums'; did you mean text_columns or columns or label_column?",
        "t.yaml:4: labels: 'x' occurs twice",
        f"t.yaml:5: metrics: 'pearson' is not known; known: {', '.join(of_classes)}",
        "t.yaml:7: files.train.header: 'perhaps' is not true or false",
        "t.yaml:7: files.train.quoting: '1' is not true or false",
        "t.yaml:7: files.train: the key 'file' is missing",
        "t.yaml:7: files.train: unknown key 'fil'; did you mean file?",
        "t.yaml:8: files.validate: is not a split: expected train, validation, test, validation_<name> or "
        "test_<name>",
        "t.yaml:9: rows.train: -3 is too small: a whole number of at least 1",
        "t.yaml:10: the key 'label_column' occurs twice",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("text_columns: [a, b, c]", ":1: text_columns: has 3 columns; one, or two for a pair"),
        ("labels: [only]", ":4: labels: a classification needs at least two labels"),
        ("text_columns: []", ":1: text_columns: has 0 columns; one"),
        ("text_columns:", ":1: text_columns: has no value"),
        ("text_columns: [[a]]", ":1: text_columns: must be a non-empty text"),
        ("text_columns: [verdict]", ":2: label_column: 'verdict' is among text_columns too"),
        ("kind: regression\nlabels: [a, b]", ":5: labels: a regression has scores, not labels"),
        ("label_words: {0: a}", ":4: label_words: needs `labels`"),
        ("labels: [a, b]\nlabel_words: {0: a, 1: c}", ":5: label_words.1: 'c' is not known"),
        ("labels: [a, b]\nlabel_words: {0: a}", ":5: label_words: no word for b"),
        ("labels: [a, b]\nlabel_words: {a: b, b: a}", ":5: label_words.a: is itself a label's name"),
        ("score_range: {low: 0, high: 1}", ":4: score_range: is for a regression; kind is classification"),
        ("kind: regression\nscore_range: {low: 2, high: 1}", ":5: score_range: low 2 is not below high 1"),
        ("kind: regression\nscore_range: {low: 2}", ":5: score_range: must be"),
        ("kind: regression\nscore_range: [0, 5]", ":5: score_range: must be a mapping"),
        ("metrics: [accuracy]\nmain_metric: f1", ":5: main_metric: 'f1' is not known; known: accuracy"),
        ("name: ../up", ":4: name: '../up' may hold"),
        ("dataset_name: a/b", ":4: dataset_name: needs `dataset_splits`"),
        ("dataset_splits: {train: x}", ":4: dataset_splits: needs `dataset_name`"),
        ("files: {}", ":3: files: names no file"),
        ("files: {train: [a.csv]}", ":3: files.train: must be a mapping"),
        (
            "files: {train: {file: a, format: xls}}",
            ":3: files.train.format: 'xls' is not known; known: csv",
        ),
        ("files: {train: {file: a, header: false}}", ":3: files.train.header: a file without a header needs"),
        (
            "files: {train: {file: a, header: false, columns: {review: x}}}",
            "review needs its column's position",
        ),
        (
            "files: {train: {file: a, num_columns: 2, columns: {review: 2}}}",
            ":3: files.train.num_columns: review is at 2, counted from 0, beyond them",
        ),
        ("columns: {reviev: a}", ":4: columns: 'reviev' is not a column of the task; did you mean review?"),
        ("columns: {review: -1}", ":4: columns: review: must be a name in the header, or a position"),
        ("columns: {review: 1.5}", ":4: columns: review: must be a name in the header, or a position"),
        ("rows: {test: 3}", ":4: rows: test is not one of the task's splits (train, validation)"),
        ("rows: {train: 1e3}", ":4: rows.train: '1e3' is not a whole number of at least 1"),
        ("recipe: {Learning rate: 1}", ":4: recipe: 'Learning rate' is not a setting"),
        ("recipe: {learning_rate: [1]}", ":4: recipe.learning_rate: must be a single value"),
        ("? [a, b]\n: 1", ":4: a key must be one word"),
        ("description: \x07", "is not valid YAML"),
        ("a: [", ":4: is not valid YAML"),
        ("\tb: 1", ":4: is not valid YAML"),
        ("a: &x 1\nb: *y", ":5: is not valid YAML"),
        ("---\nb: 1", ":4: is not valid YAML"),
        ("a: " + "[" * 1200, "is nested too deeply"),
    ],
)
def test_each_mistake_is_named_by_line_and_key(tmp_path, change, message):
    key = change.split(":")[0]
    lines = SMALL.splitlines()
    same = [number for number, line in enumerate(lines) if line.split(":")[0] == key]
    text = "\n".join([*lines[: same[0]], change, *lines[same[0] + 1 :]] if same else [*lines, change])
    with pytest.raises(UserError, match=re.escape(message)):
        read_task(write(tmp_path / "t.yaml", text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"# nothing\n", "is empty"),
        (b"- a\n", ":1: must hold `key: value` lines"),
        (b"name: x\ntitle: \xff\n", ":2: is not UTF-8 text (byte 0xff)"),
        (b"name: x\x00", "is not valid YAML"),
        (b" " * (1 << 20) + b" ", "too many for a YAML file"),
        (b"kind: classification\n", "the key 'text_columns' is missing"),
        (b"text_columns: [a]\nlabel_column: b\n", "needs `files`"),
        (b"text_columns: [a]\nfiles: {train: a.csv}\n", "the key 'label_column' is missing"),
    ],
)
def test_files_that_are_no_tasks(tmp_path, content, message):
    (tmp_path / "t.yaml").write_bytes(content)
    with pytest.raises(UserError, match=re.escape(message)):
        read_task(tmp_path / "t.yaml")


def test_a_byte_order_mark_and_windows_line_ends_are_no_mistake(tmp_path):
    (tmp_path / "t.yaml").write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert read_task(tmp_path / "t.yaml").text_columns == ("review",)


def test_a_folder_and_a_file_that_may_not_be_read(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        load_task(f"{tmp_path}/")
    with pytest.raises(UserError, match="is not a file"):
        load_task(os.devnull)
    path = write(tmp_path / "t.yaml", SMALL)
    path.chmod(0)
    if not os.access(path, os.R_OK):  # root may read it all the same
        with pytest.raises(UserError, match="cannot be read"):
            load_task(path)


def test_a_spec_cannot_be_changed():
    spec = load_task("cola")
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "x"
    with pytest.raises(TypeError):
        spec.rows["train"] = 1
    source = {"a": 1}
    frozen = FrozenMapping(source)
    source["a"] = 2
    assert frozen == {"a": 1}
    assert hash(FrozenMapping({"a": 1, "b": 2})) == hash(FrozenMapping({"b": 2, "a": 1}))


def test_the_guide_s_examples_are_tasks(tmp_path):
    guide = (tasks_folder() / "README.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    assert len(examples) == 7
    for example in examples:
        spec = read_task(write(tmp_path / "t.yaml", example))
        arguments = build_arguments([("recipe", spec.recipe)])
        resolve_head(arguments.head, **arguments.head_overrides)
    wrong = "text_colums: [review]\nlabel_column: verdict\nmetrics: [f1, accuracy]\nmain_metric: f2\n"
    path = write(tmp_path / "reviews.yaml", wrong + "files: {train: a.csv}\n")
    with pytest.raises(UserError) as caught:
        read_task(path)
    assert f"```\n{caught.value}\n```".replace(str(path), "reviews.yaml") in guide


@pytest.mark.parametrize(
    ("task", "data_dir", "place"),
    [
        ("wnli", "x", "x/WNLI"),
        ("wnli", "x/WNLI", "x/WNLI"),
        ("wnli", "x/wnli", "x/wnli/WNLI"),
        ("wnli", "x/wnli", "x/wnli"),
        ("wnli", "x", "x/wnli"),
        ("wnli", "mine", "mine"),
        ("mnli", "mnli", "mnli/MNLI"),
        ("mnli", "mnli", "mnli"),
        ("sst2", "x", "x/sst2"),
        ("sst2", "SST2", "SST2"),
        ("stsb", "x", "x/sts_b"),
        ("cola", "glue", "glue/cola"),
    ],
)
def test_data_dir_is_where_the_files_are(tmp_path, task, data_dir, place):
    (tmp_path / place).mkdir(parents=True)
    spec = load_task(task)
    for entry in spec.files.values():
        (tmp_path / place / entry.file).write_text("x")
    for split, entry in spec.files.items():
        assert spec.file_path(split, tmp_path / data_dir).samefile(tmp_path / place / entry.file)


def test_another_tasks_folder_is_not_taken(tmp_path):
    (tmp_path / "RTE").mkdir()
    (tmp_path / "RTE/train.tsv").write_text("x")
    assert load_task("wnli").file_path("train", tmp_path / "RTE") == tmp_path / "RTE/WNLI/train.tsv"
