"""The plots of a study as SVG text: every seed a dot, paired lines, intervals, training curves.

Drawn 360 units wide, so that a phone shows them at their own size. Colours are CSS variables of the page
(`--c0`, ... by arm; `--text`, `--faint`, `--line`), which is how one drawing serves light and dark.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence

from sot_nlp.errors import printable
from sot_nlp.studies.comparison import ArmResult, Group
from sot_nlp.studies.report.cells import shown
from sot_nlp.studies.report.overview import Overview
from sot_nlp.studies.results import Results

WIDTH = 360
LEFT, RIGHT = 14, 14
ROW = 46
AXIS = 30
LANE = 3.2
NUM_COLORS = 8


def escaped(text: object, limit: int = 300) -> str:
    """Text that HTML and SVG show as it is."""
    return html.escape(printable(text, limit), quote=True)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers from about `low` to about `high`, about `count` of them, all within the two."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 10) for i in range(first, math.floor(high / step + 1e-9) + 1)]


class Scale:
    """Values -> places, with a margin on both sides; one value alone stands in the middle."""

    def __init__(self, values: Iterable[float], start: float, end: float, *, include: Iterable[float] = ()):
        found = [*values, *include]
        low, high = (min(found), max(found)) if found else (0.0, 1.0)
        margin = 0.06 * (high - low) or max(abs(high) * 0.05, 1.0)
        self.low, self.high = low - margin, high + margin
        self.start, self.end = start, end

    def __call__(self, value: float) -> float:
        """The place of `value`."""
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values on this scale."""
        return ticks(self.low, self.high, count)


def lanes(values: Iterable[float]) -> list[int]:
    """A lane beside its row for each value, so that equal ones do not hide each other: 0, 1, -1, 2, -2, ...

    More than seven equal ones share lanes.
    """
    seen: dict[float, int] = {}
    found = []
    for value in values:
        count = seen[round(value, 9)] = seen.get(round(value, 9), -1) + 1
        found.append((0, 1, -1, 2, -2, 3, -3)[count % 7])
    return found


def color(results: Results, arm: str) -> str:
    """The CSS colour of an arm: grey for the baseline, then by its place among the others."""
    if arm == results.baseline:
        return "var(--c0)"
    others = [name for name in results.arms if name != results.baseline]
    return f"var(--c{1 + others.index(arm) % (NUM_COLORS - 1)})"


def scores(group: Group, results: Results) -> str:
    """Every seed's score as a dot, a row an arm; a thin line joins runs of one seed, a bar is the mean."""
    arms = group.arms
    x = Scale(
        (100 * score for arm in arms for score in arm.scores.values()),
        LEFT,
        WIDTH - RIGHT,
        include=[arm.published for arm in arms if arm.published is not None],
    )
    height = ROW * len(arms) + AXIS
    parts = _axis(x, height, "score x 100")
    y = {arm.arm: ROW * i + 31 for i, arm in enumerate(arms)}
    for above, below in itertools.pairwise(arms):
        for seed in above.scores.keys() & below.scores.keys():
            parts.append(
                f'<line class="pair" x1="{x(100 * above.scores[seed]):.1f}" y1="{y[above.arm]}" '
                f'x2="{x(100 * below.scores[seed]):.1f}" y2="{y[below.arm]}"/>'
            )
    for arm in arms:
        parts += _score_row(arm, x, y[arm.arm], color(results, arm.arm))
    return _svg(parts, height, f"Scores of {group.title}: every seed a dot")


def _score_row(arm: ArmResult, x: Scale, y: float, paint: str) -> list[str]:
    label = shown(arm.mean) if arm.mean is not None else "missing"
    if arm.sd is not None:
        label += f" ± {shown(arm.sd)}"
    if arm.scores and len(arm.scores) < len(arm.cells):
        label += f" ({len(arm.scores)} of {len(arm.cells)} seeds)"
    parts = [_row_label(arm.arm, label, y, paint)]
    scored = [(cell, cell.score) for cell in arm.cells if cell.score is not None]
    for (cell, score), lane in zip(scored, lanes(score for _, score in scored), strict=True):
        what = f"{arm.arm}, seed {cell.seed}: {shown(score)}{', collapsed' if cell.collapsed else ''}"
        kind = "hollow" if cell.collapsed else "dot"
        parts.append(
            f'<circle class="{kind}" style="--p:{paint}" cx="{x(100 * score):.1f}" cy="{y + LANE * lane:g}" '
            f'r="4">'
            f"<title>{escaped(what)}</title></circle>"
        )
    if arm.mean is not None:
        at = x(100 * arm.mean)
        parts.append(
            f'<line class="mean" style="--p:{paint}" x1="{at:.1f}" y1="{y - 9}" x2="{at:.1f}" y2="{y + 9}">'
            f"<title>{escaped(f'{arm.arm}: mean {shown(arm.mean)}')}</title></line>"
        )
    if arm.published is not None:
        at = x(arm.published)
        parts.append(
            f'<path class="paper" d="M{at:.1f} {y - 7}l5 7l-5 7l-5 -7z">'
            f"<title>{escaped(f'{arm.arm}: {arm.published:.2f} in the paper')}</title></path>"
        )
    return parts


def differences(group: Group, results: Results) -> str:
    """Each arm minus the baseline: every seed a dot, the mean with its interval; empty without a pair."""
    arms = [arm for arm in group.arms if arm.difference is not None]
    if not arms:
        return ""
    values = [100 * d for arm in arms if arm.difference for d in arm.difference.differences]
    ends = [100 * e for arm in arms if arm.difference for e in arm.difference.interval or ()]
    x = Scale(values, LEFT, WIDTH - RIGHT, include=[0.0, *ends])
    height = ROW * len(arms) + AXIS
    parts = _axis(x, height, f"difference to {results.baseline}, x 100")
    parts.append(f'<line class="zero" x1="{x(0):.1f}" y1="0" x2="{x(0):.1f}" y2="{height - AXIS}"/>')
    for i, arm in enumerate(arms):
        assert arm.difference is not None
        y, paint, found = ROW * i + 31, color(results, arm.arm), arm.difference
        text = shown(found.mean, signed=True)
        if found.interval is not None:
            low, high = (shown(end, signed=True) for end in found.interval)
            text += f" [{low}, {high}]"
        else:
            text += f" ({len(found.seeds)} seeds: too few)"
        parts.append(_row_label(arm.arm, text, y, paint))
        if found.interval is not None:
            left, right = (x(100 * end) for end in found.interval)
            parts.append(
                f'<line class="interval" style="--p:{paint}" x1="{left:.1f}" y1="{y}" x2="{right:.1f}" '
                f'y2="{y}"><title>{escaped(f"{arm.arm}: 95 % interval {text}")}</title></line>'
            )
        for seed, difference, lane in zip(
            found.seeds, found.differences, lanes(found.differences), strict=True
        ):
            what = f"{arm.arm}, seed {seed}: {shown(difference, signed=True)}"
            parts.append(
                f'<circle class="dot" style="--p:{paint}" cx="{x(100 * difference):.1f}" '
                f'cy="{y + LANE * lane:g}" r="3.5">'
                f"<title>{escaped(what)}</title></circle>"
            )
        at = x(100 * found.mean)
        parts.append(
            f'<line class="mean" style="--p:{paint}" x1="{at:.1f}" y1="{y - 9}" x2="{at:.1f}" y2="{y + 9}"/>'
        )
    return _svg(parts, height, f"Differences of {group.title} to {results.baseline}")


def forest(found: Overview, task: int, results: Results) -> str:
    """One task's differences in every place: a mean and its interval an arm; empty without any.

    A ring stands for a mean of too few seeds, which has no interval.
    """
    rows = found.differences(task)
    drawn = [arm.difference for _, arms in rows for arm in arms if arm is not None and arm.difference]
    if not drawn:
        return ""
    ends = [100 * end for each in drawn for end in each.interval or ()]
    x = Scale([100 * each.mean for each in drawn], 124, WIDTH - RIGHT, include=[0.0, *ends])
    step, gap = 12, 10
    height = 20 + sum(step * len(arms) + gap for _, arms in rows) + AXIS
    title = found.tasks[task]
    parts = [f'<text class="label" x="{LEFT - 6}" y="12" font-weight="600">{escaped(title, 50)}</text>']
    parts += _axis(x, height, f"difference to {results.baseline}, x 100", top=20)
    parts.append(f'<line class="zero" x1="{x(0):.1f}" y1="20" x2="{x(0):.1f}" y2="{height - AXIS}"/>')
    y = 20 + (step + gap) / 2
    for place, arms in rows:
        middle = y + step * (len(arms) - 1) / 2
        parts.append(f'<text class="label" x="{LEFT - 6}" y="{middle + 4:g}">{escaped(place, 20)}</text>')
        for i, arm in enumerate(arms):
            at = y + step * i
            if arm is None:
                parts.append(f'<text class="tick" x="{x.start + 6:g}" y="{at + 4:g}">missing</text>')
            else:
                parts.append(_forest_row(arm, x, at, color(results, arm.arm), place))
        y += step * len(arms) + gap
    return _svg(parts, height, f"Differences of {title} to {results.baseline} in every place")


def _forest_row(arm: ArmResult, x: Scale, y: float, paint: str, place: str) -> str:
    assert arm.difference is not None
    at, interval = x(100 * arm.difference.mean), arm.difference.interval
    what = f"{place}, {arm.arm}: {shown(arm.difference.mean, signed=True)}"
    if interval is None:
        line, what = "", f"{what} ({len(arm.difference.seeds)} seeds: too few)"
    else:
        left, right = (x(100 * end) for end in interval)
        what += f" [{shown(interval[0], signed=True)}, {shown(interval[1], signed=True)}]"
        line = f'<line class="interval" x1="{left:.1f}" y1="{y:g}" x2="{right:.1f}" y2="{y:g}"/>'
    kind = "hollow" if interval is None else "point"
    return (
        f'<g style="--p:{paint}"><title>{escaped(what)}</title>{line}'
        f'<circle class="{kind}" cx="{at:.1f}" cy="{y:g}" r="3.5"/></g>'
    )


def curves(group: Group, results: Results, height: int = 230) -> str:
    """The score over the epochs: a thin line a seed, a thick one for the mean; empty without two points."""
    drawn = [(arm, [cell.curve for cell in arm.cells if len(cell.curve) > 1]) for arm in group.arms]
    points = [point for _, found in drawn for curve in found for point in curve]
    if not points:
        return ""
    x = Scale((epoch for epoch, _ in points), 40, WIDTH - RIGHT)
    y = Scale((100 * score for _, score in points), height - AXIS, 8)
    parts = []
    for value in y.ticks():
        parts.append(
            f'<line class="grid" x1="40" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}"/>'
            f'<text class="tick" x="36" y="{y(value) + 3.5:.1f}" text-anchor="end">{_number(value)}</text>'
        )
    whole = [value for value in x.ticks() if value == int(value)]
    for value in whole if len(whole) > 1 else x.ticks():
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{height - 16}" text-anchor="middle">'
            f"{_number(value)}</text>"
        )
    parts.append(f'<text class="tick" x="{WIDTH / 2}" y="{height - 3}" text-anchor="middle">epoch</text>')
    for arm, found in drawn:
        paint = color(results, arm.arm)
        for curve in found:
            parts.append(f'<polyline class="seed" style="--p:{paint}" points="{_points(curve, x, y)}"/>')
    for arm, found in drawn:
        mean = mean_curve(found)
        if len(mean) > 1:
            parts.append(
                f'<polyline class="curve" style="--p:{color(results, arm.arm)}" '
                f'points="{_points(mean, x, y)}"><title>{escaped(f"{arm.arm}: mean")}</title></polyline>'
            )
    return _svg(parts, height, f"Training curves of {group.title}")


def mean_curve(found: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean over curves at those epochs that all of them have."""
    tables = [dict(curve) for curve in found]
    if not tables:
        return []
    shared = sorted(set.intersection(*(set(table) for table in tables)))
    return [(epoch, sum(table[epoch] for table in tables) / len(tables)) for epoch in shared]


def _points(curve: Sequence[tuple[float, float]], x: Scale, y: Scale) -> str:
    return " ".join(f"{x(epoch):.1f},{y(100 * score):.1f}" for epoch, score in curve)


def _row_label(name: str, value: str, y: float, paint: str) -> str:
    return (
        f'<rect style="fill:{paint}" x="{LEFT - 6}" y="{y - 27}" width="8" height="8" rx="2"/>'
        f'<text class="label" x="{LEFT + 7}" y="{y - 19}">{escaped(name, 34)}</text>'
        f'<text class="value" x="{WIDTH - RIGHT + 6}" y="{y - 19}" text-anchor="end">{escaped(value)}</text>'
    )


def _axis(x: Scale, height: float, title: str, *, top: float = 0) -> list[str]:
    parts = []
    for value in x.ticks():
        parts.append(
            f'<line class="grid" x1="{x(value):.1f}" y1="{top:g}" x2="{x(value):.1f}" y2="{height - AXIS}"/>'
            f'<text class="tick" x="{x(value):.1f}" y="{height - 16}" text-anchor="middle">'
            f"{_number(value)}</text>"
        )
    text = escaped(title, 50)
    parts.append(f'<text class="tick" x="{WIDTH / 2}" y="{height - 3}" text-anchor="middle">{text}</text>')
    return parts


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _svg(parts: list[str], height: float, title: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escaped(title)}">'
        + "".join(parts)
        + "</svg>"
    )
