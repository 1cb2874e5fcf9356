"""Running a study: its cells run once, whatever is killed, on this machine and over a cluster."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sot_nlp.errors import UserError
from sot_nlp.studies import read_results, study_runner
from sot_nlp.studies.ray_launcher import RayLauncher
from sot_nlp.studies.study_runner import slots
from tests.support import fake_runs
from tests.support.fake_runs import fake, runner, small


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
    # The two that outlived their study were waited for, not run again, and cleared up after.
    assert sorted(quick()) == sorted({*quick()})
    assert list((tmp_path / "s").rglob("*.safetensors")) == []
    assert list((tmp_path / "s" / "claims").iterdir()) == []


def test_a_run_told_to_end_behind_its_record_is_finished(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(fake_runs, "RUN", f"{fake_runs.RUN}\nsys.exit(143)")
    state = runner(tmp_path / "s", small(1).cells()).run()
    assert (len(state.finished), state.failed) == (2, {})
    assert list((tmp_path / "s").rglob("*.safetensors")) == []


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
