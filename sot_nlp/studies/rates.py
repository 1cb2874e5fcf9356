"""Let every arm of a study choose its own learning rates, on held-out training data and at the same budget.

A rate that is good for one head is not good for another, so arms that share one are not compared fairly. The
search is a study of its own, in the folder `rates` beside the runs: each arm with each combination of the
grid, scored on held-out training data over `rate_seeds`. The combination with the best mean is what the arm
then has for the study's seeds, which no choice has seen.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sot_nlp.data.infer_task import user_task
from sot_nlp.data.sources import open_split
from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import Arguments
from sot_nlp.studies import read_results
from sot_nlp.studies.report.cells import shown_rates
from sot_nlp.studies.results import FAILED, FINISHED, Cell, ChosenRates
from sot_nlp.studies.study import Study

FOLDER = "rates"
# With fewer held-out examples the noise of the score decides.
LEAST_HELD_OUT = 50

Choice = dict[str, float | None]


class UnchosenRates(Exception):  # noqa: N818 - nothing is wrong
    """The search is not finished: other programs run its other parts."""


def choices(study: Study, arm: str) -> list[Choice]:
    """Return the combinations that `arm` chooses from; a rate that its own settings fix is not searched."""
    searched = [name for name in study.rates if name not in study.heads[arm]]
    values = (study.rates[name] for name in searched)
    return [dict(zip(searched, combination, strict=True)) for combination in itertools.product(*values)]


def search_study(study: Study) -> tuple[Study, dict[str, tuple[str, Choice]]]:
    """Return the study that tries every combination, and what each of its arms is.

    Raises:
        UserError: for a rate of parameters that an arm does not have, a rate that is fixed for all arms,
            seeds that the study itself uses, or too few held-out examples to choose on.
    """
    both = sorted(set(study.seeds) & set(study.rate_seeds))
    if both:
        raise UserError(
            f"rate_seeds: {both[0]} is one of the study's seeds, too; the rates must be chosen on other ones"
        )
    for name in study.rates:
        if name in study.arguments:
            raise UserError(f"rates: {name} is in `arguments`, too (or a flag); keep one of them")
        if where := next((key for key in study.settings if name in study.settings[key]), None):
            raise UserError(f"rates: {name} is in the setting {printable(where)!r}, too; keep one of them")
    meanings = {
        f"{arm} ({shown_rates(choice)})" if choice else arm: (arm, choice)
        for arm in study.heads
        for choice in choices(study, arm)
    }
    search = dataclasses.replace(
        study,
        name=f"{study.name}_rates",
        title=f"{study.title or study.name}: choosing each arm's rates",
        heads={title: {**study.heads[arm], **choice} for title, (arm, choice) in meanings.items()},
        baseline=next(title for title, (arm, _) in meanings.items() if arm == study.baseline),
        seeds=study.rate_seeds,
        rates={},
        published={},
        held_out=True,
    )
    _check_parameters(search, meanings)
    _check_held_out(search)
    return search, meanings


def _check_parameters(search: Study, meanings: Mapping[str, tuple[str, Choice]]) -> None:
    """Refuse a rate that nothing in an arm learns at."""
    for place, arguments in search.resolved().items():
        arm, choice = meanings[place[-1]]
        if choice.get("class_token_learning_rate") is not None and not _has_class_token_branch(arguments):
            raise UserError(
                f"rates: {printable(arm)} has no parameters for the classification token alone; give it "
                "`class_token_learning_rate: none` of its own, or leave the rate out of the grid"
            )
        if (
            "learning_rate" in choice
            and arguments.freeze_backbone
            and arguments.head_learning_rate is not None
        ):
            raise UserError(
                f"rates: {printable(arm)} has a frozen backbone and a rate for its head, so nothing learns "
                "at learning_rate; leave one of the two out of the grid"
            )


def _has_class_token_branch(arguments: Arguments) -> bool:
    from sot_nlp.modeling.head import SoTHead
    from sot_nlp.runs.preparation import head_of

    head = SoTHead(head_of(arguments), hidden_size=768, num_labels=2)
    return bool(head.class_token_parameters())


def _check_held_out(search: Study) -> None:
    """Refuse local training data of which too few examples would be held out."""
    for (task, *_), arguments in search.resolved().items():
        spec = user_task(arguments)
        if "train" not in spec.files:
            continue
        table, _ = open_split(spec, "train", arguments)
        count = sum(len(rows.lines) for rows in table.rows([]))
        held_out = round(count * arguments.validation_fraction)
        if held_out < LEAST_HELD_OUT:
            raise UserError(
                f"rates: {printable(task)} has {count} training examples, of which {held_out} would be held "
                f"out to choose on; at least {LEAST_HELD_OUT} are needed: raise --validation_fraction, or "
                "fix the rates"
            )


def with_chosen(
    study: Study, folder: Path, search: Study, meanings: Mapping[str, tuple[str, Choice]]
) -> Study:
    """Return `study` with the rates that its arms chose in `search`, whose runs are in `folder`.

    Raises:
        UnchosenRates: where runs of the search are missing.
        UserError: where all combinations of an arm failed, or they ran on different data.
    """
    path = folder / FOLDER
    planned = {(cell.task, cell.model, cell.setting, cell.arm, cell.seed) for cell in search.cells()}
    cells: list[Cell] = []
    if (path / read_results.STUDY_NAME).exists():
        results = read_results.read_results(path)
        ended = [cell for cell in results.cells if cell.status in (FINISHED, FAILED)]
        # (the plan there may be that of another grid)
        cells = [cell for cell in ended if (*cell.group, cell.arm, cell.seed) in planned]
    if len(cells) < len(planned):
        raise UnchosenRates(
            f"{len(cells)} of {len(planned)} runs of the search for rates are finished; once all are, the "
            "same command goes on"
        )
    return dataclasses.replace(study, chosen=choose(cells, meanings))


def choose(results: Iterable[Cell], meanings: Mapping[str, tuple[str, Choice]]) -> tuple[ChosenRates, ...]:
    """Return the best combination of every arm in every group of the search's `results`.

    The best mean over the seeds counts; of equal means the first in the grid. A combination of which a run
    failed is not chosen. Raises UserError where an arm has no other.
    """
    tried: dict[tuple[str, ...], dict[str, list[Any]]] = {}
    for cell in results:
        arm, _ = meanings[cell.arm]
        tried.setdefault((*cell.group, arm), {}).setdefault(cell.arm, []).append(cell)
    chosen = []
    for (task, model, setting, arm), combinations in tried.items():
        means = {
            title: sum(cell.score for cell in cells) / len(cells)
            for title, cells in combinations.items()
            if all(cell.status == FINISHED for cell in cells)
        }
        all_cells = [cell for cells in combinations.values() for cell in cells]
        if not means:
            where = " · ".join(part for part in (task, model, setting, arm) if part)
            reason = next(cell.reason for cell in all_cells if cell.status == FAILED)
            raise UserError(
                f"rates: {printable(where)}: every combination has a failed run: {printable(reason)}"
            )
        higher = next(cell.higher_is_better for cell in all_cells if cell.status == FINISHED)
        best = (max if higher else min)(means, key=lambda title: means[title])
        chosen.append(
            ChosenRates(
                task=task,
                model=model,
                setting=setting,
                arm=arm,
                rates=meanings[best][1],
                among=len(combinations),
                seeds=tuple(cell.seed for cell in combinations[best]),
                score=means[best],
                at_edge=_at_edge(meanings[best][1], [meanings[title][1] for title in combinations]),
            )
        )
    return tuple(chosen)


def _at_edge(rates: Choice, grid: list[Choice]) -> tuple[str, ...]:
    """Return the rates that are the least or the greatest of several: one beyond may be better."""
    edges = []
    for name, value in rates.items():
        values = {choice[name] for choice in grid} - {None}
        if value is not None and len(values) > 1 and value in (min(values), max(values)):  # type: ignore[type-var]
            edges.append(name)
    return tuple(edges)
