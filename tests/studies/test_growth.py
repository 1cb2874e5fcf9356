"""Runs per GPU: another one stays as long as the cells come faster and memory holds it."""

from __future__ import annotations

import pytest

from sot_nlp.studies import growth
from sot_nlp.studies.growth import Growth
from sot_nlp.studies.study_runner import StudyRunner
from tests.support.fake_runs import Silent, small

PLACES = [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]


def widths(monkeypatch, seconds, *, memory=80e9, per_run=10e9, most=64, cells=80):
    """The widths that are tried where a cell takes `seconds(width)` and each run takes `per_run` bytes."""
    state = {}
    monkeypatch.setattr(
        growth, "gpu_memory", lambda device: memory - per_run * (state["of"].width if "of" in state else 0)
    )
    state["of"] = growing = Growth(PLACES, most=most)
    growing.before = dict.fromkeys(growing.before, memory)
    seen = [growing.width]
    for _ in range(cells):
        if growing.cell_ended(seconds(growing.width)):
            seen.append(growing.width)
    return seen


def test_it_grows_while_the_rate_rises_and_steps_back_once(monkeypatch):
    # Up to three share a GPU for nothing; from there on it is full, and a fourth brings no more.
    assert widths(monkeypatch, lambda width: 10.0 * max(1, width / 3)) == [1, 2, 3, 4, 3]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"per_run": 30e9}, [1, 2]),  # a third would need 1.3 x 30 of the 20 that are left
        ({"per_run": 60e9}, [1]),
        ({"most": 4}, [1, 2]),
        ({"cells": 3}, [1]),
    ],
)
def test_memory_cores_and_evidence_bound_it(monkeypatch, given, expected):
    assert widths(monkeypatch, lambda width: 10.0, **given) == expected


def test_without_a_reading_of_the_memory_it_stays_at_one(monkeypatch):
    monkeypatch.setattr(growth, "gpu_memory", lambda device: None)
    growing = Growth(PLACES)
    assert [growing.cell_ended(1.0) for _ in range(20)] == [0] * 20


def test_a_step_back_takes_one_place_of_each_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "gpu_memory", lambda device: 80e9)
    run = StudyRunner(
        small(1).cells(), tmp_path, slots=PLACES, display=Silent(), growth=Growth(PLACES, most=64)
    )
    for change, expected in ((1, ["0", "0", "1", "1"]), (-1, ["0", "1"])):
        monkeypatch.setattr(run.growth, "cell_ended", lambda seconds, change=change: change)
        run._grow(1.0)
        taken, run.free = run.free, []
        for slot in taken:
            run._free_slot(slot, "")
        assert sorted(slot["CUDA_VISIBLE_DEVICES"] for slot in run.free) == expected
