"""Write a study's plots to files: as SVG for the page, and all of them in one PNG."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Callable, Sequence
from typing import Any

from sot_nlp.studies.comparison import Group
from sot_nlp.studies.report import plots
from sot_nlp.studies.report.overview import Overview, overview
from sot_nlp.studies.results import Results

# A plot of the page is as wide as a phone, in points; the page scales it to its column.
WIDTH = 360
# One salt, and no date: the same results give the same bytes.
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sot-nlp",
    "font.size": 10,
    "axes.edgecolor": plots.LINE,
}
STYLE |= {"text.color": plots.TEXT, "axes.labelcolor": plots.FAINT, "axes.axisbelow": True}
STYLE |= {"xtick.color": plots.FAINT, "ytick.color": plots.FAINT, "axes.labelsize": 9}
STYLE |= {"xtick.labelsize": 9, "ytick.labelsize": 9, "axes.spines.top": False, "axes.spines.right": False}
# The drawing's colours -> the page's, which differ by light and dark.
VARIABLES = {color: f"var(--c{i})" for i, color in enumerate(plots.COLORS)}
VARIABLES |= {plots.TEXT: "var(--text)", plots.FAINT: "var(--faint)"}
VARIABLES |= {plots.LINE: "var(--line)", plots.CARD: "var(--card)"}

Draw = Callable[[Any], bool]


def group_height(group: Group) -> float:
    """Return the height of a group's rows, in inches."""
    return 0.62 * len(group.arms) + 0.55


def forest_height(whole: Overview) -> float:
    """Return the height of an overview's plot, in inches."""
    return 0.17 * sum(max(1, len(lines) - 1) + 0.8 for lines in whole.by_place().values()) + 0.8


def svg(draw: Draw, height: float, title: str) -> str:
    """Return what `draw` puts on its axes as an SVG element of the page; empty where it draws nothing.

    `height` is in inches. What has a tip gets it as a title, and colours become the page's variables.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH / 72, height), layout="constrained")
        if not draw(figure.subplots()):
            return ""
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    return _for_the_page(buffer.getvalue(), title)


def _for_the_page(text: str, title: str) -> str:
    body = text[text.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', body)
    assert box is not None
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    # What it says of all elements holds for the whole page: it is in the page's style.
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(rf'<g id="{plots.TIP}([^"]*)">', r"<g><title>\1</title>", body)
    used = set(re.findall(r"(?:#|url\(#)([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 system-ui, sans-serif", body)
    for color, variable in VARIABLES.items():
        body = body.replace(color, variable)
    body = body.replace("xlink:href", "href")
    label = html.escape(title, quote=True)
    return re.sub(r"<svg[^>]*>", f'<svg {box[0]} role="img" aria-label="{label}">', body, count=1)


def png(results: Results, groups: Sequence[Group]) -> bytes:
    """Return one picture: the overview, and a row of plots per group (scores, differences, curves)."""
    import matplotlib
    from matplotlib.figure import Figure

    whole = overview(results, groups)
    top = forest_height(whole) + 0.3 if whole.places else 0.0
    heights = [max(1.9, group_height(group)) for group in groups]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(15, top + sum(heights) + 0.6), layout="constrained")
        figure.suptitle(plots.text(results.title or results.name, 120), fontsize=13, fontweight="bold")
        parts: Any = figure.subfigures(2, 1, height_ratios=[max(top, 0.01), sum(heights)])
        if whole.places:
            for task, axes in enumerate(parts[0].subplots(1, len(whole.tasks), squeeze=False)[0]):
                _drawn(axes, plots.forest(axes, whole, task, results))
        all_axes: Any = parts[1].subplots(
            len(groups), 3, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for row, group in zip(all_axes, groups, strict=True):
            for axes, draw in zip(row, (plots.scores, plots.differences, plots.curves), strict=True):
                _drawn(axes, draw(axes, group, results))
            row[0].set_title(plots.text(group.title), fontsize=10, loc="left")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


def _drawn(axes: Any, anything: bool) -> None:
    if not anything:
        axes.set_axis_off()
