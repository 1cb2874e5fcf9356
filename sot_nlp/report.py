"""`sot-nlp report`: the records of a study, or a results file, as tables, a page and plots."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sot_nlp import collecting, report_html, report_plots, report_tables
from sot_nlp.comparison import Group, compare
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.files import write_atomic
from sot_nlp.flag_parser import FlagParser
from sot_nlp.results import NAME, Results

SUMMARY = (
    "Compare the runs of a study: means, paired differences with intervals and tests, and plots. PATH is a "
    "study's folder, a folder with runs anywhere below it, or a results.json."
)
Writer = Callable[[Results, Sequence[Group]], "str | bytes"]
# format -> the files that it writes, each with what makes its content
FORMATS: dict[str, dict[str, Writer]] = {
    "html": {"report.html": report_html.page},
    "markdown": {"report.md": report_tables.markdown},
    "latex": {"report.tex": report_tables.latex},
    "csv": {
        "arms.csv": lambda _, groups: report_tables.arms_csv(groups),
        "runs.csv": lambda results, _: report_tables.runs_csv(results),
    },
    "png": {"report.png": report_plots.png},
}


def main(argv: Sequence[str], prog: str) -> int:
    """The command line of `sot-nlp report`."""
    parser = FlagParser(prog=prog, description=SUMMARY)
    parser.add_argument("path", metavar="PATH", help="a study's folder, a folder of runs, or a results.json")
    parser.add_argument("--output_dir", metavar="DIR", help="where the files go (default: PATH's folder)")
    parser.add_argument(
        "--formats",
        nargs="*",
        metavar="FORMAT",
        default=["json", "markdown", "latex", "csv", "html"],
        help=f"what to write: json, {', '.join(FORMATS)}; nothing behind it: only the terminal (default: all "
        "but png, which needs matplotlib)",
    )
    parser.add_argument(
        "--baseline", metavar="ARM", help="the arm to compare with (default: the study's, or stock)"
    )
    parser.add_argument(
        "--allow_mixed", action="store_true", help="mark runs on different data instead of refusing them"
    )
    flags = parser.parse_args(argv)
    for name in flags.formats:
        if name not in (*FORMATS, "json"):
            raise UserError(f"--formats {printable(name)}: {did_you_mean(name, [*FORMATS, 'json'])}")
    path = Path(flags.path)
    results = collecting.read_results(path, baseline=flags.baseline, allow_mixed=flags.allow_mixed)
    show(results)
    if flags.formats:
        folder = Path(flags.output_dir or (path if path.is_dir() else path.parent))
        for file in write(results, folder, flags.formats):
            print(f"wrote {printable(file)}")
    return 0


def show(results: Results) -> None:
    """Print the table and its notes."""
    from rich.console import Console

    groups = compare(results)
    console = Console(highlight=False)
    if not console.is_terminal:
        # Piped into a file or a pager, a table must not be cut to 80 columns.
        console = Console(highlight=False, width=200)
    console.print(f"{printable(results.title or results.name)}\n", markup=False, style="bold")
    if len(groups) > 1:
        console.print(report_tables.terminal_overview(results, groups))
    for group in groups:
        console.print(report_tables.terminal_table(group, results))
    for note in report_tables.notes(results, groups):
        console.print(f"- {note}", markup=False, soft_wrap=True)


def write(results: Results, folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write `results` in these formats into `folder`; returns the files. UserError where it can't."""
    groups = compare(results)
    files: list[Path] = []
    try:
        if "json" in formats:
            results.write(folder / NAME)
            files.append(folder / NAME)
        for name in (name for name in FORMATS if name in formats):
            for file, content in FORMATS[name].items():
                write_atomic(folder / file, content(results, groups))
                files.append(folder / file)
    except OSError as error:
        raise UserError(f"{printable(folder)}: cannot be written: {error.strerror}") from None
    return files
