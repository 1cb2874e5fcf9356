"""Draw a study's plots: one dot per seed, paired lines, intervals, training curves.

A drawing is a function of matplotlib's axes. `figures` puts them on the page and into the PNG.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from sot_nlp.errors import printable
from sot_nlp.studies.comparison import ArmResult, Group
from sot_nlp.studies.report.cells import interval_text, mean_and_sd, metric_name, shown, value_unit
from sot_nlp.studies.report.overview import Overview, times_of
from sot_nlp.studies.results import Results
from sot_nlp.studies.statistics import PairedDifference

# The page's colours in the light. Of the arms: the baseline's grey, then Okabe and Ito's.
COLORS = ("#6f6f6b", "#0072b2", "#d55e00", "#00795a", "#b0578d", "#9a6b00", "#3a8fc4", "#5b4fa8")
TEXT, FAINT, LINE, CARD = "#1d1d1b", "#63635f", "#dcdcd7", "#f7f7f5"
# Between equal scores, in rows.
LANE = 0.07
# Begins the id of what has a tip on the page: the rest is its text.
TIP = "tip:"


def color_number(results: Results, arm: str) -> int:
    """Return the number of an arm's colour: 0 for the baseline, then by its place among the others."""
    # (an overview's lines have printable names)
    name, baseline = printable(arm), printable(results.baseline)
    others = [other for other in map(printable, results.arms) if other != baseline]
    return 0 if name == baseline else 1 + others.index(name) % (len(COLORS) - 1)


def lanes(values: Iterable[float]) -> list[int]:
    """Return a lane for each value, so that equal ones do not hide each other: 0, 1, -1, 2, ...

    More than seven equal ones share lanes.
    """
    seen: dict[float, int] = {}
    numbers = []
    for value in values:
        count = seen[round(value, 9)] = seen.get(round(value, 9), -1) + 1
        numbers.append((0, 1, -1, 2, -2, 3, -3)[count % 7])
    return numbers


def text(value: str, limit: int = 60) -> str:
    """Return a text as matplotlib shows it: what is between two dollar signs is mathematics to it."""
    return printable(value, limit).replace("$", r"\$")


def scores(axes: Any, group: Group, results: Results) -> bool:
    """Draw every seed's score as a dot, a row per arm; lines join runs of one seed, a bar is the mean."""
    arms, times = group.arms, group.times
    for i, (above, below) in enumerate(itertools.pairwise(arms)):
        for seed in sorted(above.scores.keys() & below.scores.keys()):
            ends = [times * above.scores[seed], times * below.scores[seed]]
            axes.plot(ends, [i, i + 1], color=FAINT, alpha=0.35, linewidth=0.8)
    for i, arm in enumerate(arms):
        color = COLORS[color_number(results, arm.arm)]
        label = "missing" if arm.mean is None else mean_and_sd(arm.mean, arm.sd, times)
        if arm.scores and len(arm.scores) < len(arm.cells):
            label += f" ({len(arm.scores)} of {len(arm.cells)} seeds)"
        _row_label(axes, i, arm.arm, label, color)
        scored = [(cell, cell.score) for cell in arm.cells if cell.score is not None]
        for (cell, score), lane in zip(scored, lanes(score for _, score in scored), strict=True):
            tip = f"{arm.arm}, seed {cell.seed}: {shown(score, times)}{', collapsed' * cell.collapsed}"
            _dot(axes, times * score, i + LANE * lane, color, tip, hollow=cell.collapsed)
        if arm.mean is not None:
            _mean(axes, times * arm.mean, i, color, f"{arm.arm}: mean {shown(arm.mean, times)}")
        if arm.published is not None:
            [mark] = axes.plot(arm.published, i, "D", color=TEXT, markerfacecolor="none", markersize=7)
            mark.set_gid(f"{TIP}{printable(arm.arm)}: {arm.published:.2f} in the paper")
    _rows(axes, len(arms))
    axes.set_xlabel(f"{text(metric_name(group))}{value_unit(group)}")
    return True


def differences(axes: Any, group: Group, results: Results) -> bool:
    """Draw each arm minus the baseline, seed by seed, with mean and interval; False without a pair."""
    arms, times = [arm for arm in group.arms if arm.difference is not None], group.times
    if not arms:
        return False
    axes.axvline(0, color=TEXT, linewidth=1, linestyle="--")
    for i, arm in enumerate(arms):
        difference = arm.difference
        assert difference is not None
        color = COLORS[color_number(results, arm.arm)]
        label = _mean_and_interval(difference, times)
        if difference.interval is not None:
            _interval(axes, difference.interval, times, i, color, f"{arm.arm}: 95 % interval {label}")
        _row_label(axes, i, arm.arm, label, color)
        for seed, value, lane in zip(
            difference.seeds, difference.differences, lanes(difference.differences), strict=True
        ):
            tip = f"{arm.arm}, seed {seed}: {shown(value, times, signed=True)}"
            _dot(axes, times * value, i + LANE * lane, color, tip)
        _mean(axes, times * difference.mean, i, color, f"{arm.arm}: mean {label}")
    _rows(axes, len(arms))
    axes.set_xlabel(_difference_title(results, group.times))
    return True


def curves(axes: Any, group: Group, results: Results) -> bool:
    """Draw the score over the epochs, a line per seed and their mean; False without two points."""
    from matplotlib.ticker import MaxNLocator

    drawn = [(arm, [cell.curve for cell in arm.cells if len(cell.curve) > 1]) for arm in group.arms]
    if not any(of_arm for _, of_arm in drawn):
        return False
    for arm, of_arm in drawn:
        color = COLORS[color_number(results, arm.arm)]
        for curve in of_arm:
            axes.plot(*_points(curve, group.times), color=color, alpha=0.3, linewidth=1)
    for arm, of_arm in drawn:
        mean = mean_curve(of_arm)
        if len(mean) > 1:
            color = COLORS[color_number(results, arm.arm)]
            [line] = axes.plot(*_points(mean, group.times), color=color, linewidth=2.4)
            line.set_gid(f"{TIP}{printable(arm.arm)}: mean")
    axes.grid(axis="y", color=LINE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"{text(metric_name(group))}{value_unit(group)}")
    return True


def forest(axes: Any, whole: Overview, task: int, results: Results) -> bool:
    """Draw one task's differences in every place, a mean and its interval per arm; False without any.

    A ring is a mean of too few seeds, which has no interval.
    """
    rows = whole.differences(task)
    arms_here = [arm for _, arms in rows for arm in arms if arm is not None]
    if not arms_here:
        return False
    axes.axvline(0, color=TEXT, linewidth=1, linestyle="--")
    y, ticks = 0.0, []
    for place, arms in rows:
        ticks.append((y + (len(arms) - 1) / 2, place))
        for i, arm in enumerate(arms):
            if arm is None:
                across = axes.get_yaxis_transform()
                axes.text(0.02, y + i, "missing", transform=across, va="center", fontsize=8, color=FAINT)
            else:
                _forest_row(axes, arm, y + i, COLORS[color_number(results, arm.arm)], place)
        y += len(arms) + 0.8
    axes.set_title(text(whole.tasks[task]), fontsize=10, loc="left", color=TEXT)
    axes.set_yticks([at for at, _ in ticks], [text(place, 24) for _, place in ticks])
    axes.set_ylim(y - 0.8, -1)
    axes.grid(axis="x", color=LINE)
    axes.set_xlabel(_difference_title(results, times_of(arms_here[0])))
    return True


def mean_curve(of_seeds: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the mean over curves at those epochs that all of them have."""
    tables = [dict(curve) for curve in of_seeds]
    if not tables:
        return []
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [(epoch, sum(table[epoch] for table in tables) / len(tables)) for epoch in shared]


def _forest_row(axes: Any, arm: ArmResult, y: float, color: str, place: str) -> None:
    difference, times = arm.difference, times_of(arm)
    assert difference is not None
    tip = f"{place}, {arm.arm}: {_mean_and_interval(difference, times)}"
    if difference.interval is not None:
        _interval(axes, difference.interval, times, y, color, tip)
    _dot(axes, times * difference.mean, y, color, tip, hollow=difference.interval is None)


def _mean_and_interval(difference: PairedDifference, times: int) -> str:
    interval = difference.interval
    spread = (
        f"({len(difference.seeds)} seeds: too few)" if interval is None else interval_text(interval, times)
    )
    return f"{shown(difference.mean, times, signed=True)} {spread}"


def _difference_title(results: Results, times: int) -> str:
    return f"difference to {text(results.baseline)}" + (f", x {times}" if times != 1 else "")


def _row_label(axes: Any, row: int, name: str, value: str, color: str) -> None:
    """Write an arm's name and its number above its row, which leaves a narrow plot its width."""
    across = axes.get_yaxis_transform()
    # (on the page's ground, so that lines behind them stay legible)
    ground = {"facecolor": CARD, "edgecolor": "none", "pad": 1.2}
    style = {"transform": across, "va": "center", "fontsize": 9.5, "color": TEXT, "bbox": ground, "zorder": 5}
    axes.plot([0.005], [row - 0.42], "s", color=color, markersize=6, transform=across, clip_on=False)
    axes.text(0.03, row - 0.42, text(name, 34), **style)
    axes.text(1, row - 0.42, text(value), ha="right", **style)


def _rows(axes: Any, count: int) -> None:
    axes.set_yticks([])
    axes.set_ylim(count - 0.6, -0.7)
    axes.grid(axis="x", color=LINE)


def _dot(axes: Any, x: float, y: float, color: str, tip: str, *, hollow: bool = False) -> None:
    face = CARD if hollow else color
    [dot] = axes.plot(x, y, "o", color=color, markerfacecolor=face, alpha=0.8, markersize=6, zorder=3)
    dot.set_gid(TIP + printable(tip, 200))


def _mean(axes: Any, x: float, row: float, color: str, tip: str) -> None:
    [line] = axes.plot([x, x], [row - 0.22, row + 0.22], color=color, linewidth=2.6, zorder=4)
    line.set_gid(TIP + printable(tip, 200))


def _interval(axes: Any, interval: tuple[float, float], times: int, y: float, color: str, tip: str) -> None:
    ends = [times * end for end in interval]
    [line] = axes.plot(ends, [y, y], color=color, linewidth=5, alpha=0.35, solid_capstyle="round")
    line.set_gid(TIP + printable(tip, 200))


def _points(curve: Sequence[tuple[float, float]], times: int) -> tuple[list[float], list[float]]:
    return [epoch for epoch, _ in curve], [times * score for _, score in curve]
