"""Write test predictions of runs to the zip that GLUE's server accepts, checked against its requirements.

A run that predicted a test split holds `test_predictions.json` (of MNLI `test_predictions_matched.json`
and `test_predictions_mismatched.json`): a list of `{"index": position in the test file, "prediction":
label name, score, or list of label names}`. The server wants eleven files `index<TAB>prediction` with the
label words of GLUE's own files; their names and sizes are in the tasks' YAML files.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sot_nlp import records
from sot_nlp.errors import UserError, decimal, printable
from sot_nlp.files import check_output, write_atomic, writing
from sot_nlp.tasks.metrics import higher_is_better
from sot_nlp.tasks.spec import TaskSpec, available_tasks, load_task

HEADER = "index\tprediction"
_SHOWN = 3  # problems of one file that are listed one by one


def predictions_name(split: str) -> str:
    """Return the name of the file in a run's folder that holds the predictions of a test split."""
    return f"test_predictions{split.removeprefix('test')}.json"


def write_task_file(
    run_folder: str | Path,
    spec: TaskSpec,
    split: str,
    predictions: Sequence[str | float | Sequence[str]],
    indices: Sequence[int],
) -> list[Path]:
    """Write a test split's predictions to a run's folder, and GLUE's file of it (`CoLA.tsv`) beside them.

    `predictions` are label names, scores, or lists of label names; `indices` the examples' positions in
    the test file, from 0. GLUE's file is omitted where the task has none or where examples are missing.
    Returns the paths written. Raises ValueError where a score is not finite.
    """
    rows = [
        {"index": int(index), "prediction": prediction}
        for index, prediction in zip(indices, predictions, strict=True)
    ]
    path = Path(run_folder) / predictions_name(split)
    # Not indented: Python's indenting encoder takes ten times as long for the largest test set.
    write_atomic(path, json.dumps(rows, ensure_ascii=False, allow_nan=False) + "\n")
    if split not in spec.submission:
        return [path]
    table, problems = _table(spec, rows)
    if problems or check_table(table, spec, split):
        return [path]
    table_path = Path(run_folder) / spec.submission[split]
    write_atomic(table_path, table)
    return [path, table_path]


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What `write_submission` did: `runs` maps each file of the zip to the folder of its run."""

    path: Path
    runs: dict[str, Path]
    missing: tuple[str, ...]  # files that the server requires and no run gave
    notes: tuple[str, ...]  # runs that were skipped, and why

    def report(self) -> str:
        """Return the same for a reader, one line per file."""
        lines = [f"{name:11} {printable(folder)}" for name, folder in self.runs.items()]
        lines += [f"{name:11} missing" for name in self.missing]
        lines += [f"note: {note}" for note in self.notes]
        total = len(self.runs) + len(self.missing)
        state = "complete" if not self.missing else "the server requires all of them"
        return "\n".join([*lines, f"{printable(self.path)}: {len(self.runs)} of {total} files; {state}"])


def write_submission(run_folders: Iterable[str | Path], output_zip: str | Path) -> Submission:
    """Gather the test predictions of runs into GLUE's zip; files that no run gives are reported missing.

    `run_folders` are folders of runs, or folders that hold such at any depth. Of several runs of a task,
    the one with the best main metric on its validation data is taken. Scores are clipped to the task's
    range, here only. Raises UserError, and writes nothing, where predictions are wrong (every file with
    its problems), where runs of a task can't be ranked, or where there is no run to take.
    """
    path = Path(output_zip)
    check_output(path, "--output")
    notes: list[str] = []
    candidates = _candidates(run_folders, notes)
    tables: dict[str, str] = {}
    runs: dict[str, Path] = {}
    problems: list[str] = []
    wanted = _wanted()
    for name, (spec, split) in wanted.items():
        folders = candidates.get(spec.name)
        if not folders:
            continue
        folder = _best(spec, folders, notes if split == spec.test_splits[0] else [])
        predictions = folder / predictions_name(split)
        if not predictions.is_file():
            notes.append(f"{printable(predictions)} is missing; run again with --do_predict")
            continue
        tables[name], wrong = _table(spec, _read_rows(predictions))
        wrong = wrong or check_table(tables[name], spec, split)
        problems += [f"{printable(predictions)}: {problem}" for problem in _few(wrong)]
        runs[name] = folder
    if problems:
        raise UserError("\n".join(problems))
    if not runs:
        reasons = f" ({'; '.join(notes)})" if notes else ""
        raise UserError(f"found no run with test predictions of a GLUE task{reasons}")
    with writing(path, "--output"):
        write_atomic(path, _zip(tables))
    missing = tuple(name for name in wanted if name not in runs)
    return Submission(path=path, runs=runs, missing=missing, notes=tuple(notes))


def check_table(text: str, spec: TaskSpec, split: str) -> list[str]:
    """Return the errors in the text of one of GLUE's files: header, number of rows, indices, predictions."""
    header, *rows = text.removesuffix("\n").replace("\r\n", "\n").split("\n")
    problems = []
    if header != HEADER:
        problems.append(f"line 1: the header is '{printable(header)}', not '{printable(HEADER)}'")
    if len(rows) != spec.rows[split]:
        hint = "; was --max_predict_samples given?" if len(rows) < spec.rows[split] else ""
        problems.append(f"{len(rows)} predictions, {spec.rows[split]} expected{hint}")
    is_right, expected = _expected(spec)
    for number, row in enumerate(rows):
        index, tab, prediction = row.partition("\t")
        if not tab or index != str(number):
            problems.append(f"line {number + 2}: the index is '{printable(index)}', not {number}")
        elif not is_right(prediction):
            problems.append(f"line {number + 2}: '{printable(prediction)}' is not {expected}")
    return problems


def _expected(spec: TaskSpec) -> tuple[Callable[[str], bool], str]:
    """Return a check whether the server accepts a prediction, and in words what it accepts."""
    if spec.kind != "regression":
        words = set(_words(spec).values())
        return words.__contains__, f"one of {', '.join(_words(spec).values())}"
    low, high = spec.score_range or (-math.inf, math.inf)

    def is_score(text: str) -> bool:
        try:
            return low <= float(text) <= high  # False for nan
        except ValueError:
            return False

    return is_score, f"a number from {low:g} to {high:g}"


def _words(spec: TaskSpec) -> dict[str, str]:
    """Return each label name's word in GLUE's files, which the server accepts too."""
    written = {label: word for word, label in spec.label_words.items()}
    return {label: written.get(label, label) for label in spec.labels or ()}


def _wanted() -> dict[str, tuple[TaskSpec, str]]:
    """Return the server's files with their task and test split."""
    specs = [load_task(name) for name in available_tasks()]
    return {file: (spec, split) for spec in specs for split, file in spec.submission.items()}


def _candidates(run_folders: Iterable[str | Path], notes: list[str]) -> dict[str, list[Path]]:
    """Return, by task name, folders of finished runs in `run_folders` that predicted a test split of it."""
    tasks = {spec.name for spec, _ in _wanted().values()}
    candidates: dict[str, list[Path]] = {}
    for top in map(Path, run_folders):
        if not top.is_dir():
            raise UserError(f"{printable(top)}: no such folder; expected the folder of a run")
        for path in sorted(top.rglob(records.NAME)):
            folder = path.parent
            record = records.read(folder)
            task = record.get("task")
            if task not in tasks or folder in candidates.get(task, ()):
                continue
            if record.get("status") != records.FINISHED:
                notes.append(f"{printable(folder)}: skipped, the run is not finished")
            elif not any(folder.glob("test_predictions*.json")):
                notes.append(f"{printable(folder)}: skipped, no test predictions; run with --do_predict")
            else:
                candidates.setdefault(task, []).append(folder)
    return candidates


def _best(spec: TaskSpec, folders: list[Path], notes: list[str]) -> Path:
    """Return the run with the best main metric on its validation data, the first of equals."""
    if len(folders) == 1:
        return folders[0]
    values = []
    for folder in folders:
        best = records.read(folder).get("best") or {}
        if best.get("metric") != spec.main_metric or not isinstance(best.get("value"), int | float):
            listed = ", ".join(map(printable, folders))
            raise UserError(
                f"{spec.name}: several runs, and no {spec.main_metric} to choose by: give one of {listed}"
            )
        values.append(best["value"])
    value = (max if higher_is_better(spec.main_metric) else min)(values)
    folder = folders[values.index(value)]
    notes.append(
        f"{spec.name}: of {len(folders)} runs, {printable(folder)} has the best "
        f"{spec.main_metric} on validation, {decimal(value, 4)}"
    )
    return folder


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the predictions in a run's file, in the order of their indices."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{printable(path)}: cannot be read as JSON: {printable(error)}") from None
    keys = {"index", "prediction"}
    if not isinstance(rows, list) or not all(isinstance(row, dict) and keys <= row.keys() for row in rows):
        raise UserError(f"{printable(path)}: must be a list of objects with `index` and `prediction`")
    if not all(type(row["index"]) is int for row in rows):
        raise UserError(f"{printable(path)}: every `index` must be a whole number")
    return rows


def _table(spec: TaskSpec, rows: Iterable[dict[str, Any]]) -> tuple[str, list[str]]:
    """Return these predictions as the text of GLUE's file, and those that the task does not know."""
    words = _words(spec)
    low, high = spec.score_range or (-math.inf, math.inf)
    lines, problems = [HEADER], []
    for row in sorted(rows, key=lambda row: row["index"]):
        prediction = row["prediction"]
        if spec.kind == "regression" and type(prediction) in (int, float) and math.isfinite(prediction):
            word = decimal(min(max(prediction, low), high), 3)
        elif isinstance(prediction, str) and prediction in words:
            word = words[prediction]
        else:
            expected = "a finite number" if spec.kind == "regression" else f"one of {', '.join(words)}"
            problems.append(f"index {row['index']}: '{printable(prediction)}' is not {expected}")
            continue
        lines.append(f"{row['index']}\t{word}")
    return "\n".join(lines) + "\n", problems


def _zip(tables: dict[str, str]) -> bytes:
    """Return a zip of the tables, the same bytes for the same tables."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in tables.items():
            # ZipInfo's date defaults to 1980, so that no clock enters; but it ignores the archive's method.
            archive.writestr(zipfile.ZipInfo(name), table, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _few(problems: list[str]) -> list[str]:
    rest = len(problems) - _SHOWN
    return problems[:_SHOWN] + ([f"and {rest} more"] if rest > 0 else [])
