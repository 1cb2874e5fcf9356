"""A study's results: one cell per (task, model, setting, arm, seed), as plain numbers.

A study's tables and plots are made of them alone. They contain no text of the data and no path of the
machine; `read_results.py` makes them from the records of runs.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable
from sot_nlp.files import write_atomic

FORMAT_VERSION = 1
NAME = "results.json"
# The seed of the data's order is the run's seed plus this, so that the two seeds always differ.
DATA_SEED_OFFSET = 10_000
LAST, BEST = "last", "best"
SCORE_RULES = {
    LAST: "the score after the last epoch: nothing was selected",
    BEST: "the best epoch's score on the data that chose that epoch: optimistic",
}
FINISHED, FAILED, RUNNING, MISSING = "finished", "failed", "running", "missing"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One seed of one arm. `score` and `curve` are in the metric's own unit (a share, an error)."""

    task: str
    model: str
    setting: str
    arm: str
    seed: int
    data_seed: int | None = None
    status: str = MISSING
    reason: str = ""
    metric: str = ""
    higher_is_better: bool = True
    times: int = 100  # what tables multiply the score by: 1 for an error, whose unit is its own
    score: float | None = None
    epoch: float | None = None
    curve: tuple[tuple[float, float], ...] = ()
    collapsed: bool = False
    seconds: float | None = None
    examples_per_second: float | None = None
    # Examples that only this run, or only the baseline's run of the same seed, got right.
    only_here: int | None = None
    only_baseline: int | None = None
    data: str = ""
    versions: str = ""

    @property
    def group(self) -> tuple[str, str, str]:
        """What is compared with each other: the arms of one task, model and setting."""
        return (self.task, self.model, self.setting)


# A task, a model, a setting and an arm, by their names.
Place = tuple[str, str, str, str]


def place_title(place: Place) -> str:
    """Return a place in a line."""
    return printable(" · ".join(part for part in place if part))


@dataclass(frozen=True, kw_only=True)
class ChosenRates:
    """The rates that one arm of a group was given: the best of `among` combinations on held-out data.

    `score` is their mean there over `seeds`, in the metric's own unit; `at_edge` names the rates that are the
    least or the greatest of the grid.
    """

    task: str
    model: str
    setting: str
    arm: str
    rates: dict[str, float | None]
    among: int
    seeds: tuple[int, ...]
    score: float
    at_edge: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """What they are for."""
        return (self.task, self.model, self.setting, self.arm)

    @property
    def title(self) -> str:
        """The same in a line."""
        return place_title(self.place)


@dataclass(frozen=True, kw_only=True)
class Results:
    """A study's cells, and what a reader must know about them."""

    name: str
    title: str = ""
    description: str = ""
    command: str = ""
    baseline: str
    arms: tuple[str, ...]
    score: str = LAST
    holm: str = "tasks"
    cells: tuple[Cell, ...]
    # arm -> model -> task -> published score in percent
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    published_source: str = ""
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    rates: tuple[ChosenRates, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; `from_dict` gives an equal value back."""
        values = dataclasses.asdict(self)
        default = {f.name: f.default for f in dataclasses.fields(Cell)}
        values["cells"] = [
            {key: value for key, value in dataclasses.asdict(cell).items() if value != default[key]}
            for cell in self.cells
        ]
        return {"format_version": FORMAT_VERSION, **values}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Results:
        """Return what `to_dict` gave. Raises KeyError, TypeError or ValueError for anything else."""
        rest = dict(values)
        if rest.pop("format_version") != FORMAT_VERSION:
            raise ValueError(f"format_version is not {FORMAT_VERSION}")
        cells = []
        for cell in rest.pop("cells"):
            curve = tuple((float(x), float(y)) for x, y in cell.get("curve", ()))
            cells.append(Cell(**{**cell, "curve": curve}))
        rest["arms"] = tuple(rest["arms"])
        rest["marks"] = tuple(rest.get("marks", ()))
        rest["rates"] = read_rates(rest.get("rates", ()))
        return cls(cells=tuple(cells), **rest)

    def write(self, path: str | Path) -> None:
        """Write the numbers behind every table and plot, as JSON with one line per cell."""
        values = self.to_dict()
        cells = ",\n    ".join(
            json.dumps(cell, ensure_ascii=False, allow_nan=False) for cell in values.pop("cells")
        )
        others = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False).removesuffix("\n}")
        write_atomic(path, f'{others},\n  "cells": [\n    {cells}\n  ]\n}}\n')


def missing_from(results: Results, earlier: Results) -> list[Cell]:
    """Return the finished cells of `earlier` that `results` lacks, or has with other numbers.

    Counts against the baseline may be against another one, but not missing altogether; times may differ.
    """
    here = {_as_compared(cell) for cell in results.cells}
    counted = any(cell.only_here is not None for cell in results.cells)
    return [
        cell
        for cell in earlier.cells
        if cell.status == FINISHED
        and (_as_compared(cell) not in here or (cell.only_here is not None and not counted))
    ]


def _as_compared(cell: Cell) -> Cell:
    return dataclasses.replace(
        cell, only_here=None, only_baseline=None, seconds=None, examples_per_second=None
    )


def read_rates(values: Iterable[Mapping[str, Any]]) -> tuple[ChosenRates, ...]:
    """Return chosen rates from their JSON values."""
    return tuple(
        ChosenRates(
            **{**fields, "seeds": tuple(fields["seeds"]), "at_edge": tuple(fields.get("at_edge", ()))}
        )
        for fields in values
    )


def read_file(path: Path) -> Results:
    """Return the results that `Results.write` wrote. UserError where it is another file."""
    try:
        return Results.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{printable(path)}: cannot be read: {printable(error)}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        # What the parser says of a file that is no JSON, a CSV say, or of other JSON would help nobody.
        known = {
            json.JSONDecodeError: "it is not JSON",
            KeyError: f"it has no {error}",
            ValueError: str(error),
        }
        reason = known.get(type(error), "it holds other JSON")
        raise UserError(
            f"{printable(path)}: not a results.json of this version, as a study or `sot-nlp report` writes: "
            f"{printable(reason)}"
        ) from None


def check_comparable(results: Results, *, allow_mixed: bool = False) -> Results:
    """Refuse runs of one group on different data, by name; mark those of different versions or precisions."""
    marks = list(results.marks)
    groups: dict[tuple[str, str, str], list[Cell]] = defaultdict(list)
    for cell in results.cells:
        if cell.status == FINISHED:
            groups[cell.group].append(cell)
    for group, cells in groups.items():
        title = " / ".join(part for part in group if part)
        odd = _first_odd(cells, "data")
        if odd is not None:
            text = f"{title}: {_title(odd[0])} and {_title(odd[1])} ran on different data"
            if not allow_mixed:
                raise UserError(f"{text}; run them again on the same, or use --allow_mixed to mark them")
            marks.append(text)
        odd = _first_odd(cells, "metric")
        if odd is not None:
            raise UserError(
                f"{title}: {_title(odd[0])} is scored by {printable(odd[0].metric)}, {_title(odd[1])} by "
                f"{printable(odd[1].metric)}; report them apart"
            )
        if unpaired := _of_several_orders(cells):
            marks.append(
                f"{title}: runs of seed {', '.join(map(str, unpaired))} have different data seeds, so that "
                "they are no pairs"
            )
        odd = _first_odd(cells, "versions")
        if odd is not None:
            first, second = (results.versions.get(cell.versions, {}) for cell in odd)
            differing = [
                f"{name} {first.get(name, 'absent')} / {second.get(name, 'absent')}"
                for name in sorted(first.keys() | second.keys())
                if first.get(name) != second.get(name)
            ]
            marks.append(f"{title}: runs of different versions or precisions: {', '.join(differing)}")
    return dataclasses.replace(results, marks=tuple(dict.fromkeys(marks)))


def _of_several_orders(cells: list[Cell]) -> list[int]:
    """Return the seeds whose runs have more than one known seed of the data's order."""
    data_seeds: dict[int, set[int]] = defaultdict(set)
    for cell in cells:
        if cell.data_seed is not None:
            data_seeds[cell.seed].add(cell.data_seed)
    return sorted(seed for seed, drawn in data_seeds.items() if len(drawn) > 1)


def _first_odd(cells: list[Cell], name: str) -> tuple[Cell, Cell] | None:
    """Return the first cell, and the first other one, whose known value of `name` is not the first's."""
    known = [cell for cell in cells if getattr(cell, name)]
    return next(((known[0], c) for c in known if getattr(c, name) != getattr(known[0], name)), None)


def _title(cell: Cell) -> str:
    return f"{printable(cell.arm)} (seed {cell.seed})"
