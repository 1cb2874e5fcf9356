"""Format a comparison's cells and notes as text, which every form of the report shows.

Scores and differences are shown times 100, as they are published; errors in their own unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from sot_nlp.errors import decimal, printable
from sot_nlp.studies.comparison import HOLM_FAMILIES, ArmResult, Group
from sot_nlp.studies.results import SCORE_RULES, Results
from sot_nlp.studies.statistics import MIN_SEEDS, PairedDifference

MISSING_TEXT = "missing"


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
    Column(key="rates", title="rates", right=False),
)


def shown(value: float | None, times: int = 100, *, signed: bool = False) -> str:
    """Return a score or difference times `times`, with two decimals; a dash for none.

    Of times 1, an error in its own unit, it has three decimals, and three digits where those would be fewer.
    """
    if value is None:
        return "–"
    if times == 1 and 0 < abs(value) < 0.1:
        exponent = int(f"{value:.2e}".partition("e")[2])
        if exponent < -4:
            text = ("+" if signed and value > 0 else "") + _scientific(value, 2)
        else:
            text = decimal(value, 2 - exponent, signed=signed)
        return text.replace("-", "−")
    decimals = 2 if times == 100 else 3
    return decimal(times * value, decimals, signed=signed).replace("-", "−")


def row(arm: ArmResult, group: Group, results: Results) -> dict[str, str]:
    """Return the texts of one arm's row, by the columns' keys."""
    is_baseline = arm.arm == results.baseline
    n = len(arm.scores)
    return {
        "arm": printable(arm.arm) + (" (baseline)" if is_baseline else ""),
        "seeds": _seeds(arm),
        "score": MISSING_TEXT if arm.mean is None else mean_and_sd(arm.mean, arm.sd, group.times),
        "difference": "" if is_baseline else _difference(arm.difference, group),
        "p": "" if is_baseline else _p(arm),
        "needed": "" if is_baseline or arm.difference is None else _needed(arm.difference),
        "collapsed": f"{arm.collapsed}/{n}" if n else "",
        "mcnemar": _mcnemar(arm),
        "paper": _paper(arm, group, results),
        "rates": "" if arm.rates is None else shown_rates(arm.rates.rates),
    }


def used_columns(rows: Sequence[dict[str, str]]) -> list[Column]:
    """Return the columns that hold anything."""
    return [column for column in COLUMNS if any(row_texts[column.key] for row_texts in rows)]


def _seeds(arm: ArmResult) -> str:
    planned, n = len(arm.cells), len(arm.scores)
    parts = [str(n) if n == planned else f"{n} of {planned}"]
    if arm.failed:
        parts.append(f"{len(arm.failed)} failed")
    if arm.missing:
        parts.append(f"{arm.missing} missing")
    return ", ".join(parts)


def mean_and_sd(mean: float | None, sd: float | None, times: int) -> str:
    """Return `61.20 ± 1.03`; the mean alone where there is no deviation."""
    return shown(mean, times) + ("" if sd is None else f" ± {shown(sd, times)}")


def _difference(difference: PairedDifference | None, group: Group) -> str:
    if difference is None:
        return "no paired seed"
    mean = shown(difference.mean, group.times, signed=True)
    if difference.interval is None:
        return mean
    return f"{mean} {interval_text(difference.interval, group.times)}"


def interval_text(interval: tuple[float, float], times: int) -> str:
    """Return `[+0.12, +1.40]`."""
    low, high = (shown(end, times, signed=True) for end in interval)
    return f"[{low}, {high}]"


def p_text(value: float | None) -> str:
    """Return a p-value with three decimals, none below 0.001."""
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
    text = shown(arm.published / 100)
    if base is None or base is arm or base.published is None:
        return text
    return f"{text} ({shown((arm.published - base.published) / 100, signed=True)})"


def shown_rates(rates: Mapping[str, float | None]) -> str:
    """Return rates as a table shows them: `5e-05, head 0.001`."""
    names = {"learning_rate": "", "head_learning_rate": "head ", "class_token_learning_rate": "class token "}
    return ", ".join(
        f"{names[name]}{'as the backbone' if value is None else _scientific(value)}"
        for name, value in rates.items()
    )


def _scientific(value: float, decimals: int | None = None) -> str:
    """Return a number as it is written, `5e-5`, `1.5e-4`: rounded, or all of its digits."""
    digits = repr(float(value)) if decimals is None else f"{value:.{decimals}e}"
    mantissa, exponent = f"{Decimal(digits).normalize():e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _rates_notes(results: Results) -> list[str]:
    """Return what each arm spent on choosing its rates, and where one beyond the grid may be better."""
    arms: dict[tuple[int, int], dict[str, None]] = {}
    for chosen in results.rates:
        arms.setdefault((chosen.among, len(chosen.seeds)), {})[chosen.arm] = None
    spent = [
        f"{' and '.join(map(printable, names)) if len(arms) > 1 else 'each arm'} among {among} combinations "
        f"with {seeds} seed{'s' if seeds > 1 else ''} each"
        for (among, seeds), names in arms.items()
    ]
    lines = [
        f"Rates: chosen by the mean score on held-out training data, {'; '.join(spent)}; the seeds of the "
        "table are other ones."
    ]
    edges = [
        f"{chosen.title} ({shown_rates({name: chosen.rates[name] for name in chosen.at_edge})})"
        for chosen in results.rates
        if chosen.at_edge
    ]
    if edges:
        lines.append(f"At an end of the grid, so that a rate beyond it may be better: {'; '.join(edges)}.")
    return lines


def metric_title(group: Group) -> str:
    """Return the metric's name for readers, with its direction where less is better."""
    return metric_name(group) if group.higher_is_better else f"{metric_name(group)}, lower is better"


def metric_name(group: Group) -> str:
    """Return the metric's name for readers."""
    return printable(group.metric).replace("_", " ")


def value_unit(group: Group) -> str:
    """Return what comes after an axis' title: ` x 100`, or nothing for an error in its own unit."""
    return f" x {group.times}" if group.times != 1 else ""


def _values(groups: Sequence[Group]) -> str:
    own = dict.fromkeys(metric_name(group) for group in groups if group.times == 1)
    if not own:
        return "Values are times 100."
    rest = "." if all(group.times == 1 for group in groups) else ", others times 100."
    return f"Values of {', '.join(own)} are in their own unit{rest}"


def notes(results: Results, groups: Sequence[Group]) -> list[str]:
    """Return what a reader must know: how each number was made, what failed or is missing, what is marked."""
    lines = [
        f"Score: {SCORE_RULES.get(results.score, printable(results.score))}. {_values(groups)}",
        f"Difference: to {printable(results.baseline)}, over seeds that both have (same initialisation seed, "
        "same order of the data); bootstrap interval (BCa at the level that few values need) and two-sided "
        f"permutation test, both from {MIN_SEEDS} seeds on. Holm's adjustment is over "
        f"{HOLM_FAMILIES.get(results.holm, printable(results.holm))}.",
        "Seeds needed: for 80 % power of a paired t-test at 5 %, if the effect were just the one seen.",
        "Collapsed: runs that predict one class, whose loss did not fall, or whose correlation is at chance.",
    ]
    if len(groups) > 1:
        lines.append("Signs: ▲ the whole interval is better than the baseline, ▼ worse, ○ it contains 0.")
    if any(arm.mcnemar for group in groups for arm in group.arms):
        lines.append(
            "McNemar: of the paired seeds, those whose two saved models (of a run, its best epoch's) differ "
            "on the validation examples with an exact p below 0.05 (about one in twenty would by chance)."
        )
    if results.rates:
        lines += _rates_notes(results)
    if results.published:
        lines.append(f"Paper: {printable(results.published_source, 500)}; in brackets its difference.")
    lines += [f"Marked: {printable(mark, 400)}" for mark in results.marks]
    for group in groups:
        for arm in group.arms:
            for reason in dict.fromkeys(cell.reason for cell in arm.failed):
                seeds = [str(cell.seed) for cell in arm.failed if cell.reason == reason]
                which = f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
                where = " · ".join(part for part in (group.title, arm.arm, which) if part)
                lines.append(f"Failed: {printable(where)}: {printable(reason, 300)}")
    missing = sum(arm.missing for group in groups for arm in group.arms)
    if missing:
        lines.append(f"Missing: {missing} of {len(results.cells)} runs.")
    return lines
