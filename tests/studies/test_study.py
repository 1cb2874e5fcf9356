"""Studies: what a grid becomes, what is refused, and one of real runs."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from filelock import FileLock

from sot_nlp import records
from sot_nlp.cli import main
from sot_nlp.commands import compare
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.sources import held_out_splits, place
from sot_nlp.errors import UserError
from sot_nlp.modeling.head_config import PRESETS
from sot_nlp.settings.arguments import build_arguments
from sot_nlp.settings.command_line import parse_flags
from sot_nlp.studies import read_results
from sot_nlp.studies.sharding import WHOLE
from sot_nlp.studies.study import Study, StudyCell, finished, published_command
from sot_nlp.studies.study_file import parse_names, parse_seeds, read_study
from sot_nlp.tasks.recipe import layered_arguments
from sot_nlp.tasks.spec import load_task
from tests.support import tiny

STUDY = """\
name: small
tasks: [cola, rte]
models: {tiny: google-bert/bert-base-cased}
heads:
  stock: stock
  text: {head: text, head.alpha: 0.7, head_learning_rate: 1e-3}
settings:
  full: {}
  frozen: {freeze_backbone: true}
seeds: 2
arguments: {num_train_epochs: 3, warmup_ratio: 0.1}
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path


def test_a_file_becomes_cells(file):
    study = finished(read_study(file))
    cells = study.cells()
    assert len(cells) == 2 * 1 * 2 * 2 * 2
    assert study.baseline == "stock"
    assert len({cell.folder for cell in cells}) == len(cells)
    cell = next(c for c in cells if (c.task, c.setting, c.arm, c.seed) == ("rte", "frozen", "text", 1))
    assert cell.settings == {
        "task": "rte",
        "model_name_or_path": "google-bert/bert-base-cased",
        "num_train_epochs": 3,
        "warmup_ratio": 0.1,
        "freeze_backbone": True,
        "head": "text",
        "head.alpha": 0.7,
        "head_learning_rate": 1e-3,
        "seed": 1,
        "data_seed": 10_001,
    }
    # Pairs first: all arms of a seed come before the next seed.
    assert [cell.seed for cell in cells] == [0] * 8 + [1] * 8


def test_the_seeds_are_paired_across_arms(file):
    pairs: dict = {}
    for cell in finished(read_study(file)).cells():
        pairs.setdefault((cell.arm, cell.setting, cell.task), set()).add((cell.seed, cell.data_seed))
    assert set(map(frozenset, pairs.values())) == {frozenset({(0, 10_000), (1, 10_001)})}


def test_a_cells_command_gives_its_settings(file, tmp_path):
    text = STUDY.replace(
        "warmup_ratio: 0.1", "class_weights: '1,2', torch_compile: false, max_train_samples: 9"
    )
    file.write_text(text)
    for cell in finished(read_study(file)).cells():
        words = cell.command(tmp_path)
        assert words[1:4] == ["-m", "sot_nlp.cli", "train"]
        arguments = layered_arguments(*parse_flags(words[4:], "x", ""))
        for name, value in cell.settings.items():
            if name.startswith("head."):
                assert arguments.head_overrides[name.removeprefix("head.")] == value
            elif name not in ("task", "head"):
                assert getattr(arguments, name) == value, name
        assert arguments.head == cell.settings["head"]
        assert arguments.output_dir == str(tmp_path)


def test_a_folder_stands_for_what_shapes_the_run(file, monkeypatch):
    def folders(**arguments):
        study = finished(read_study(file))
        return [c.folder for c in finished(Study(**{**vars(study), "arguments": arguments})).cells()]

    assert folders(num_train_epochs=3, data_dir="/a", logging_steps=5) == folders(num_train_epochs=3)
    assert folders(learning_rate=1e-5) != folders(learning_rate=2e-6)
    # Saying what is the default anyway makes no other run.
    before = folders()
    assert folders(label_smoothing=0.0) == before
    # A preset that a later version changes does.
    monkeypatch.setitem(PRESETS, "text", PRESETS["text"].replace(mean_alpha=0.5))
    changed = [a != b for a, b in zip(folders(), before, strict=True)]
    assert changed == ["text" in folder for folder in before]


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("seeds: 2", "sedes: 2", [r"small.yaml:10: sedes: unknown key|small.yaml:10: unknown key 'sedes'"]),
        ("warmup_ratio", "warmup_ration", ["small.yaml:11.*unknown setting 'warmup_ration'; did you mean"]),
        ("seeds: 2", "seeds: lots", ["small.yaml:10.*seeds lots"]),
        ("warmup_ratio: 0.1", "alpha: 0.3", ["small.yaml:11.*settings are given as head.alpha"]),
        ("warmup_ratio: 0.1", "seed: 3", ["seed is set by the grid"]),
        ("freeze_backbone: true", "freeze_backbone: maybe", ["frozen.*'maybe' is not true or false"]),
        ("head.alpha: 0.7", "head.alpha: 7", ["cola · tiny · full · text.*alpha"]),
        ("stock: stock", "stock: stok", ["stok"]),
        ("tasks: [cola, rte]", "tasks: [colla]", ["unknown task 'colla'; did you mean"]),
        ("tasks: [cola, rte]", "tasks: [ax]", ["ax has no training data"]),
        ("seeds: 2", "score: first", ["score"]),
        ("seeds: 2", "baseline: base", ["baseline 'base' is not among the heads"]),
        ("models:", "modells:", ["unknown key 'modells'.*did you mean models"]),
    ],
)
def test_mistakes_are_named(file, old, new, messages):
    file.write_text(STUDY.replace(old, new))
    with pytest.raises(UserError) as error:
        finished(read_study(file)).cells()
    for message in messages:
        import re

        assert re.search(message, str(error.value)), str(error.value)


def test_arms_with_different_budgets_are_refused_unless_said(file, tmp_path):
    file.write_text(STUDY.replace("head.alpha: 0.7", "head.alpha: 0.7, num_train_epochs: 6"))
    with pytest.raises(
        UserError, match=r"text has another budget than stock \(num_train_epochs 6.0 against 3.0"
    ):
        finished(read_study(file)).cells()
    file.write_text(file.read_text() + "allow_unequal_budget: true\n")
    study = finished(read_study(file))
    cells = study.cells()
    study.write_plan(tmp_path / "s", cells, "x")
    marks = read_results.read_results(tmp_path / "s").marks
    assert len(marks) == 4
    assert "num_train_epochs 6.0 against 3.0" in marks[0]


def test_tasks_that_are_scored_on_training_data_are_known(file, tmp_path):
    content = "name: {0}\ntext_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\nfiles: {{{1}}}\n"
    for name, files in (
        ("alone", "train: a.csv"),
        ("shared", "train: a.csv, validation: a.csv"),
        ("own", "train: a.csv, validation: b.csv"),
    ):
        (tmp_path / f"{name}.yaml").write_text(content.format(name, files))
    file.write_text(STUDY.replace("[cola, rte]", "[cola, alone.yaml, shared.yaml, own.yaml]"))
    assert finished(read_study(file)).tasks_without_validation() == ["alone", "shared"]


def test_held_out_tasks_leave_the_validation_data_alone(file, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "name: mine\ntext_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\n"
        "files: {train: a.csv, validation: b.csv, test: c.csv}\n"
    )
    file.write_text(STUDY.replace("[cola, rte]", "[cola, mine.yaml]") + "held_out: true\n")
    study = finished(read_study(file)).with_held_out_tasks(tmp_path / "s" / "tasks")
    cola, mine = (load_task(path) for path in study.tasks.values())
    assert list(study.tasks) == ["cola", "mine"]
    assert cola.files["validation"] == cola.files["train"] == load_task("cola").files["train"]
    assert cola.splits == ("train", "validation")
    assert cola.file_path("validation", "/glue") == Path("/glue/CoLA/train.tsv")
    assert dict(cola.dataset_splits) == {"train": "train", "validation": "train"}
    assert (cola.recipe, cola.label_words) == (load_task("cola").recipe, load_task("cola").label_words)
    assert mine.file_path("validation", None) == tmp_path / "a.csv" == mine.file_path("train", None)
    assert mine.labels == ("no", "yes")
    cells = study.cells()
    study.write_plan(tmp_path / "s", cells, "x")
    assert "held-out" in read_results.read_results(tmp_path / "s").marks[0]
    # The same task from another folder is the same cell.
    again = finished(read_study(file)).with_held_out_tasks(tmp_path / "elsewhere")
    assert [cell.folder for cell in again.cells()] == [cell.folder for cell in cells]


def test_a_validation_file_does_not_take_the_place_of_the_held_out_data(file, tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na b,no\nc d,yes\n")
    (tmp_path / "mine.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\nfiles: {train: a.csv}\n"
    )
    file.write_text(STUDY.replace("[cola, rte]", "[mine.yaml]") + "held_out: true\n")
    study, own = finished(read_study(file)), {"validation_file": str(tmp_path / "b.csv")}
    for changed in (
        {"arguments": {**study.arguments, **own}},
        {"settings": {name: {**layer, **own} for name, layer in study.settings.items()}},
        {"heads": {name: {**layer, **own} for name, layer in study.heads.items()}},
        {"arguments": {**study.arguments, **own, "train_file": str(tmp_path / "a.csv")}},
    ):
        held_out = dataclasses.replace(study, **changed).with_held_out_tasks(tmp_path / "tasks")
        for arguments in held_out.resolved().values():
            spec = user_task(arguments)
            assert held_out_splits(spec, arguments) == ["validation"]
            assert place(spec, "validation", arguments) == tmp_path / "a.csv"
    hub = dataclasses.replace(study, arguments={**study.arguments, "dataset_name": "someone/data"})
    with pytest.raises(UserError, match="has validation data of its own"):
        hub.with_held_out_tasks(tmp_path / "tasks")


def test_own_tasks_of_one_name_stay_apart(file, tmp_path):
    """As of one data set in two languages, each in its folder: their names differ in no ASCII letter."""
    for language in ("zh", "ja"):
        (tmp_path / language).mkdir()
        (tmp_path / language / "task.yaml").write_text(
            "text_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\n"
            "files: {train: a.csv, validation: b.csv}\n"
        )
    file.write_text(STUDY.replace("[cola, rte]", "{中文: zh/task.yaml, 日本語: ja/task.yaml}"))
    study = finished(read_study(file))
    cells = study.cells()
    assert len({cell.folder for cell in cells}) == len(cells)
    held_out = dataclasses.replace(study, held_out=True).with_held_out_tasks(tmp_path / "tasks")
    files = [load_task(path).file_path("validation", None) for path in held_out.tasks.values()]
    assert files == [tmp_path / "zh" / "a.csv", tmp_path / "ja" / "a.csv"]


@pytest.mark.parametrize(
    ("words", "seeds"), [(["3"], (0, 1, 2)), (["100-102"], (100, 101, 102)), (["7", "5"], (7, 5))]
)
def test_seeds(words, seeds):
    assert parse_seeds(words) == seeds


@pytest.mark.parametrize("words", [["0"], ["x"], ["5-3"], ["1", "1"], ["-1"], ["1.5"]])
def test_bad_seeds(words):
    with pytest.raises(UserError, match="seeds"):
        parse_seeds(words)


@pytest.mark.parametrize(("written", "seeds"), [("3", (0, 1, 2)), ("[3]", (3,)), ("[3, 1]", (3, 1))])
def test_a_list_in_a_file_names_its_seeds(file, written, seeds):
    file.write_text(STUDY.replace("seeds: 2", f"seeds: {written}"))
    assert read_study(file).seeds == seeds


def test_names_for_tables():
    assert parse_names(["google-bert/bert-base-cased", "mini=/x/y"]) == {
        "bert-base-cased": "google-bert/bert-base-cased",
        "mini": "/x/y",
    }
    with pytest.raises(UserError, match="occurs twice"):
        parse_names(["a/b", "c/b"])


def test_an_upper_layer_drops_what_a_lower_one_says_in_other_words(file, capsys, tmp_path):
    text = STUDY.replace("num_train_epochs: 3", "max_train_steps: 500")
    file.write_text(text.replace("full: {}", "full: {num_train_epochs: 2, warmup_steps: 7}"))
    for (_, _, setting, _), arguments in finished(read_study(file)).resolved().items():
        length = (arguments.max_train_steps, arguments.num_train_epochs)
        warmup = (arguments.warmup_steps, arguments.warmup_ratio)
        assert (length[0], warmup) == ((500, (None, 0.1)) if setting == "frozen" else (None, (7, 0.0)))
        assert setting == "frozen" or length[1] == 2.0
    words = ["compare", str(file), "--plan", "--output_dir", str(tmp_path / "s"), "--num_train_epochs", "4"]
    assert main([*words, "--settings", "frozen"]) == 0
    planned = capsys.readouterr().out
    assert "--num_train_epochs=4" in planned
    assert "--max_train_steps" not in planned


def test_flags_override_the_file_and_the_plan_runs_nothing(file, capsys, tmp_path):
    words = [
        str(file),
        "--tasks",
        "rte",
        "--heads",
        "text",
        "stock",
        "--seeds",
        "7",
        "8",
        "--settings",
        "full",
    ]
    words += [
        "--num_train_epochs",
        "5",
        "--head.dropout",
        "0.3",
        "--output_dir",
        str(tmp_path / "o"),
        "--plan",
    ]
    assert compare.run(words, "sot-nlp compare") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all("--num_train_epochs=5" in line and "--head.dropout=0.3" in line for line in lines)
    assert sum("--head.alpha=0.7" in line for line in lines) == 2
    assert not (tmp_path / "o").exists()


def test_a_study_that_is_refused_leaves_the_plan_of_the_one_that_runs(file, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    (folder / "study.json").write_text("the plan of the first")
    with FileLock(folder / WHOLE.lock), pytest.raises(UserError, match="another study is running in it"):
        compare.run([str(file), "--cpu", "--output_dir", str(folder)], "sot-nlp compare")
    assert (folder / "study.json").read_text() == "the plan of the first"


def test_the_folder_of_a_study_of_another_name_is_refused(file, tmp_path):
    folder = tmp_path / "s"
    folder.mkdir()
    plan = json.dumps({"name": "first", "cells": []})
    (folder / "study.json").write_text(plan)
    with pytest.raises(UserError, match=r"--output_dir .*/s: holds the study first, not .*; give another"):
        compare.run([str(file), "--cpu", "--output_dir", str(folder)], "sot-nlp compare")
    assert [path.read_text() for path in folder.iterdir()] == [plan]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "cola"], "use --tasks"),
        (["--seed", "3"], "use --seeds"),
        (["--jobs", "0"], "--jobs 0"),
        (["--settings", "fulll"], "which has full, frozen"),
        (["--baseline", "text2"], "did you mean text"),
        (["--num_train_epoch", "3"], "did you mean --num_train_epochs"),
        (["--config", "x.yaml"], "under `arguments`"),
    ],
)
def test_bad_flags(file, words, message):
    with pytest.raises(UserError, match=message):
        compare.run([str(file), *words], "sot-nlp compare")


def test_a_study_from_flags_alone_needs_its_parts():
    with pytest.raises(UserError, match=r"tasks: none is given.*models: none"):
        compare.run(["--heads", "stock"], "sot-nlp compare")


SHIPPED = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize("path", sorted({*SHIPPED.glob("*.yaml")} - {SHIPPED / "probe.yaml"}))
def test_the_studies_that_ship_hold(path):
    study = read_study(path)
    if not study.models:
        study = Study(**{**vars(study), "models": {"tiny": "google-bert/bert-base-cased"}})
    cells = finished(study).cells()
    for cell in cells[:: max(1, len(cells) // 5)]:
        layered_arguments(*parse_flags(cell.command(Path("x"))[4:], "x", ""))
    for arm, models in study.published.items():
        assert arm in study.heads
        assert models.keys() <= study.models.keys()


def test_a_study_of_real_runs(tmp_path, backbone_folder, capsys):
    for name, count in (("train", 60), ("dev", 30)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as table:
            writer = csv.writer(table)
            writer.writerow(["text", "label"])
            writer.writerows([text, ("no", "yes")[i % 2]] for i, text in enumerate(tiny.sentences(count)))
    (tmp_path / "task.yaml").write_text(
        "name: mine\ntext_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\n"
        "files: {train: train.csv, validation: dev.csv}\n"
    )
    words = ["--tasks", f"mine={tmp_path / 'task.yaml'}", "--models", f"tiny={backbone_folder('bert')}"]
    words += ["--heads", "stock", "vision", "--seeds", "1", "--num_train_epochs", "1", "--cpu"]
    words += ["--jobs", "1", "--threads", "1"]
    words += ["--output_dir", str(tmp_path / "s"), "--cache_dir", str(tmp_path / "cache")]
    assert compare.run(words, "sot-nlp compare") == 0
    printed = capsys.readouterr().out
    assert "[2/2] mine · tiny · " in printed
    results = read_results.read_results(tmp_path / "s")
    assert [(cell.arm, cell.status, cell.metric) for cell in results.cells] == [
        ("stock", "finished", "accuracy"),
        ("vision", "finished", "accuracy"),
    ]
    assert results.cells[1].only_here is not None
    assert results.cells[0].data == results.cells[1].data != ""
    assert "no-such" not in printed
    assert build_arguments([]).seed == 42
    assert (tmp_path / "s" / "report.html").exists()
    # The second cell ran in a process that the first had been in: its record is that of another process.
    plan = json.loads((tmp_path / "s" / "study.json").read_text())
    cell = StudyCell(**plan["cells"][1])
    alone = tmp_path / "alone"
    assert main([*cell.command(alone)[3:], "--disable_tqdm"]) == 0
    in_study = tmp_path / "s" / "runs" / cell.folder
    assert comparable(in_study) == comparable(alone)
    assert (in_study / "predictions.json").read_bytes() == (alone / "predictions.json").read_bytes()


def comparable(run):
    """A run's record without timings, places and what else a clock or the machine decides."""
    record = records.read(run)
    for name in ("timings", "train_examples_per_second", "git"):  # (the tree may be worked on meanwhile)
        record.pop(name)
    record["arguments"].pop("output_dir")
    record["environment"].pop("peak_memory_bytes", None)
    for entry in record["log_history"]:
        entry.pop("examples_per_second", None)
    return record


def test_a_published_command_names_no_folder_of_the_machine():
    words = [
        "sot-nlp",
        "compare",
        "studies/quick.yaml",
        "--models",
        "M=/a/b/my model",
        "--data_dir=/a/glue/",
    ]
    assert published_command([*words, "--output_dir", "/b/x"]) == (
        "sot-nlp compare studies/quick.yaml --models 'M=my model' --data_dir=glue --output_dir x"
    )
