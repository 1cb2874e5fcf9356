"""Training on a CPU, alone and beside busy processes: the package's threads, one, and OpenMP's defaults.

Each side is a process of its own, with the environment of its row; they are timed in turn, first on the
machine as it is (idle, for numbers to report), then beside one busy process per core. Beside those, too, the
precision that `--mixed_precision auto` chooses is asked for in processes of their own.
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

from benchmarks._aims import judged
from benchmarks._threads_child import SIZES
from sot_nlp.training.speed.threads import COUNTS, WAITING, usable_cores

ROOT = Path(__file__).parents[1]
# GNU's OpenMP spins so often where nothing is said, and not at all where it is passive. The package leaves
# both, as a choice of the user.
SPINNING, SLEEPING = {"GOMP_SPINCOUNT": "300000"}, {"OMP_WAIT_POLICY": "PASSIVE"}


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks threads", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="times that each is timed in turn (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each timing (3)")
    parser.add_argument("--answers", type=int, default=8, help="processes that choose a precision (8)")
    options = parser.parse_args(arguments)
    cores = usable_cores()
    rows, runs, threads = [], {}, {}
    for size in SIZES:
        with sides(size, cores) as started:
            for where in ("alone", "beside"):
                with busy(cores if where == "beside" else 0):
                    speeds: dict[str, list[float]] = {name: [] for name in started}
                    for number in range(options.rounds):
                        for name in list(started)[:: -1 if number % 2 else 1]:
                            speed, threads[f"{size}, {name}"] = timed(started[name], options.seconds)
                            speeds[name].append(speed)
                runs[f"{size}, {where}"] = speeds
                rows.append(ratio(size, where, speeds))
    rows.append(equal_answers(cores, options.answers))
    return {"benchmark": "threads", "cores": cores, "threads": threads, "rows": rows, "runs": runs}


def ratio(size: str, where: str, speeds: dict[str, list[float]]) -> dict[str, Any]:
    """The row of the package's choice over the side that it is compared with."""
    beside = where == "beside"
    other = "one thread" if beside else "all cores, spinning"
    place = "beside a busy process per core" if beside else "alone"
    each = [a / b for a, b in zip(speeds["sot-nlp"], speeds[other], strict=True)]
    value = statistics.median(speeds["sot-nlp"]) / statistics.median(speeds[other])
    return judged(f"{size}-sized, {place}: examples/s over {other}", value, each=each)


def equal_answers(cores: int, count: int) -> dict[str, Any]:
    """The row of the precision that is chosen: the share of the commonest answer."""
    asked = (
        "import torch; from sot_nlp.training.speed.precision import choose;"
        "print(*choose('auto', torch.device('cpu')))"
    )
    with busy(cores):
        command = [sys.executable, "-c", asked]
        answers = [
            subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for _ in range(count)
        ]
    share = max(map(answers.count, answers)) / count
    what = "`--mixed_precision auto` beside busy processes: share of equal answers"
    return judged(what, share, answer=answers[0].strip(), count=count)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Keep so many cores busy inside."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(process([sys.executable, "-c", "while True: pass"], {}))
        yield


@contextlib.contextmanager
def sides(size: str, cores: int) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """The processes to be timed, by name."""
    every = {"OMP_NUM_THREADS": str(cores)}
    environments = {
        "sot-nlp": {},
        "one thread": {"OMP_NUM_THREADS": "1"},
        "all cores, spinning": every | SPINNING,
        "all cores, sleeping at once": every | SLEEPING,
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
