"""`sot-nlp tasks`: list the tasks that come with the package."""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.settings.flag_parser import FlagParser
from sot_nlp.tasks.spec import available_tasks, load_task


def run(argv: Sequence[str], prog: str) -> int:
    """Print each task's name, main metric and title."""
    FlagParser(prog=prog, description="List the tasks that come with the package.").parse_args(argv)
    specs = {name: load_task(name) for name in available_tasks()}
    widths = [max(map(len, column)) for column in (specs, {spec.main_metric for spec in specs.values()})]
    for name, spec in specs.items():
        print(f"{name:{widths[0]}}  {spec.main_metric:{widths[1]}}  {spec.title}")
    return 0
