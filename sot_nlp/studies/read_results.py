"""Read results from records of runs: the cells of a study's plan, or of any folder that contains runs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sot_nlp import records
from sot_nlp.errors import UserError, printable
from sot_nlp.runs.folder import short_name
from sot_nlp.settings.arguments import TRAITS, Arguments
from sot_nlp.studies.results import (
    BEST,
    FAILED,
    FINISHED,
    LAST,
    MISSING,
    RUNNING,
    Cell,
    Results,
    check_comparable,
    read_file,
    read_rates,
)
from sot_nlp.tasks.metrics import METRICS, traits

STUDY_NAME = "study.json"
# What differs between runs without making them another arm.
NOT_AN_ARM = {name for name, traits in TRAITS.items() if traits.grid or traits.kind != "result"}


def read_results(path: str | Path, *, baseline: str | None = None, allow_mixed: bool = False) -> Results:
    """Return the results in a study's folder, in a folder of runs, or in a results file.

    Args:
        path: a folder with `study.json`, a folder with runs anywhere below it, or a `results.json`.
        baseline: the arm that the others are compared with; the study's own, or `stock`, when not given.
        allow_mixed: mark runs on different data instead of refusing them.

    Raises:
        UserError: for a path that is none of these, two runs of one cell, or runs on different data.
    """
    path = Path(path)
    if path.is_file() and path.name == STUDY_NAME:
        path = path.parent
    if path.is_file():
        results, folders = read_file(path), None
    elif (path / STUDY_NAME).is_file():
        results, folders = _read_plan(path)
    elif path.is_dir():
        results, folders = _read_runs(path)
    else:
        raise UserError(f"{printable(path)}: no such file or folder")
    if baseline is not None and baseline != results.baseline:
        if baseline not in results.arms:
            raise UserError(
                f"--baseline {printable(baseline)}: no arm of that name; there are {', '.join(results.arms)}"
            )
        # The counts in a results file are against its own baseline; they can't be made again from it.
        cells = [dataclasses.replace(cell, only_here=None, only_baseline=None) for cell in results.cells]
        results = dataclasses.replace(results, baseline=baseline, cells=tuple(cells))
    if folders is not None:
        results = _with_disagreements(results, folders)
    return check_comparable(results, allow_mixed=allow_mixed)


def planned_name(folder: Path) -> str | None:
    """Return the name of the study whose plan is in `folder`; None where it can't be read."""
    try:
        return str(json.loads((folder / STUDY_NAME).read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _read_plan(folder: Path) -> tuple[Results, dict[tuple, Path]]:
    path = folder / STUDY_NAME
    try:
        study = json.loads(path.read_text(encoding="utf-8"))
        planned = study["cells"]
        header = {key: study[key] for key in ("name", "title", "description", "command", "baseline")}
        header |= {key: study[key] for key in ("score", "holm", "published", "published_source")}
        header |= {"arms": tuple(study["arms"]), "marks": tuple(study["marks"])}
        header |= {"rates": read_rates(study.get("rates", ()))}
        cells: list[Cell] = []
        versions: dict[str, dict[str, str]] = {}
        for entry in planned:
            names = {key: entry[key] for key in ("task", "model", "setting", "arm", "seed", "data_seed")}
            cells.append(_cell_of_folder(folder / "runs" / entry["folder"], names, study["score"], versions))
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{printable(path)}: not the plan of a study: {printable(repr(error))}") from None
    places = [folder / "runs" / entry["folder"] for entry in planned]
    folders = {_key(cell): place for cell, place in zip(cells, places, strict=True)}
    return Results(cells=tuple(cells), versions=versions, **header), folders


def _cell_of_folder(
    run: Path, names: Mapping[str, Any], rule: str, versions_by_hash: dict[str, dict[str, str]]
) -> Cell:
    failure = run.with_name(f"{run.name}.failed.json")
    record = records.read(run) if (run / records.NAME).exists() else None
    if record is not None and record.get("status") == records.FINISHED:
        return cell_of_record(record, names, rule, versions_by_hash)
    if record is not None and record.get("status") == records.FAILED and record.get("failure"):
        return Cell(**names, status=FAILED, reason=_without_folders(printable(record["failure"])))
    if failure.exists():
        try:
            reason = str(json.loads(failure.read_text(encoding="utf-8"))["reason"])
        except (OSError, ValueError, KeyError, TypeError):
            reason = "its note could not be read"
        return Cell(**names, status=FAILED, reason=_without_folders(reason))
    return Cell(**names, status=RUNNING if record is not None else MISSING)


def _without_folders(reason: str) -> str:
    """Return a reason with the last part of every absolute path: results leave this machine."""
    return re.sub(r"(?<![^\s'\"=(])/[^\s'\",:;)]*/(?=[^\s/])", "", reason)


def cell_of_record(
    record: Mapping[str, Any],
    names: Mapping[str, Any],
    rule: str,
    versions_by_hash: dict[str, dict[str, str]],
) -> Cell:
    """Return the cell of a finished run; `versions_by_hash` collects the sets of versions seen."""
    metric = str(record.get("main_metric"))
    versions = {str(k): str(v) for k, v in (record.get("versions") or {}).items()}
    # It may differ between machines, and between runs where --mixed_precision auto decides.
    if precision := (record.get("environment") or {}).get("mixed_precision"):
        versions["precision"] = str(precision)
    version_hash = short_hash(versions)
    versions_by_hash[version_hash] = versions
    known = traits(metric, record)
    common: dict[str, Any] = {
        **names,
        "metric": metric,
        "higher_is_better": known.higher_is_better,
        "times": known.times,
        "seconds": _number((record.get("timings") or {}).get("train_seconds")),
        "examples_per_second": _number(record.get("train_examples_per_second")),
        "data": data_hash(record),
        "versions": version_hash,
    }
    points = _curve(record, metric)
    curve = [(epoch, score) for epoch, score in points if score is not None]
    if not curve:
        return Cell(**common, status=FAILED, reason=f"the record holds no score named {printable(metric)}")
    if rule == LAST and points[-1][1] is None:
        reason = f"{printable(metric)} is not a finite number after the last epoch"
        return Cell(**common, status=FAILED, reason=reason, curve=tuple(curve))
    best = max if known.higher_is_better else min
    epoch, score = best(curve, key=lambda point: point[1]) if rule == BEST else curve[-1]
    # The last epoch may have collapsed where the kept one, which the record judges, has not.
    no_skill = METRICS[metric].no_skill if metric in METRICS else None
    collapsed = bool(record.get("collapsed")) or score == no_skill
    return Cell(**common, status=FINISHED, score=score, epoch=epoch, curve=tuple(curve), collapsed=collapsed)


def _curve(record: Mapping[str, Any], metric: str) -> list[tuple[float, float | None]]:
    """Return (epoch, score) of each evaluation on the first validation split; None for no finite number."""
    evaluations = record.get("evaluations") or []
    points = [
        (_number(evaluation.get("epoch")), _number(evaluation.get(metric))) for evaluation in evaluations
    ]
    return [(epoch, score) for epoch, score in points if epoch is not None]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def short_hash(value: Any) -> str:
    """Return twelve digits that identify a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def data_hash(record: Mapping[str, Any]) -> str:
    """Return a hash of the files that a run was trained and scored on; empty where none are known.

    Test splits are only predicted (`--do_predict`).
    """
    report = record.get("data")
    splits = report.get("splits") if isinstance(report, Mapping) else None
    if isinstance(report, Mapping) and isinstance(splits, Mapping):
        scored = {name: split for name, split in splits.items() if not name.startswith("test")}
        report = {**report, "splits": scored}
    hashes = sorted(_hashes(report))
    return short_hash(hashes) if hashes else ""


def _hashes(value: Any) -> Iterable[str]:
    """Return every `sha256` in a record's report on the data, at any depth."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key == "sha256" and isinstance(item, str):
                yield item
            else:
                yield from _hashes(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _hashes(item)


def _read_runs(folder: Path) -> tuple[Results, dict[tuple, Path]]:
    """Return trainings that no study planned: what varies in their settings names their arms and settings."""
    found = [(path.parent, records.read(path.parent)) for path in sorted(folder.rglob(records.NAME))]
    runs = [(run, record) for run, record in found if record.get("kind") != records.EVALUATION]
    if not runs:
        of = " of a training" if found else ""
        raise UserError(f"{printable(folder)}: no {STUDY_NAME} and no {records.NAME}{of} below it")
    finished = [(run, record) for run, record in runs if record.get("status") == records.FINISHED]
    unfinished = len(runs) - len(finished)
    if not finished:
        raise UserError(f"{printable(folder)}: none of its {len(runs)} runs is finished")
    names = _names_of_runs([record for _, record in finished])
    versions: dict[str, dict[str, str]] = {}
    cells: list[Cell] = []
    folders: dict[tuple, Path] = {}
    for (run, record), name in zip(finished, names, strict=True):
        cell = cell_of_record(record, name, LAST, versions)
        if _key(cell) in folders:
            raise UserError(
                f"{printable(run)} and {printable(folders[_key(cell)])}: two runs of the same task, model, "
                f"settings, head and seed {cell.seed}; omit one"
            )
        folders[_key(cell)] = run
        cells.append(cell)
    arms = tuple(dict.fromkeys(sorted((cell.arm for cell in cells), key=lambda arm: arm != "stock")))
    marks = (f"{unfinished} of {len(runs)} runs are not finished and were skipped",) if unfinished else ()
    results = Results(
        name=folder.resolve().name,
        baseline=arms[0],
        arms=arms,
        cells=tuple(cells),
        versions=versions,
        marks=marks,
    )
    return results, folders


def _names_of_runs(all_records: list[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return names for runs without a plan: an arm is a head and its varying fields, a setting the rest."""
    # A setting that an older record lacks had what is now its default.
    default = Arguments().to_dict()
    settings = [{**default, **(record.get("arguments") or {})} for record in all_records]
    varying = sorted(
        name
        for name in {key for arguments in settings for key in arguments} - NOT_AN_ARM - {"head_overrides"}
        if len({json.dumps(arguments.get(name), sort_keys=True) for arguments in settings}) > 1
    )
    fields_by_head: dict[tuple[str, str], list[Mapping[str, Any]]] = defaultdict(list)
    for record in all_records:
        head = record.get("head_config") or {}
        fields_by_head[str(record.get("task")), str(record.get("head"))].append(head)
    names = []
    for record, arguments in zip(all_records, settings, strict=True):
        head = str(record.get("head"))
        siblings = fields_by_head[str(record.get("task")), head]
        mine = record.get("head_config") or {}
        fields = [key for key in mine if len({json.dumps(other.get(key)) for other in siblings}) > 1]
        arm = head + "".join(f" {key}={mine[key]}" for key in fields)
        names.append(
            {
                "task": str(record.get("task")),
                "model": short_name(str(record.get("model"))),
                "setting": ", ".join(f"{name}={arguments.get(name)}" for name in varying),
                "arm": arm,
                "seed": int(record.get("seed", 0)),
                "data_seed": record.get("data_seed"),
            }
        )
    return names


def _key(cell: Cell) -> tuple[str, str, str, str, int]:
    return (*cell.group, cell.arm, cell.seed)


def _with_disagreements(results: Results, folders: Mapping[tuple, Path]) -> Results:
    """Count, per run and its seed's baseline run, the examples that only one of them got right."""
    right = {
        _key(cell): _right(folders[_key(cell)]) if cell.status == FINISHED else None for cell in results.cells
    }
    counted = []
    for cell in results.cells:
        mine, theirs = right[_key(cell)], right.get((*cell.group, results.baseline, cell.seed))
        if cell.arm != results.baseline and mine and theirs and mine.keys() == theirs.keys():
            cell = dataclasses.replace(
                cell,
                only_here=sum(mine[i] and not theirs[i] for i in mine),
                only_baseline=sum(theirs[i] and not mine[i] for i in mine),
            )
        counted.append(cell)
    return dataclasses.replace(results, cells=tuple(counted))


def _right(run: Path) -> dict[int, bool] | None:
    """Return which examples a run's predictions got right; None for a regression, or without predictions."""
    try:
        rows = json.loads((run / "predictions.json").read_text(encoding="utf-8"))
        if not rows or rows[0].get("probabilities") is None:
            return None
        return {int(row["index"]): row["prediction"] == row["label"] for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
