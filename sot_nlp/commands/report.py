"""`sot-nlp report PATH`: show a study's records, or a results file, as tables, a page and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sot_nlp import records
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.settings.flag_parser import FlagParser
from sot_nlp.studies import read_results
from sot_nlp.studies.comparison import compare
from sot_nlp.studies.probe.probe import PLAN
from sot_nlp.studies.report import write
from sot_nlp.studies.results import NAME

SUMMARY = (
    "Compare the runs of a study: means, paired differences with intervals and tests, and plots. PATH is a "
    "study's folder, a folder with runs anywhere below it, a results.json, or a folder of such files."
)


def run(argv: Sequence[str], prog: str) -> int:
    """Show the comparison and write it."""
    parser = FlagParser(prog=prog, description=SUMMARY)
    parser.add_argument("path", metavar="PATH", help="a study's folder, a folder of runs, or results.json")
    parser.add_argument("--output_dir", metavar="DIR", help="where the files go (default: PATH's folder)")
    parser.add_argument(
        "--formats",
        nargs="*",
        metavar="FORMAT",
        default=["json", "markdown", "latex", "csv", "html"],
        help=f"what to write: json, {', '.join(write.FORMATS)}; without any, print to the terminal only "
        "(default: all but png)",
    )
    parser.add_argument(
        "--baseline", metavar="ARM", help="the arm to compare with (default: the study's, or stock)"
    )
    parser.add_argument(
        "--allow_mixed", action="store_true", help="mark runs on different data instead of refusing them"
    )
    flags = parser.parse_args(argv)
    for name in flags.formats:
        if name not in (*write.FORMATS, "json"):
            raise UserError(f"--formats {printable(name)}: {did_you_mean(name, [*write.FORMATS, 'json'])}")
    path = Path(flags.path)
    several = results_files(path)
    for file in several or [path]:
        results = read_results.read_results(file, baseline=flags.baseline, allow_mixed=flags.allow_mixed)
        groups = compare(results)
        write.show(results, groups)
        if flags.formats:
            folder = Path(flags.output_dir or (path if path.is_dir() else path.parent))
            # The one results.json of a report or a probe has its report beside it.
            target = folder / file.stem if several and file.name != NAME else folder
            for written in write.write(results, groups, target, flags.formats):
                print(f"wrote {printable(written)}")
    return 0


def results_files(path: Path) -> list[Path]:
    """Return the results files of a folder that holds such files and no runs: each is reported by itself."""
    if not path.is_dir() or (path / read_results.STUDY_NAME).exists() or any(path.rglob(records.NAME)):
        return []
    return sorted(file for file in path.glob("*.json") if file.name != PLAN)
