"""`sot-nlp evaluate` on own data: the labels are the model's, so its training data may be gone."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from sklearn.metrics import accuracy_score

import sot_nlp
from sot_nlp import AutoSoTForSequenceClassification, records
from sot_nlp.cli import main
from sot_nlp.inference.evaluate import validation_score
from tests.support import tiny

CPU = ("--cpu", "--mixed_precision", "no", "--disable_tqdm")
NAMES = ("bad", "good", "so so")


def rows(count: int, seed: int) -> list[tuple[str, str]]:
    """Texts with the name of a label, which their first letters decide."""
    return [(text, NAMES[ord(text[0]) % 3]) for text in tiny.sentences(count, seed=seed, low=3)]


def write(path: Path, examples: list[tuple[str, str]], header: str = "words,label") -> Path:
    path.write_text("\n".join([header, *map(",".join, examples)]) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def train(backbone_folder: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`train(name, *flags)`: a run of two epochs in a new folder."""
    folder = tmp_path_factory.mktemp("own")

    def run(name: str, *flags: str) -> Path:
        words = f"--model_name_or_path {backbone_folder('bert')} --output_dir {folder / name}"
        quick = f"--num_train_epochs 2 --learning_rate 1e-3 --cache_dir {folder / 'cache'}"
        assert main(["train", *words.split(), *quick.split(), *CPU, *flags]) == 0
        return folder / name

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    return write(folder / "train.csv", rows(60, 1)), write(folder / "dev.csv", rows(30, 2))


@pytest.fixture(scope="module")
def run(train: Callable[..., Path], files: tuple[Path, Path]) -> Path:
    """A run with a validation file of its own, whose training file is gone."""
    folder = train("run", "--train_file", str(files[0]), "--validation_file", str(files[1]))
    files[0].unlink()
    return folder


def evaluate(run: Path, tmp_path: Path, *flags: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The entry of the evaluation's record, and its predictions."""
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    assert main(["evaluate", str(run), "--output_dir", str(out), *CPU, *flags]) == 0
    record = records.read(out)
    [entry] = record["evaluations"]
    assert record["best"]["value"] == entry[record["main_metric"]]
    return entry, json.loads((out / "predictions.json").read_text())


def test_the_same_scores_without_the_training_file(run, tmp_path):
    entry, predictions = evaluate(run, tmp_path)
    best = records.read(run)["best"]
    assert entry["accuracy"] == best["value"]
    assert predictions == json.loads((run / "predictions.json").read_text())
    named = [NAMES.index(name) for _, name in rows(30, 2)]
    assert [row["label"] for row in predictions] == named
    assert entry["accuracy"] == accuracy_score(named, [row["prediction"] for row in predictions])
    model = AutoSoTForSequenceClassification.from_pretrained(run)
    assert validation_score(run)(model)["accuracy"] == best["value"]


def test_what_is_cut_is_told(run, tmp_path, capsys):
    evaluate(run, tmp_path, "--max_length", "6")
    told = capsys.readouterr().out
    cut = sum(len(text.split()) + 2 > 6 for text, _ in rows(30, 2))
    assert f"validation: {cut} examples were cut at 6 tokens" in told


def test_every_evaluation_names_its_split(run, tmp_path):
    assert [entry["split"] for entry in records.read(run)["evaluations"]] == ["validation"] * 2
    assert evaluate(run, tmp_path)[0]["split"] == "validation"


def test_another_file_with_fewer_labels_in_another_spelling(run, tmp_path):
    chosen = [(text, "So-So") for text, name in rows(40, 5) if name == "so so"]
    other = write(tmp_path / "other.csv", chosen)
    entry, predictions = evaluate(run, tmp_path, "--validation_file", str(other))
    assert [row["label"] for row in predictions] == [2] * len(chosen)
    hits = [row["prediction"] == 2 for row in predictions]
    assert entry["accuracy"] == sum(hits) / len(hits)


def test_numbers_need_a_mapping(run, tmp_path, capsys):
    numbered = [(text, str(NAMES.index(name))) for text, name in rows(30, 2)]
    flags = ["--validation_file", str(write(tmp_path / "n.csv", numbered))]
    assert main(["evaluate", str(run), *flags, *CPU]) == 2
    told = capsys.readouterr().err
    assert "n.csv, line 2: label" in told
    assert "--label_mapping" in told
    mapping = [f"{i}={name}" for i, name in enumerate(NAMES)]
    entry, _ = evaluate(run, tmp_path, *flags, "--label_mapping", *mapping)
    assert entry["accuracy"] == records.read(run)["best"]["value"]
    assert main(["evaluate", str(run), *flags, "--label_mapping", "0=Bad", *CPU]) == 2
    assert "--label_mapping: 0=Bad is not a label of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "kind", "left"),
    [
        (records.FINISHED, None, "config.json"),
        (records.INTERRUPTED, None, None),  # before its first checkpoint
        (records.FINISHED, records.EVALUATION, "config.json"),
        (records.FINISHED, records.EVALUATION, "checkpoints"),
    ],
)
def test_no_training_and_no_model_is_replaced(run, tmp_path, capsys, status, kind, left):
    other = shutil.copytree(run, tmp_path / "other")
    record = {**records.read(run), "status": status, "seed": 7}
    records.write(other, {**record, "kind": kind} if kind else record)
    if left != "config.json":
        (other / "config.json").unlink()
    shutil.rmtree(other / "checkpoints", ignore_errors=True)
    if left == "checkpoints":
        (other / "checkpoints" / "step-00000001").mkdir(parents=True)
    before = {path: path.read_bytes() for path in other.iterdir() if path.suffix == ".json"}
    for flags in ([], ["--overwrite_output_dir"]):
        assert main(["evaluate", str(run), "--output_dir", str(other), *flags, *CPU]) == 2
        told = capsys.readouterr().err
        assert f"--output_dir {other}: holds a training or a model, which an evaluation does not" in told
        assert {path: path.read_bytes() for path in other.iterdir() if path.suffix == ".json"} == before


def test_an_earlier_evaluation_is_replaced_when_told(run, files, tmp_path, capsys):
    (tmp_path / "test.csv").write_text("words\na zorp\n", encoding="utf-8")
    predicted = ["--test_file", str(tmp_path / "test.csv"), "--do_predict"]
    first, _ = evaluate(run, tmp_path, *predicted)
    out = tmp_path / "out"
    write(out / "mine.csv", rows(8, 9))
    again = ["evaluate", str(run), "--output_dir", str(out), "--max_length", "6", *CPU]
    assert main(again) == 2
    assert "holds a finished run; give another folder, or --overwrite_output_dir" in capsys.readouterr().err
    with FileLock(out / ".lock"):
        assert main([*again, "--overwrite_output_dir"]) == 2
    assert f"--output_dir {out}: another run is running in it" in capsys.readouterr().err
    own = out / "metrics.jsonl"
    own.write_text('{"words": "a zorp", "label": "bad"}\n')
    assert main([*again, "--overwrite_output_dir", "--validation_file", str(own)]) == 2
    assert f"--validation_file {own}: --overwrite_output_dir would delete it" in capsys.readouterr().err
    assert records.read(out)["evaluations"] == [first]
    assert main([*again, "--overwrite_output_dir"]) == 0
    assert records.read(out)["arguments"]["max_length"] == 6
    assert sorted(path.name for path in out.glob("[!.]*")) == ["mine.csv", "predictions.json", records.NAME]


def test_test_data_alone_is_predicted_by_name(run, tmp_path):
    (tmp_path / "test.csv").write_text("words\na zorp\nthe dax\n", encoding="utf-8")
    out = tmp_path / "out"
    flags = ["--test_file", str(tmp_path / "test.csv"), "--do_predict", "--output_dir", str(out)]
    assert main(["evaluate", str(run), *flags, *CPU]) == 0
    predictions = json.loads((out / "test_predictions.json").read_text())
    assert [row["index"] for row in predictions] == [0, 1]
    assert {row["prediction"] for row in predictions} <= set(NAMES)


def test_without_a_record_the_models_labels_are_enough(run, tmp_path, files):
    bare = shutil.copytree(run, tmp_path / "bare")
    (bare / records.NAME).unlink()
    flags = ["--validation_file", str(files[1]), "--max_length", "128"]
    assert evaluate(bare, tmp_path, *flags)[0]["accuracy"] == records.read(run)["best"]["value"]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "a", "2": "b"}, "the model's id2label has the ids 0, 2; expected 0 to 1"),
        (["a", "b"], "the model's id2label is .*; expected a name for each id"),
        ({"0": None, "1": "b"}, "the model's id2label is .*; expected a name for each id"),
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_damaged_labels_are_one_line(run, tmp_path, capsys, files, labels, message, command):
    damaged = shutil.copytree(run, tmp_path / "damaged")
    config = json.loads((damaged / "config.json").read_text())
    (damaged / "config.json").write_text(json.dumps(config | {"id2label": labels}))
    flags = ["--file", str(files[1]), "--cpu"] if command == "predict" else CPU
    assert main([command, str(damaged), *flags]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search(message, told)


def test_a_record_of_another_model_is_not_believed(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    record = json.loads((other / records.NAME).read_text())
    (other / records.NAME).write_text(json.dumps(record | {"labels": ["a", "b", "c"]}))
    assert evaluate(other, tmp_path)[0]["accuracy"] == record["best"]["value"]


def test_a_task_that_is_named_is_evaluated_on_its_own_data(run, tmp_path, capsys):
    assert main(["evaluate", str(run), "--task", "cola", "--data_dir", str(tmp_path), *CPU]) == 2
    assert "looked for CoLA/dev.tsv" in capsys.readouterr().err


def test_a_share_held_out_needs_the_training_file_as_it_was(train, tmp_path, capsys):
    path = write(tmp_path / "all.csv", rows(60, 3))
    run = train("share", "--train_file", str(path), "--validation_fraction", "0.3")
    entry, predictions = evaluate(run, tmp_path)
    assert entry["accuracy"] == records.read(run)["best"]["value"]
    assert predictions == json.loads((run / "predictions.json").read_text())
    capsys.readouterr()

    # Another share of the same file would hold examples that were trained on.
    for flags in (["--data_seed", "7"], ["--validation_fraction", "0.5"]):
        for more in ([], ["--max_eval_samples", "5"]):
            assert main(["evaluate", str(run), *flags, *more, *CPU]) == 2
            told = capsys.readouterr().err
            assert f"{flags[0]}: of {path} other examples would be held out than in the training" in told
    assert evaluate(run, tmp_path, "--data_seed", "0")[1] == predictions
    # (a batch of another size may differ in a last digit)
    for first, expected in zip(
        evaluate(run, tmp_path, "--max_eval_samples", "5")[1], predictions[:5], strict=True
    ):
        assert first == {**expected, "probabilities": pytest.approx(expected["probabilities"], rel=1e-5)}
    capsys.readouterr()

    write(path, rows(60, 3)[1:])
    evaluate(run, tmp_path)
    assert f"warning: {path} has changed since the training" in capsys.readouterr().out

    path.unlink()
    assert main(["evaluate", str(run), *CPU]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"{path} does not exist, and the validation data is a share of it" in told
    assert "--validation_file" in told


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--test_file", "{dev}"],
            "--test_file: it is not scored, only predicted .*; --validation_file scores",
        ),
        (
            ["--train_file", "{dev}"],
            "--train_file: nothing is held out of it, the validation data is .*dev.csv",
        ),
        (["--model_name_or_path", "other"], "--model_name_or_path other: the model is that of .*run"),
    ],
)
def test_a_file_that_would_not_be_scored_is_refused(run, files, capsys, flags, message):
    words = [word.format(dev=files[1]) for word in flags]
    assert main(["evaluate", str(run), *words, *CPU]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_settings_of_a_training_are_said_to_do_nothing(run, files, tmp_path, capsys):
    expected = evaluate(run, tmp_path)
    printed = capsys.readouterr().out
    assert "note:" not in printed
    assert "" not in printed.splitlines()
    flags = ("--head", "stock", "--learning_rate", "1e-3", "--seed", "3")
    assert evaluate(run, tmp_path, *flags)[1] == expected[1]
    assert "note: --head, --learning_rate: without effect" in capsys.readouterr().out


def test_a_validation_file_that_changed_is_said(train, tmp_path, capsys):
    path = write(tmp_path / "dev.csv", rows(30, 2))
    run = train(
        "changed",
        "--train_file",
        str(write(tmp_path / "train.csv", rows(60, 1))),
        "--validation_file",
        str(path),
    )
    evaluate(run, tmp_path)
    assert "has changed" not in capsys.readouterr().out
    write(path, rows(30, 2)[:-1])
    evaluate(run, tmp_path)
    assert f"note: {path} has changed since the training" in capsys.readouterr().out


def test_a_regressions_whole_numbers_stay_scores(train, tmp_path):
    scored = [(text, f"{len(text) / 10}") for text in tiny.sentences(40, seed=4)]
    path = write(tmp_path / "train.csv", scored)
    dev = write(tmp_path / "dev.csv", [(text, str(i % 4)) for i, (text, _) in enumerate(scored)])
    run = train("scores", "--train_file", str(path), "--validation_file", str(dev))
    path.unlink()
    entry, predictions = evaluate(run, tmp_path)
    assert [row["label"] for row in predictions] == [float(i % 4) for i in range(40)]
    assert predictions == json.loads((run / "predictions.json").read_text())
    assert entry["pearson"] == pytest.approx(records.read(run)["best"]["value"], abs=1e-6)


def test_a_yaml_task_without_labels_needs_no_training_file_either(train, tmp_path):
    write(tmp_path / "train.csv", rows(40, 6))
    write(tmp_path / "dev.csv", rows(20, 7))
    task = tmp_path / "my.yaml"
    task.write_text(
        "text_columns: [words]\nlabel_column: label\nfiles: {train: train.csv, validation: dev.csv}\n",
        encoding="utf-8",
    )
    run = train("yaml", "--task", str(task))
    (tmp_path / "train.csv").unlink()
    assert evaluate(run, tmp_path)[0]["accuracy"] == records.read(run)["best"]["value"]


@pytest.fixture(params=["share", "files", "task", "data_dir"])
def relative(request, train, tmp_path, monkeypatch) -> Path:
    """A run of data by relative paths, below `tmp_path / "project"`, where everything that it read is."""
    project = tmp_path / "project"
    (project / "data" / "CoLA").mkdir(parents=True)
    monkeypatch.chdir(project)
    write(Path("data", "train.csv"), rows(60, 1))
    write(Path("data", "dev.csv"), rows(30, 2))
    Path("my.yaml").write_text(
        "text_columns: [words]\nlabel_column: label\n"
        "files: {train: data/train.csv, validation: data/dev.csv}\n"
    )
    for name, examples in (("train", rows(60, 1)), ("dev", rows(30, 2))):
        lines = [f"x\t{NAMES.index(label) % 2}\t\t{text}\n" for text, label in examples]
        Path("data", "CoLA", f"{name}.tsv").write_text("".join(lines))
    flags = {
        "share": "--train_file data/train.csv --validation_fraction 0.3",
        "files": "--train_file data/train.csv --validation_file data/dev.csv",
        "task": "--task my.yaml",
        "data_dir": "--task cola --data_dir data",
    }
    folder = train(f"relative-{request.node.name}", *flags[request.param].split())
    return shutil.copytree(folder, project / "run")


def test_relative_paths_lead_where_they_led_whatever_the_folder(relative, tmp_path, monkeypatch, capsys):
    best, expected = records.read(relative)["best"], json.loads((relative / "predictions.json").read_text())
    # Files of the same names are not those of the run.
    other = shutil.copytree(tmp_path / "project", tmp_path / "other", ignore=shutil.ignore_patterns("run"))
    for path in other.rglob("*.?sv"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:12]))
    for place in (other, relative):
        monkeypatch.chdir(place)
        capsys.readouterr()
        assert evaluate(Path(os.path.relpath(relative)), tmp_path)[1] == expected
        assert "changed since" not in capsys.readouterr().out
        scores = sot_nlp.load(os.path.relpath(relative)).evaluate()
        assert scores[best["metric"]] == pytest.approx(best["value"])
    for path in (tmp_path / "project" / "data").rglob("*.?sv"):
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert main(["evaluate", str(relative), *CPU]) == 0
    told = capsys.readouterr().out
    assert re.search(rf"(warning|note): {tmp_path}/project/data/.* has changed since the training", told)


def test_relative_paths_in_a_project_that_moved_or_is_lost(relative, tmp_path, monkeypatch, capsys):
    expected = json.loads((relative / "predictions.json").read_text())
    moved = (tmp_path / "project").rename(tmp_path / "moved")
    monkeypatch.chdir(moved)
    assert evaluate(Path("run"), tmp_path)[1] == expected
    record = records.read(moved / "run")
    older = {name: value for name, value in record.items() if name != "working_directory"}
    for other in (older, {**older, "working_directory": 5}):
        records.write(moved / "run", other)
        assert evaluate(Path("run"), tmp_path)[1] == expected
    records.write(moved / "run", record)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main(["evaluate", "../moved/run", *CPU]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert re.search(rf"{tmp_path}/project/(data|my\.yaml)", told)


def test_a_full_disk_is_one_line(run, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "write", full)
    assert main(["evaluate", str(run), "--output_dir", str(tmp_path / "out"), *CPU]) == 2
    assert "out: cannot be written: No space left on device" in capsys.readouterr().err


def test_a_task_of_another_kind_with_the_same_labels_is_refused(run, tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text('{"words": "zorp", "label": ["bad", "good"]}\n')
    task = tmp_path / "my.yaml"
    task.write_text(
        "kind: multi_label\ntext_columns: [words]\nlabel_column: label\nlabels: [bad, good, so so]\n"
        "files: {validation: a.jsonl}\n",
        encoding="utf-8",
    )
    assert main(["evaluate", str(run), "--task", str(task), *CPU]) == 2
    assert "is a classification, but the task my a multi_label" in capsys.readouterr().err
