"""Threads: how they wait, how many a model gets, and what the user's environment decides."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from sot_nlp.cli import main
from sot_nlp.errors import UserError
from sot_nlp.training.speed import threads

CPU = torch.device("cpu")
TINY, BIG = nn.Linear(8, 8), nn.Linear(1000, 1001)


@pytest.fixture(autouse=True)
def no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*threads.COUNTS, *threads.WAITING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 2)


@pytest.fixture
def two_threads() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "torch_is_there", "set_to"),
    [
        ({}, False, ("PASSIVE", "10000")),
        ({}, True, (None, None)),  # too late: OpenMP has read its variables
        ({"OMP_WAIT_POLICY": "ACTIVE"}, False, ("ACTIVE", None)),
        ({"GOMP_SPINCOUNT": "100"}, False, (None, "100")),
        ({"KMP_BLOCKTIME": "5"}, False, (None, None)),
        ({"GOMP_SPINCOUNT": ""}, False, ("PASSIVE", "10000")),  # as if it were not there
    ],
)
def test_waiting_threads_sleep_unless_the_user_says_how_they_wait(
    given: dict[str, str],
    torch_is_there: bool,
    set_to: tuple[str | None, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    environment = dict(given)
    monkeypatch.setattr(os, "environ", environment)
    monkeypatch.setattr(sys, "modules", {"torch": torch} if torch_is_there else {})
    threads.let_waiting_threads_sleep()
    monkeypatch.undo()
    assert (environment.get("OMP_WAIT_POLICY"), environment.get("GOMP_SPINCOUNT")) == set_to


def test_importing_the_package_sets_it_and_imports_no_torch() -> None:
    script = "import os, sys, sot_nlp; print(*map(os.getenv, sys.argv[1:]), 'torch' in sys.modules)"
    command = [sys.executable, "-c", script, "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["PASSIVE", "10000", "False"]


def test_a_tiny_model_computes_on_one_thread_and_a_larger_one_on_all(two_threads: None) -> None:
    for model, wanted in ((TINY, 1), (nn.Embedding(2000, 1000), 1), (BIG, 2)):
        with threads.threads_for(model, CPU):
            assert torch.get_num_threads() == wanted
            with threads.threads_for(model, CPU):  # as an evaluation within a training
                assert torch.get_num_threads() == wanted
            assert torch.get_num_threads() == wanted
        assert torch.get_num_threads() == 2
    with threads.threads_for(TINY, torch.device("cuda")):
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("name", threads.COUNTS)
def test_the_users_number_of_threads_stays(
    name: str, two_threads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "2")
    assert threads.check_environment() == []
    with threads.threads_for(TINY, CPU):
        assert torch.get_num_threads() == 2


def test_threads_are_no_more_than_cores(two_threads: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a share of a larger machine, where torch starts a thread per core of that."""
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    with threads.threads_for(BIG, CPU):
        assert torch.get_num_threads() == 1


@pytest.mark.parametrize(("value", "kept"), [("64", "2"), ("3,8", "2,8"), (" 4", "2")])
def test_more_threads_than_cores_are_lowered_with_a_line(
    value: str, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert threads.check_environment() == [
        f"OMP_NUM_THREADS={value}: this process may use 2 cores, so 2 threads are started"
    ]
    assert os.environ["OMP_NUM_THREADS"] == kept


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "\x1b[31m"])
def test_what_is_no_number_of_threads_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    with pytest.raises(UserError, match="expected a number of threads, 1 to 2"):
        threads.check_environment()
    assert main(["tasks"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("sot-nlp: error: OMP_NUM_THREADS=")
    assert "\x1b" not in error


def test_a_command_says_that_it_starts_fewer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "64")
    assert main(["tasks"]) == 0
    assert capsys.readouterr().err == (
        "sot-nlp: OMP_NUM_THREADS=64: this process may use 2 cores, so 2 threads are started\n"
    )


@pytest.mark.parametrize(
    ("quota", "cores"), [("max 100000", 8), ("200000 100000", 2), ("50000 100000", 1), ("150000 100000", 2)]
)
def test_a_containers_quota_counts(
    quota: str, cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    (tmp_path / "cpu.max").write_text(quota + "\n")
    monkeypatch.setattr(threads, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    assert threads.usable_cores() == cores
