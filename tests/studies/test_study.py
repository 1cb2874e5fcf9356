"""Studies: what a grid becomes, what is refused, and that its cells run once, whatever is killed."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sot_nlp.arguments import build_arguments
from sot_nlp.commands import compare
from sot_nlp.commands.train import run_arguments
from sot_nlp.errors import UserError
from sot_nlp.studies import claims, collecting, study_runner
from sot_nlp.studies.ray_launcher import RayLauncher
from sot_nlp.studies.study import Study, finished, published_command
from sot_nlp.studies.study_file import parse_names, parse_seeds, read_study
from sot_nlp.studies.study_runner import slots
from sot_nlp.task_spec import load_task
from tests import tiny
from tests.fake_runs import fake, runner, small

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


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Runs without training; returns what ran, by the cells' folders."""
    monkeypatch.setattr(study_runner.StudyCell, "command", fake)
    monkeypatch.setattr(study_runner, "POLL_SECONDS", 0.02)
    monkeypatch.setenv("RUNS", str(tmp_path / "ran"))

    def ran() -> list[str]:
        path = tmp_path / "ran"
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    return ran


# -- the grid -----------------------------------------------------------------------------------------


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
        arguments = run_arguments(words[4:], "x")
        for name, value in cell.settings.items():
            if name.startswith("head."):
                assert arguments.head_overrides[name.removeprefix("head.")] == value
            elif name not in ("task", "head"):
                assert getattr(arguments, name) == value, name
        assert arguments.head == cell.settings["head"]
        assert arguments.output_dir == str(tmp_path)


def test_a_folder_stands_for_what_shapes_the_run(file):
    def folders(**arguments):
        study = finished(read_study(file))
        return [c.folder for c in finished(Study(**{**vars(study), "arguments": arguments})).cells()]

    assert folders(num_train_epochs=3, data_dir="/a", logging_steps=5) == folders(num_train_epochs=3)
    assert folders(learning_rate=1e-5) != folders(learning_rate=2e-6)
    # Saying what is the default anyway makes no other run.
    assert folders(label_smoothing=0.0) == folders()


@pytest.mark.parametrize(
    ("old", "new", "messages"),
    [
        ("seeds: 2", "sedes: 2", [r"small.yaml:10: sedes: unknown key|small.yaml:10: unknown key 'sedes'"]),
        ("warmup_ratio", "warmup_ration", ["small.yaml:11.*unknown setting 'warmup_ration'; did you mean"]),
        ("seeds: 2", "seeds: lots", ["small.yaml:10.*seeds lots"]),
        ("warmup_ratio: 0.1", "seed: 3", ["seed is set by the grid"]),
        ("freeze_backbone: true", "freeze_backbone: maybe", ["frozen.*'maybe' is not true or false"]),
        ("head.alpha: 0.7", "head.alpha: 7", ["cola · tiny · full · text.*alpha"]),
        ("stock: stock", "stock: stok", ["stok"]),
        ("tasks: [cola, rte]", "tasks: [colla]", ["unknown task 'colla'; did you mean cola"]),
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
    marks = collecting.read_results(tmp_path / "s").marks
    assert len(marks) == 4
    assert "num_train_epochs 6.0 against 3.0" in marks[0]


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
    assert "held-out" in collecting.read_results(tmp_path / "s").marks[0]
    # The same task from another folder is the same cell.
    again = finished(read_study(file)).with_held_out_tasks(tmp_path / "elsewhere")
    assert [cell.folder for cell in again.cells()] == [cell.folder for cell in cells]


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
    with pytest.raises(UserError, match="stands twice"):
        parse_names(["a/b", "c/b"])


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
    with pytest.raises(UserError, match=r"tasks: none is given.*heads: none"):
        compare.run(["--models", "x/y"], "sot-nlp compare")


SHIPPED = Path(__file__).parents[2] / "studies"


@pytest.mark.parametrize("path", sorted({*SHIPPED.glob("*.yaml")} - {SHIPPED / "probe.yaml"}))
def test_the_studies_that_ship_hold(path):
    study = read_study(path)
    if not study.models:
        study = Study(**{**vars(study), "models": {"tiny": "google-bert/bert-base-cased"}})
    cells = finished(study).cells()
    for cell in cells[:: max(1, len(cells) // 5)]:
        run_arguments(cell.command(Path("x"))[4:], "x")
    for arm, models in study.published.items():
        assert arm in study.heads
        assert models.keys() <= study.models.keys()


# -- running ------------------------------------------------------------------------------------------


def test_every_cell_runs_once_and_its_weights_are_dropped(tmp_path, quick):
    cells = small(3).cells()
    run = runner(tmp_path / "s", cells, jobs=2)
    state = run.run()
    assert sorted(quick()) == sorted(cell.folder for cell in cells)
    assert len(state.finished) == 6
    assert run.display.most <= 2
    folder = tmp_path / "s" / "runs" / cells[0].folder
    assert sorted(p.name for p in folder.iterdir()) == ["predictions.json", "record.json"]
    assert list((tmp_path / "s" / "claims").iterdir()) == []
    # Again: nothing is run, nothing is lost.
    assert len(runner(tmp_path / "s", cells).run().finished) == 6
    assert len(quick()) == 6
    # More seeds: only they are run.
    runner(tmp_path / "s", small(4).cells(), keep_models=True).run()
    assert len(quick()) == 8
    assert len(list((tmp_path / "s").rglob("*.safetensors"))) == 2


def test_a_failed_cell_is_noted_and_the_rest_goes_on(tmp_path, quick, monkeypatch):
    study = small(3)
    cells = study.cells()
    study.write_plan(tmp_path / "s", cells, "x")
    monkeypatch.setenv("FAIL", "text-seed1")
    state = runner(tmp_path / "s", cells).run()
    assert len(state.finished) == 5
    assert list(state.failed.values()) == ["the disk is full"]
    results = collecting.read_results(tmp_path / "s")
    (failed,) = [cell for cell in results.cells if cell.status == "failed"]
    assert (failed.arm, failed.seed, failed.reason) == ("text", 1, "the disk is full")
    # The next start tries it again.
    monkeypatch.delenv("FAIL")
    assert len(runner(tmp_path / "s", cells).run().finished) == 6
    assert len(quick()) == 7
    assert all(cell.status == "finished" for cell in collecting.read_results(tmp_path / "s").cells)


def test_a_cell_killed_before_its_record_starts_anew(tmp_path, quick):
    cells = small(1).cells()
    left = tmp_path / "s" / "runs" / cells[0].folder
    left.mkdir(parents=True)
    (left / "train.log").write_text("x")
    assert len(runner(tmp_path / "s", cells).run().finished) == 2
    assert not (left / "train.log").exists()


def test_two_programs_share_a_folder(tmp_path, quick, monkeypatch):
    monkeypatch.setenv("PAUSE", "0.05")
    cells = small(6).cells()
    states = []
    threads = [
        threading.Thread(target=lambda: states.append(runner(tmp_path / "s", cells, jobs=1).run()))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(quick()) == sorted(cell.folder for cell in cells)
    assert [len(state.finished) for state in states] == [12, 12, 12]


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from sot_nlp.studies import study_runner
from tests.fake_runs import fake, runner, small
study_runner.StudyCell.command = fake
study_runner.POLL_SECONDS = 0.02
try:
    runner(Path({folder!r}), small(4).cells(), jobs=2).run()
except study_runner.Stopped as stop:
    print("stopped by", stop.signum)
"""


def started(folder, quick, **environment):
    """A study in a process of its own, at work."""
    before = len(quick())
    program = PROGRAM.format(path=[str(Path(__file__).parents[2])], folder=str(folder))
    process = subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while len(quick()) < before + 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


def test_a_study_told_to_end_ends_its_runs_and_goes_on_later(tmp_path, quick):
    process = started(tmp_path / "s", quick, PAUSE="30")
    process.send_signal(signal.SIGTERM)
    assert "stopped by 15" in process.communicate(timeout=30)[0]
    assert list((tmp_path / "s" / "claims").iterdir()) == []
    assert not list((tmp_path / "s" / "runs").glob("*.failed.json"))
    assert len(runner(tmp_path / "s", small(4).cells()).run().finished) == 8


def test_a_killed_study_goes_on_and_waits_for_the_runs_that_live_on(tmp_path, quick):
    process = started(tmp_path / "s", quick, PAUSE="3")
    process.kill()
    process.wait()
    process.stdout.close()
    state = runner(tmp_path / "s", small(4).cells()).run()
    assert len(state.finished) == 8
    # The two that outlived their study were waited for, not run again.
    assert sorted(quick()) == sorted({*quick()})


def test_slots(monkeypatch):
    monkeypatch.setattr(study_runner, "gpus", lambda: ["0", "3"])
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(None, None, cpu=False)] == ["0", "3"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(3, None, cpu=False)] == ["0", "3", "0"]
    assert [slot["OMP_NUM_THREADS"] for slot in slots(3, 2, cpu=True)] == ["2", "2", "2"]


def test_visible_gpus(monkeypatch):
    monkeypatch.setattr(study_runner.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert study_runner.gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert study_runner.gpus() == []


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"sot-nlp\[ray\]"):
        RayLauncher("auto", 1)


def test_a_cluster_of_two_nodes_runs_every_cell_once(tmp_path, quick):
    pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    import ray
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size)
    try:
        launcher = RayLauncher(cluster.address, 1)
        places = [{**slot, "RUNS": str(tmp_path / "ran")} for slot in launcher.slots(None)]
        assert len(places) == 2
        run = runner(tmp_path / "s", small(2).cells(), start=launcher.start)
        run.free = places
        assert len(run.run().finished) == 4
        assert len(quick()) == 4
    finally:
        ray.shutdown()
        cluster.shutdown()


# -- claims -------------------------------------------------------------------------------------------


def test_a_claim_is_one_programs(tmp_path):
    first = claims.claim(tmp_path / "c.json")
    assert first is not None
    assert claims.claim(tmp_path / "c.json") is None
    assert str(os.getpid()) in claims.holder(tmp_path / "c.json")
    first.release()
    assert claims.claim(tmp_path / "c.json") is not None
    # A claim that is no longer one's own is left alone.
    first.release()
    assert (tmp_path / "c.json").exists()


def written(path, age=0.0, **changes):
    content = {"token": "t", "host": "elsewhere", "pid": 1, "worker": 0, **changes}
    path.write_text(json.dumps(content))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_a_claim_from_another_machine_is_dead_by_its_age(tmp_path):
    assert claims.claim(written(tmp_path / "young.json", age=claims.STALE_SECONDS / 2)) is None
    taken = claims.claim(written(tmp_path / "old.json", age=claims.STALE_SECONDS + 30))
    assert taken is not None
    assert taken.is_held()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json", "young.json"]


def test_a_claim_on_this_machine_is_dead_by_its_processes(tmp_path):
    host = claims.socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert claims.claim(written(tmp_path / "a.json", host=host, pid=dead.pid)) is not None
    # The study is gone, its run is not, however old the claim is.
    path = written(tmp_path / "b.json", age=1e6, host=host, pid=dead.pid, worker=os.getpid())
    assert claims.claim(path) is None


def test_a_beat_keeps_a_claim_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    held = claims.claim(tmp_path / "c.json")
    os.utime(tmp_path / "c.json", (0, 0))
    held.beat()
    assert time.time() - (tmp_path / "c.json").stat().st_mtime < 60


# -- for real -----------------------------------------------------------------------------------------


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
    words += ["--jobs", "2"]
    words += ["--output_dir", str(tmp_path / "s"), "--cache_dir", str(tmp_path / "cache")]
    assert compare.run(words, "sot-nlp compare") == 0
    printed = capsys.readouterr().out
    assert "[2/2] mine · tiny · " in printed
    results = collecting.read_results(tmp_path / "s")
    assert [(cell.arm, cell.status, cell.metric) for cell in results.cells] == [
        ("stock", "finished", "accuracy"),
        ("vision", "finished", "accuracy"),
    ]
    assert results.cells[1].only_here is not None
    assert results.cells[0].data == results.cells[1].data != ""
    assert "no-such" not in printed
    assert build_arguments([]).seed == 42
    assert (tmp_path / "s" / "report.html").exists()


def test_a_published_command_names_no_folder_of_the_machine():
    words = [
        "sot-nlp",
        "compare",
        "studies/quick.yaml",
        "--models",
        "M=/home/me/my model",
        "--data_dir=/data/glue/",
    ]
    assert published_command([*words, "--output_dir", "/tmp/x"]) == (
        "sot-nlp compare studies/quick.yaml --models 'M=my model' --data_dir=glue --output_dir x"
    )
