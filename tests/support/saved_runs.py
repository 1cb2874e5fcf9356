"""The folder that a finished run leaves, made without training: model, tokenizer, code and record."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch

from sot_nlp import records
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.tokenizer import load_tokenizer
from tests.support import tiny

LABELS = ("no", "maybe", "yes")
TEXTS = ["the zorp runs .", "every dax near a wug sees it .", "rath", *tiny.sentences(20, seed=7, high=40)]


def save_run(
    folder: Path,
    family: str = "bert",
    *,
    labels: tuple[str, ...] | None = LABELS,
    problem_type: str = "single_label_classification",
    text_columns: tuple[str, ...] = ("text",),
    head: str | dict[str, Any] = "text",
    remote_code: bool = True,
    **backbone_settings: Any,
) -> Path:
    """Write a run of a tiny model of `family` into `folder` (made if needed) and return it."""
    backbone = tiny.save_backbone(family, folder / "checkpoints" / "backbone", **backbone_settings)
    names = {"id2label": dict(enumerate(labels))} if labels else {"num_labels": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoSoTForSequenceClassification.from_pretrained(
            backbone, head=head, problem_type=problem_type, **names
        )
        # Wider than the usual start, so that predictions differ from text to text.
        with torch.no_grad():
            for parameter in model.classifier.parameters():
                parameter.mul_(4)
    model.save_pretrained(folder, save_remote_code=remote_code)
    load_tokenizer(backbone).save_pretrained(folder)
    records.write(folder, record(labels=list(labels) if labels else None, text_columns=list(text_columns)))
    (folder / "train.log").write_text("a log\n")
    (folder / "predictions.json").write_text("[]\n")
    return folder


def record(**changes: Any) -> dict[str, Any]:
    """A finished run's record, with invented numbers."""
    text_columns = changes.pop("text_columns", ["text"])
    evaluations: list[dict[str, Any]] = []
    for epoch in (1, 2, 3):
        scores = {"loss": 1 / epoch, "accuracy": 0.5 + 0.1 * epoch, "f1": 0.4}
        splits = {"validation_matched": scores, "validation_mismatched": scores | {"accuracy": 0.3}}
        evaluations.append({"epoch": float(epoch), "step": 10 * epoch, **scores, "splits": splits})
    log = [{"step": n, "loss": math.exp(-n / 20), "learning_rate": 1e-5} for n in range(1, 31)]
    return {
        "format_version": records.FORMAT_VERSION,
        "status": records.FINISHED,
        "task": "zorps",
        "model": "google-bert/bert-base-cased",
        "head": "text",
        "head_config": {"pooling": "cross_covariance", "num_heads": 1, "width_x": 96, "alpha": 0.5},
        "seed": 3,
        "labels": list(LABELS),
        "main_metric": "accuracy",
        "best": {"metric": "accuracy", "value": 0.7, "epoch": 2, "step": 20},
        "evaluations": evaluations,
        "num_parameters": 1234,
        "arguments": {
            "learning_rate": 2e-5,
            "num_train_epochs": 3.0,
            "seed": 3,
            "data_dir": "private/data",
        },
        "task_spec": {"title": "Zorps that run", "text_columns": text_columns, "dataset_name": None},
        "versions": {"python": "3.11.1", "torch": "2.13.0"},
        "environment": {"device_name": "a processor", "processes": 1, "mixed_precision": "no"},
        "log_history": [*log, *evaluations],
        "data": {"splits": {"train": {"examples": 320, "truncated": 3, "source": "private/data/a.csv"}}},
        "warnings": [],
    } | changes
