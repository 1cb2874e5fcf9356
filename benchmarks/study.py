"""Seconds from a study's cell's start to its first update: in a process of its own, and in a worker.

Each cell is a run of `--max_train_samples` texts for an epoch, of the heads in turn, with a seed of its own;
tokens are in the cache before the first that counts. On request, how many runs per minute `sot-nlp compare`
finishes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks._aims import judged
from benchmarks._machine import described
from sot_nlp.studies.slots import slots
from sot_nlp.studies.workers import Process, WorkerPool, start_run

ROOT = Path(__file__).parents[1]
HEADS = ("sot", "stock")
POLL_SECONDS = 0.01


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks study", description=__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="the backbone")
    parser.add_argument("--data_dir", required=True, help="folder with GLUE's own files")
    parser.add_argument("--tasks", nargs="+", default=["cola", "rte"])
    parser.add_argument("--cells", type=int, default=4, help="cells of each kind of start (4)")
    parser.add_argument("--max_train_samples", type=int, default=256, help="texts of a cell (256)")
    parser.add_argument("--runs", type=int, default=0, help="runs of an epoch whose rate is measured (0)")
    options = parser.parse_args(arguments)
    rows, seconds = [], {}
    [slot, *_] = slots(1, 1, cpu=False)
    given = ["--model_name_or_path", str(Path(options.model_name_or_path).resolve())]
    given += ["--data_dir", str(Path(options.data_dir).resolve())]
    for task in options.tasks:
        with tempfile.TemporaryDirectory() as name:
            words = ["--task", task, *given, "--max_train_samples", str(options.max_train_samples)]
            words += ["--num_train_epochs", "1", "--cache_dir", f"{name}/cache", "--logging_steps", "1"]
            words += ["--max_eval_samples", "32"]

            def timed(starter: Callable[..., Process], number: int, words: list[str] = words) -> float:
                folder = Path(name, f"{task}-{number}")  # noqa: B023 - called inside the block alone
                own = ["--head", HEADS[number % 2], "--seed", str(number), "--output_dir", str(folder)]
                command = [sys.executable, "-m", "sot_nlp.cli", "train", *words, *own]
                return first_update(starter, command, slot, folder)

            timed(start_run, 0)  # fills the cache
            alone = [timed(start_run, 1 + number) for number in range(options.cells)]
            with WorkerPool() as pool:
                first, *later = [timed(pool.start, 100 + number) for number in range(1 + options.cells)]
            seconds[task] = {"own process": alone, "first in a worker": first, "later in a worker": later}
            what = "start of a later run in a worker over a run of its own"
            value = statistics.median(later) / statistics.median(alone)
            medians = [round(statistics.median(each), 2) for each in (later, alone)]
            rows.append({"task": task, **judged(what, value, seconds=medians)})
            if options.runs:
                rows.append({"task": task, **runs_per_minute(task, given, options.runs, Path(name, "study"))})
    return {"benchmark": "study", "machine": described(gpu=True), "rows": rows, "seconds": seconds}


def first_update(starter: Callable[..., Process], command: list[str], slot: Any, folder: Path) -> float:
    """Start a cell, return the seconds to its first logged update, once it has ended."""
    log, metrics = folder.with_suffix(".log"), folder / "metrics.jsonl"
    begin = time.perf_counter()
    run, found = starter(command, slot, log), 0.0
    while run.poll() is None:
        if not found and metrics.exists() and metrics.stat().st_size:
            found = time.perf_counter() - begin
        time.sleep(POLL_SECONDS)
    if run.wait() or not found:
        raise RuntimeError(f"{' '.join(command)}: {log.read_text()[-2000:]}")
    return found


def runs_per_minute(task: str, given: list[str], runs: int, folder: Path) -> dict[str, Any]:
    """Return the row of a whole study of runs of one epoch, with as many at once as it finds to fit."""
    model, data = given[1], given[3]
    command = [sys.executable, "-m", "sot_nlp.cli", "compare", "--tasks", task, "--models", f"model={model}"]
    command += ["--heads", *HEADS, "--seeds", str(-(-runs // 2)), "--data_dir", data]
    command += ["--num_train_epochs", "1", "--output_dir", str(folder)]
    begin = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True)
    minutes = (time.perf_counter() - begin) / 60
    return judged("runs of a study per minute", 2 * -(-runs // 2) / minutes, digits=1)
