"""Show the comparison of a study as text: tables in the terminal, Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sot_nlp.errors import printable
from sot_nlp.studies.comparison import Group
from sot_nlp.studies.report import overview
from sot_nlp.studies.report.cells import metric_title, notes, row, used_columns
from sot_nlp.studies.results import Results

if TYPE_CHECKING:
    from rich.table import Table

ARMS_HEADER = (
    "task", "model", "setting", "metric", "arm", "planned", "finished", "failed", "missing", "collapsed",
    "mean", "sd", "pairs", "difference", "low", "high", "p", "p_holm", "seeds_needed", "published",
)  # fmt: skip
RUNS_HEADER = (
    "task", "model", "setting", "metric", "arm", "seed", "data_seed", "status", "score", "epoch", "collapsed",
    "seconds", "examples_per_second", "only_here", "only_baseline", "reason",
)  # fmt: skip
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_",
    "%": r"\%", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "·": r"$\cdot$",
    "<": r"$<$", ">": r"$>$", "−": r"$-$", "▲": r"$\blacktriangle$", "▼": r"$\blacktriangledown$",
    "○": r"$\circ$",
}  # fmt: skip


def terminal_table(group: Group, results: Results) -> Table:
    """Return a group's table for a terminal, by rich."""
    from rich.table import Table
    from rich.text import Text

    title = f"{printable(group.title)} ({metric_title(group)})"
    table = Table(title=Text(title, style="bold"), title_justify="left")
    rows = [row(arm, group, results) for arm in group.arms]
    columns = used_columns(rows)
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.right else "left")
    for row_texts in rows:
        table.add_row(*(Text(row_texts[column.key]) for column in columns))
    return table


def markdown(results: Results, groups: Sequence[Group]) -> str:
    """Return the table and its notes as Markdown, a table per group."""
    parts = [f"# {_markdown_text(results.title or results.name)}"]
    if results.description:
        parts.append(_markdown_text(results.description))
    if len(groups) > 1:
        left, header, lines = overview.rows(results, groups)
        parts.append(
            _markdown_table(
                [_markdown_text(title) for title in header], lines, [i >= left for i in range(len(header))]
            )
        )
    for group in groups:
        rows = [row(arm, group, results) for arm in group.arms]
        columns = used_columns(rows)
        parts.append(f"## {_markdown_text(group.title)} ({_markdown_text(metric_title(group))})")
        lines = [[texts[column.key] for column in columns] for texts in rows]
        titles = [column.title for column in columns]
        parts.append(_markdown_table(titles, lines, [column.right for column in columns]))
    parts.append("\n".join(f"- {_markdown_text(note)}" for note in notes(results, groups)))
    if results.command:
        parts.append(f"Written by `{printable(results.command, 1000).replace('`', '')}`.")
    return "\n\n".join(parts) + "\n"


def _markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], right: Sequence[bool]) -> str:
    rule = "|" + "|".join("---:" if flush_right else "---" for flush_right in right) + "|"
    rows = (header, *([_markdown_text(text) for text in line] for line in lines))
    first, *rest = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([first, rule, *rest])


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_|<>#\[\]])", r"\\\1", printable(text, 1000))


def latex(results: Results, groups: Sequence[Group]) -> str:
    """Return the table as a LaTeX tabular (package booktabs), the notes as comments."""
    all_rows = [row(arm, group, results) for group in groups for arm in group.arms]
    columns = used_columns(all_rows)
    lines = [f"% {note}" for note in notes(results, groups)]
    lines += [
        "% needs \\usepackage{booktabs}",
        "\\begin{tabular}{" + "".join("r" if column.right else "l" for column in columns) + "}",
        "\\toprule",
        " & ".join(_latex_text(column.title) for column in columns) + r" \\",
    ]
    for group in groups:
        lines.append("\\midrule")
        title = _latex_text(f"{group.title} ({metric_title(group)})")
        lines.append(f"\\multicolumn{{{len(columns)}}}{{l}}{{\\textbf{{{title}}}}} \\\\")
        for arm in group.arms:
            texts = row(arm, group, results)
            lines.append(" & ".join(_latex_text(texts[column.key]) for column in columns) + r" \\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    return "\n".join(lines) + "\n"


def _latex_text(text: str) -> str:
    return "".join(LATEX_SPECIAL.get(character, character) for character in printable(text, 1000)).replace(
        "–", "--"
    )


def arms_csv(groups: Sequence[Group]) -> str:
    """Return one line per arm: numbers in the metric's own unit, empty where there is none."""
    rows: list[list[object]] = []
    for group in groups:
        for arm in group.arms:
            line: list[object] = [group.task, group.model, group.setting, group.metric, arm.arm]
            line += [len(arm.cells), len(arm.scores), len(arm.failed), arm.missing, arm.collapsed]
            line += [arm.mean, arm.sd]
            if (difference := arm.difference) is None:
                line += [None] * 7
            else:
                line += [len(difference.differences), difference.mean, *(difference.interval or (None, None))]
                line += [difference.p_value, arm.holm_p, difference.seeds_needed]
            rows.append([*line, arm.published])
    return _csv(ARMS_HEADER, rows)


def runs_csv(results: Results) -> str:
    """Return one line per run: every seed's score, in the metric's own unit."""
    rows = [[getattr(cell, name) for name in RUNS_HEADER] for cell in results.cells]
    return _csv(RUNS_HEADER, rows)


def _csv(header: Sequence[str], rows: list[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in line] for line in rows)
    return text.getvalue()
