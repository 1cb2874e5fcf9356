"""Training on a CPU, alone and beside busy processes: the package's threads, one, and OpenMP's defaults.

Each side is a process of its own, with the environment of its row; they are timed in turn, first on the
machine as it is (idle, for numbers to report), then beside one busy process per core.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._threads_child import SIZES
from sot_nlp.training.speed.threads import COUNTS, WAITING, usable_cores

ROOT = Path(__file__).parents[1]
# GNU's OpenMP spins so often where nothing is said; a user's choice, so the package leaves it.
SPINNING = {"GOMP_SPINCOUNT": "300000"}


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks threads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each is timed in turn (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing (3)")
    options = parser.parse_args(arguments)
    cores = usable_cores()
    rows, runs, threads = [], {}, {}
    for size in SIZES:
        with sides(size, cores) as started:
            for where in ("alone", "beside"):
                with contextlib.ExitStack() as stack:
                    for _ in range(cores if where == "beside" else 0):
                        stack.enter_context(process([sys.executable, "-c", "while True: pass"], {}))
                    speeds: dict[str, list[float]] = {name: [] for name in started}
                    for number in range(options.rounds):
                        for name in list(started)[:: -1 if number % 2 else 1]:
                            speed, threads[f"{size}, {name}"] = timed(started[name], options.seconds)
                            speeds[name].append(speed)
                runs[f"{size}, {where}"] = speeds
                rows += ratios(size, where, cores, speeds)
    return {"benchmark": "threads", "cores": cores, "threads": threads, "rows": rows, "runs": runs}


def ratios(size: str, where: str, cores: int, speeds: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row for each side that the package's choice is compared with."""
    beside = f"beside {cores} busy processes" if where == "beside" else "alone"
    over = {"one thread": 0.9} if where == "beside" else {"all cores, spinning": 1.0}
    found = []
    for other, least in over.items():
        ratio = statistics.median(speeds["sot-nlp"]) / statistics.median(speeds[other])
        each = [a / b for a, b in zip(speeds["sot-nlp"], speeds[other], strict=True)]
        found.append(
            {
                "what": f"{size}-sized, {beside}: examples/s over {other}",
                "measured": round(ratio, 2),
                "range": [round(min(each), 2), round(max(each), 2)],
                "aim": f"at least {least}",
                "met": ratio >= least,
            }
        )
    return found


@contextlib.contextmanager
def sides(size: str, cores: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The processes to be timed, by name."""
    every = {"OMP_NUM_THREADS": str(cores)}
    environments = {
        "sot-nlp": {},
        "one thread": {"OMP_NUM_THREADS": "1"},
        "all cores, spinning": every | SPINNING,
        "all cores, sleeping": every,
    }
    command = [sys.executable, "-m", "benchmarks._threads_child", size]
    with contextlib.ExitStack() as stack:
        started = {name: stack.enter_context(process(command, given)) for name, given in environments.items()}
        for side in started.values():
            timed(side, 0.5)  # warms up
        yield started


@contextlib.contextmanager
def process(command: list[str], given: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the block."""
    kept = {name: value for name, value in os.environ.items() if name not in (*COUNTS, *WAITING)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    running = subprocess.Popen(command, env={**kept, **given}, cwd=ROOT, **pipes)
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


def timed(side: subprocess.Popen[str], seconds: float) -> tuple[float, int]:
    """Examples per second of one timing, and the threads that computed."""
    assert side.stdin is not None
    assert side.stdout is not None
    side.stdin.write(f"{seconds}\n")
    side.stdin.flush()
    speed, threads = side.stdout.readline().split()
    return float(speed), int(threads)


def table(result: dict[str, Any]) -> str:
    """The rows as Markdown, measured beside the aim."""
    lines = ["| what | measured | aim | met |", "|---|---|---|---|"]
    for row in result["rows"]:
        low, high = row["range"]
        met = "yes" if row["met"] else "no"
        lines.append(f"| {row['what']} | {row['measured']} ({low} to {high}) | {row['aim']} | {met} |")
    return "\n".join(lines)
