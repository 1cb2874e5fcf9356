"""Kill training runs at random moments, go on with them, and compare each with the run never touched.

Every trial is the real command in a process of its own, ended by SIGKILL: half of the trials at a random
moment between two updates or within one, half while a checkpoint is being written. Then the same command is
given again. A trial is good where the second run resumed, and left the same bits: weights, optimizer, scores,
predictions, record and logs, timings aside. Counted too: checkpoints that were whole before the kill and are
not after it.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks._aims import judged

TIMINGS = {"examples_per_second", "train_seconds", "train_examples_per_second", "timings"}
# What says how a run came about, not what came out of it.
HISTORY = {"resumed_from", "fingerprint", "warnings", "arguments", "git", "sources"}
SAVE = ".unfinished-step-"

# Forks of a process that has imported everything: a trial costs seconds, not half a minute.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["benchmarks._faults_child"])


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="trials (50)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (0)")
    parser.add_argument("--mixed_precision", default="bf16", choices=("no", "bf16"), help="(bf16)")
    options = parser.parse_args(arguments)
    moments = random.Random(options.seed)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="sot-nlp-faults-") as name:
        case = Case(Path(name), precision=options.mixed_precision)
        reference = case.reference()
        trials = []
        for number in range(options.kills):
            trials.append(
                case.trial(f"trial-{number}", moments, inside_save=number % 2 == 1, wanted=reference)
            )
            print(f"kill {number + 1}: {trials[-1]}", file=sys.stderr, flush=True)
    identical, lost = (sum(trial[name] for trial in trials) for name in ("identical", "lost"))
    rows = [
        judged("50 kills: share that resumed bit-identical", identical / len(trials), count=len(trials)),
        judged("50 kills: checkpoints lost", lost, count=len(trials)),
    ]
    return {
        "benchmark": "faults",
        "rows": rows if options.kills == 50 else [],
        "kills": len(trials),
        "inside a save": sum(trial["inside_save"] for trial in trials),
        "resumed": sum(trial["resumed"] for trial in trials),
        "bit-identical": identical,
        "checkpoints lost": lost,
        "updates of a run": case.updates,
        "precision": options.mixed_precision,
        "seconds": round(time.perf_counter() - started),
    }


class Case:
    """A small data set, a tiny backbone with BatchNorm in its head, and the command that trains it."""

    def __init__(self, folder: Path, *, epochs: int = 4, every: int = 3, precision: str = "no"):
        from tests.support import tiny

        self.folder = folder
        self.updates = 15 * epochs
        tiny.save_backbone("bert", folder / "backbone")
        source = random.Random(1)
        for name, count in (("train", 120), ("validation", 40)):
            with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(["text", "label"])
                for sentence in tiny.sentences(count, seed=len(name)):
                    writer.writerow([sentence, source.choice(["yes", "no"])])
        self.words = [
            *("train", "--train_file", str(folder / "train.csv")),
            *("--validation_file", str(folder / "validation.csv"), "--cache_dir", str(folder / "cache")),
            *("--model_name_or_path", str(folder / "backbone"), "--cpu", "--mixed_precision", precision),
            *("--head", "text", "--head.width_x", "8", "--head.width_y", "4", "--learning_rate", "1e-3"),
            *("--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2"),
            *("--num_train_epochs", str(epochs), "--checkpointing_steps", str(every)),
            *("--logging_steps", "1", "--disable_tqdm"),
        ]

    def start(self, name: str, *more: str) -> Run:
        """Start the command in the run folder `name`."""
        return Run(self.folder / name, [*self.words, "--output_dir", str(self.folder / name), *more])

    def reference(self) -> dict[str, Any]:
        """What a run leaves that nobody disturbs."""
        run = self.start("reference")
        if run.wait() != 0:
            raise RuntimeError(f"the undisturbed run failed:\n{run.output()}")
        return left_by(run.folder)

    def trial(
        self, name: str, moments: random.Random, *, inside_save: bool, wanted: dict[str, Any]
    ) -> dict[str, Any]:
        """Kill a run once, go on with it, and say how that went."""
        run = self.start(name)
        # (a kill before the first checkpoint has nothing to resume; later, all has been said)
        at = moments.randint(4, self.updates - 6)
        inside = run.kill(at, inside_save=inside_save, delay=moments.random() * 0.02)
        whole = set(whole_checkpoints(run.folder))
        lost = set(run.seen) - whole
        second = self.start(name)
        code = second.wait()
        result = {"update": at, "inside_save": inside, "exit_code": code, "lost": len(lost)}
        record = json.loads((run.folder / "record.json").read_text(encoding="utf-8"))
        result["resumed"] = bool(record.get("resumed_from"))
        result["identical"] = code == 0 and left_by(run.folder) == wanted
        if result["identical"]:
            shutil.rmtree(run.folder)
        return result


class Run:
    """The command at work in a process of its own."""

    def __init__(self, folder: Path, words: Sequence[str], environment: dict[str, str] | None = None):
        from benchmarks._faults_child import child

        self.folder = folder
        self.log = folder.with_name(f"{folder.name}.log")
        self.seen: list[str] = []
        self.process = CONTEXT.Process(target=child, args=(list(words), str(self.log), environment or {}))
        self.process.start()

    def output(self) -> str:
        """What it printed."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def updates(self) -> int:
        """Updates that it has logged."""
        try:
            lines = (self.folder / "metrics.jsonl").read_bytes().splitlines()
        except OSError:
            return 0
        steps = [json.loads(line)["step"] for line in lines if line.endswith(b"}")]
        return max(steps, default=0)

    def wait_for(self, update: int, seconds: float = 600) -> None:
        """Return once that many updates are logged; RuntimeError if the run ends before."""
        deadline = time.monotonic() + seconds
        while self.updates() < update:
            if not self.process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the run did not come to update {update}:\n{self.output()}")
            time.sleep(0.002)

    def wait_for_line(self, text: str, seconds: float = 600) -> None:
        """Return once `train.log` says so; RuntimeError if the run ends before."""
        deadline = time.monotonic() + seconds
        while text not in (self.folder / "train.log").read_text(encoding="utf-8"):
            if not self.process.is_alive() or time.monotonic() > deadline:
                raise RuntimeError(f"the run did not say {text!r}:\n{self.output()}")
            time.sleep(0.002)

    def send(self, signum: int) -> None:
        """Send it a signal."""
        os.kill(self.process.pid, signum)

    def kill(self, update: int, *, inside_save: bool = False, delay: float = 0.0) -> bool:
        """SIGKILL it after `update`, or in the first save after it; says whether it died inside a save."""
        self.wait_for(update)
        folders = self.folder / "checkpoints"
        if inside_save:
            while self.process.is_alive():
                if any(folders.glob(f"{SAVE}*")):
                    break
        time.sleep(delay * (0.1 if inside_save else 1.0))
        self.send(signal.SIGSTOP)
        self.seen = whole_checkpoints(self.folder)
        self.send(signal.SIGKILL)
        self.process.join()
        return any(folders.glob(f"{SAVE}*"))

    def wait(self, seconds: float = 600) -> int:
        """Its exit code."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise RuntimeError(f"the run did not end:\n{self.output()}")
        return self.process.exitcode


def whole_checkpoints(folder: Path) -> list[str]:
    """The names of the checkpoints that agree with their manifests."""
    from sot_nlp.training.checkpointing import folders

    names = []
    for path in folders.step_folders(folder / folders.FOLDER):
        try:
            folders.open_checkpoint(path)
        except folders.CheckpointError:
            continue
        names.append(path.name)
    return names


def left_by(folder: Path) -> dict[str, Any]:
    """All that a run left that must be the same: files as bytes, JSON without timings and history."""
    from sot_nlp.training.checkpointing import folders

    last = folders.step_folders(folder / folders.FOLDER)[-1]
    binary = {
        path.name: path.read_bytes() for path in (*last.glob("*.safetensors"), *folder.glob("*.safetensors"))
    }
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "last": last.name,
        "files": {name: hash(content) for name, content in binary.items()},
        "optimizer": (last / folders.OPTIMIZER).read_bytes(),
        "predictions": (folder / "predictions.json").read_bytes(),
        "record": timeless(json.loads((folder / "record.json").read_text(encoding="utf-8"))),
        "progress": timeless(json.loads((last / folders.PROGRESS).read_text(encoding="utf-8"))),
        "metrics": [timeless(json.loads(line)) for line in lines],
    }


def timeless(value: Any) -> Any:
    """`value` without what differs between two runs that are the same."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in TIMINGS | HISTORY}
    return [timeless(item) for item in value] if isinstance(value, list) else value
