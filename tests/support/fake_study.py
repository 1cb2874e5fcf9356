"""Records as runs leave them, with made-up scores: a study's folder or results without a single training."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from sot_nlp.studies.results import Cell, Results

EFFECTS = {"stock": 0.0, "text": 0.012, "vision": -0.004}


def record(
    *, task: str = "cola", head: str = "stock", seed: int = 0, score: float = 0.3, **changes: Any
) -> dict[str, Any]:
    """A finished run's record; `changes` are keys of it."""
    curve = [0.4 * score, 0.8 * score, score]
    return {
        "format_version": 1,
        "status": "finished",
        "task": task,
        "model": "/somewhere/tiny-bert",
        "head": head,
        "head_config": {"pooling": "none" if head == "stock" else "cross_covariance", "dropout": 0.5},
        "seed": seed,
        "data_seed": 10_000 + seed,
        "main_metric": "matthews_correlation",
        "best": {"metric": "matthews_correlation", "value": max(curve), "epoch": 3, "step": 30},
        "evaluations": [
            {"epoch": i + 1, "step": 10 * (i + 1), "loss": 0.6, "matthews_correlation": value}
            for i, value in enumerate(curve)
        ],
        "collapsed": False,
        "train_examples_per_second": 100.0,
        "timings": {"train_seconds": 12.5},
        "arguments": {"num_train_epochs": 3, "per_device_train_batch_size": 32, "seed": seed},
        "versions": {"python": "3.11.0", "torch": "2.13.0"},
        "data": {"sources": [{"file": "train.tsv", "sha256": "ab" * 32}]},
        **changes,
    }


def write_run(folder: Path, content: dict[str, Any], right: list[bool] | None = None) -> None:
    """A run's folder; `right` says which of its validation examples it got right."""
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(content))
    if right is not None:
        rows = [
            {"index": i, "label": 1, "prediction": int(ok), "probabilities": [0.5, 0.5]}
            for i, ok in enumerate(right)
        ]
        (folder / "predictions.json").write_text(json.dumps(rows))


def write_study(
    folder: Path,
    *,
    tasks: tuple[str, ...] = ("cola", "rte"),
    seeds: int = 10,
    skip: tuple[tuple[str, str, int], ...] = (),
    fail: tuple[tuple[str, str, int], ...] = (),
    effects: dict[str, float] | None = None,
    **header: Any,
) -> Path:
    """A study's folder with every run but those to `skip` and to `fail`: (task, arm, seed)."""
    effects = EFFECTS if effects is None else effects
    source = random.Random(0)
    cells = []
    for task in tasks:
        for seed in range(seeds):
            shared = source.gauss(0, 0.015)
            for arm, effect in effects.items():
                name = f"{task}-{arm}-{seed}"
                cells.append(
                    {
                        **{"task": task, "model": "tiny-bert", "setting": "", "arm": arm, "seed": seed},
                        "data_seed": 10_000 + seed,
                        "folder": name,
                    }
                )
                score = 0.5 + shared + effect + source.gauss(0, 0.008)
                run = folder / "runs" / name
                if (task, arm, seed) in fail:
                    run.parent.mkdir(parents=True, exist_ok=True)
                    note = {"reason": "<b>boom</b> \x1b[31m", "exit_code": 2}
                    run.with_name(f"{name}.failed.json").write_text(json.dumps(note))
                elif (task, arm, seed) not in skip:
                    right = [source.random() < 0.6 + 8 * effect for _ in range(60)]
                    write_run(run, record(task=task, head=arm, seed=seed, score=score), right)
    plan = {
        **{
            "format_version": 1,
            "name": "fake",
            "title": "A made-up study",
            "description": "No run was made.",
        },
        **{"command": "sot-nlp compare fake.yaml", "baseline": "stock", "arms": list(effects)},
        **{"score": "last", "holm": "tasks", "published": {}, "published_source": "", "marks": []},
        "cells": cells,
        **header,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "study.json").write_text(json.dumps(plan))
    return folder


def by_hand(scores: dict[str, dict[str, list[float]]], **header) -> Results:
    """Results from task -> arm -> the scores of seeds 0, 1, ..."""
    cells = [
        Cell(
            task=task,
            model="m",
            setting="",
            arm=arm,
            seed=seed,
            status="finished",
            metric="accuracy",
            score=s,
        )
        for task, arms in scores.items()
        for arm, values in arms.items()
        for seed, s in enumerate(values)
    ]
    arms = tuple(dict.fromkeys(cell.arm for cell in cells))
    return Results(**{"name": "x", "baseline": "a", "arms": arms, "cells": tuple(cells), **header})
