"""Compare results: each arm of a (task, model, setting) with the baseline, over paired seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sot_nlp.studies import statistics
from sot_nlp.studies.results import FAILED, FINISHED, RUNNING, Cell, ChosenRates, Results
from sot_nlp.studies.statistics import PairedDifference

HOLM_FAMILIES = {
    "tasks": "the tasks of the same arm, model and setting",
    "all": "all comparisons of the study",
}

OF_METRIC = ("metric", "higher_is_better", "times")


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """One arm of a group. Scores are in the metric's own unit; `cells` hold every planned seed."""

    arm: str
    cells: tuple[Cell, ...]
    mean: float | None
    sd: float | None
    collapsed: int
    # None for the baseline, and where no seed is paired.
    difference: PairedDifference | None = None
    holm_p: float | None = None
    # McNemar's exact p of each paired seed, by seed; empty for a regression.
    mcnemar: dict[int, float] = field(default_factory=dict)
    published: float | None = None
    rates: ChosenRates | None = None

    @property
    def scores(self) -> dict[int, float]:
        """seed -> score, of the runs that finished."""
        return {cell.seed: cell.score for cell in self.cells if cell.score is not None}

    @property
    def failed(self) -> tuple[Cell, ...]:
        """The seeds that failed; each says why."""
        return tuple(cell for cell in self.cells if cell.status == FAILED)

    @property
    def missing(self) -> int:
        """The seeds that have not been run, or still run."""
        return sum(cell.status not in (FINISHED, FAILED) for cell in self.cells)

    @property
    def running(self) -> int:
        """The seeds that run, or were stopped in the middle."""
        return sum(cell.status == RUNNING for cell in self.cells)


@dataclass(frozen=True, kw_only=True)
class Group:
    """The arms that are compared with each other: those of one task, model and setting."""

    task: str
    model: str
    setting: str
    metric: str
    higher_is_better: bool = True
    times: int = 100
    arms: tuple[ArmResult, ...]

    @property
    def title(self) -> str:
        """Task, model and setting in a line."""
        return " · ".join(part for part in (self.task, self.model, self.setting) if part)

    def arm(self, name: str) -> ArmResult | None:
        """Return the arm of that name."""
        return next((arm for arm in self.arms if arm.arm == name), None)


def compare(results: Results) -> list[Group]:
    """Return every group of `results`, in the order of its cells, with its arms' statistics."""
    by_group: dict[tuple[str, str, str], dict[str, list[Cell]]] = defaultdict(lambda: defaultdict(list))
    for cell in results.cells:
        by_group[cell.group][cell.arm].append(cell)
    chosen = {rates.place: rates for rates in results.rates}
    groups = []
    for (task, model, setting), arms in by_group.items():
        baseline = {cell.seed: cell for cell in arms.get(results.baseline, [])}
        results_of_arms = []
        for name in (arm for arm in results.arms if arm in arms):
            cells = tuple(sorted(arms[name], key=lambda cell: cell.seed))
            scores = _scores(cells)
            pairs = [cell for cell in cells if _is_paired(cell, baseline.get(cell.seed))]
            mean, sd = statistics.mean_and_sd(list(scores.values())) if scores else (None, None)
            results_of_arms.append(
                ArmResult(
                    arm=name,
                    cells=cells,
                    mean=mean,
                    sd=sd,
                    collapsed=sum(cell.collapsed for cell in cells),
                    difference=None
                    if name == results.baseline
                    else statistics.paired_difference(_scores(pairs), _scores(baseline.values())),
                    mcnemar={
                        cell.seed: statistics.mcnemar_p(cell.only_here, cell.only_baseline)
                        for cell in pairs
                        if cell.only_here is not None and cell.only_baseline is not None
                    },
                    published=results.published.get(name, {}).get(model, {}).get(task),
                    rates=chosen.get((task, model, setting, name)),
                )
            )
        scored = next((cell for cells in arms.values() for cell in cells if cell.metric), None)
        of_metric = {} if scored is None else {name: getattr(scored, name) for name in OF_METRIC}
        place = {"task": task, "model": model, "setting": setting, "metric": ""}
        groups.append(Group(**{**place, **of_metric}, arms=tuple(results_of_arms)))
    return _with_holm(groups, results.holm)


def _scores(cells: Iterable[Cell]) -> dict[int, float]:
    return {cell.seed: cell.score for cell in cells if cell.score is not None}


def _is_paired(cell: Cell, other: Cell | None) -> bool:
    """Return whether two runs of one seed had the data in the same order, as far as that is known."""
    return other is not None and (
        cell.data_seed == other.data_seed or None in (cell.data_seed, other.data_seed)
    )


def _with_holm(groups: list[Group], family: str) -> list[Group]:
    """Adjust the p-values of each family (`HOLM_FAMILIES`)."""
    families: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
    for i, group in enumerate(groups):
        for j, arm in enumerate(group.arms):
            key = () if family == "all" else (group.model, group.setting, arm.arm)
            families[key].append((i, j))
    arms = [list(group.arms) for group in groups]
    for members in families.values():
        p_values = [
            difference.p_value if (difference := arms[i][j].difference) is not None else None
            for i, j in members
        ]
        for (i, j), p in zip(members, statistics.holm(p_values), strict=True):
            arms[i][j] = replace(arms[i][j], holm_p=p)
    return [replace(group, arms=tuple(adjusted)) for group, adjusted in zip(groups, arms, strict=True)]
