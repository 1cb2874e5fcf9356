"""How well few labelled texts are used, and in what time: beside a logistic regression and SetFit.

    python -m benchmarks few_labels --model_name_or_path MODEL --task NAME TRAIN.csv TEST.csv

The CSV files have the columns `text`, for pairs `text2`, and `label`. Each draw takes as many texts
of each label from TRAIN (`--draws` draws, the same texts for all sides) and predicts TEST:

    logistic   logistic regression (C = 1) on the sentence embeddings: mean of the last layer, of length 1
    sot-nlp    `sot-nlp train --train_file`, which chooses its way by itself
    setfit     SetFit at its defaults, at most 400 steps (`pip install setfit`; `--setfit` turns it on)
    METHOD     with `--also METHOD`: the `--training_method` of that name; `stock` and `sot`: that head and
               all of the model for ten epochs with 1e-4, the head with 1e-3

The score is the mean over the labels of the share of their texts that are found: accuracy where TEST is
balanced. Where labels are numbers SetFit is left out, and the score is Pearson's correlation.
Seconds are those of training, from the loaded libraries to the trained model; on a busy machine compare those
of the processor.
"""

from __future__ import annotations

import argparse
import csv
import importlib.metadata
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._aims import FEW_LABELS, judged

Rows = list[dict[str, str]]
TUNED = {"learning_rate": 1e-4, "head_learning_rate": 1e-3, "num_train_epochs": 10, "warmup_ratio": 0.1}
LENGTH = 128
# SetFit pairs all texts with all others: at 64 per label its single epoch would take hours on a CPU.
MOST_SETFIT_STEPS = 400


def read(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, rows: Rows) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def draw(rows: Rows, count: int, seed: int, *, scores: bool) -> Rows:
    """`count` rows of each label by numpy's generator of `seed`; of a regression twice as many in all."""
    order = np.random.default_rng(seed).permutation(len(rows))
    if scores:
        return [rows[i] for i in order[: 2 * count]]
    taken: defaultdict[str, Rows] = defaultdict(list)
    for i in order:
        if len(taken[rows[i]["label"]]) < count:
            taken[rows[i]["label"]].append(rows[i])
    return [row for label in sorted(taken) for row in taken[label]]


class Side:
    """Trains on rows and predicts the labels of others; subclasses say how."""

    def __init__(self, model: str, folder: Path, seed: int) -> None:
        self.model, self.folder, self.seed = model, folder, seed

    def train(self, rows: Rows) -> None:
        raise NotImplementedError

    def predict(self, rows: Rows) -> list[str]:
        raise NotImplementedError


class Logistic(Side):
    def train(self, rows: Rows) -> None:
        from sklearn.linear_model import LogisticRegression, Ridge
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(self.model)
        self.encoder = AutoModel.from_pretrained(self.model).eval()
        labels = [row["label"] for row in rows]
        if all(map(is_number, labels)):
            self.fitted: Any = Ridge(alpha=1.0).fit(self.embed(rows), np.array(labels, dtype=float))
        else:
            self.fitted = LogisticRegression(max_iter=1000).fit(self.embed(rows), labels)

    def predict(self, rows: Rows) -> list[str]:
        return [str(label) for label in self.fitted.predict(self.embed(rows))]

    def embed(self, rows: Rows) -> np.ndarray:
        import torch

        found = np.zeros((len(rows), self.encoder.config.hidden_size))
        order = np.argsort([len(row["text"]) for row in rows])
        for start in range(0, len(rows), 32):
            batch = order[start : start + 32]
            texts = [[rows[i][name] for i in batch] for name in ("text", "text2") if name in rows[0]]
            options = {"truncation": True, "max_length": LENGTH, "padding": True, "return_tensors": "pt"}
            inputs = self.tokenizer(*texts, **options)
            with torch.inference_mode():
                states = self.encoder(**inputs).last_hidden_state
            mask = inputs["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(1) / mask.sum(1)
            found[batch] = (mean / mean.norm(dim=1, keepdim=True)).numpy()
        return found


class OwnRun(Side):
    """A run of the runner; `settings` are its flags."""

    def __init__(self, model: str, folder: Path, seed: int, **settings: Any) -> None:
        super().__init__(model, folder, seed)
        self.settings = settings

    def train(self, rows: Rows) -> None:
        from sot_nlp.runs.runner import run
        from sot_nlp.settings.arguments import build_arguments

        write(self.folder / "train.csv", rows)
        flags = {
            # No text is held out: the last weights are kept, and nothing is chosen by TEST.
            "train_file": str(self.folder / "train.csv"),
            "validation_file": str(self.folder / "train.csv"),
            "eval_strategy": "no",
            "text_column_names": [name for name in ("text", "text2") if name in rows[0]],
            "label_column_name": "label",
            "model_name_or_path": self.model,
            "output_dir": str(self.folder / "run"),
            "overwrite_output_dir": True,
            "cache_dir": str(self.folder / "cache"),
            "max_length": LENGTH,
            "seed": self.seed,
            "cpu": True,
            "disable_tqdm": True,
            **self.settings,
        }
        self.method = run(build_arguments([("flag", flags)]))["method"]["name"]

    def predict(self, rows: Rows) -> list[str]:
        from sot_nlp.inference.predict import predict_file

        texts = [{name: text for name, text in row.items() if name != "label"} for row in rows]
        write(self.folder / "test.csv", texts)
        output = self.folder / "predicted.csv"
        predict_file(self.folder / "run", file=self.folder / "test.csv", output=output, cpu=True)
        return [row.get("label") or row["score"] for row in read(output)]


class SetFit(Side):
    def train(self, rows: Rows) -> None:
        from datasets import Dataset
        from setfit import SetFitModel, Trainer, TrainingArguments

        self.names = sorted({row["label"] for row in rows})
        self.trained = SetFitModel.from_pretrained(self.model)
        labels = [self.names.index(row["label"]) for row in rows]
        data = Dataset.from_dict({"text": self.texts(rows), "label": labels})
        most = len(rows) // len(self.names) >= 64
        arguments = TrainingArguments(
            output_dir=str(self.folder / "setfit"),
            max_steps=MOST_SETFIT_STEPS if most else -1,
            seed=self.seed,
            report_to="none",
            show_progress_bar=False,
            save_strategy="no",
            eval_strategy="no",
        )
        Trainer(model=self.trained, args=arguments, train_dataset=data).train()

    def predict(self, rows: Rows) -> list[str]:
        predicted = self.trained.predict(self.texts(rows), batch_size=64)
        return [self.names[int(i)] for i in np.asarray(predicted)]

    @staticmethod
    def texts(rows: Rows) -> list[str]:
        """A pair as one text: SetFit takes no pairs."""
        return [" [SEP] ".join(row[name] for name in ("text", "text2") if name in row) for row in rows]


def maker(name: str, precision: str) -> Callable[[str, Path, int], Side]:
    """What makes the side `name`; ours with `--mixed_precision` `precision`."""
    if name in ("logistic", "setfit"):
        return {"logistic": Logistic, "setfit": SetFit}[name]
    own: dict[str, Any] = {"mixed_precision": precision}
    if name in ("stock", "sot"):
        own |= {"head": name, **TUNED}
    elif name != "sot-nlp":
        own |= {"training_method": name}
    return lambda model, folder, seed: OwnRun(model, folder, seed, **own)


def score(truth: Sequence[str], predicted: Sequence[str], *, scores: bool) -> float:
    if scores:
        return float(np.corrcoef([float(x) for x in truth], [float(x) for x in predicted])[0, 1])
    right, labels = np.array(truth) == np.array(predicted), np.array(truth)
    return float(np.mean([right[labels == label].mean() for label in sorted(set(truth))]))


def measure_one(side: Side, train: Rows, test: Rows, *, scores: bool) -> dict[str, Any]:
    wall, processor = time.perf_counter(), time.process_time()
    side.train(train)
    found: dict[str, Any] = {
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - processor, 2),
    }
    found["score"] = round(score([row["label"] for row in test], side.predict(test), scores=scores), 4)
    return found | ({"method": side.method} if hasattr(side, "method") else {})


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks few_labels", description=__doc__)
    parser.add_argument("--model_name_or_path", required=True, help="a sentence-embedding backbone")
    parser.add_argument("--task", nargs=3, action="append", required=True, metavar=("NAME", "TRAIN", "TEST"))
    parser.add_argument("--counts", nargs="+", type=int, default=[8, 16, 64], help="texts per label")
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--setfit", action="store_true", help="run SetFit too")
    parser.add_argument("--mixed_precision", default="auto", help="of our own runs")
    parser.add_argument("--also", nargs="+", default=[], help="further methods or heads")
    options = parser.parse_args(arguments)
    names = ["logistic", "sot-nlp", *(["setfit"] if options.setfit else []), *options.also]
    results = []
    for task, train_file, test_file in options.task:
        pool, test = read(Path(train_file)), read(Path(test_file))
        scores = all(is_number(row["label"]) for row in test)
        for count in options.counts:
            for seed in range(options.draws):
                train = draw(pool, count, seed, scores=scores)
                for name in names:
                    if scores and name == "setfit":
                        continue
                    with tempfile.TemporaryDirectory() as folder:
                        side = maker(name, options.mixed_precision)(
                            options.model_name_or_path, Path(folder), seed
                        )
                        found = measure_one(side, train, test, scores=scores)
                    results.append({"task": task, "count": count, "draw": seed, "side": name, **found})
                    print(results[-1], flush=True)
    packages = ("torch", "transformers", "scikit-learn", *(["setfit"] if options.setfit else []))
    return {
        "benchmark": "few_labels",
        "model": Path(options.model_name_or_path).name,
        "rows": compared(results),
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "results": results,
    }


def compared(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row per task and count: the closed form (or what is chosen there) less the logistic regression."""
    cells = dict.fromkeys((row["task"], row["count"]) for row in results)
    rows = []
    for task, count in cells:
        ours, theirs = (
            100 * float(np.mean([r["score"] for r in results if (r["task"], r["count"], r["side"]) == key]))
            for key in ((task, count, "sot-nlp"), (task, count, "logistic"))
        )
        what = f"few labels, {task}, {count} per label: points over logistic regression"
        rows.append(judged(what, ours - theirs, digits=1, aim=FEW_LABELS, points=[ours, theirs]))
    return rows


def table(result: dict[str, Any]) -> str:
    """Mean score and seconds of training of each side, a row per task and count, and over all of them."""
    rows = result["results"]
    sides = list(dict.fromkeys(row["side"] for row in rows))
    cells = list(dict.fromkeys((row["task"], row["count"]) for row in rows))
    lines = ["| task | per label | " + " | ".join(sides) + " |", "|---" * (2 + len(sides)) + "|"]
    for task, count in cells:
        cell = [row for row in rows if (row["task"], row["count"]) == (task, count)]
        lines.append(f"| {task} | {count} | " + " | ".join(_shown(cell, side) for side in sides) + " |")
    return "\n".join(lines)


def _shown(cell: list[dict[str, Any]], side: str) -> str:
    own = [row for row in cell if row["side"] == side]
    if not own:
        return ""
    mean = 100 * float(np.mean([row["score"] for row in own]))
    return f"{mean:.1f} ({np.mean([row['cpu_seconds'] for row in own]):.1f} s, {len(own)} draws)"
