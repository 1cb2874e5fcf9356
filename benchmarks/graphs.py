"""Which families' passes were held as graphs, by the output of the test that tries each on a GPU.

python -m pytest -q -rP tests/training/speed/test_cuda_graphs.py -k every_family > graphs.txt
python -m benchmarks graphs graphs.txt
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

from benchmarks._aims import judged
from benchmarks._machine import described

LINE = re.compile(r"^([\w-]+) (\d+ graphs|\[.*\])$", re.MULTILINE)


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks graphs", description=__doc__)
    parser.add_argument("output_of_pytest", type=Path)
    options = parser.parse_args(arguments)
    families = dict(LINE.findall(options.output_of_pytest.read_text(encoding="utf-8")))
    if not families:
        parser.error(f"{options.output_of_pytest}: no line of a family; was pytest called with -rP?")
    held = [family for family, said in families.items() if said.endswith("graphs")]
    row = judged("families whose passes are held as graphs, of those that run", len(held) / len(families))
    return {"benchmark": "graphs", "machine": described(gpu=True), "rows": [row], "families": families}
