"""Data as users have it: what is wrong is one line with its place; what is only odd is counted and named."""

from __future__ import annotations

import gzip
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import sot_nlp
from sot_nlp.cli import main
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.task_data import TaskData, load_data
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from tests.support import tiny

GOOD = "text,label\na zorp runs,yes\nthe dax likes wugs,no\nevery wug sees,yes\nno dax runs,no\n"
JSONL = '{"text": "a zorp", "label": "yes"}\n{"text": "the dax", "label": "no"}\n'
# Parquet calls it text without a look: "a", and a letter that is not UTF-8.
LATIN = pa.array([b"a", b"\xe9"], pa.binary()).view(pa.string())
COLA = "zz\t1\t\ta zorp runs .\nzz\t0\t*\tzorp a runs .\nzz\t1\t\tthe dax sees .\n"


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., TaskData]:
    """`load(folder, settings)`: what the run does with data, on a tiny tokenizer."""
    tokenizer = tiny.tokenizer("bert")
    cache = tmp_path_factory.mktemp("cache")

    def run(folder: Path, settings: dict[str, Any]) -> TaskData:
        paths = {"train_file", "validation_file", "test_file", "data_dir"}
        values = {k: str(folder / v) if k in paths else v for k, v in settings.items()}
        arguments = Arguments(cache_dir=str(cache), validation_fraction=0.5, disable_tqdm=True, **values)
        spec = user_task(arguments)
        tests = spec.test_splits if "test_file" in settings or "data_dir" in settings else ()
        return load_data(spec, arguments, tokenizer, splits=("train", *spec.validation_splits, *tests))

    return run


def write(folder: Path, files: dict[str, str | bytes | None]) -> None:
    """None makes a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            path.mkdir()
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def parquet(**columns: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def csv(name: str, content: str | bytes | None, message: str, **settings: Any) -> Any:
    """A case of one training file."""
    return name, {name: content}, {"train_file": name, **settings}, message


def pair(train: str, validation: str, message: str, ending: str = "csv", **settings: Any) -> Any:
    """A case of a training and a validation file."""
    files = {f"train.{ending}": train, f"dev.{ending}": validation}
    flags = {"train_file": f"train.{ending}", "validation_file": f"dev.{ending}"}
    return f"{message} in {ending}", files, flags | settings, message


def glue(message: str, files: dict[str, str | bytes | None], task: str = "cola") -> Any:
    return message, files, {"task": task, "data_dir": "."}, message


def cola(**files: str | bytes) -> dict[str, str | bytes | None]:
    content: dict[str, str | bytes] = {"train": COLA, "dev": COLA, "test": "index\tsentence\n0\ta zorp .\n"}
    return {f"CoLA/{name}.tsv": text for name, text in (content | files).items()}


REFUSED = [
    # Columns.
    csv("a.csv", "words,tag\na zorp,yes\nthe dax,no\n",
        "has the columns words, tag: name the one or two that"),
    csv("a.csv", "text,words\na,b\n",
        "no column 'label'; its columns are text, words", label_column_name="label"),
    csv("a.csv", GOOD, "no column 'sentence'; its columns are text, label", text_column_names=["sentence"]),
    csv("a.csv", "a,b,text\n1,2,x\n", "a.csv has the columns a, b, text: name the one that holds labels"),
    csv("a.csv", GOOD, "--label_column_name: 'text' is a text column too",
        text_column_names=["text"], label_column_name="text"),
    csv("a.csv", "text,label,text\na,b,c\n", "a.csv has the column text more than once"),
    pair(GOOD, GOOD.replace("label", "tag"), "dev.csv has no column 'label'; its columns are text, tag"),
    csv("a.jsonl", JSONL + '{"text": "x"}\n', "a.jsonl, line 3 has no 'label'; its keys are text"),
    csv("a.jsonl", JSONL + '{"text": "x", "label": "a", "label": "b"}\n',
        "line 3 has the key 'label' more than"),
    csv("a.csv", GOOD + "one,two,three\n", "a.csv, line 6 has 3 columns; expected 2, as in its header"),
    csv("a.csv", GOOD + "\nthe wug,yes\n", "a.csv, line 6 is empty; expected 2"),
    csv("a.tsv", GOOD.replace(",", "\t") + "a zorp\n", "a.tsv, line 6 has 1 column; expected 2"),
    # Labels.
    csv("a.csv", "text,label\na,0.5\nb,good\n",
        "a.csv, line 2: '0.5' is a decimal number; .*a.csv, line 3: 'good' is a text; .*--problem_type"),
    csv("a.json", '[{"text": "a", "label": 0.5},\n {"text": "b", "label": "good"}]',
        "line 2: 'good' is a text"),
    csv("a.csv", 'text,label\na,"[""x""]"\nb,y\n', "labels of mixed types: .*line 2.*is a list; .*line 3"),
    csv("a.csv", "text,label\na,yes\nb,\n", "a.csv, line 3 has no label"),
    csv("a.jsonl", JSONL + '{"text": "x", "label": null}\n', "a.jsonl, line 3 has no label"),
    csv("a.jsonl", JSONL + '{"text": "x", "label": {"a": 1}}\n', "a.jsonl, line 3 has an invalid label"),
    csv("a.csv", "text,label\na,yes\nb,yes\n", "every label is yes; expected at least two"),
    csv("a.jsonl", JSONL + '{"text": "x", "label": " "}\n', "a.jsonl, line 3 has no label"),
    csv("a.jsonl", '{"text": "a", "label": []}\n{"text": "b", "label": []}\n',
        "a.jsonl: every list of labels is empty"),
    csv("a.parquet", parquet(text=["a", "b"], label=pa.array([1, 2**30], pa.date32())),
        "a.parquet, row 2: 'label' can't be read .days=1073741824; .*; expected texts"),
    csv("a.jsonl", '{"text": "a", "label": [0, 1]}\n{"text": "b", "label": [1, 0]}\n',
        "lists of zeros and ones"),
    csv("a.jsonl", '{"text": "a", "label": ["x", "x"]}\n{"text": "b", "label": ["y"]}\n',
        "'x' occurs twice in the list"),
    pair(GOOD, GOOD + "a dax,perhaps\n", "dev.csv, line 6: label 'perhaps' is not one of no, yes"),
    pair("text,label\na,0.5\nb,2\n", "text,label\na,many\n", "dev.csv, line 2: score 'many' is not a number"),
    pair("text,label\na,0.5\nb,2\n", "text,label\na,1e999\n",
        "dev.csv, line 2: score .* is not a finite number"),
    pair(JSONL.replace('"no"', '["no"]').replace('"yes"', '["yes"]'), JSONL,
         "dev.jsonl, line 1: label 'yes' is not a list", ending="jsonl"),
    csv("a.csv", "text,label\n" + "".join(f"a,n{i}\n" for i in range(10_050)),
        "more than 10000 different labels"),
    csv("a.csv", GOOD, "--label_mapping: 1=acceptible is not a label of cola; did you mean acceptable",
        task="cola", text_column_names=["text"], label_mapping={"1": "acceptible"}),
    csv("a.csv", "text,label\na,x\nb,y\nc,z\n", "a.csv: no label has two examples, so none can be held"),
    csv("a.csv", "text,label\na,1\nb,2\nc,3\n", "numbers that are scores, --problem_type regression"),
    csv("a.jsonl", '{"text": "x"}\n' + JSONL,
        "the first example of .*a.jsonl has the keys text: name the one that holds labels"),
    csv("a.jsonl", '{"text": "a", "label": %s}\n' % ("9" * 5000), "a.jsonl, line 1 is not JSON"),
    # Texts.
    csv("a.jsonl", JSONL + '{"text": null, "label": "no"}\n',
        "a.jsonl, line 3: 'text' is null; expected a text"),
    csv("a.jsonl", JSONL + '{"text": 5, "label": "no"}\n', "a.jsonl, line 3: 'text' is no text but 5"),
    csv("a.jsonl", JSONL + '{"text": "\\ud83d", "label": "no"}\n',
        r"line 3: 'text' contains .*half of a surrogate"),
    csv("a.parquet", parquet(text=["a", None], label=["x", "y"]), "a.parquet, row 2: 'text' is null"),
    csv("a.parquet", parquet(text=LATIN, label=["x", "y"]),
        "a.parquet, row 2: 'text' can't be read .*0xe9.*; expected texts in UTF-8"),
    csv("a.parquet", parquet(text=["a", "b"], label=LATIN), "a.parquet, row 2: 'label' can't be read .*0xe9"),
    # Bytes and formats.
    csv("a.csv", b"text,label\na,yes\n\xff\xe9,no\n", "a.csv, line 3 is not UTF-8 .byte 0xff at position 1"),
    csv("a.csv", b"text,label\na,yes\nb\0c,no\n", "a.csv, line 3 holds a NUL byte"),
    csv("a.csv", GOOD + '"never closed,yes\n' + GOOD, "a.csv, line 6: a quote .* never closes"),
    csv("a.csv", GOOD + '"a" zorp,yes\n',
        "a.csv, line 6: a quoted field that begins here is wrong in line 6"),
    csv("a.csv", GOOD.replace("\n", "\r"), "a.csv.*carriage return|ends its lines with CR alone"),
    csv("a.tsv", GOOD.replace(",", "\t").replace("\n", "\r"), "a.tsv"),
    csv("a.csv", parquet(text=["a"], label=["b"]), "a.csv is a Parquet file, not CSV as its name says"),
    csv("a.csv", gzip.compress(GOOD.encode()), "a.csv is compressed with gzip, .*unpack it first"),
    csv("a.csv", GOOD.encode("utf-16"), "a.csv is UTF-16 text"),
    csv("a.csv", JSONL, "a.csv is JSON, not CSV as its name says: name it .json"),
    csv("a.csv", json.dumps([{"text": "a", "label": "b"}], indent=2), "a.csv is JSON"),
    csv("a.csv", GOOD.replace(",", "\t"), "a.csv, line 1 has no comma but 1 tab"),
    csv("a.tsv", GOOD, "a.tsv, line 1 has no tab but 1 comma"),
    csv("a.jsonl", GOOD, "a.jsonl, line 1 is not JSON .*'text,label'"),
    csv("a.jsonl", JSONL + '{"text": "x"', "a.jsonl, line 3 is not JSON"),
    csv("a.json", '[{"text": "a",\n "label": "b"},\n {"text" "c"}]', "a.json, line 3 is not JSON"),
    csv("a.json", '[{"text": "a", "label": "b"}] more', "line 1: text follows the end of the JSON list"),
    csv("a.json", '[{"text": "a", "label": "b"}', "line 1: expected `,` or `]`"),
    csv("a.json", "[" * 100_000, "a.json, line 1 is not JSON .nested too deep"),
    csv("a.json", "[1, 2]", "a.json, line 1 is a number; expected an object"),
    csv("a.json", "[]", "a.json holds no examples"),
    csv("a.parquet", GOOD, "a.parquet is not PARQUET as its name says: it begins with"),
    csv("a.parquet", parquet(text=["a"], label=["b"])[:60], "a.parquet is a damaged Parquet file"),
    csv("a.csv", "<!doctype html>\n<html>\n", "a.csv is an HTML page, .*download the file itself"),
    csv("a.xlsx", b"PK\x03\x04", "ends in '.xlsx'; expected one of .csv, .tsv, .json, .jsonl, .parquet"),
    csv("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    csv("a.csv", b"", "--train_file: .*a.csv is empty"),
    csv("a.csv", b"\xef\xbb\xbf", "a.csv is empty"),
    csv("a.csv", "\n\n", "a.csv: the first line is empty"),
    csv("a.csv", "text,label\n", "a.csv holds no examples"),
    csv("a.csv", None, "--train_file: .*a.csv is a folder; give a file"),
    ("missing", {"b.csv": GOOD}, {"train_file": "a.csv"}, "a.csv does not exist; did you mean b.csv"),
    ("nowhere", {}, {"train_file": "no/a.csv"}, "a.csv does not exist; nor does its folder"),
    ("one example", {"a.csv": "text,label\na,b\n"}, {"train_file": "a.csv", "task": "cola",
     "text_column_names": ["text"], "label_mapping": {"b": "acceptable"}},
        "one example, so none can be held out"),
    ("long path", {}, {"train_file": "a" * 5000 + ".csv"}, "--train_file: .* can't be read: File name too"),
    ("both", {"a.csv": GOOD}, {"train_file": "a.csv", "dataset_name": "x/y"}, "give only one of them"),
    ("nothing", {}, {}, "give --task, or your own data"),
    # Lengths.
    csv("a.csv", GOOD, "--max_length 513 is more than the model's 512 positions", max_length=513),
    csv("a.csv", GOOD, "--max_length 2 leaves no room for text .* at least 3", max_length=2),
    # GLUE's folder.
    glue("looked for CoLA/train.tsv, but .* holds RTE", {"RTE/train.tsv": "x"}),
    glue("looked for CoLA/dev.tsv, but .*CoLA holds test.tsv, train.tsv",
         {k: v for k, v in cola().items() if "dev" not in k}),
    glue("train.tsv, line 4 has 3 columns; expected 4, as in every line",
         cola(train=COLA + "zz\t1\tno mark\n")),
    glue("dev.tsv, line 4: label '2' is not one of unacceptable, acceptable .written 0, 1",
         cola(dev=COLA + "zz\t2\t\ta zorp .\n")),
    glue("dev.tsv, line 4 has no label", cola(dev=COLA + "zz\t\t\ta zorp .\n")),
    glue("dev.tsv is empty", cola(dev=b"")),
    glue("train.tsv, line 2 is not UTF-8", cola(train=b"zz\t1\t\ta .\nzz\t1\t\t\xe9 .\n")),
    glue("test.tsv has no column 'sentence'; its columns are index, text", cola(test="index\ttext\n0\ta\n")),
    glue("train.tsv, line 2: score 5.5 is not between 0 and 5",
         {f"STS-B/{name}.tsv": "sentence1\tsentence2\tscore\na\tb\t5.5\n"
          for name in ("train", "dev", "test")}, task="stsb"),
    glue("11 of 22 lines are unreadable; line 2 has 1 column",
         {f"QQP/{name}.tsv": "question1\tquestion2\tis_duplicate\n" + "broken\na\tb\t1\n" * 11
          for name in ("train", "dev", "test")}, task="qqp"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "settings", "message"), [case[1:] for case in REFUSED])
def test_mistake_is_one_line_with_its_place(load, tmp_path, files, settings, message):
    write(tmp_path, files)
    with pytest.raises(UserError, match=message) as caught:
        load(tmp_path, settings)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_missing_folder_says_what_it_should_be(load, tmp_path):
    with pytest.raises(
        UserError, match=r"--data_dir .*none does not exist; expected the folder that contains GLUE"
    ):
        load(tmp_path, {"task": "cola", "data_dir": "none"})


def test_pipes_are_no_files(load, tmp_path):
    os.mkfifo(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"--train_file: .*a.csv is a pipe or a device; give a file"):
        load(tmp_path, {"train_file": "a.csv"})


def test_link_to_nothing_names_what_is_missing(load, tmp_path):
    (tmp_path / "a.csv").symlink_to("moved.csv")
    with pytest.raises(
        UserError, match=r"--train_file: .*a.csv is a link to moved.csv, which does not exist"
    ):
        load(tmp_path, {"train_file": "a.csv"})


def test_no_rights_to_read(load, tmp_path, monkeypatch):
    write(tmp_path, {"a.csv": GOOD})
    real = Path.open

    # Rights do not bind every user who may run the tests, so the refusal itself is played.
    def refuse(path: Path, *arguments: Any, **settings: Any) -> Any:
        if path.name == "a.csv":
            raise PermissionError(13, "Permission denied")
        return real(path, *arguments, **settings)

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=r"--train_file: .*a.csv: no permission to read it"):
        load(tmp_path, {"train_file": "a.csv"})


@pytest.mark.parametrize(
    ("looks", "settings", "message"),
    [
        ("is_file", {"task": "cola", "data_dir": "."}, "--data_dir: no permission to read .*train.tsv"),
        (
            "iterdir",
            {"train_file": "a.csv"},
            "a.csv does not exist; nor is there permission to list its folder",
        ),
    ],
)
def test_no_rights_in_a_folder(load, tmp_path, monkeypatch, looks, settings, message):
    real = getattr(Path, looks)

    def refuse(path: Path) -> Any:
        if path.is_relative_to(tmp_path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, looks, refuse)
    with pytest.raises(UserError, match=message):
        load(tmp_path, settings)


LONG = "herself " * 125_000
WORD = json.dumps({"text": "w" * 1_000_000, "label": "no"})
ACCEPTED = [
    ("byte order mark", {"a.csv": b"\xef\xbb\xbf" + GOOD.encode()}, {}, {"examples_in_file": 4}),
    ("byte order mark in JSON", {"a.jsonl": b"\xef\xbb\xbf" + JSONL.encode() * 2}, {},
     {"examples_in_file": 4}),
    ("Windows line ends", {"a.csv": GOOD.replace("\n", "\r\n")}, {}, {"examples_in_file": 4}),
    ("Windows line ends in TSV", {"a.tsv": GOOD.replace(",", "\t").replace("\n", "\r\n")}, {},
     {"examples_in_file": 4}),
    ("no last line end", {"a.csv": GOOD[:-1]}, {}, {"examples_in_file": 4}),
    ("blank lines at the end", {"a.csv": GOOD + "\n\r\n  \n"}, {}, {"examples_in_file": 4}),
    ("blank lines in JSON", {"a.jsonl": JSONL.replace("\n", "\n\n") * 2}, {}, {"examples_in_file": 4}),
    ("JSON lines named json", {"a.json": JSONL * 2}, {}, {"examples_in_file": 4}),
    ("a list named jsonl", {"a.jsonl": json.dumps([json.loads(x) for x in JSONL.splitlines()] * 2)}, {},
     {"examples_in_file": 4}),
    ("empty texts", {"a.csv": GOOD + ",yes\n  ,no\n"}, {}, {"examples_in_file": 6, "empty_texts": 2}),
    ("a field of 1 MB", {"a.csv": GOOD + f"{LONG},no\n"}, {}, {"examples_in_file": 5, "truncated": 1}),
    ("a field of 1 MB in JSON", {"a.jsonl": JSONL * 2 + WORD}, {},
     {"examples_in_file": 5, "truncated": 0}),
    ("quotes in TSV", {"a.tsv": GOOD.replace(",", "\t") + '"a zorp\tyes\n'}, {}, {"examples_in_file": 5}),
    ("line ends in quotes", {"a.csv": GOOD + '"a zorp\nruns",yes\n'}, {}, {"examples_in_file": 5}),
    ("NUL written in JSON", {"a.jsonl": JSONL * 2 + '{"text": "a\\u0000b", "label": "no"}\n'}, {},
     {"examples_in_file": 5, "nul_texts": 1}),
    ("spaces around names and labels", {"a.csv": GOOD.replace(",", " , ")}, {}, {"examples_in_file": 4}),
    ("capital letters", {"a.CSV": GOOD.replace("text,label", "Text,Label")}, {}, {"examples_in_file": 4}),
    ("another column", {"a.csv": GOOD.replace(",", ",x,").replace(",x,", ",other,", 1)}, {},
     {"examples_in_file": 4}),
]  # fmt: skip


@pytest.mark.parametrize(("files", "settings", "found"), [case[1:] for case in ACCEPTED])
def test_oddity_is_counted(load, tmp_path, files, settings, found):
    write(tmp_path, files)
    name = next(iter(files))
    # Half is held out: the counts of both halves are the file's.
    report = load(tmp_path, {"train_file": name, **settings}).report["splits"]
    for key, value in found.items():
        parts = [report[split][key] for split in ("train", "validation")]
        whole = parts[0] if key in ("examples_in_file", "nul_texts") else sum(parts)
        assert whole == value, key


@pytest.mark.parametrize(("rank", "on_its_machine", "lines"), [("0", "0", 1), ("4", "0", 1), ("5", "1", 0)])
def test_a_mistake_is_told_once_a_machine(
    rank: str,
    on_its_machine: str,
    lines: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A folder may be missing on one machine alone: the process of rank 0 knows nothing of it."""
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("LOCAL_RANK", on_its_machine)
    assert main(["train", "--task", "cola", "--model_name_or_path", "./nowhere"]) == 2
    assert capsys.readouterr().err.count("no such folder") == lines


@pytest.mark.parametrize(
    "words",
    [
        ["predict", "out", "--\x1b[31mtext"],
        ["predict", "out", "--format", "\x1b[31m\u202e"],
        ["train", "--seed", "1", "--config"],
        ["explain", "out", "\x1b[31m"],
    ],
)
def test_what_a_parser_refuses_reaches_no_terminal_raw(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.startswith("sot-nlp: error: ")
    assert not {"\x1b", "\u202e"} & set(err)


@pytest.mark.parametrize("name", ["no-such-name", "me/no-such-name"])
@pytest.mark.parametrize(
    "words",
    [
        ["train", "--train_file", "a.csv", "--model_name_or_path"],
        ["evaluate"],
        ["predict"],
        ["explain", "--text", "a zorp"],
        ["export", "--output", "onnx"],
        ["serve"],
    ],
    ids=lambda words: words[0],
)
def test_a_model_that_is_nowhere_is_one_line_at_each_command(
    words: list[str],
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    write(tmp_path, {"a.csv": GOOD, "texts.txt": "a zorp\n"})
    more = ["--file", "texts.txt"] if words[0] == "predict" else []
    assert main([*words, name, *more]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.count(name) == 1
    assert f"{name}: there is no folder of this name here, nor in the Hub's cache, and offline mode" in line
    assert line.endswith("give a model's folder, or its name on the Hub (OWNER/NAME)")


def _train(name: str) -> None:
    sot_nlp.train((["a zorp", "a dax"], ["yes", "no"]), model_name_or_path=name, cache_dir="cache")


@pytest.mark.parametrize("door", [sot_nlp.load, _train])
def test_a_model_that_is_nowhere_is_one_line_in_python(
    door: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="no-such-name: there is no folder of this name here") as caught:
        door("no-such-name")
    assert str(caught.value).count("no-such-name") == 1
