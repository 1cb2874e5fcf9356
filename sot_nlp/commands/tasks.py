"""`sot-nlp tasks`: list the tasks that come with the package."""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.settings.flag_parser import FlagParser
from sot_nlp.tasks.spec import available_tasks, load_task


def run(argv: Sequence[str], prog: str) -> int:
    """Print each task's name, main metric and title."""
    FlagParser(prog=prog, description="List the tasks that come with the package.").parse_args(argv)
    for name in available_tasks():
        spec = load_task(name)
        print(f"{name:6} {spec.main_metric:22} {spec.title}")
    return 0
