"""What a process of `benchmarks.faults` runs. Importing this imports all that a training needs."""

from __future__ import annotations

import gc
import os
import sys

import sot_nlp.cli
import sot_nlp.data.task_data
import sot_nlp.runs.runner
import sot_nlp.runs.scoring
import sot_nlp.training.loop
from sot_nlp.modeling import modeling_sot  # noqa: F401

gc.freeze()  # what was imported lives on: no fork's garbage collection need go through it


def child(words: list[str], log: str, environment: dict[str, str]) -> None:
    """Run the command `sot-nlp <words>` with its output appended to `log`."""
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    sys.exit(sot_nlp.cli.main(words))
