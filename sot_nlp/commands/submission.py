"""`sot-nlp submission RUNS`: write the zip that GLUE's server accepts."""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.publishing.submission import write_submission
from sot_nlp.settings.flag_parser import FlagParser


def run(argv: Sequence[str], prog: str) -> int:
    """Write the zip, and print what is in it and what is missing."""
    parser = FlagParser(prog=prog, description="Gather the test predictions of runs into GLUE's zip.")
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, or of such folders")
    parser.add_argument("-o", "--output", default="glue.zip", metavar="ZIP", help="default: %(default)s")
    given = parser.parse_args(argv)
    print(write_submission(given.runs, given.output).report())
    return 0
