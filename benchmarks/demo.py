"""How long `run_glue_sot.py --task demo` takes, from the command to its table, on the machine as it is."""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks._aims import judged

ROOT = Path(__file__).parents[1]


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks demo", description=__doc__)
    parser.add_argument("--rounds", type=int, default=1, help="times that it is run (1)")
    options = parser.parse_args(arguments)
    each = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(ROOT / "run_glue_sot.py"), "--task", "demo"]
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            begin = time.perf_counter()
            subprocess.run(
                [*command, "--output_dir", f"{folder}/demo"], cwd=folder, env=environment, check=True
            )
            each.append(time.perf_counter() - begin)
    what = "`run_glue_sot.py --task demo`, two idle cores, seconds"
    return {"benchmark": "demo", "rows": [judged(what, statistics.median(each), digits=0, each=each)]}
