"""The tasks that ship: whole, with the published recipes, in the layout of GLUE's own files, in the wheel."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sot_nlp.errors import UserError
from sot_nlp.modeling.head_config import resolve_head
from sot_nlp.settings.arguments import build_arguments
from sot_nlp.tasks import spec as task_spec
from sot_nlp.tasks.spec import TaskSpec, available_tasks, load_task

CHECKOUT = Path(__file__).resolve().parents[2]
GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli", "ax")

# The benchmark's sizes, and its servers' numbering of the labels.
SIZES = {
    "cola": (8551, 1043, 1063),
    "sst2": (67349, 872, 1821),
    "mrpc": (3668, 408, 1725),
    "qqp": (363846, 40430, 390965),
    "stsb": (5749, 1500, 1379),
    "mnli": (392702, 9815, 9832, 9796, 9847),
    "qnli": (104743, 5463, 5463),
    "rte": (2490, 277, 3000),
    "wnli": (635, 71, 146),
    "ax": (1104,),
}
LABELS = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "qqp": ("not_duplicate", "duplicate"),
    "stsb": None,
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
    "wnli": ("not_entailment", "entailment"),
    "ax": ("entailment", "neutral", "contradiction"),
}
MAIN_METRICS = {
    "cola": "matthews_correlation",
    "mrpc": "f1",
    "qqp": "f1",
    "stsb": "pearson",
    "ax": "matthews_correlation",
    "demo": "matthews_correlation",
}
# arXiv 2104.10935, BERT-base: P, Q, dropout, learning rate.
PUBLISHED = {
    "mnli": (112, 48, 0.7, 2e-5),
    "qnli": (112, 48, 0.5, 3e-5),
    "rte": (56, 32, 0.8, 2e-5),
    "cola": (96, 48, 0.5, 2e-5),
}


def test_the_tasks_hold_glue_s_and_the_demo():
    tasks = available_tasks()
    assert {*GLUE, "demo"} <= {*tasks}
    assert list(tasks) == sorted(tasks)


@pytest.mark.parametrize("name", [*GLUE, "demo"])
def test_every_task_is_whole(name):
    spec = load_task(name)
    assert spec.name == name
    assert spec.title
    assert spec.description.endswith((".", "?"))
    assert spec.main_metric == MAIN_METRICS.get(name, "accuracy")
    assert len(spec.text_columns) == (1 if name in ("cola", "sst2", "demo") else 2)
    assert hash(spec) == hash(load_task(name))
    assert TaskSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert pickle.loads(pickle.dumps(spec)) == copy.deepcopy(spec) == spec
    if name in GLUE:
        assert tuple(spec.rows.values()) == SIZES[name]
        assert spec.labels == LABELS[name]
        assert spec.splits == tuple(spec.rows) == tuple(spec.files) == tuple(spec.dataset_splits)
        assert spec.dataset_name == "nyu-mll/glue"
        assert spec.dataset_config_name == name
        assert tuple(spec.submission) == spec.test_splits
        assert all(file.quoting is False for file in spec.files.values())
        assert any(file.broken_lines for file in spec.files.values()) == (name == "qqp")


def test_mnli_has_two_of_each_and_stsb_a_range():
    mnli, stsb = load_task("mnli"), load_task("stsb")
    assert mnli.validation_splits == ("validation_matched", "validation_mismatched")
    assert mnli.test_splits == ("test_matched", "test_mismatched")
    assert stsb.kind == "regression"
    assert stsb.score_range == (0, 5)
    assert load_task("ax").model_from == "mnli"
    assert load_task("ax").splits == ("test",)


@pytest.mark.parametrize("name", [*GLUE, "demo"])
def test_every_recipe_is_one_that_the_runner_takes(name):
    recipe = load_task(name).recipe
    arguments = build_arguments([("recipe", recipe)])
    head = resolve_head(arguments.head, **arguments.head_overrides)
    if name in PUBLISHED:
        assert (head.width_x, head.width_y, head.dropout, arguments.learning_rate) == PUBLISHED[name]
        assert head.num_heads == 1
        assert arguments.model_name_or_path == "google-bert/bert-base-cased"
        assert (arguments.num_train_epochs, arguments.max_length) == (10, 128)
        assert arguments.per_device_train_batch_size == 16
        assert (arguments.lr_scheduler_type, arguments.warmup_steps) == ("linear", 0)
        assert (arguments.weight_decay, arguments.adam_epsilon, arguments.max_grad_norm) == (0, 1e-8, 1)
    assert bool(load_task(name).recipe_source) == (name in PUBLISHED)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("CoLA", "cola"),
        ("SST-2", "sst2"),
        ("sst_2", "sst2"),
        ("STS-B", "stsb"),
        ("MNLI-mm", "mnli"),
        ("mnli_matched", "mnli"),
        ("diagnostic", "ax"),
    ],
)
def test_other_names_of_a_task(given, name):
    assert load_task(given).name == name


def test_a_checkout_without_its_tasks_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(task_spec, "__file__", str(tmp_path / "sot_nlp" / "tasks" / "spec.py"))
    with pytest.raises(UserError, match="install the package again"):
        available_tasks()


def test_the_wheel_carries_the_tasks(tmp_path):
    pytest.importorskip("setuptools", reason="building a wheel needs setuptools")
    source = tmp_path / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        if (CHECKOUT / name).is_file():
            shutil.copy(CHECKOUT / name, source)
    for name in ("sot_nlp", "tasks"):
        shutil.copytree(CHECKOUT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=source, check=True, capture_output=True)
    installed = tmp_path / "installed"
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    code = (
        "from sot_nlp.tasks.spec import *; print(tasks_folder(), *available_tasks(), load_task('CoLA').title)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(installed / "sot_nlp" / "task_files"), *available_tasks(), "CoLA"]
    assert (installed / "sot_nlp" / "task_files" / "README.md").is_file()


@pytest.mark.shared
@pytest.mark.parametrize("name", ["cola", "rte", "stsb"])
def test_the_layout_is_that_of_glue_s_own_files(glue_folder, name):
    spec = load_task(name)
    for split, file in spec.files.items():
        lines = spec.file_path(split, glue_folder).read_text(encoding="utf-8").split("\n")
        rows = [line.rstrip("\r").split("\t") for line in lines if line]
        if file.header is not False:
            header = rows.pop(0)
            places = {c: file.columns.get(c, c) for c in (*spec.text_columns, spec.label_column)}
            columns = {c: header.index(place) for c, place in places.items() if place in header}
        else:
            columns = dict(file.columns)
            assert {len(row) for row in rows} == {file.num_columns}
        assert len(rows) == spec.rows[split]
        assert set(columns) == {*spec.text_columns, *([] if split == "test" else [spec.label_column])}
        if split != "test":
            values = {row[columns[spec.label_column]] for row in rows}
            if spec.labels is None:
                low, high = spec.score_range
                assert all(low <= float(score) <= high for score in values)
            else:
                assert {spec.label_words.get(word, word) for word in values} == set(spec.labels)
