"""The search: equal trials for every arm, on held-out data, and a study of what it found."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from sot_nlp.commands import tune as command
from sot_nlp.errors import UserError
from sot_nlp.studies import study_runner, tune
from sot_nlp.studies.search_space import Dimension, parse_space
from sot_nlp.studies.study import finished
from sot_nlp.studies.study_file import read_study
from sot_nlp.studies.tune import Tuner
from tests.support.fake_runs import small

# A run whose score is best at a learning rate of 3e-5; without a head's rate it fails.
RUN = """
import json, math, os, sys, time
from pathlib import Path
words = sys.argv[1:]
folder = Path(words[words.index("--output_dir") + 1])
settings = dict(word[2:].split("=", 1) for word in words if "=" in word)
folder.mkdir(parents=True)
if os.environ.get("FAIL") == settings["head"]:
    sys.exit("sot-nlp train: error: no space left")
score = 0.5 - abs(math.log10(float(settings["learning_rate"]) / 3e-5))
points = [{"epoch": e, "step": e, "matthews_correlation": score * e / 2} for e in (1, 2)]
with open(folder / "metrics.jsonl", "w") as file:
    for point in points:
        file.write(json.dumps(point) + "\\n")
        file.flush()
        time.sleep(float(os.environ.get("PAUSE", "0")))
record = {"format_version": 1, "status": "finished", "main_metric": "matthews_correlation"}
(folder / "record.json").write_text(json.dumps({**record, "evaluations": points}))
"""
real = study_runner.StudyCell.command


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    def fake(cell, run):
        flags = [word for word in real(cell, run) if word.startswith("--")]
        return [sys.executable, "-c", RUN, *flags, str(run)]

    pytest.importorskip("optuna", reason="the extra 'tune' is not installed")
    monkeypatch.setattr(study_runner.StudyCell, "command", fake)
    monkeypatch.setattr(tune, "POLL_SECONDS", 0.02)


def tuner(folder, trials=4, **options):
    options = {
        "space": parse_space(["learning_rate=1e-6:1e-3:log"]),
        "storage": None,
        "slots": [{}] * 2,
    } | options
    return Tuner(small(seeds=1), folder, trials=trials, **options)


def numbers(search):
    return {arm: len(arm_search.trials) for arm, arm_search in search.searches.items()}


def test_every_arm_gets_the_same_trials_and_a_second_start_adds_none(tmp_path):
    search = tuner(tmp_path)
    search.run()
    assert numbers(search) == {"stock": 4, "text": 4}
    best = search.best()
    for arm, arm_search in search.searches.items():
        assert best[arm][0] == max(trial.value for trial in arm_search.trials)
    again = tuner(tmp_path)
    again.run()
    assert numbers(again) == {"stock": 4, "text": 4}
    more = tuner(tmp_path, trials=5)
    more.run()
    assert numbers(more) == {"stock": 5, "text": 5}


def test_trials_of_other_settings_are_refused_by_name(tmp_path):
    tuner(tmp_path)
    other = dataclasses.replace(small(seeds=1), arguments={"num_train_epochs": 7})
    wider = parse_space(["learning_rate=1e-6:1e-2:log"])
    slots: dict[str, Any] = {"trials": 1, "storage": None, "slots": [{}]}
    with pytest.raises(UserError, match=r"made with other settings \(num_train_epochs\); use the same"):
        Tuner(other, tmp_path, space=parse_space(["learning_rate=1e-6:1e-3:log"]), **slots)
    with pytest.raises(UserError, match=r"\(--search learning_rate\)"):
        Tuner(small(seeds=1), tmp_path, space=wider, **slots)
    with pytest.raises(UserError, match=r"\(--seeds\)"):
        Tuner(small(seeds=2), tmp_path, space=parse_space(["learning_rate=1e-6:1e-3:log"]), **slots)


def test_the_best_settings_become_a_study(tmp_path):
    space = parse_space(["learning_rate=1e-6:1e-3:log", "head.dropout=0.1,0.5", "num_train_epochs=2,4"])
    search = tuner(tmp_path, trials=2, space=space)
    search.run()
    study = finished(read_study(search.write(search.study)))
    assert study.tasks == {"cola": "cola"}
    assert study.seeds == tuple(range(100, 110))
    assert study.allow_unequal_budget
    assert set(study.heads["stock"]) == {"head", "learning_rate", "num_train_epochs"}
    assert study.heads["text"]["head.dropout"] in (0.1, 0.5)
    assert study.heads["text"]["learning_rate"] == pytest.approx(search.best()["text"][1]["learning_rate"])
    assert len(study.cells()) == 20


def test_the_study_of_the_best_settings_is_the_same_in_another_folder(tmp_path, monkeypatch):
    (tmp_path / "bb" / "bert").mkdir(parents=True)
    (tmp_path / "bb" / "bert" / "config.json").write_text("{}")
    (tmp_path / "cola").write_text("no task")
    task = "text_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\nfiles: {train: train.csv}\n"
    (tmp_path / "mine.yaml").write_text(task)
    (tmp_path / "train.csv").write_text("text,label\na b,no\nc d,yes\n")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t").mkdir()
    search = tuner(tmp_path / "t", trials=1)
    search.run()
    places = {"train_file": "train.csv", "data_dir": "glue", "label_column_name": "label"}
    real = dataclasses.replace(
        search.study,
        tasks={"mine": "mine.yaml", "cola": "cola"},
        models={"tiny": "bb/bert", "hub": "org/bert"},
        arguments=places,
    )
    (tmp_path / "elsewhere").mkdir()
    path = search.write(real)
    monkeypatch.chdir(tmp_path / "elsewhere")
    study = read_study(path)
    assert study.models == {"tiny": str(tmp_path / "bb" / "bert"), "hub": "org/bert"}
    assert study.tasks == {"mine": str(tmp_path / "mine.yaml"), "cola": "cola"}
    assert study.arguments == {
        "train_file": str(tmp_path / "train.csv"),
        "data_dir": str(tmp_path / "glue"),
        "label_column_name": "label",
    }


def test_failed_trials_are_made_again_but_not_without_end(tmp_path, monkeypatch):
    monkeypatch.setenv("FAIL", "text")
    search = tuner(tmp_path, trials=2, slots=[{}])  # one at a time: how many fail is then no race
    search.run()
    assert numbers(search) == {"stock": 2, "text": 2}
    assert search.best().keys() == {"stock"}
    assert search.failures == [f"text, trial {i}: no space left" for i in range(2)]
    monkeypatch.delenv("FAIL")


def test_a_hopeless_trial_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("PAUSE", "20")
    search = tuner(tmp_path, trials=1, slots=[{}])
    monkeypatch.setattr(search.optuna.Trial, "should_prune", lambda self: True)
    search.run()
    states = {str(trial.state.name) for arm_search in search.searches.values() for trial in arm_search.trials}
    assert states == {"PRUNED"}
    assert search.searches["stock"].trials[0].intermediate_values.keys() == {1}


def test_trials_of_a_killed_program_are_given_up(tmp_path):
    search = tuner(tmp_path, trials=1)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    trial = search.searches["stock"].ask()
    trial.set_user_attr("owner", [tune.socket.gethostname(), dead.pid])
    search.run()
    assert [trial.state.name for trial in search.searches["stock"].trials] == ["FAIL"]
    more = tuner(tmp_path, trials=2)
    more.run()
    assert sum(trial.state.name == "COMPLETE" for trial in more.searches["stock"].trials) == 2


def test_a_bad_storage_is_refused(tmp_path):
    with pytest.raises(UserError, match="--storage nonsense"):
        tuner(tmp_path, storage="nonsense://x")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("learning_rate=1e-5:1e-4:log", Dimension(name="learning_rate", low=1e-5, high=1e-4, log=True)),
        ("head.width_x=16:96", Dimension(name="head.width_x", low=16, high=96)),
        # Of a setting with decimals a range with whole ends is no list of whole numbers, but for epochs.
        ("weight_decay=0:1", Dimension(name="weight_decay", low=0.0, high=1.0)),
        ("head.dropout=0:1", Dimension(name="head.dropout", low=0.0, high=1.0)),
        ("num_train_epochs=2:5", Dimension(name="num_train_epochs", low=2, high=5)),
        ("per_device_train_batch_size=8:32", Dimension(name="per_device_train_batch_size", low=8, high=32)),
        ("num_train_epochs=3,5", Dimension(name="num_train_epochs", values=(3.0, 5.0))),
        ("head.map_norm=none,layer_norm", Dimension(name="head.map_norm", values=("none", "layer_norm"))),
    ],
)
def test_spaces(word, expected):
    (dimension,) = parse_space([word])
    assert dimension == expected
    assert [type(end) for end in dimension.ends] == [type(end) for end in expected.ends]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["learning_rate=1e-4", "learning_rate=1e-3"], "learning_rate is searched twice"),
        (["warmup_ratio=0,0.1", "warmup_steps=0,10"], "says the same and is searched, too"),
    ],
)
def test_a_setting_is_searched_once(words, message):
    with pytest.raises(UserError, match=message):
        parse_space(words)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["head.bogus=1,2"], "--head.bogus: no field 'bogus'"),
        (["head.width_x=0:10"], r"--search head.width_x: 0: .*width_x=0"),
        (["head.dropout=0:1.5", "head.width_x=8,16"], "--search head.dropout: 1.5: "),
    ],
)
def test_what_makes_no_head_is_refused_before_any_trial(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        tuner(tmp_path, space=parse_space(words))
    assert not list(tmp_path.iterdir())


def test_fields_that_only_go_together_are_searched(tmp_path):
    space = parse_space(["head.pooling=mean,cross_covariance", "head.normalization=none,svpn"])
    assert tuner(tmp_path, space=space).space_of("text") == space


def test_an_arm_without_a_search_has_one_trial(tmp_path):
    search = tuner(tmp_path, trials=3, space=parse_space(["head.dropout=0:0.5"]), slots=[{}])
    small_runs = {**search.study.arguments, "learning_rate": 3e-5}
    search.study = dataclasses.replace(search.study, arguments=small_runs)
    search.run()
    assert numbers(search) == {"stock": 1, "text": 3}


def test_trials_of_another_model_task_or_data_are_refused(tmp_path):
    (tmp_path / "train.csv").write_text("text,label\na b,no\nc d,yes\n")
    text = "text_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\nfiles: {train: train.csv}\n"
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    study = dataclasses.replace(small(seeds=1), tasks={"mine": str(file)})
    options: dict[str, Any] = {"space": parse_space(["learning_rate=1e-6:1e-3:log"]), "trials": 1}
    options |= {"storage": f"sqlite:///{tmp_path / 'x.db'}", "slots": [{}]}
    search = Tuner(study, tmp_path, **options)
    other = dataclasses.replace(study, models=dict.fromkeys(study.models, "roberta-base"))
    with pytest.raises(UserError, match=r"other settings \(the model\)"):
        Tuner(other, tmp_path, **options)
    (tmp_path / "again.yaml").write_text(text + "metrics: [f1]\n")
    with pytest.raises(UserError, match=r"other settings \(the task\)"):
        Tuner(dataclasses.replace(study, tasks={"mine": str(tmp_path / "again.yaml")}), tmp_path, **options)
    (tmp_path / "train.csv").write_text("text,label\na b,no\nc d,yes\ne f,no\n")
    with pytest.raises(UserError, match=r"other settings \(the training data\)"):
        Tuner(study, tmp_path, **options)
    # A search of an earlier version did not note them, and is resumed.
    for arm_search in search.searches.values():
        plan = {k: v for k, v in arm_search.user_attrs[tune.PLAN].items() if k not in tune.SOURCES}
        arm_search.set_user_attr(tune.PLAN, plan)
    Tuner(study, tmp_path, **options)


def test_trials_of_a_changed_model_are_refused(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_text("first")
    study = dataclasses.replace(small(seeds=1), models={"tiny": str(tmp_path / "model")})
    options: dict[str, Any] = {"space": parse_space(["learning_rate=1e-6:1e-3:log"]), "trials": 1}
    options |= {"storage": None, "slots": [{}]}
    search = Tuner(study, tmp_path, **options)
    Tuner(study, tmp_path, **options)
    weights.write_text("second")
    with pytest.raises(UserError, match=r"other settings \(the model's files\)"):
        Tuner(study, tmp_path, **options)
    # A search of an earlier version did not note them, and is resumed.
    for arm_search in search.searches.values():
        plan = {k: v for k, v in arm_search.user_attrs[tune.PLAN].items() if k != "the model's files"}
        arm_search.set_user_attr(tune.PLAN, plan)
    Tuner(study, tmp_path, **options)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("learning_rate", "give NAME=LOW:HIGH"),
        ("learning_rat=1:2", "did you mean learning_rate"),
        ("seed=1,2", "not a setting that can be searched"),
        ("head=stock,text", "not a setting that can be searched"),
        ("data_dir=a,b", "not a setting that can be searched"),
        ("learning_rate=2:1", "below the high one"),
        ("learning_rate=0:1:log", "above 0"),
        ("learning_rate=1:2:exp", "only `log`"),
        ("learning_rate=a:b", "'a' is not a finite number"),
        ("learning_rate=1e-5:inf", "'inf' is not a finite number"),
        ("head.dropout=nan:1", "'nan' is not a finite number"),
        ("head.width_x=1.5:8", "'1.5' is not a whole number"),
        ("per_device_train_batch_size=1.5:8", "'1.5' is not a whole number"),
        ("weight_decay=-1:1", "-1.0 is out of range"),
        ("learning_rate=-1e-3,1e-4", "-0.001 is out of range"),
        ("warmup_ratio=0:2", "2.0 is out of range: it must be at least 0 and at most 1"),
        ("lr_scheduler_type=linear,cosin", "did you mean cosine"),
        ("lora_target_modules=query,key", "several words"),
        ("train_file=a.csv,b.csv", "not a setting that can be searched"),
        ("validation_fraction=0.1,0.2", "not a setting that can be searched"),
        ("num_train_epochs=3,x", "'x' is not a finite number"),
    ],
)
def test_bad_spaces(word, message):
    with pytest.raises(UserError, match=message):
        parse_space([word])


def test_the_command_tunes_on_held_out_data(tmp_path, capsys):
    folder = tmp_path / "my search"
    words = [
        "--task",
        "cola",
        "--model_name_or_path",
        "google-bert/bert-base-cased",
        "--trials",
        "1",
        "--cpu",
    ]
    words += [
        "--cpu",
        "--output_dir",
        str(folder),
        "--jobs",
        "1",
        "--search",
        "learning_rate=1e-5:1e-4:log",
        "--num_train_epochs",
        "2",
        "--warmup_ratio",
        "0.1",
    ]
    assert command.run(words, "sot-nlp tune") == 0
    printed = capsys.readouterr().out
    assert "stock: " in printed
    assert f"sot-nlp compare '{folder}/tuned.yaml'" in printed  # as a shell takes it
    assert (folder / "tasks" / "cola_held_out.yaml").exists()
    study = read_study(folder / "tuned.yaml")
    assert study.tasks == {"cola": "cola"}
    assert study.arguments == {"num_train_epochs": 2, "warmup_ratio": 0.1, "cpu": True}
    assert not any(isinstance(value, str) for value in study.arguments.values())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "cola"], "--model_name_or_path: required"),
        (["--task", "cola", "--model_name_or_path", "x", "--learning_rate", "1"], "both fixed and searched"),
        (["--task", "cola", "--model_name_or_path", "x", "--warmup_steps", "9"], "--search warmup_ratio"),
        (["--task", "cola", "--model_name_or_path", "x", "--seed", "1"], "set by the search"),
        (["--model_name_or_path", "x"], "--task"),
        (["--task", "cola", "--trials", "0"], "--trials 0"),
    ],
)
def test_bad_flags(words, message):
    with pytest.raises(UserError, match=message):
        command.run(words, "sot-nlp tune")


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"sot-nlp\[tune\]"):
        tuner(tmp_path)
