"""Show the comparison of a study as one HTML page: no script, nothing loaded, light and dark, any width.

`page.html` and `page.css`, beside this file, are its template and style.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from sot_nlp.errors import printable
from sot_nlp.studies.comparison import Group
from sot_nlp.studies.report import figures, overview, plots
from sot_nlp.studies.report.cells import metric_title, notes, row, used_columns
from sot_nlp.studies.results import Results
from sot_nlp.templates import render


def page(results: Results, groups: Sequence[Group]) -> str:
    """Return the page: for each group its table, every seed's score, the differences and the curves."""
    whole = overview.overview(results, groups) if len(groups) > 1 else None
    values = {
        "results": results,
        "title": results.title or results.name,
        "overview": whole,
        "forests": _forests(whole, results) if whole is not None and whole.places else [],
        "blocks": [_block(group, results) for group in groups],
        "notes": notes(results, groups),
        "versions": sorted({_versions(versions) for versions in results.versions.values()}),
        "color": functools.partial(plots.color_number, results),
        "texts": overview.texts,
        "verdict": overview.verdict,
    }
    return render("sot_nlp.studies.report", "page.html", values, {"shown": _shown})


def _shown(text: str, limit: int = 300) -> str:
    return printable(text, limit)


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _forests(whole: overview.Overview, results: Results) -> list[tuple[str, Markup]]:
    caption = "Differences to the baseline and their 95 % intervals"
    drawn = []
    for task, title in enumerate(whole.tasks):
        draw = functools.partial(plots.forest, whole=whole, task=task, results=results)
        name = f"Differences of {title} to {results.baseline} in every place"
        drawn.append((caption, Markup(figures.svg(draw, figures.forest_height(whole), name))))
    return [(caption, drawing) for caption, drawing in drawn if drawing]


def _block(group: Group, results: Results) -> dict[str, Any]:
    """Return what the template shows of a group."""
    rows = [row(arm, group, results) for arm in group.arms]
    return {
        "group": group,
        "metric": metric_title(group),
        "columns": used_columns(rows),
        "rows": [(arm.arm, texts) for arm, texts in zip(group.arms, rows, strict=True)],
        "figures": _figures(group, results),
    }


def _figures(group: Group, results: Results) -> list[tuple[str, Markup]]:
    paper = ", a diamond the paper's score" if any(arm.published is not None for arm in group.arms) else ""
    height = figures.group_height(group)
    seeds = f"Every seed's score; a line joins runs of one seed, a bar is the mean{paper}"
    pairs = f"Difference to {results.baseline}, seed by seed, with its 95 % interval"
    epochs = "Score over the epochs: thin lines are seeds, the thick one is their mean"
    captions = (
        (seeds, plots.scores, height),
        (pairs, plots.differences, height),
        (epochs, plots.curves, 3.2),
    )
    drawn = []
    for caption, draw, tall in captions:
        title = printable(f"{caption}: {group.title}", 300)
        drawing = figures.svg(functools.partial(draw, group=group, results=results), tall, title)
        if drawing:
            drawn.append((caption, Markup(drawing)))
    return drawn
