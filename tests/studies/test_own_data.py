"""Studies of own data without a task's file: what runs, what is held out, and what is refused once."""

from __future__ import annotations

import dataclasses
import shlex
import sys

import pytest

from sot_nlp.commands import compare
from sot_nlp.commands import tune as tune_command
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.sources import held_out_splits
from sot_nlp.errors import UserError
from sot_nlp.modeling.head_config import DEFAULT_PRESET
from sot_nlp.settings.command_line import parse_flags
from sot_nlp.studies import own_data
from sot_nlp.studies.study import StudyCell, finished
from sot_nlp.studies.study_file import read_study
from sot_nlp.tasks.recipe import layered_arguments
from tests.support import fake_runs, tiny


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "my reviews.csv"
    lines = [f"{text},{('bad', 'good')[i % 2]}" for i, text in enumerate(tiny.sentences(60))]
    path.write_text("\n".join(["text,label", *lines]) + "\n")
    return path


def study_of(words):
    own, rest = compare._parser("x").parse_known_args(words)
    return compare._study(None, own, rest, "x")


def words_of(data, *more):
    return ["--train_file", str(data), "--models", "tiny=org/tiny", "--seeds", "2", *more]


def test_every_run_is_what_train_would_be_given(data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert compare.run(words_of(data, "--num_train_epochs", "2", "--plan"), "sot-nlp compare") == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    heads = []
    for command in commands:
        flags, _ = parse_flags(command[4:], "train", "")
        arguments = layered_arguments(flags, None)
        assert (arguments.task, arguments.train_file) == (None, str(data))
        assert arguments.num_train_epochs == 2
        assert arguments.output_dir.startswith("runs/studies/my-reviews/runs/my-reviews-tiny-")
        heads.append((arguments.head, arguments.seed))
    assert heads == [("stock", 0), (DEFAULT_PRESET, 0), ("stock", 1), (DEFAULT_PRESET, 1)]
    assert not (tmp_path / "runs").exists()


def test_another_file_and_a_changed_one_are_other_runs(data, monkeypatch, tmp_path):
    def folders():
        return {cell.folder for cell in study_of(words_of(data.name)).cells()}

    (tmp_path / "b").mkdir()
    (tmp_path / "b" / data.name).write_text(data.read_text().replace("bad", "poor"))
    monkeypatch.chdir(tmp_path)
    first = folders()
    assert folders() == first
    monkeypatch.chdir(tmp_path / "b")
    assert not folders() & first
    monkeypatch.chdir(tmp_path)
    data.write_text(data.read_text().replace("bad", "awful"))
    assert not folders() & first


def test_a_task_of_ones_own_with_changed_data_is_other_runs(data, tmp_path):
    task = tmp_path / "mine.yaml"
    task.write_text(
        f"text_columns: [text]\nlabel_column: label\nlabels: [bad, good]\nfiles: {{train: '{data.name}'}}\n"
    )

    def folders():
        words = ["--tasks", str(task), "--models", "tiny=org/tiny", "--seeds", "1"]
        return {cell.folder for cell in study_of(words).cells()}

    first = folders()
    assert folders() == first
    data.write_text(data.read_text() + "one more,good\n")
    assert not folders() & first


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "record.json"):
        (folder / name).write_text(name)
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"])
def test_a_changed_model_is_other_runs(data, model, name):
    def folders():
        return {cell.folder for cell in study_of(words_of(data, "--models", f"tiny={model}")).cells()}

    first = folders()
    assert len(first) == 4
    (model / "record.json").write_text("{}")
    (model / "notes.md").write_text("mine")
    assert folders() == first
    (model / name).write_text("another")
    changed = folders()
    assert not changed & first
    (model / name).write_text("a third")
    assert not folders() & (first | changed)


def test_runs_of_a_changed_model_are_made_anew(data, model, monkeypatch, tmp_path):
    monkeypatch.setenv("RUNS", str(tmp_path / "ran"))
    monkeypatch.setattr(StudyCell, "command", fake_runs.fake)
    study, folder = study_of(words_of(data, "--models", f"tiny={model}")), tmp_path / "s"
    for change, made in (("first", 4), ("first", 4), ("second", 8), ("first", 8)):
        (model / "model.safetensors").write_text(change)
        state = fake_runs.runner(folder, study.cells(folder / "runs")).run()
        assert len(state.finished) == 4
        assert len((tmp_path / "ran").read_text().splitlines()) == made


def test_runs_from_before_models_were_hashed_are_kept(data, model, monkeypatch, tmp_path):
    study = study_of(words_of(data, "--models", f"tiny={model}"))
    with monkeypatch.context() as before:
        before.setattr(own_data, "model_content", lambda arguments: {})
        first, *rest = study.cells()
    hashed = study.cells()
    assert not {cell.folder for cell in hashed} & {first.folder, *(cell.folder for cell in rest)}
    assert study.cells(tmp_path / "runs") == hashed
    (tmp_path / "runs" / first.folder).mkdir(parents=True)
    assert study.cells(tmp_path / "runs") == [first, *hashed[1:]]


def test_choosing_takes_a_share_of_the_training_file(data, tmp_path):
    study = study_of(words_of(data, "--validation_file", str(tmp_path / "dev.csv"), "--held_out"))
    assert study.tasks_without_validation() == []
    for arguments in study.with_held_out_tasks(tmp_path).resolved().values():
        assert arguments.validation_file is None
        assert held_out_splits(user_task(arguments), arguments) == ["validation"]
    assert study_of(words_of(data)).tasks_without_validation() == ["my-reviews"]


def test_what_was_tuned_is_compared_on_the_real_validation_file(data, monkeypatch, tmp_path):
    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    validation = tmp_path / "dev.csv"
    for path in (data, validation):
        path.write_text(data.read_text().replace("text,label", "my text,kind"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNS", str(tmp_path / "ran"))
    monkeypatch.setattr(StudyCell, "command", fake_runs.fake)
    words = ["--train_file", data.name, "--validation_file", validation.name, "--cpu", "--jobs", "1"]
    words += [
        "--text_column_names",
        "my text",
        "--label_column_name",
        "kind",
        "--label_mapping",
        "bad=no",
        "good=1",
    ]
    words += ["--model_name_or_path", "org/tiny", "--trials", "1", "--search", "learning_rate=1e-5,1e-4"]
    assert tune_command.run([*words, "--output_dir", str(tmp_path / "t")], "sot-nlp tune") == 0
    tuned = finished(read_study(tmp_path / "t" / "tuned.yaml"))
    assert tuned.tasks == {"my-reviews": None}
    assert tuned.name == "my-reviews-tiny_tuned"
    for arguments in tuned.resolved().values():
        assert (arguments.train_file, arguments.validation_file) == (str(data), str(validation))
        assert arguments.learning_rate in (1e-5, 1e-4)
        assert (arguments.text_column_names, arguments.label_mapping) == (
            ["my text"],
            {"bad": "no", "good": "1"},
        )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--text_column_names", "review"], "has no column 'review'; its columns are text, label"),
        (["--train_file", "nowhere.csv"], r"^--train_file: nowhere.csv does not exist"),
        (["--dataset_name", "org/data"], "--dataset_name and --train_file: give only one"),
        (["--validation_file", "nowhere.csv"], r"^--validation_file: nowhere.csv does not exist"),
        (["--tasks", "cola"], "has no column 'sentence'; its columns are text, label"),
        (["--tasks", "cola", "rte"], "^--train_file: one file can't be the data of several tasks"),
    ],
)
def test_what_is_wrong_with_the_data_is_said_before_any_run(data, monkeypatch, tmp_path, more, message):
    monkeypatch.setattr(StudyCell, "command", lambda *_: sys.exit("a run was started"))
    with pytest.raises(UserError, match=message):
        compare.run(words_of(data, "--output_dir", str(tmp_path / "s"), *more), "sot-nlp compare")
    assert not (tmp_path / "s").exists()


def test_a_search_is_not_started_for_a_validation_file_that_is_not_there(data, monkeypatch, tmp_path):
    monkeypatch.setattr(StudyCell, "command", lambda *_: sys.exit("a run was started"))
    words = [
        "--train_file",
        str(data),
        "--validation_file",
        "nowhere.csv",
        "--model_name_or_path",
        "org/tiny",
    ]
    with pytest.raises(UserError, match=r"^--validation_file: nowhere.csv does not exist"):
        tune_command.run([*words, "--output_dir", str(tmp_path / "t")], "sot-nlp tune")
    assert not (tmp_path / "t").exists()


def test_what_is_wrong_with_every_arm_is_said_once(tmp_path):
    words = ["--task", "cola", "--model_name_or_path", str(tmp_path / "nowhere")]
    with pytest.raises(UserError, match=r"\A--model_name_or_path \S+nowhere: no such folder\Z"):
        tune_command.run([*words, "--output_dir", str(tmp_path / "t")], "sot-nlp tune")


def test_a_file_may_be_named_by_a_number(tmp_path):
    study = tmp_path / "s.yaml"
    study.write_text("models: {tiny: org/tiny}\nheads: [stock]\narguments: {train_file: 123}\n")
    with pytest.raises(UserError, match=r"^--train_file: 123 does not exist"):
        compare.run([str(study), "--plan"], "sot-nlp compare")


@pytest.mark.parametrize(
    ("layer", "where"),
    [
        ("settings: {full: {}, part: {train_file: nowhere.csv}}", "my-reviews · tiny · part · stock: "),
        ("settings: {part: {train_file: nowhere.csv}, full: {}}", "my-reviews · tiny · part · stock: "),
        (
            "heads: {stock: stock, other: {head: sot, validation_file: nowhere.csv}}",
            "my-reviews · tiny · other: ",
        ),
    ],
)
def test_files_of_every_regime_and_arm_are_looked_at(data, tmp_path, layer, where):
    study = tmp_path / "s.yaml"
    heads = "" if "heads" in layer else "heads: [stock]\n"
    study.write_text(
        f"models: {{tiny: org/tiny}}\n{heads}{layer}\narguments: {{train_file: {str(data)!r}}}\n"
    )
    with pytest.raises(UserError, match=rf"^{where}--\w+_file: nowhere.csv does not exist"):
        compare.run([str(study), "--plan"], "sot-nlp compare")


def test_the_files_of_tasks_are_looked_at_before_any_run(data, tmp_path, monkeypatch):
    monkeypatch.setattr(StudyCell, "command", lambda *_: sys.exit("a run was started"))
    task, glue = tmp_path / "mine.yaml", tmp_path / "glue"
    (glue / "CoLA").mkdir(parents=True)
    (glue / "CoLA" / "train.tsv").write_text("a\t1\t\tb\n")
    spec = "text_columns: [text]\nlabel_column: label\nlabels: [bad, good]\nfiles: {{train: {}{}}}\n"
    of_glue = ["--data_dir", str(glue), "--tasks"]
    for text, words, message in [
        (spec.format("gone.csv", ""), ["--tasks", str(task)], r"--task: \S+gone.csv does not exist"),
        (
            spec.replace("[text]", "[review]").format(f"'{data.name}'", ""),
            ["--tasks", str(task)],
            "no column 'review'",
        ),
        (
            spec.format(f"'{data.name}'", ", validation: gone.csv"),
            ["--tasks", str(task)],
            r"--task: \S+gone.csv does not exist",
        ),
        ("", [*of_glue, "rte"], r"--data_dir \S+glue: looked for RTE/train.tsv, but \S+ holds CoLA"),
        ("", [*of_glue, "cola"], r"--data_dir \S+glue: looked for CoLA/dev.tsv, but \S+ holds train.tsv"),
    ]:
        task.write_text(text)
        with pytest.raises(UserError, match=rf"\A[^\n]*{message}[^\n]*\Z"):
            compare.run([*words, "--models", "tiny=org/tiny", "--output_dir", str(tmp_path / "s")], "p")
        assert not (tmp_path / "s").exists()


def test_equal_data_are_looked_at_once(data, monkeypatch):
    looked = []
    monkeypatch.setattr(own_data, "check_files", lambda arguments: looked.append(arguments.max_length))
    study = study_of(words_of(data))
    settings = {"a": {}, "b": {"max_length": 64}, "c": {"label_column_name": "label"}}
    own_data.check(dataclasses.replace(study, settings=settings))
    assert looked == [128, 128]


def test_no_data_at_all_is_said_by_flag():
    with pytest.raises(UserError, match=r"tasks: none is given .*--train_file"):
        study_of(["--models", "org/tiny"])
    with pytest.raises(UserError, match=r"give --task, or your own data with --train_file"):
        tune_command.run(["--model_name_or_path", "org/tiny"], "sot-nlp tune")
