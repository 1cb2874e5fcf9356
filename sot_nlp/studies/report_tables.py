"""The comparison of a study as text: the cells of its table, in the terminal, Markdown, LaTeX and CSV.

Scores and differences are shown times 100, as they are published.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sot_nlp.errors import printable
from sot_nlp.studies.comparison import HOLM_FAMILIES, ArmResult, Group
from sot_nlp.studies.results import SCORE_RULES, Results
from sot_nlp.studies.statistics import MIN_SEEDS, PairedDifference

if TYPE_CHECKING:
    from rich.table import Table

MISSING_TEXT = "missing"
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


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of the table: its heading, and the number columns are set flush right."""

    key: str
    title: str
    right: bool = True


COLUMNS = (
    Column(key="arm", title="arm", right=False),
    Column(key="seeds", title="seeds"),
    Column(key="score", title="score: mean ± sd"),
    Column(key="difference", title="difference [95 % interval]"),
    Column(key="p", title="p (Holm)"),
    Column(key="needed", title="seeds needed"),
    Column(key="collapsed", title="collapsed"),
    Column(key="mcnemar", title="McNemar"),
    Column(key="paper", title="paper"),
)


def percent(value: float | None, *, signed: bool = False) -> str:
    """A score or difference times 100 with two decimals; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{100 * value:+.2f}" if signed else f"{100 * value:.2f}"
    return text.replace("-", "−")


def row(arm: ArmResult, group: Group, results: Results) -> dict[str, str]:
    """The texts of one arm's row, by the columns' keys."""
    is_baseline = arm.arm == results.baseline
    n = len(arm.scores)
    return {
        "arm": printable(arm.arm) + (" (baseline)" if is_baseline else ""),
        "seeds": _seeds(arm),
        "score": MISSING_TEXT if arm.mean is None else _score(arm),
        "difference": "" if is_baseline else _difference(arm.difference),
        "p": "" if is_baseline else _p(arm),
        "needed": "" if is_baseline or arm.difference is None else _needed(arm.difference),
        "collapsed": f"{arm.collapsed}/{n}" if n else "",
        "mcnemar": _mcnemar(arm),
        "paper": _paper(arm, group, results),
    }


def used_columns(rows: Sequence[dict[str, str]]) -> list[Column]:
    """The columns that hold anything."""
    return [column for column in COLUMNS if any(each[column.key] for each in rows)]


def _seeds(arm: ArmResult) -> str:
    planned, n = len(arm.cells), len(arm.scores)
    parts = [str(n) if n == planned else f"{n} of {planned}"]
    if arm.failed:
        parts.append(f"{len(arm.failed)} failed")
    if arm.missing:
        parts.append(f"{arm.missing} missing")
    return ", ".join(parts)


def _score(arm: ArmResult) -> str:
    return percent(arm.mean) if arm.sd is None else f"{percent(arm.mean)} ± {percent(arm.sd)}"


def _difference(difference: PairedDifference | None) -> str:
    if difference is None:
        return "no paired seed"
    mean = percent(difference.mean, signed=True)
    if difference.interval is None:
        return mean
    low, high = (percent(end, signed=True) for end in difference.interval)
    return f"{mean} [{low}, {high}]"


def p_text(value: float | None) -> str:
    """A p-value with three decimals, none below 0.001."""
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _p(arm: ArmResult) -> str:
    if arm.difference is None:
        return ""
    if arm.difference.too_few:
        n = len(arm.difference.differences)
        return f"too few seeds ({n} < {MIN_SEEDS})"
    return f"{p_text(arm.difference.p_value)} ({p_text(arm.holm_p)})"


def _needed(difference: PairedDifference) -> str:
    if difference.seeds_needed is not None:
        return str(difference.seeds_needed)
    return "" if len(difference.differences) < 2 else "no effect"


def _mcnemar(arm: ArmResult) -> str:
    if not arm.mcnemar:
        return ""
    below = sum(p < 0.05 for p in arm.mcnemar.values())
    return f"{below}/{len(arm.mcnemar)}"


def _paper(arm: ArmResult, group: Group, results: Results) -> str:
    if arm.published is None:
        return ""
    base = group.arm(results.baseline)
    text = f"{arm.published:.2f}"
    if base is None or base is arm or base.published is None:
        return text
    return f"{text} ({arm.published - base.published:+.2f})".replace("-", "−")


def metric_title(group: Group) -> str:
    """The metric's name for readers."""
    return printable(group.metric).replace("_", " ")


def overview(results: Results, groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the study in one table: a row a group, the baseline's mean and the differences.

    A sign says where the interval lies: ▲ above 0, ▼ below 0, ○ over it.
    """
    others = [arm for arm in results.arms if arm != results.baseline]
    header = ["task · model · setting", results.baseline, *others]
    rows = []
    for group in groups:
        base = group.arm(results.baseline)
        texts = [printable(group.title), percent(base.mean) if base else "–"]
        for name in others:
            arm = group.arm(name)
            texts.append("–" if arm is None else _verdict(arm))
        rows.append(texts)
    return [printable(title) for title in header], rows


def _verdict(arm: ArmResult) -> str:
    if arm.mean is None:
        return "failed" if arm.failed and not arm.missing else MISSING_TEXT
    if arm.difference is None or arm.difference.interval is None:
        return _difference(arm.difference)
    low, high = arm.difference.interval
    sign = "▲" if low > 0 else "▼" if high < 0 else "○"
    return f"{sign} {_difference(arm.difference)}"


def notes(results: Results, groups: Sequence[Group]) -> list[str]:
    """What a reader must know: how each number was made, what failed or is missing, what is marked."""
    lines = [
        f"Score: {SCORE_RULES.get(results.score, printable(results.score))}. Values are times 100.",
        f"Difference: to {printable(results.baseline)}, over seeds that both have (same initialisation seed, "
        "same order of the data); bootstrap interval (BCa at the level that few values need) and two-sided "
        f"permutation test, both from {MIN_SEEDS} seeds on. Holm's adjustment is over "
        f"{HOLM_FAMILIES.get(results.holm, printable(results.holm))}.",
        "Seeds needed: for 80 % power of a paired t-test at 5 %, if the effect were just the one seen.",
        "Collapsed: runs that predict one class or score a Matthews correlation of 0.",
    ]
    if len(groups) > 1:
        lines.append("Signs: ▲ the interval lies above 0, ▼ below 0, ○ over it.")
    if any(arm.mcnemar for group in groups for arm in group.arms):
        lines.append(
            "McNemar: of the paired seeds, those whose two models differ on the validation examples with an "
            "exact p below 0.05 (about one in twenty would by chance)."
        )
    if results.published:
        lines.append(f"Paper: {printable(results.published_source)}; in brackets its difference.")
    lines += [f"Marked: {printable(mark, 400)}" for mark in results.marks]
    for group in groups:
        for arm in group.arms:
            for cell in arm.failed:
                where = " · ".join(part for part in (group.title, arm.arm, f"seed {cell.seed}") if part)
                lines.append(f"Failed: {printable(where)}: {printable(cell.reason, 300)}")
    missing = sum(arm.missing for group in groups for arm in group.arms)
    if missing:
        lines.append(f"Missing: {missing} of {len(results.cells)} runs.")
    return lines


def terminal_overview(results: Results, groups: Sequence[Group]) -> Table:
    """The overview for a terminal, by rich."""
    from rich.table import Table
    from rich.text import Text

    header, rows = overview(results, groups)
    table = Table()
    for i, title in enumerate(header):
        table.add_column(Text(title), justify="right" if i else "left")
    for texts in rows:
        table.add_row(*map(Text, texts))
    return table


def terminal_table(group: Group, results: Results) -> Table:
    """A group's table for a terminal, by rich."""
    from rich.table import Table
    from rich.text import Text

    title = f"{printable(group.title)} ({metric_title(group)})"
    table = Table(title=Text(title, style="bold"), title_justify="left")
    rows = [row(arm, group, results) for arm in group.arms]
    columns = used_columns(rows)
    for column in columns:
        table.add_column(Text(column.title), justify="right" if column.right else "left")
    for each in rows:
        table.add_row(*(Text(each[column.key]) for column in columns))
    return table


def markdown(results: Results, groups: Sequence[Group]) -> str:
    """The table and its notes as Markdown, a table a group."""
    parts = [f"# {_markdown_text(results.title or results.name)}"]
    if results.description:
        parts.append(_markdown_text(results.description))
    if len(groups) > 1:
        header, lines = overview(results, groups)
        parts.append(
            "\n".join(
                [
                    "| " + " | ".join(map(_markdown_text, header)) + " |",
                    "|---" + "|---:" * (len(header) - 1) + "|",
                    *("| " + " | ".join(map(_markdown_text, texts)) + " |" for texts in lines),
                ]
            )
        )
    for group in groups:
        rows = [row(arm, group, results) for arm in group.arms]
        columns = used_columns(rows)
        table = [
            f"## {_markdown_text(group.title)} ({_markdown_text(metric_title(group))})",
            "",
            "| " + " | ".join(column.title for column in columns) + " |",
            "|" + "|".join("---:" if column.right else "---" for column in columns) + "|",
            *(
                "| " + " | ".join(_markdown_text(each[column.key]) for column in columns) + " |"
                for each in rows
            ),
        ]
        parts.append("\n".join(table))
    parts.append("\n".join(f"- {_markdown_text(note)}" for note in notes(results, groups)))
    if results.command:
        parts.append(f"Made by `{printable(results.command, 1000).replace('`', '')}`.")
    return "\n\n".join(parts) + "\n"


def _markdown_text(text: str) -> str:
    return re.sub(r"([\\`*_|<>#\[\]])", r"\\\1", printable(text, 1000))


def latex(results: Results, groups: Sequence[Group]) -> str:
    """The table as a LaTeX tabular (package booktabs), the notes as comments."""
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
    """One line an arm: numbers in the metric's own unit, empty where there is none."""
    rows: list[list[object]] = []
    for group in groups:
        for arm in group.arms:
            each: list[object] = [group.task, group.model, group.setting, group.metric, arm.arm]
            each += [len(arm.cells), len(arm.scores), len(arm.failed), arm.missing, arm.collapsed]
            each += [arm.mean, arm.sd]
            if (found := arm.difference) is None:
                each += [None] * 7
            else:
                each += [len(found.differences), found.mean, *(found.interval or (None, None))]
                each += [found.p_value, arm.holm_p, found.seeds_needed]
            rows.append([*each, arm.published])
    return _csv(ARMS_HEADER, rows)


def runs_csv(results: Results) -> str:
    """One line a run: every seed's score, in the metric's own unit."""
    rows = [[getattr(cell, name) for name in RUNS_HEADER] for cell in results.cells]
    return _csv(RUNS_HEADER, rows)


def _csv(header: Sequence[str], rows: list[list[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(["" if value is None else value for value in each] for each in rows)
    return text.getvalue()
