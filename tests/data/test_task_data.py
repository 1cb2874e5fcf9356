"""Whole tasks as tokens: what is in each split, and what the report says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sot_nlp.data.data_report import describe, seen_in_training
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.row_checks import check_source
from sot_nlp.data.sources import open_source
from sot_nlp.data.task_data import TaskData, load_data
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from tests.support import tiny


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., TaskData]:
    """`load(splits, **settings)`: a task's data on the tiny BERT tokenizer."""
    tokenizer = tiny.tokenizer("bert")

    def run(splits: tuple[str, ...] | None = None, **settings: Any) -> TaskData:
        arguments = Arguments(cache_dir=str(tmp_path / "cache"), disable_tqdm=True, **settings)
        return load_data(user_task(arguments), arguments, tokenizer, splits=splits)

    return run


def write(path: Path, *lines: str, encoding: str = "utf-8") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    return str(path)


def texts_of(data: TaskData, split: str) -> list[str]:
    """The texts behind a split's tokens, special tokens left out."""
    tokenizer = tiny.tokenizer("bert")
    tokens = data.splits[split]
    return [
        tokenizer.decode(tokens.input_ids[begin : begin + length], skip_special_tokens=True)
        for begin, length in zip(tokens.starts, tokens.lengths, strict=True)
    ]


def mnli(folder: Path) -> str:
    """GLUE's layout: 12 columns in train, 16 in the dev files, and none of the label in test."""
    labels = ["neutral", "entailment", "contradiction"]

    def rows(count: int, width: int) -> list[str]:
        return [
            "\t".join(["x"] * (width - 3) + [f"a zorp {'wug ' * i}", "the dax", labels[i % 3]])
            for i in range(count)
        ]

    def header(width: int) -> str:
        return "\t".join([*(f"c{i}" for i in range(width - 3)), "sentence1", "sentence2", "gold_label"])

    write(folder / "MNLI/train.tsv", header(12), *rows(12, 12))
    write(folder / "MNLI/dev_matched.tsv", header(16), *rows(6, 16))
    write(folder / "MNLI/dev_mismatched.tsv", header(16), *rows(9, 16))
    for name in ("matched", "mismatched"):
        write(
            folder / f"MNLI/test_{name}.tsv", "index\tsentence1\tsentence2", "0\ta zorp\tthe dax", "1\ta\tb"
        )
    return str(folder)


def test_mnli_has_two_validation_splits_under_one_limit(load, tmp_path):
    splits = ("train", "validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
    data = load(splits, task="mnli", data_dir=mnli(tmp_path), max_eval_samples=4, max_train_samples=5)
    assert {name: len(split) for name, split in data.splits.items()} == dict(
        zip(splits, (5, 4, 4, 2, 2), strict=True)
    )
    assert data.labels == ("entailment", "neutral", "contradiction")
    rows = data.splits["train"].indices.tolist()
    assert data.splits["train"].labels.tolist() == [[1, 0, 2][row % 3] for row in rows]
    assert data.splits["validation_mismatched"].indices.tolist() == [0, 1, 2, 3]
    assert data.splits["test_matched"].labels is None
    assert texts_of(data, "train") == [f"a zorp {'wug ' * row}the dax" for row in rows]


def test_mrpc_with_its_byte_order_mark_and_stray_quotes(load, tmp_path):
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for name in ("train", "dev"):
        write(tmp_path / f"MRPC/{name}.tsv", header, '1\t1\t2\t"a zorp .\tthe dax', '0\t3\t4\ta wug"\t"b')
    data = load(task="mrpc", data_dir=str(tmp_path))
    assert data.splits["train"].labels.tolist() == [1, 0]
    assert len(data.splits["validation"]) == 2


def test_qqps_broken_lines_are_counted_and_named(load, tmp_path):
    header = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
    good = [f"{i}\t1\t2\ta zorp\tthe dax\t{i % 2}" for i in range(20)]
    write(tmp_path / "QQP/train.tsv", header, *good[:3], "3\t1\t2\ta wug", *good[3:])
    write(tmp_path / "QQP/dev.tsv", header, *good)
    data = load(task="qqp", data_dir=str(tmp_path))
    report = data.report["splits"]["train"]
    assert report["unreadable"] == [[5, "has 4 columns; expected 6, as in its header, separated by tabs"]]
    assert report["examples"] == 20
    assert data.splits["train"].indices.tolist() == [0, 1, 2, *range(4, 21)]
    lines = "\n".join(describe(data))
    assert "train: 1 unreadable line was skipped: line 5 has 4 columns; expected 6" in lines


def test_share_held_out_is_stratified_and_in_the_files_order(load, tmp_path):
    rows = [f"{'wug ' * (i % 9)}dax,{i % 4 == 0}" for i in range(80)]
    path = write(tmp_path / "a.csv", "text,label", *rows)
    data = load(train_file=path, validation_fraction=0.25)
    train, validation = data.splits["train"], data.splits["validation"]
    assert np.bincount(train.labels).tolist() == [45, 15]
    assert np.bincount(validation.labels).tolist() == [15, 5]
    assert sorted([*train.indices, *validation.indices]) == list(range(80))
    assert (np.diff(train.indices) > 0).all()
    assert texts_of(data, "validation") == [f"{'wug ' * (i % 9)}dax" for i in validation.indices]
    assert validation.labels.tolist() == [int(i % 4 == 0) for i in validation.indices]
    assert data.report["splits"]["validation"]["held_out_of_train"]
    # The share is the same whatever the seed of the training, and whatever is asked for beside it.
    again = load(("validation",), train_file=path, validation_fraction=0.25, seed=7)
    assert again.splits["validation"].indices.tolist() == validation.indices.tolist()
    other = load(train_file=path, validation_fraction=0.25, data_seed=7)
    assert other.splits["validation"].indices.tolist() != validation.indices.tolist()
    alone = load(("train",), train_file=path, validation_fraction=0.25)
    assert alone.splits["train"].indices.tolist() == train.indices.tolist()


def test_part_of_the_training_data_is_drawn_and_the_first_of_the_others(load, tmp_path):
    path = write(
        tmp_path / "a.csv", "text,label", *(f"zorp {'wug ' * (i % 5)},{i // 50}" for i in range(100))
    )
    files = {"train_file": path, "validation_file": path, "max_eval_samples": 9}
    data = load(max_train_samples=30, **files)
    train = data.splits["train"]
    # The file is sorted by label: its first 30 rows would have one alone.
    assert np.bincount(train.labels).min() >= 5
    assert train.labels.tolist() == [row // 50 for row in train.indices]
    assert (np.diff(train.indices) > 0).all()
    assert data.splits["validation"].indices.tolist() == list(range(9))
    rows = train.indices.tolist()
    assert load(max_train_samples=30, seed=7, **files).splits["train"].indices.tolist() == rows
    assert load(max_train_samples=30, data_seed=7, **files).splits["train"].indices.tolist() != rows
    assert set(load(max_train_samples=10, **files).splits["train"].indices) < set(rows)
    assert load(max_train_samples=500, **files).splits["train"].indices.tolist() == list(range(100))
    chosen = [load(max_train_samples=n, **files).report["splits"]["train"]["chosen"] for n in (30, 10, 100)]
    assert len(set(chosen)) == 3
    assert chosen[2] is None


def test_models_positions_bound_the_length(load, tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "a,0", "b,1", "c,0")
    arguments = Arguments(train_file=path, cache_dir=str(tmp_path / "cache"), max_length=65)
    tokenizer = tiny.tokenizer("bert")
    with pytest.raises(UserError, match="--max_length 65 is more than the model's 64 positions"):
        load_data(user_task(arguments), arguments, tokenizer, model_max_length=64)
    assert len(load_data(user_task(arguments), arguments, tokenizer).splits["train"]) == 2


def test_duplicates_are_counted_and_dropped_only_when_asked(load, tmp_path):
    train = write(tmp_path / "a.csv", "text,label", "a zorp,1", " the dax ,0", "a wug,1", "the dax,0", "b,0")
    dev = write(tmp_path / "b.csv", "text,label", "the dax,0", "A zorp,1", "b  ,1", "b,0")
    files = {"train_file": train, "validation_file": dev}
    data = load(**files)
    assert len(data.splits["train"]) == 5
    assert data.report["duplicates"] == {
        "validation": {"train_examples": 3, "validation_examples": 3, "dropped": False}
    }
    assert "train: 3 examples occur in validation too (kept; --drop_leaked drops them)" in describe(data)
    dropped = load(**files, drop_leaked=True)
    assert dropped.splits["train"].indices.tolist() == [0, 2]
    assert dropped.report["duplicates"]["validation"]["dropped"]
    (warning,) = seen_in_training(data.report)
    assert "3 of the 4 examples of validation were trained on" in warning
    assert seen_in_training(dropped.report) == []
    overlap = {"validation": {"train_examples": 4, "validation_examples": 1, "dropped": False}}
    for examples, warned in ((10, True), (11, False)):  # a tenth
        splits = {"validation": {"examples": examples}}
        assert bool(seen_in_training({"duplicates": overlap, "splits": splits})) is warned


def test_a_label_that_the_training_data_lacks_is_said(load, tmp_path):
    path = write(tmp_path / "a.csv", "text,label", *(f"a wug {i},{'no' if i else 'yes'}" for i in range(30)))
    absent = "train: no example has the label yes, so it can't be learned"
    drawn = load(train_file=path, validation_file=path, max_train_samples=1, data_seed=1)
    assert drawn.splits["train"].labels.tolist() == [0]
    assert f"{absent}; draw others with --data_seed, or more with --max_train_samples" in describe(drawn)
    assert not any(
        "can't be learned" in line for line in describe(load(train_file=path, validation_file=path))
    )


def test_truncation_is_counted_with_what_was_lost(load, tmp_path):
    lengths = [3, 20, 30, 10, 11]
    path = write(tmp_path / "a.csv", "text,label", *(f"{'wug ' * n},{n % 2}" for n in lengths))
    data = load(("train",), train_file=path, validation_file=path, max_length=12)
    report = data.report["splits"]["train"]
    lost = [n + 2 - 12 for n in lengths if n + 2 > 12]
    assert report["truncated"] == 3
    assert report["truncated_tokens_p95"] == pytest.approx(np.percentile(lost, 95))
    assert (report["max_length"], report["mean_length"]) == (12, np.mean([5, 12, 12, 12, 12]))
    assert "train: 3 examples were cut at 12 tokens; 95 % of these lost at most 19 tokens" in describe(data)


def test_report_is_json_and_the_same_from_the_cache(load, tmp_path):
    path = write(tmp_path / "a.csv", "words,label", "a zorp,0.5", ",2", "the dax,1")
    first, second = load(train_file=path), load(train_file=path)
    assert json.loads(json.dumps(first.report)) == first.report == second.report
    assert (first.caches["train"], second.caches["train"]) == ("built", "reused")
    columns = {"text": ["words"], "label": "label", "guessed": ["words", "label"]}
    assert first.report["columns"] == {**columns, "own": True, "problem_type": None}
    assert first.report["kind"] == "regression"
    lines = describe(first)
    assert lines[0].startswith("guessed: columns words, label, kind regression")
    assert sum("1 example has an empty text" in line for line in lines) == 1


def test_several_labels_are_zeros_and_ones(load, tmp_path):
    rows = [{"text": f"wug {i}", "label": ["b", "a"][: i % 3]} for i in range(12)]
    path = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    data = load(train_file=path, validation_fraction=0.25)
    assert (data.kind, data.labels) == ("multi_label", ("a", "b"))
    train = data.splits["train"]
    assert train.labels.tolist() == [[[0, 0], [0, 1], [1, 1]][i % 3] for i in train.indices]
    counts = [data.report["splits"][name]["labels"] for name in ("train", "validation")]
    assert {name: counts[0][name] + counts[1][name] for name in "ab"} == {"a": 4, "b": 8}


def test_own_test_file_may_have_labels_or_not(load, tmp_path):
    train = write(tmp_path / "a.csv", "text,label", "a,x", "b,y", "c,x", "d,y")
    for name, lines, labels in (
        ("without.csv", ["text", "a", "b"], None),
        ("empty.csv", ["text,label", "a,", "b,"], None),
        ("with.csv", ["text,label", "a,y", "b,x"], [1, 0]),
    ):
        data = load(("test",), train_file=train, test_file=write(tmp_path / name, *lines))
        numbers = data.splits["test"].labels
        assert (numbers if numbers is None else numbers.tolist()) == labels
        assert list(data.splits) == ["test"]


def test_published_number_of_examples_is_checked(load, tmp_path):
    for name in ("train", "dev"):
        write(tmp_path / f"CoLA/{name}.tsv", "x\t1\t\ta zorp", "x\t0\t\tzorp a")
    lines = describe(load(task="cola", data_dir=str(tmp_path)))
    assert "train: warning: 2 examples, where the published file has 8551" in lines


@pytest.mark.shared
@pytest.mark.parametrize(
    ("task", "folder", "counts"),
    [
        ("cola", "CoLA", (8551, 1043, 1063)),
        ("rte", "RTE", (2490, 277, 3000)),
        ("stsb", "STS-B", (5749, 1500, 1379)),
    ],
)
def test_real_glue_is_read_whole_and_in_order(glue_folder, task, folder, counts):
    arguments = Arguments(task=task, data_dir=str(glue_folder))
    spec = user_task(arguments)
    files = {"train": "train", "validation": "dev", "test": "test"}
    for (split, name), count in zip(files.items(), counts, strict=True):
        checked = check_source(open_source(spec, split, arguments))
        assert len(checked) == count == spec.rows[split]
        assert checked.indices.tolist() == list(range(count))
        assert not checked.unreadable
        assert not checked.empty.any()
        if split == "test":
            assert checked.labels is None
            continue
        # Labels straight from the lines.
        lines = (glue_folder / folder / f"{name}.tsv").read_bytes().decode().rstrip("\n").split("\n")
        if task == "cola":
            expected = [int(line.split("\t")[1]) for line in lines]
        else:
            words = [line.split("\t")[-1] for line in lines[1:]]
            expected = [float(word) if task == "stsb" else int(word == "not_entailment") for word in words]
        assert checked.labels == pytest.approx(np.array(expected))


@pytest.mark.shared
def test_real_cola_becomes_tokens(load, glue_folder):
    data = load(("train", "validation"), task="cola", data_dir=str(glue_folder))
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 8551, "validation": 1043}
    # Counted apart: sentences of both files, equal but for white space around them.
    texts = [
        [line.split("\t")[3].strip() for line in path.read_bytes().decode().rstrip("\n").split("\n")]
        for path in (glue_folder / "CoLA/train.tsv", glue_folder / "CoLA/dev.tsv")
    ]
    dev = set(texts[1])
    both = sum(text in dev for text in texts[0])
    assert data.report["duplicates"]["validation"]["train_examples"] == both
    assert not any("warning" in line for line in describe(data))


@pytest.mark.parametrize("source", [None, "recipe of cola", "record", "flag", "settings.yaml"])
def test_length_that_was_not_given_is_the_models_where_that_is_less(tmp_path, source):
    path = write(tmp_path / "a.csv", "text,label", *(f"{'wug ' * 90},{i % 2}" for i in range(4)))
    sources = {} if source is None else {"max_length": source}
    settings = {"train_file": path, "validation_file": path, "cache_dir": str(tmp_path)}
    arguments = Arguments(**settings, disable_tqdm=True, sources=sources)
    spec, tokenizer = user_task(arguments), tiny.tokenizer("bert")
    if source in ("flag", "settings.yaml"):
        name = "--max_length" if source == "flag" else r"max_length \(settings.yaml\)"
        with pytest.raises(UserError, match=f"{name} 128 is more than the model's 64 positions"):
            load_data(spec, arguments, tokenizer, model_max_length=64)
        return
    data = load_data(spec, arguments, tokenizer, model_max_length=64)
    assert data.splits["train"].lengths.tolist() == [64] * 4
    assert data.report["max_length"] == 64
    assert "max_length is 64, the model's positions; the default is 128" in describe(data)
    longer = load_data(spec, arguments, tokenizer, model_max_length=92)
    assert longer.splits["train"].lengths.tolist() == [92] * 4
    assert load_data(spec, arguments, tokenizer).splits["train"].lengths.tolist() == [92] * 4


def test_model_of_too_few_positions_is_refused(tmp_path):
    path = write(tmp_path / "a.csv", "text,label", "a,x", "b,y")
    arguments = Arguments(train_file=path, cache_dir=str(tmp_path), disable_tqdm=True)
    with pytest.raises(UserError, match="a model of 2 positions leaves no room for text"):
        load_data(user_task(arguments), arguments, tiny.tokenizer("bert"), model_max_length=2)
