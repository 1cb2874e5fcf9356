"""sot-nlp against `transformers.Trainer` and `pipeline`: training, evaluation, prediction, memory, start.

Both sides have the same model, examples, batch size and number of updates, each in a process of its own that
is built and warmed up first; then they are timed in turn, and the ratios are those of the medians. Trainer
has the stock head; sot-nlp has its default, the SoT head, where nothing else is said.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._aims import judged
from benchmarks._machine import matrix_flops, processor
from benchmarks._speed_plan import (
    BF16,
    COMPILED,
    COMPILED_RATIOS,
    FROZEN,
    GPU_RATIOS,
    GPU_TRAINING,
    HEADS,
    INFERENCE,
    INFERENCE_RATIOS,
    RATIOS,
    TRAINING,
    Sides,
)
from benchmarks._speed_sides import Side

ROOT = Path(__file__).parents[1]
POLL_SECONDS = 0.01
PARTS = ("training", "compiled", "heads", "inference", "padding", "start", "frozen")
START_LIMIT = 300  # seconds that a command may take to its first update


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks speed", description=__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="the backbone that both sides train")
    parser.add_argument("--data_dir", required=True, help="folder with GLUE's own files")
    parser.add_argument("--tasks", nargs="+", default=["cola", "rte"], choices=("cola", "rte"))
    parser.add_argument(
        "--parts", nargs="+", default=list(PARTS), choices=PARTS, help="what is measured (all)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="times that each is timed in turn (5)")
    parser.add_argument("--updates", type=int, default=30, help="updates of 32 examples that are timed (30)")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of them in a timed training (1)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each side (1)")
    options = parser.parse_args(arguments)
    if "compiled" in options.parts and "training" not in options.parts:
        parser.error("--parts compiled is timed beside training: give that too")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    shared = {
        "data_dir": str(Path(options.data_dir).resolve()),
        "model": str(Path(options.model_name_or_path).resolve()),
    }
    about = machine(options)
    bf16, gpu = about["precision"] == "bf16", about["matrix_flops"] is not None
    compiled = gpu and "compiled" in options.parts
    training = TRAINING | (GPU_TRAINING if gpu else {}) | (COMPILED if compiled else {})
    ratios = RATIOS + (GPU_RATIOS if gpu else ()) + (COMPILED_RATIOS if compiled else ())
    shares = ("sot-nlp", *GPU_TRAINING, *(("sot-nlp, compiled",) if compiled else ())) if gpu else ()
    rows: list[dict[str, Any]] = []
    speeds: dict[str, Any] = {}
    for task in options.tasks:
        work = {**shared, "task": task, "threads": options.threads, "examples": 32 * options.updates}
        longer = {**work, "epochs": options.epochs}
        found: dict[str, list[dict[str, float]]] = {}
        if "training" in options.parts:
            found |= timed_in_turn(training, longer, options.rounds, bf16=bf16)
            rows += [ratio(task, found, *each) for each in ratios]
            rows += [matrix_share(task, side, found[side], about["matrix_flops"]) for side in shares]
            rows.append(memory(task, found))
        if "heads" in options.parts:
            found |= timed_in_turn(HEADS, longer, options.rounds, bf16=bf16)
            rows += [two_heads(task, found[side]) for side in HEADS]
        if "inference" in options.parts:
            found |= timed_in_turn(INFERENCE, work, options.rounds, bf16=bf16)
            rows += [ratio(task, found, *each) for each in INFERENCE_RATIOS]
        if "padding" in options.parts:
            rows += padding(task, **shared, gpu=gpu)
        if "start" in options.parts:
            rows.append(first_update(task, rounds=options.rounds, **shared))
        if "frozen" in options.parts and task == "cola":
            found |= timed_in_turn(FROZEN, work, options.rounds, bf16=bf16)
            rows += [frozen_epoch(task, side, found[side]) for side in FROZEN]
        speeds[task] = found
    if "start" in options.parts:
        rows += [help_seconds(command, options.rounds) for command in HELP]
    return {"benchmark": "speed", "machine": about, "rows": rows, "runs": speeds}


def timed_in_turn(
    sides: Sides, work: dict[str, Any], rounds: int, *, bf16: bool
) -> dict[str, list[dict[str, float]]]:
    """Every side's runs, a round of all sides at a time."""
    started: dict[str, Side] = {}
    with contextlib.ExitStack() as stack:
        for name, (kind, settings) in sides.items():
            print(f"{work['task']}: preparing {name}", file=sys.stderr, flush=True)
            given = {key: bf16 if value is BF16 else value for key, value in settings.items()}
            started[name] = Side(kind, work, **given)
            stack.callback(started[name].close)
        for side in started.values():
            side.wait()
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
        with contextlib.suppress(KeyboardInterrupt):  # the rounds so far count
            for number in range(rounds):
                # There and back, so that no side always follows the same one.
                for name in list(sides)[:: -1 if number % 2 else 1]:
                    runs[name].append(started[name].run())
                shown = ", ".join(f"{name} {runs[name][-1]['examples_per_second']:.0f}" for name in sides)
                print(f"{work['task']}: round {number + 1}: {shown} examples/s", file=sys.stderr, flush=True)
    whole = min(len(each) for each in runs.values())
    if not whole:
        raise KeyboardInterrupt
    return {name: each[:whole] for name, each in runs.items()}


def speed(runs: list[dict[str, float]]) -> float:
    return statistics.median(run["examples_per_second"] for run in runs)


def ratio(
    task: str, found: dict[str, list[dict[str, float]]], what: str, ours: str, theirs: str
) -> dict[str, Any]:
    """A row: the ratio of the medians, and the range of the rounds' own ratios."""
    each = [
        a["examples_per_second"] / b["examples_per_second"]
        for a, b in zip(found[ours], found[theirs], strict=True)
    ]
    speeds = [round(speed(found[side]), 1) for side in (ours, theirs)]
    value = speed(found[ours]) / speed(found[theirs])
    return {"task": task, **judged(what, value, each=each, examples_per_second=speeds)}


def two_heads(task: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """A row: the SoT head over the stock head where one process trains both."""
    each = [run["over_stock"] for run in runs]
    what = "training: SoT head over stock head, in one process"
    return {"task": task, **judged(what, statistics.median(each), each=each)}


def matrix_share(task: str, side: str, runs: list[dict[str, float]], matrix_flops: float) -> dict[str, Any]:
    """The part of the device's rate of matrix products that training reaches."""
    value = statistics.median(run["flops_per_second"] for run in runs) / matrix_flops
    return {
        "task": task,
        "what": f"training, {side}: share of the GPU's rate of matrix products",
        "measured": round(value, 3),
        "required": "to be known",
        "met": True,
    }


def memory(task: str, found: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Peak memory of the process, resident or (with one) of the GPU, over Trainer's."""
    ours, theirs = (max(run["peak_mib"] for run in found[side]) for side in ("sot-nlp", "Trainer"))
    mib = [round(ours), round(theirs)]
    return {"task": task, **judged("peak memory of training: over Trainer's", ours / theirs, mib=mib)}


def frozen_epoch(task: str, side: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    """Seconds of an epoch of the whole task from cached features."""
    each = [run["epoch_seconds"] for run in runs]
    return {"task": task, **judged(f"{side}: seconds per epoch", statistics.median(each), each=each)}


def padding(task: str, data_dir: str, model: str, *, gpu: bool) -> list[dict[str, Any]]:
    """Padded over real tokens of the whole task: three epochs of batches of 32, evaluation by default."""
    from sot_nlp.data.task_data import load_data
    from sot_nlp.runs import preparation
    from sot_nlp.settings.arguments import build_arguments
    from sot_nlp.training.batching import epoch_updates, evaluation_batches
    from sot_nlp.training.speed.cuda_graphs import rounded_length

    settings = {"task": task, "data_dir": data_dir, "model_name_or_path": model}
    with tempfile.TemporaryDirectory() as cache:
        arguments = build_arguments([("benchmark", {**settings, "cache_dir": cache})])
        tokenizer = preparation.load_tokenizer(arguments, preparation.read_checkpoint(arguments))
        data = load_data(preparation.task_of(arguments), arguments, tokenizer)
        lengths = {name: np.asarray(split.lengths) for name, split in data.splits.items()}

    def ratio(batches: Sequence[np.ndarray], lengths: np.ndarray, width: Callable[[int], int] = int) -> float:
        padded = sum(width(int(lengths[batch].max())) * len(batch) for batch in batches)
        return padded / int(lengths.sum())

    updates = [
        epoch_updates(lengths["train"], seed=0, epoch=epoch, update_size=32, group_by_length=True)
        for epoch in range(3)
    ]
    batches = evaluation_batches(lengths["validation"], num_processes=1, batch_size=None, on_gpu=gpu)
    width = rounded_length if gpu else int
    found = {
        "training": statistics.mean(ratio(epoch, lengths["train"], width) for epoch in updates),
        "evaluation": ratio([share for [share] in batches], lengths["validation"]),
    }
    return [
        {"task": task, **judged(f"padded over real tokens, {name}", value, digits=3)}
        for name, value in found.items()
    ]


def first_update(task: str, data_dir: str, model: str, rounds: int) -> dict[str, Any]:
    """Seconds from the command to the first update, with nothing cached, over those of Trainer's script."""
    ours: list[float] = []
    theirs: list[float] = []
    given = ["--task", task, "--data_dir", data_dir, "--model_name_or_path", model]
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            out, cache = Path(folder) / "out", Path(folder) / "cache"
            command = [sys.executable, str(ROOT / "run_glue_sot.py"), *given, "--logging_steps", "1"]
            command += ["--output_dir", str(out), "--cache_dir", str(cache)]
            ours.append(seconds_until(out / "metrics.jsonl", command, folder))
        with tempfile.TemporaryDirectory() as folder:
            mark = Path(folder) / "mark"
            command = [sys.executable, str(ROOT / "benchmarks" / "_trainer_script.py"), *given]
            command += ["--output_dir", str(Path(folder) / "out"), "--mark", str(mark)]
            theirs.append(seconds_until(mark, command, folder, empty=True))
    medians = [statistics.median(ours), statistics.median(theirs)]
    what = "from command to first update: over Trainer's script"
    seconds = [round(value, 1) for value in medians]
    return {"task": task, **judged(what, medians[0] / medians[1], seconds=seconds)}


def seconds_until(file: Path, command: Sequence[str], folder: str, *, empty: bool = False) -> float:
    """How long `command` takes until `file` is there and, unless `empty`, holds something."""
    environment = {**os.environ, "HF_DATASETS_CACHE": f"{folder}/datasets", "PYTHONPATH": str(ROOT)}
    started = time.perf_counter()
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            while not (file.exists() and (empty or file.stat().st_size)):
                if process.poll() is not None or time.perf_counter() - started > START_LIMIT:
                    process.kill()
                    errors = process.stderr.read() if process.stderr is not None else ""
                    raise RuntimeError(f"no first update from {' '.join(command)}: {errors[-2000:]}")
                time.sleep(POLL_SECONDS)
            return time.perf_counter() - started
        finally:
            process.kill()


HELP = {
    "run_glue_sot.py --help": ["run_glue_sot.py", "--help"],
    "sot-nlp --help": ["-m", "sot_nlp.cli", "--help"],
}


def help_seconds(command: str, rounds: int) -> dict[str, Any]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        subprocess.run([sys.executable, *HELP[command]], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - started)
    return {"task": "", **judged(f"`{command}`, seconds", statistics.median(seconds))}


def machine(options: argparse.Namespace) -> dict[str, Any]:
    import torch
    import transformers

    from sot_nlp.training.speed.precision import choose

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else processor(),
        "threads": options.threads,
        "precision": choose("auto", device)[0],
        "matrix_flops": matrix_flops() if device.type == "cuda" else None,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rounds": options.rounds,
        "examples": 32 * options.updates,
        "epochs": options.epochs,
    }
