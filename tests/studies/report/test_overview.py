"""The overview of a study: settings by tasks, as text, on the page and as a picture."""

from __future__ import annotations

import dataclasses
import functools
import re

import pytest
from matplotlib.figure import Figure

from sot_nlp.studies.comparison import compare
from sot_nlp.studies.report import cells as cells_text
from sot_nlp.studies.report import figures, overview, plots
from sot_nlp.studies.report import page as report_html
from sot_nlp.studies.results import Results
from tests.support.fake_study import by_hand
from tests.support.html_page import Page


def test_the_overview_says_where_the_interval_lies():
    up = [0.5, 0.52, 0.54, 0.5, 0.52, 0.53]
    results = by_hand(
        {"t": {"a": up, "b": [x + 0.1 for x in up], "c": [x - 0.1 for x in up], "d": [*up[1:], up[0]]}}
    )
    left, header, lines = overview.rows(results, compare(results))
    assert (left, header) == (1, ["arm", "t (accuracy)"])
    assert [line[0] for line in lines] == ["a (baseline)", "b", "c", "d"]
    assert lines[0][1] == "51.83"
    assert lines[1][1] == "▲ +10.00 [+10.00, +10.00]"
    assert (lines[2][1][0], lines[3][1][0]) == ("▼", "○")


def test_of_a_metric_that_falls_a_fall_is_better():
    up = [0.5, 0.52, 0.54, 0.5, 0.52, 0.53]
    results = by_hand({"t": {"a": up, "b": [x + 0.1 for x in up], "c": [x - 0.1 for x in up]}})
    error = {"metric": "mse", "higher_is_better": False, "times": 1}
    cells = tuple(dataclasses.replace(cell, **error) for cell in results.cells)
    results = Results.from_dict(dataclasses.replace(results, cells=cells).to_dict())
    groups = compare(results)
    _, header, lines = overview.rows(results, groups)
    assert header == ["arm", "t (mse, lower is better)"]
    assert [line[1] for line in lines] == ["0.518", "▼ +0.100 [+0.100, +0.100]", "▲ −0.100 [−0.100, −0.100]"]
    assert [overview.verdict(arm) for arm in groups[0].arms] == ["", "worse", "better"]
    notes = cells_text.notes(results, groups)
    assert "Values of mse are in their own unit." in notes[0]


def places(values: dict[tuple[str, str], dict[str, list[float]]], **header) -> Results:
    """Results from (task, setting) -> arm -> the scores of seeds 0, 1, ..."""
    cells = []
    for (task, setting), arms in values.items():
        results = by_hand({task: arms})
        cells += [dataclasses.replace(cell, setting=setting) for cell in results.cells]
    arms = tuple(dict.fromkeys(cell.arm for cell in cells))
    return Results(**{"name": "x", "baseline": "a", "arms": arms, "cells": tuple(cells), **header})


GRID = {
    ("t", "small"): {"a": [0.5] * 5, "b": [0.6] * 5},
    ("t", "large"): {"a": [0.7] * 5, "b": [0.69] * 5},
    ("u", "small"): {"a": [0.3] * 3, "b": [0.4] * 3},
}


def test_the_overview_has_a_column_a_task_and_the_arms_of_each_setting_together():
    published = {"a": {"m": {"t": 49.0}}, "b": {"m": {"t": 52.5}}}
    results = places(GRID, published=published)
    left, header, lines = overview.rows(results, compare(results))
    assert (left, header) == (2, ["setting", "arm", "t (accuracy)", "u (accuracy)"])
    assert lines == [
        ["small", "a (baseline)", "50.00 (paper 49.00)", "30.00"],
        ["", "b", "▲ +10.00 [+10.00, +10.00] (paper +3.50)", "+10.00 (3 of 3 seeds)"],
        ["large", "a (baseline)", "70.00 (paper 49.00)", "–"],
        ["", "b", "▼ −1.00 [−1.00, −1.00] (paper +3.50)", "–"],
    ]


def test_the_overview_says_what_is_missing_or_failed():
    results = places(GRID)
    lost = {("t", "large", "b"): "failed", ("u", "small", "b"): "missing"}
    cells = [
        dataclasses.replace(cell, score=None, status=lost[cell.task, cell.setting, cell.arm])
        if (cell.task, cell.setting, cell.arm) in lost
        else cell
        for cell in results.cells
    ]
    cells = [
        dataclasses.replace(cell, score=None, status="missing")
        if (cell.task, cell.setting, cell.arm, cell.seed) == ("t", "small", "b", 4)
        else cell
        for cell in cells
    ]
    results = dataclasses.replace(results, cells=tuple(cells))
    _, _, lines = overview.rows(results, compare(results))
    assert [line[2:] for line in lines if line[1] == "b"] == [
        ["+10.00 (4 of 5 seeds)", "missing"],
        ["failed", "–"],
    ]


def test_the_overview_draws_every_interval_a_task_at_a_time():
    results = places(GRID)
    groups = compare(results)
    whole = overview.overview(results, groups)
    first, second = (
        figures.svg(functools.partial(plots.forest, whole=whole, task=task, results=results), 3, "x")
        for task in (0, 1)
    )
    assert (first.count("95 %"), first.count("<title>small, b: +10.00 [+10.00, +10.00]<")) == (0, 2)
    assert first.count("<title>large, b: −1.00 [−1.00, −1.00]<") == 2
    # Three seeds have no interval, and the place without a cell says so.
    assert re.findall("<title>([^<]*)<", second) == ["small, b: +10.00 (3 seeds: too few)"]
    assert second.count(">missing<") == 1
    page = Page(report_html.page(results, groups))
    assert page.tags.count("tbody") == 2 + 3
    assert "small, b: +10.00 [+10.00, +10.00]" in page.text


def test_the_png_begins_with_the_overview_and_counts_seeds():
    seen = []
    results = places(GRID)
    cells = [
        dataclasses.replace(cell, score=None, status="missing") if (cell.arm, cell.seed) == ("b", 4) else cell
        for cell in results.cells
    ]
    results = dataclasses.replace(results, cells=tuple(cells), title="a $x$ b")
    with pytest.MonkeyPatch.context() as patch:
        save = Figure.savefig
        patch.setattr(Figure, "savefig", lambda self, *a, **k: (seen.append(self), save(self, *a, **k)))
        figures.png(results, compare(results))
    above, below = seen[0].subfigs
    assert [axes.get_title(loc="left") for axes in above.axes] == ["t (accuracy)", "u (accuracy)"]
    assert [label.get_text() for label in above.axes[0].get_yticklabels()] == ["small", "large"]
    assert [text.get_text() for axes in above.axes for text in axes.texts] == ["missing"]
    texts = [text.get_text() for text in below.axes[0].texts]
    assert texts[::2] == ["a", "b"]
    assert texts[1] == "50.00 ± 0.00"
    assert texts[3].endswith("(4 of 5 seeds)")
    assert seen[0].get_suptitle() == r"a \$x\$ b"
