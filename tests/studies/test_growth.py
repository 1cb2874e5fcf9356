"""Runs per GPU: twice as many stay as long as the cells come faster and memory holds them."""

from __future__ import annotations

import pytest

from sot_nlp.studies import growth, slots, study_runner
from sot_nlp.studies.growth import Growth
from sot_nlp.studies.study_runner import StudyRunner
from tests.support.fake_runs import Silent, fake, small

PLACES = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]
MODELS = ["org/model"]  # not here: taken to need 0.9 GB and five times 440 MB


@pytest.fixture(autouse=True)
def roomy_host(monkeypatch):
    monkeypatch.setattr(slots, "available_memory", lambda: 1e12)


def of_memory(monkeypatch, free, **options):
    """A growth on GPUs of which `free(device)` bytes are free."""
    for module in (growth, slots):
        monkeypatch.setattr(module, "gpu_memory", free)
    return Growth(PLACES, MODELS, **options)


def widths(monkeypatch, seconds, *, memory=140e9, per_run=5e9, most=64, cells=200):
    """The widths that are tried where a cell takes `seconds(width)` and each run takes `per_run` bytes."""
    growing = of_memory(monkeypatch, lambda device: memory, most=most)
    monkeypatch.setattr(growth, "gpu_memory", lambda device: memory - per_run * growing.width)
    seen = [growing.width]
    for _ in range(cells):
        before = growing.width
        change = growing.cell_ended(seconds(before))
        assert growing.width == before + change
        if change:
            seen.append(growing.width)
    return seen


def test_it_doubles_while_the_rate_rises_and_takes_the_last_good_width_again(monkeypatch):
    # Up to six share a GPU for nothing; from there on it is full, and sixteen bring no more than eight.
    assert widths(monkeypatch, lambda width: 10.0 * max(1, width / 6)) == [4, 8, 16, 8]
    # They take turns: two do no more than one.
    assert widths(monkeypatch, lambda width: 10.0 * width) == [4, 8, 4]


def test_it_takes_few_cells_to_double(monkeypatch):
    """The first width is judged by the cells after its first: nine per GPU in all."""
    assert widths(monkeypatch, lambda width: 10.0, cells=16) == [4]
    assert widths(monkeypatch, lambda width: 10.0, cells=17) == [4, 8]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"per_run": 15e9}, [4, 8]),  # of the 20 GB left another run takes 1.3 x 15
        ({"per_run": 20e9}, [4, 6]),  # 1.3 x 20 go into the 60 that are left twice
        ({"per_run": 30e9}, [4]),  # 1.3 x 30 do not go into 20
        ({"memory": 13e9, "cells": 4}, [2]),  # four estimated runs are held, so half of those
        ({"memory": 5e9, "cells": 4}, [1]),
        ({"most": 20}, [4, 8, 10]),
        ({"most": 4}, [2]),
        ({"most": 1}, [1]),
    ],
)
def test_memory_and_cores_bound_it(monkeypatch, given, expected):
    assert widths(monkeypatch, lambda width: 10.0, **{"per_run": 1e9, "most": 16, **given}) == expected


def test_without_a_reading_of_the_memory_it_stays_at_one(monkeypatch):
    growing = of_memory(monkeypatch, lambda device: None)
    assert growing.slots == PLACES
    assert [growing.cell_ended(1.0) for _ in range(20)] == [0] * 20


def test_the_gpu_with_least_memory_counts(monkeypatch):
    growing = of_memory(monkeypatch, lambda device: 100e9 if device == "0" else 19e9, most=64)
    assert growing.width == 3  # six estimated runs are held there
    assert growing.slots == PLACES * 3


def test_each_gpu_gets_as_many_places_and_loses_as_many(monkeypatch, tmp_path):
    growing = of_memory(monkeypatch, lambda device: 80e9, most=64)
    run = StudyRunner(small(1).cells(), tmp_path, slots=growing.slots, display=Silent(), growth=growing)
    for change, each in ((4, 8), (-3, 5)):
        monkeypatch.setattr(run.growth, "cell_ended", lambda seconds, change=change: change)
        run._grow(1.0)
        taken, run.free = run.free, []
        for slot in taken:
            run._free_slot(slot, "")
        assert sorted(slot["CUDA_VISIBLE_DEVICES"] for slot in run.free) == ["0"] * each + ["1"] * each


def test_a_study_says_how_many_runs_share_a_gpu(monkeypatch, tmp_path):
    """Sixteen cells of nothing, on a GPU that is imagined: four at once, then as many as the cores."""
    monkeypatch.setattr(study_runner.StudyCell, "command", fake)
    monkeypatch.setattr(study_runner, "POLL_SECONDS", 0.01)
    monkeypatch.setenv("RUNS", str(tmp_path / "ran"))
    for module in (growth, slots):
        monkeypatch.setattr(module, "gpu_memory", lambda device: 80e9)
    display, growing = Silent(), Growth(PLACES[:1], MODELS, most=5)
    cells = small(8).cells()
    run = StudyRunner(cells, tmp_path / "s", slots=growing.slots, display=display, growth=growing)
    assert len(run.run().finished) == 16
    said = [event for event in display.events if "per GPU" in event]
    assert said[:2] == ["4 runs per GPU at first", "5 runs per GPU from here on"]
