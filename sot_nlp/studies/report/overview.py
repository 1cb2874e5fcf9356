"""Show a study in one table: one column per task, one line per arm and place (a backbone and a setting).

What a reader of a large study looks at first. The baseline's lines hold its means, the other arms' their
differences to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sot_nlp.errors import printable
from sot_nlp.studies.comparison import ArmResult, Group
from sot_nlp.studies.report.cells import MISSING_TEXT, interval_text, metric_title, shown
from sot_nlp.studies.results import Results

if TYPE_CHECKING:
    from rich.table import Table

# What a difference's interval shows -> its sign.
SIGNS = {"better": "▲", "worse": "▼", "over": "○", "": ""}


@dataclass(frozen=True, kw_only=True)
class Line:
    """An arm in one place, over the tasks; None where the study has no such cell."""

    place: str
    arm: str
    arms: tuple[ArmResult | None, ...]


@dataclass(frozen=True, kw_only=True)
class Overview:
    """The lines, the columns' titles, and what a place is called ("" where the study has only one)."""

    places: str
    tasks: tuple[str, ...]
    lines: tuple[Line, ...]
    baseline: str

    def by_place(self) -> dict[str, list[Line]]:
        """Return the lines by place, in order."""
        places: dict[str, list[Line]] = {}
        for line in self.lines:
            places.setdefault(line.place, []).append(line)
        return places

    def differences(self, task: int) -> list[tuple[str, list[ArmResult | None]]]:
        """Return each place's arms but the baseline's, in the same rows for every task; None has no pair."""
        return [
            (
                place,
                [
                    arm if (arm := line.arms[task]) is not None and arm.difference is not None else None
                    for line in lines
                    if line.arm != self.baseline
                ],
            )
            for place, lines in self.by_place().items()
        ]


def overview(results: Results, groups: Sequence[Group]) -> Overview:
    """Return the groups of `results`, with the arms of each place below its baseline."""
    names = [
        name for name in ("model", "setting") if len({getattr(group, name) for group in groups}) > 1
    ]  # fmt: skip
    by_place: dict[str, dict[str, Group]] = {}
    metrics: dict[str, str] = {}
    for group in groups:
        place = " · ".join(part for part in (getattr(group, name) for name in names) if part)
        by_place.setdefault(place, {})[group.task] = group
        metrics[group.task] = metrics.get(group.task) or metric_title(group)
    order = [results.baseline, *(arm for arm in results.arms if arm != results.baseline)]
    lines = []
    for place, of_tasks in by_place.items():
        for name in order:
            arms = tuple(of_tasks[task].arm(name) if task in of_tasks else None for task in metrics)
            if any(arm is not None for arm in arms):
                lines.append(Line(place=printable(place), arm=printable(name), arms=arms))
    tasks = tuple(
        f"{printable(task)} ({metric})" if metric else printable(task) for task, metric in metrics.items()
    )
    return Overview(
        places=" · ".join(names), tasks=tasks, lines=tuple(lines), baseline=printable(results.baseline)
    )


def verdict(arm: ArmResult) -> str:
    """Return what the interval of an arm's difference says: `better`, `worse`, `over` 0; "" without one."""
    if arm.difference is None or arm.difference.interval is None:
        return ""
    low, high = arm.difference.interval
    if low <= 0 <= high:
        return "over"
    return "better" if (low > 0) == _higher_is_better(arm) else "worse"


def texts(arm: ArmResult | None, results: Results) -> tuple[str, ...]:
    """Return a cell's content: the number, then what is shown beside or below it in smaller type.

    The baseline's mean, or the sign and difference of another arm and its interval; how many seeds that is
    from, where some lack; what the paper has.
    """
    if arm is None:
        return ("–",)
    if arm.mean is None:
        return ("failed" if arm.failed and not arm.missing else MISSING_TEXT,)
    difference, more, times = arm.difference, [], times_of(arm)
    if arm.arm == results.baseline:
        text, pairs = shown(arm.mean, times), len(arm.scores)
    elif difference is None:
        return ("no paired seed",)
    else:
        text = f"{SIGNS[verdict(arm)]} {shown(difference.mean, times, signed=True)}".strip()
        pairs = len(difference.seeds)
        if difference.interval is not None:
            more.append(interval_text(difference.interval, times))
    if pairs < len(arm.cells) or (difference is not None and difference.too_few):
        more.append(f"({pairs} of {len(arm.cells)} seeds)")
    if arm.published is not None:
        more.append(f"(paper {_published(arm, results)})")
    return (text, *more)


def _higher_is_better(arm: ArmResult) -> bool:
    return next((cell.higher_is_better for cell in arm.cells if cell.metric), True)


def times_of(arm: ArmResult) -> int:
    """Return what an arm's scores are multiplied by."""
    return next((cell.times for cell in arm.cells if cell.metric), 100)


def _published(arm: ArmResult, results: Results) -> str:
    """Return the paper's score of the baseline; of another arm its difference, where it has both."""
    assert arm.published is not None
    cell = arm.cells[0]
    base = results.published.get(results.baseline, {}).get(cell.model, {}).get(cell.task)
    if arm.arm == results.baseline or base is None:
        return shown(arm.published / 100)
    return shown((arm.published - base) / 100, signed=True)


def rows(results: Results, groups: Sequence[Group]) -> tuple[int, list[str], list[list[str]]]:
    """Return the number of columns that name a row, the heading and the rows, as text."""
    whole = overview(results, groups)
    header = ["arm", *whole.tasks]
    lines, last = [], ""
    for line in whole.lines:
        baseline = " (baseline)" if line.arm == printable(results.baseline) else ""
        row = [line.arm + baseline, *(" ".join(texts(arm, results)) for arm in line.arms)]
        if whole.places:
            row.insert(0, line.place if line.place != last else "")
        lines.append(row)
        last = line.place
    return (2, [whole.places, *header], lines) if whole.places else (1, header, lines)


def terminal(results: Results, groups: Sequence[Group]) -> Table:
    """Return the overview for a terminal, by rich."""
    from rich.table import Table
    from rich.text import Text

    left, header, lines = rows(results, groups)
    table = Table()
    for i, title in enumerate(header):
        table.add_column(Text(title), justify="left" if i < left else "right")
    for line in lines:
        if left == 2 and line[0]:
            table.add_section()
        table.add_row(*map(Text, line))
    return table
