"""The comparison of a study as one PNG, by matplotlib (the optional extra `plots`)."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, printable
from sot_nlp.studies.comparison import ArmResult, Group
from sot_nlp.studies.report.cells import metric_title
from sot_nlp.studies.report.overview import Overview, overview
from sot_nlp.studies.report.svg import lanes, mean_curve
from sot_nlp.studies.results import Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The page's colours in the light: the baseline's grey, then Okabe and Ito's.
COLORS = ("#6f6f6b", "#0072b2", "#d55e00", "#00795a", "#b0578d", "#9a6b00", "#3a8fc4", "#5b4fa8")

# Between equal scores, in rows.
LANE = 0.08


def png(results: Results, groups: Sequence[Group]) -> bytes:
    """The overview, and a row of plots a group: scores, differences, training curves.

    Raises UserError without matplotlib.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots as PNG need matplotlib: pip install 'sot-nlp[plots]'") from None
    found = overview(results, groups)
    bars = sum(max(1, len(lines) - 1) + 0.8 for lines in found.by_place().values())
    top = 0.16 * bars + 1.0 if found.places else 0.0
    heights = [max(1.9, 0.42 * len(group.arms) + 1.1) for group in groups]
    figure = Figure(figsize=(14, top + sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(_text(results.title or results.name, 120), fontsize=13, fontweight="bold")
    parts: Any = figure.subfigures(2, 1, height_ratios=[max(top, 0.01), sum(heights)])
    above, below = parts
    if found.places:
        for task, axes in enumerate(above.subplots(1, len(found.tasks), squeeze=False)[0]):
            _forest(axes, found, task, results)
    all_axes: Any = below.subplots(len(groups), 3, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, group in zip(all_axes, groups, strict=True):
        _scores(axes[0], group, results)
        _differences(axes[1], group, results)
        _curves(axes[2], group, results)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _color(results: Results, arm: ArmResult) -> str:
    if arm.arm == results.baseline:
        return COLORS[0]
    others = [name for name in results.arms if name != results.baseline]
    return COLORS[1 + others.index(arm.arm) % (len(COLORS) - 1)]


def _text(text: str, limit: int = 60) -> str:
    # matplotlib would read what stands between two dollar signs as mathematics.
    return printable(text, limit).replace("$", r"\$")


def _forest(axes: Axes, found: Overview, task: int, results: Results) -> None:
    """One task's differences in every place: a mean and its interval an arm; a ring has no interval."""
    axes.set_title(_text(found.tasks[task]), fontsize=10, loc="left")
    axes.set_xlabel(f"difference to {_text(results.baseline)}, x 100")
    axes.axvline(0, color="#1d1d1b", linewidth=1, linestyle="--")
    axes.grid(axis="x", color="#dcdcd7")
    axes.set_axisbelow(True)
    y, places, labelled = 0.0, [], set()
    for place, arms in found.differences(task):
        places.append((y + (len(arms) - 1) / 2, place))
        for i, arm in enumerate(arms):
            if arm is None or arm.difference is None:
                across = axes.get_yaxis_transform()
                axes.text(0.02, y + i, "missing", transform=across, va="center", fontsize=7, color="#63635f")
                continue
            color, interval = _color(results, arm), arm.difference.interval
            if interval is not None:
                ends = [100 * end for end in interval]
                axes.plot(ends, [y + i] * 2, color=color, linewidth=5, alpha=0.35, solid_capstyle="round")
            face = "white" if interval is None else color
            label = "" if arm.arm in labelled else _text(arm.arm)
            labelled.add(arm.arm)
            mean = 100 * arm.difference.mean
            axes.plot(mean, y + i, "o", color=color, markerfacecolor=face, markersize=5, label=label)
        y += len(arms) + 0.8
    # The places stand once, on the left: every task has the same, in the same rows.
    names = [_text(place) if task == 0 else "" for _, place in places]
    axes.set_yticks([at for at, _ in places], names)
    axes.set_ylim(y - 0.8, -1)
    if task == 0 and labelled:
        axes.legend(fontsize=8, framealpha=0.9)


def _arm_text(arm: ArmResult) -> str:
    if len(arm.scores) == len(arm.cells):
        return _text(arm.arm)
    count = f"{len(arm.scores)} of {len(arm.cells)} seeds" if arm.scores else "missing"
    return f"{_text(arm.arm)}\n{count}"


def _rows(axes: Axes, arms: Sequence[ArmResult]) -> None:
    axes.set_yticks(range(len(arms)), [_arm_text(arm) for arm in arms])
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.grid(axis="x", color="#dcdcd7")
    axes.set_axisbelow(True)


def _scores(axes: Axes, group: Group, results: Results) -> None:
    arms = group.arms
    _rows(axes, arms)
    axes.set_title(_text(group.title), fontsize=10, loc="left")
    paper = " (diamond: the paper's)" if any(arm.published is not None for arm in arms) else ""
    axes.set_xlabel(f"{_text(metric_title(group))} x 100{paper}")
    for i, (above, below) in enumerate(itertools.pairwise(arms)):
        for seed in sorted(above.scores.keys() & below.scores.keys()):
            ends = [100 * above.scores[seed], 100 * below.scores[seed]]
            axes.plot(ends, [i, i + 1], color="#63635f", alpha=0.35, linewidth=0.8)
    for i, arm in enumerate(arms):
        color = _color(results, arm)
        shown = [(cell, cell.score) for cell in arm.cells if cell.score is not None]
        for (cell, score), lane in zip(shown, lanes(score for _, score in shown), strict=True):
            face = "white" if cell.collapsed else color
            at = i + LANE * lane
            axes.plot(100 * score, at, "o", color=color, markerfacecolor=face, alpha=0.75, markersize=5)
        if arm.mean is not None:
            axes.plot([100 * arm.mean] * 2, [i - 0.25, i + 0.25], color=color, linewidth=2.5)
        if arm.published is not None:
            axes.plot(arm.published, i, "D", color="#1d1d1b", markerfacecolor="none", markersize=7)


def _differences(axes: Axes, group: Group, results: Results) -> None:
    arms = [arm for arm in group.arms if arm.difference is not None]
    if not arms:
        axes.set_axis_off()
        return
    _rows(axes, arms)
    axes.axvline(0, color="#1d1d1b", linewidth=1, linestyle="--")
    axes.set_xlabel(f"difference to {_text(results.baseline)}, x 100")
    for i, arm in enumerate(arms):
        assert arm.difference is not None
        color, found = _color(results, arm), arm.difference
        if found.interval is not None:
            ends = [100 * end for end in found.interval]
            axes.plot(ends, [i, i], color=color, linewidth=5, alpha=0.35, solid_capstyle="round")
        heights = [i + LANE * lane for lane in lanes(found.differences)]
        axes.plot([100 * d for d in found.differences], heights, "o", color=color, markersize=4)
        axes.plot([100 * found.mean] * 2, [i - 0.25, i + 0.25], color=color, linewidth=2.5)


def _curves(axes: Axes, group: Group, results: Results) -> None:
    from matplotlib.ticker import MaxNLocator

    drawn = [(arm, [cell.curve for cell in arm.cells if len(cell.curve) > 1]) for arm in group.arms]
    if not any(found for _, found in drawn):
        axes.set_axis_off()
        return
    axes.grid(axis="y", color="#dcdcd7")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    for arm, found in drawn:
        color = _color(results, arm)
        for curve in found:
            axes.plot(*zip(*_percent(curve), strict=True), color=color, alpha=0.25, linewidth=0.8)
        mean = mean_curve(found)
        if len(mean) > 1:
            axes.plot(*zip(*_percent(mean), strict=True), color=color, linewidth=2.2)


def _percent(curve: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(epoch, 100 * score) for epoch, score in curve]
