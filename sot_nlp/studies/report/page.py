"""The comparison of a study as one HTML page: no script, nothing loaded, light and dark, wide and narrow."""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.studies.comparison import ArmResult, Group
from sot_nlp.studies.report import overview, svg
from sot_nlp.studies.report.cells import metric_title, notes, row, used_columns
from sot_nlp.studies.report.svg import escaped
from sot_nlp.studies.results import Results

# Okabe and Ito's colours, told apart by colour-blind eyes too; the first is the baseline's grey.
STYLE = """
:root {
  color-scheme: light dark;
  --page: #fff; --card: #f7f7f5; --text: #1d1d1b; --faint: #63635f; --line: #dcdcd7;
  --c0: #6f6f6b; --c1: #0072b2; --c2: #d55e00; --c3: #00795a; --c4: #b0578d; --c5: #9a6b00; --c6: #3a8fc4;
  --c7: #5b4fa8;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #161614; --card: #201f1d; --text: #ecebe6; --faint: #a5a49d; --line: #3b3a36;
    --c0: #a9a8a1; --c1: #56b4e9; --c2: #f08a45; --c3: #2fc39a; --c4: #e08fbf; --c5: #e6b23a; --c6: #8fd0f5;
    --c7: #a99df0;
  }
}
* { box-sizing: border-box }
body {
  margin: 0 auto; max-width: 1240px; padding: 24px 16px 48px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 1.05rem; margin: 0 0 8px; overflow-wrap: anywhere }
h2 small, .lead, .notes, figcaption { color: var(--faint) }
h2 small { font-weight: 400 }
code { font: 13px/1.4 ui-monospace, Consolas, monospace; overflow-wrap: anywhere }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; margin: 18px 0;
}
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px }
th, td {
  text-align: right; padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top;
}
th { font-weight: 600; color: var(--faint); font-size: 12.5px }
th:first-child, td:first-child { text-align: left; overflow-wrap: anywhere }
.wide { overflow-x: auto }
.matrix small { color: var(--faint); white-space: nowrap }
.matrix td { padding: 3px 10px; border-bottom: 0 }
.matrix th:first-child, .matrix td:first-child {
  position: sticky; left: 0; padding-left: 0; min-width: 62px; overflow-wrap: normal; background: var(--card);
}
.matrix td:first-child { white-space: nowrap }
.matrix tbody { border-bottom: 1px solid var(--line) }
.matrix td > span:not(.swatch) { white-space: nowrap }
.better { background: color-mix(in srgb, var(--c3) 20%, transparent) }
.worse { background: color-mix(in srgb, var(--c2) 22%, transparent) }
.swatch { display: inline-block; width: 9px; height: 9px; border-radius: 2px; margin-right: 6px }
.plots {
  display: grid; gap: 10px 22px; margin-top: 14px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr));
}
figure { margin: 0; min-width: 0; max-width: 480px }
figcaption { font-size: 12.5px; margin-bottom: 4px }
svg { width: 100%; height: auto; display: block; font: 11px system-ui, sans-serif; fill: var(--text) }
.grid { stroke: var(--line); stroke-width: 1 }
.zero { stroke: var(--text); stroke-width: 1.2; stroke-dasharray: 3 3 }
.tick { fill: var(--faint); font-size: 10px }
.label, .value {
  font-size: 11.5px; font-variant-numeric: tabular-nums;
  paint-order: stroke; stroke: var(--card); stroke-width: 5px; stroke-linejoin: round;
}
.pair { stroke: var(--faint); stroke-width: 1; opacity: .38 }
.dot { fill: var(--p); opacity: .72 }
.point { fill: var(--p) }
.hollow { fill: var(--card); stroke: var(--p); stroke-width: 1.6 }
.mean { stroke: var(--p); stroke-width: 3 }
.interval { stroke: var(--p); stroke-width: 6; opacity: .35; stroke-linecap: round }
.paper { fill: none; stroke: var(--text); stroke-width: 1.5 }
.seed { fill: none; stroke: var(--p); stroke-width: 1; opacity: .3 }
.curve { fill: none; stroke: var(--p); stroke-width: 2.4 }
.notes { font-size: 13px; padding-left: 18px; overflow-wrap: anywhere }
@media (max-width: 700px) {
  .arms thead { display: none }
  .arms tr { display: block; padding: 6px 0; border-bottom: 1px solid var(--line) }
  .arms td { display: flex; justify-content: space-between; gap: 14px; border: 0; padding: 1px 0 }
  .arms td:first-child { font-weight: 600; justify-content: flex-start; align-items: center; gap: 0 }
  .arms td:not(:first-child)::before { content: attr(data-title); color: var(--faint); text-align: left }
  .arms td:not(:first-child) > span { white-space: nowrap }
  .arms td[data-empty] { display: none }
  body { padding: 16px 10px 32px }
  section { padding: 12px 10px }
  .matrix { font-size: 13px }
  .matrix th { font-size: 11.5px }
  .matrix th, .matrix td { padding: 3px 3px }
  .matrix td:first-child { white-space: normal }
  .matrix td:first-child b { display: block }
  .matrix small { display: block; font-size: 10px; letter-spacing: -.02em }
}
@media print { section { break-inside: avoid } }
"""


def page(results: Results, groups: Sequence[Group]) -> str:
    """The page, as text: for each group its table, every seed's score, the differences and the curves."""
    title = escaped(results.title or results.name)
    body = [f"<h1>{title}</h1>"]
    if results.description:
        body.append(f'<p class="lead">{escaped(results.description, 2000)}</p>')
    if len(groups) > 1:
        body.append(_overview(results, groups))
    body += [_section(group, results) for group in groups]
    listed = "".join(f"<li>{escaped(note, 600)}</li>" for note in notes(results, groups))
    body.append(f'<ul class="notes">{listed}</ul>')
    if results.command:
        body.append(f"<p>Made by <code>{escaped(results.command, 1000)}</code></p>")
    versions = sorted({_versions(each) for each in results.versions.values()})
    body += [f'<p class="lead"><small>{escaped(each, 600)}</small></p>' for each in versions]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(body)
        + "\n</body></html>\n"
    )


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _overview(results: Results, groups: Sequence[Group]) -> str:
    found = overview.overview(results, groups)
    head = "".join(f"<th>{escaped(title)}</th>" for title in (found.places or "arm", *found.tasks))
    bodies = []
    for place, lines in found.by_place().items():
        rows = []
        for i, line in enumerate(lines):
            # A place's name stands in its first line, which is the baseline's.
            name = f"<b>{escaped(place)}</b> " if i == 0 and place else ""
            cells = "".join(_overview_cell(arm, results) for arm in line.arms)
            rows.append(f"<tr><td>{name}{_swatch(results, line.arm)}{escaped(line.arm)}</td>{cells}</tr>")
        bodies.append(f"<tbody>{''.join(rows)}</tbody>")
    table = f'<table class="matrix"><thead><tr>{head}</tr></thead>{"".join(bodies)}</table>'
    forests = [svg.forest(found, i, results) for i in range(len(found.tasks))] if found.places else []
    caption = "Differences to the baseline and their 95 % intervals"
    figures = [f"<figure><figcaption>{caption}</figcaption>{each}</figure>" for each in forests if each]
    plots = f'<div class="plots">{"".join(figures)}</div>' if figures else ""
    return f'<section><h2>Overview</h2><div class="wide">{table}</div>{plots}</section>'


def _overview_cell(arm: ArmResult | None, results: Results) -> str:
    text, *more = overview.texts(arm, results)
    kind = overview.verdict(arm) if arm is not None else ""
    small = "".join(f" <small>{escaped(each)}</small>" for each in more)
    return f'<td class="{kind}"><span>{escaped(text)}</span>{small}</td>'


def _swatch(results: Results, arm: str) -> str:
    return f'<span class="swatch" style="background:{svg.color(results, arm)}"></span>'


def _section(group: Group, results: Results) -> str:
    paper = ", a diamond the paper's score" if any(arm.published is not None for arm in group.arms) else ""
    plots = [
        (f"Every seed's score; a line joins runs of one seed, a bar is the mean{paper}", svg.scores),
        (f"Difference to {results.baseline}, seed by seed, with its 95 % interval", svg.differences),
        ("Score over the epochs: thin lines are seeds, the thick one is their mean", svg.curves),
    ]
    figures = []
    for caption, draw in plots:
        drawing = draw(group, results)
        if drawing:
            figures.append(f"<figure><figcaption>{escaped(caption)}</figcaption>{drawing}</figure>")
    return (
        f"<section><h2>{escaped(group.title)} <small>{escaped(metric_title(group))}</small></h2>"
        f'{_table(group, results)}<div class="plots">{"".join(figures)}</div></section>'
    )


def _table(group: Group, results: Results) -> str:
    rows = [row(arm, group, results) for arm in group.arms]
    columns = used_columns(rows)
    head = "".join(f"<th>{escaped(column.title)}</th>" for column in columns)
    lines = []
    for arm, texts in zip(group.arms, rows, strict=True):
        cells = []
        for column in columns:
            swatch = _swatch(results, arm.arm) if column.key == "arm" else ""
            text = escaped(texts[column.key])
            empty = "" if text else " data-empty"
            cells.append(f'<td data-title="{escaped(column.title)}"{empty}>{swatch}<span>{text}</span></td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<table class="arms"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
