"""Running a study: its cells run once, whatever is killed, on this machine and over a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sot_nlp.errors import UserError
from sot_nlp.studies import read_results, study_runner
from sot_nlp.studies import slots as places
from sot_nlp.studies.ray_launcher import RayLauncher
from sot_nlp.studies.sharding import Shard, parse_shard
from sot_nlp.studies.slots import fitting, slots
from sot_nlp.studies.study_runner import StudyRunner
from sot_nlp.studies.workers import WorkerPool, failure_reason
from tests.support import fake_runs
from tests.support.fake_runs import Silent, fake, runner, small


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


def test_every_cell_runs_once_and_its_weights_are_dropped(tmp_path, quick):
    cells = small(3).cells()
    run = runner(tmp_path / "s", cells, jobs=2)
    state = run.run()
    assert sorted(quick()) == sorted(cell.folder for cell in cells)
    assert len(state.finished) == 6
    assert run.display.most <= 2
    folder = tmp_path / "s" / "runs" / cells[0].folder
    assert sorted(p.name for p in folder.iterdir()) == [".lock", "predictions.json", "record.json"]
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
    results = read_results.read_results(tmp_path / "s")
    (failed,) = [cell for cell in results.cells if cell.status == "failed"]
    assert (failed.arm, failed.seed, failed.reason) == ("text", 1, "the disk is full")
    # The next start tries it again.
    monkeypatch.delenv("FAIL")
    assert len(runner(tmp_path / "s", cells).run().finished) == 6
    assert len(quick()) == 7
    assert all(cell.status == "finished" for cell in read_results.read_results(tmp_path / "s").cells)


def test_a_cell_killed_before_its_record_starts_anew(tmp_path, quick):
    cells = small(1).cells()
    left = tmp_path / "s" / "runs" / cells[0].folder
    left.mkdir(parents=True)
    (left / "train.log").write_text("x")
    assert len(runner(tmp_path / "s", cells).run().finished) == 2
    assert not (left / "train.log").exists()


PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from sot_nlp.studies import study_runner
from tests.support.fake_runs import fake, runner, small
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
    assert not list((tmp_path / "s" / "runs").glob("*.failed.json"))
    assert len(runner(tmp_path / "s", small(4).cells()).run().finished) == 8


def test_a_killed_study_goes_on_and_waits_for_the_runs_that_live_on(tmp_path, quick):
    process = started(tmp_path / "s", quick, PAUSE="3")
    process.kill()
    process.wait()
    process.stdout.close()
    state = runner(tmp_path / "s", small(4).cells()).run()
    assert len(state.finished) == 8
    # The two that outlived their study were waited for, not run again, and cleared up after.
    assert sorted(quick()) == sorted({*quick()})
    assert list((tmp_path / "s").rglob("*.safetensors")) == []


def test_a_second_program_in_the_folder_is_refused_with_the_name_of_the_first(tmp_path, quick):
    process = started(tmp_path / "s", quick, PAUSE="30")
    try:
        with pytest.raises(UserError, match=rf"another study is running in it \(process {process.pid} on "):
            runner(tmp_path / "s", small(4).cells()).run()
        with pytest.raises(UserError, match=r"running in it without --shard .*the same N"):
            runner(tmp_path / "s", small(4).cells()[::2], shard=Shard(1, 2)).run()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
    assert len(runner(tmp_path / "s", small(4).cells()).run().finished) == 8


def test_shards_run_each_cell_once_into_one_study(tmp_path, quick):
    study = small(3)
    cells = study.cells()
    for number in (1, 2, 3, 4):
        shard = Shard(number, 4)
        study.write_plan(tmp_path / "s", cells, "x")
        state = runner(tmp_path / "s", shard.of(cells), shard=shard).run()
        assert len(state.finished) == len(shard.of(cells))
    assert sorted(quick()) == sorted(cell.folder for cell in cells)
    assert all(cell.status == "finished" for cell in read_results.read_results(tmp_path / "s").cells)
    # The whole, afterwards: nothing is left to run.
    assert len(runner(tmp_path / "s", cells).run().finished) == 6
    assert len(quick()) == 6


@pytest.mark.parametrize(
    "text", ["0/2", "3/2", "1", "1/0", "-1/2", "a/b", "1/2/3", "1.0/2", " 1/2", "١/٢", ""]
)
def test_bad_shards_are_refused(text):
    with pytest.raises(UserError, match="expected K/N"):
        parse_shard(text)
    assert parse_shard("2/3") == Shard(2, 3)


def test_a_lost_gpu_costs_its_cells_and_the_others_run_the_rest(tmp_path, quick, monkeypatch):
    broken = """
import os, sys
if os.environ["CUDA_VISIBLE_DEVICES"] == "1":
    sys.exit("RuntimeError: CUDA error: unspecified launch failure")
"""
    monkeypatch.setattr(fake_runs, "RUN", broken + fake_runs.RUN)
    run = StudyRunner(
        small(6).cells(),
        tmp_path / "s",
        slots=[{"CUDA_VISIBLE_DEVICES": device} for device in ("0", "1", "0")],
        display=Silent(),
    )
    state = run.run()
    assert len(state.failed) == 2
    assert len(state.finished) == 10
    assert sum("GPU 1: failed: lost" in event for event in run.display.events) == 1


def test_a_run_told_to_end_behind_its_record_is_finished(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(fake_runs, "RUN", f"{fake_runs.RUN}\nsys.exit(143)")
    state = runner(tmp_path / "s", small(1).cells()).run()
    assert (len(state.finished), state.failed) == (2, {})
    assert list((tmp_path / "s").rglob("*.safetensors")) == []


def test_slots(monkeypatch):
    monkeypatch.setattr(places, "gpus", lambda: ["0", "3"])
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(None, None, cpu=False)] == ["0", "3"]
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots(3, None, cpu=False)] == ["0", "3", "0"]
    assert [slot["OMP_NUM_THREADS"] for slot in slots(3, 2, cpu=True)] == ["2", "2", "2"]


def test_no_more_runs_than_memory_holds(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "gpus", lambda: ["0", "1"])
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    monkeypatch.setattr(places, "available_memory", lambda: 2.5 * places.PROCESS_BYTES)
    four = slots(4, 1, cpu=True)
    taken, said = fitting(four, [str(tmp_path)])
    assert len(taken) == 2
    assert said == "2 runs at once instead of 4: each needs about 0.9 GB of memory"
    assert fitting(four[:2], [str(tmp_path)]) == (four[:2], "")
    # A model that is not here yet counts as BERT-base; one run is always tried.
    assert len(fitting(four, ["org/model"])[0]) == 1
    monkeypatch.setattr(places, "available_memory", lambda: None)
    monkeypatch.setattr(places, "gpu_memory", lambda device: 2.5e9 if device == "0" else 1e9)
    taken, _ = fitting(slots(6, None, cpu=False), [str(tmp_path)])
    assert [place["CUDA_VISIBLE_DEVICES"] for place in taken] == ["0", "1", "0"]


def test_what_cores_and_memory_lack_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(places, "usable_cores", lambda: 2)
    monkeypatch.setattr(places, "available_memory", lambda: 3.5 * places.PROCESS_BYTES)
    (tmp_path / "model.safetensors").write_bytes(b"0" * 1000)
    taken, lines = places.room(8, 64, cpu=True, models=[str(tmp_path)])
    assert [place["OMP_NUM_THREADS"] for place in taken] == ["2"] * 3
    assert lines == [
        "--threads 64: this process may use 2 cores, so each run computes on 2 threads",
        "3 runs at once instead of 8: each needs about 0.9 GB of memory",
    ]
    assert places.room(2, 2, cpu=True, models=[str(tmp_path)]) == (slots(2, 2, cpu=True), [])
    assert places.fitting_jobs(3) == (3, "")
    assert places.fitting_jobs(9) == (3, "3 processes instead of 9: each needs about 0.9 GB of memory")
    monkeypatch.setattr(places, "available_memory", lambda: 1.0)
    assert places.fitting_jobs(9)[0] == 1


def test_visible_gpus(monkeypatch):
    monkeypatch.setattr(places.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2, 5")
    assert places.gpus() == ["2", "5"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert places.gpus() == []


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


def waited(run, seconds=120):
    return run.wait(seconds)


def test_a_worker_runs_several_cells_and_one_that_dies_is_replaced(tmp_path):
    """Commands that need no model: what a cell prints, its exit code, and what becomes of its worker."""
    python = [sys.executable, "-m", "sot_nlp.cli"]
    slot = {"SOT_TEST_SLOT": "a"}
    with WorkerPool() as pool:
        first = pool.start([*python, "train", "--task", "no-such-task"], slot, tmp_path / "1.log")
        assert waited(first) == 2
        assert "unknown task 'no-such-task'" in (tmp_path / "1.log").read_text()
        second = pool.start([*python, "train", "--task", "colla"], slot, tmp_path / "2.log")
        assert waited(second) == 2
        assert second.process.pid == first.process.pid
        assert "did you mean" in (tmp_path / "2.log").read_text()
        # Another slot is another worker; so is what follows a dead one.
        other = pool.start([*python, "train", "--task", "x"], {}, tmp_path / "3.log")
        os.kill(second.process.pid, signal.SIGKILL)
        third = pool.start([*python, "train", "--task", "x"], slot, tmp_path / "4.log")
        codes = [waited(other), waited(third)]
        assert codes[0] == 2
        if codes[1] == -9:  # it died with the cell in its hands
            third = pool.start([*python, "train", "--task", "x"], slot, tmp_path / "5.log")
            codes[1] = waited(third)
        assert codes[1] == 2
        assert len({second.process.pid, other.process.pid, third.process.pid}) == 3
    assert [run.process.poll() is None for run in (second, other, third)] == [False] * 3


def test_a_worker_ends_with_its_study(tmp_path):
    pool = WorkerPool()
    command = [sys.executable, "-m", "sot_nlp.cli", "train", "--task", "no-such-task"]
    run = pool.start(command, {}, tmp_path / "log")
    assert waited(run) == 2
    # As where the study's process is gone: its end of the pipe is closed.
    run.process.stdin.close()
    assert run.process.wait(60) == 0
    pool.__exit__()


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("x\nsot-nlp train: error: --data_dir x: no such folder", "--data_dir x: no such folder"),
        ("Traceback (most recent call last):\n  File\nValueError: old\nsot-nlp: error: new", "new"),
        (
            "Traceback (most recent call last):\n  File x\n    y\nAcceleratorError: CUDA error: lost\n"
            "CUDA kernel errors might be asynchronously reported\nCompile with `X` to enable Y.",
            "AcceleratorError: CUDA error: lost",
        ),
        ("", "no output"),
    ],
)
def test_why_a_run_failed(tmp_path, log, reason):
    (tmp_path / "log").write_text(log)
    assert failure_reason(1, tmp_path / "log") == reason
    assert failure_reason(-9, tmp_path / "log") == "killed by SIGKILL (out of memory?)"
