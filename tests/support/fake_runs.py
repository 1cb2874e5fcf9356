"""Runs without training, for the tests of what runs them. Imports no torch: some tests start it afresh."""

from __future__ import annotations

import sys

from sot_nlp.studies.study import Study, StudyCell, finished
from sot_nlp.studies.study_runner import StudyRunner

# A run as far as a study sees it: it notes that it ran, and leaves a record; REASON makes it fail. It locks
# its folder as filelock does, which takes longer to import than all else here.
RUN = """
import fcntl, json, os, sys, time
from pathlib import Path
words = sys.argv[1:]
folder = Path(words[words.index("--output_dir") + 1])
settings = dict(word[2:].split("=", 1) for word in words if "=" in word)
folder.mkdir(parents=True, exist_ok=True)
lock = open(folder / ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
with open(os.environ["RUNS"], "a") as file:
    file.write(folder.name + " " + os.environ.get("OMP_NUM_THREADS", "") + "\\n")
record = {"format_version": 1, "status": "running", "main_metric": "f1", "versions": {}, "data": {}}
(folder / "record.json").write_text(json.dumps(record))
time.sleep(float(os.environ.get("PAUSE", "0")))
if os.environ.get("FAIL") and os.environ["FAIL"] in folder.name:
    sys.exit("sot-nlp train: error: the disk is full")
score = 0.5 + 0.001 * (int(settings["seed"]) % 100) + (0.1 if settings["head"] == "text" else 0)
rate = 1000 * float(settings.get("learning_rate", 0))
score += rate if settings["head"] == "stock" else -rate
record |= {"status": "finished", "evaluations": [{"epoch": 1, "f1": score}], "seed": int(settings["seed"])}
(folder / "model.safetensors").write_text("weights")
(folder / "predictions.json").write_text("[]")
(folder / "record.json").write_text(json.dumps(record))
"""


command_of_a_run = StudyCell.command


def fake(cell, run):
    flags = [word for word in command_of_a_run(cell, run) if word.startswith("--")]
    return [sys.executable, "-c", RUN, *flags, str(run)]


class Silent:
    def __init__(self):
        self.events = []
        self.most = 0

    def update(self, state):
        self.most = max(self.most, len(state.running))

    def event(self, text):
        self.events.append(text)


def small(seeds=2, heads=("stock", "text")):
    return finished(
        Study(
            name="small",
            tasks={"cola": "cola"},
            models={"tiny": "google-bert/bert-base-cased"},
            heads={head: {"head": head} for head in heads},
            seeds=tuple(range(seeds)),
        )
    )


def runner(folder, cells, jobs=2, **options):
    return StudyRunner(cells, folder, slots=[{}] * jobs, display=Silent(), **options)
