"""One table of everything that is measured here: each row's number beside its aim, from the stored files.

`python -m benchmarks` prints it; the tables of `README.md` between `<!-- rows: NAME -->` and
`<!-- end of rows -->` are made by `python -m benchmarks --readme`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks._aims import (
    AIMS,
    DATA,
    DEMO,
    FAULTS,
    FEW_LABELS,
    HEAD,
    OVER_STOCK,
    SPEED,
    STUDY,
    THREADS,
)

FOLDER = Path(__file__).parent
SPEED_COMMAND = "python -m benchmarks speed --model_name_or_path MODEL --data_dir glue"
# Measured on the first column's task alone, or without any task.
ONCE = [what for what in SPEED if "frozen" in what or "--help" in what]
MARKED = re.compile(r"(?<=<!-- rows: )(\w+)( -->\n).*?(?=<!-- end of rows -->)", re.DOTALL)


@dataclass(frozen=True)
class Section:
    """Rows with a place to be stored: per column a file of this folder and the task in it."""

    title: str
    rows: Sequence[str]
    columns: Mapping[str, tuple[str, str]]
    command: str  # that measures them; {task} is the column's


TASKS = (("CoLA", "cola"), ("RTE", "rte"))
TRAINING = [
    what
    for what in SPEED
    if what.startswith("training") and "both" not in what and "in one process" not in what
]


def on_gpu(model: str, suffix: str) -> Section:
    """Return the section of training beside Trainer on a GPU with one backbone."""
    settings = f"MODEL={model}_FOLDER NAME={suffix} " if suffix else ""
    return Section(
        f"On a GPU, {model}, beside Trainer",
        [*TRAINING, "training: CUDA graphs over none"],
        {name: (f"speed_gpu{suffix}_{task}.json", task) for name, task in TASKS},
        f"{settings}benchmarks/gpu.sh OUT speed",
    )


SECTIONS = {
    "cpu": Section(
        "On a CPU, beside Trainer",
        list(SPEED),
        {name: (f"speed_{task}.json", task) for name, task in TASKS},
        SPEED_COMMAND + " --tasks {task}",
    ),
    "cpu_mapped_moments": Section(
        "On a CPU with bf16 by AVX-512, head `mapped_moments`, beside Trainer",
        [what for what in SPEED if "frozen" not in what],
        {"CoLA": ("speed_mapped_moments_cola.json", "cola")},
        SPEED_COMMAND + " --tasks {task} --parts training heads inference padding start",
    ),
    "cpu_fp32": Section(
        "On a CPU without bf16, beside Trainer",
        list(SPEED),
        {"CoLA": ("speed_fp32_cola.json", "cola")},
        SPEED_COMMAND + " --tasks {task}",
    ),
    "head": Section(
        "The head on a CPU", [*HEAD, *OVER_STOCK], {"": ("head.json", "")}, "python -m benchmarks head"
    ),
    "threads": Section("Threads", list(THREADS), {"": ("threads.json", "")}, "python -m benchmarks threads"),
    "study": Section(
        "Start of a run in a study",
        list(STUDY),
        {name: ("study.json", task) for name, task in TASKS},
        "python -m benchmarks study --model_name_or_path MODEL --data_dir glue --tasks {task}",
    ),
    "demo": Section("The demo", list(DEMO), {"": ("demo.json", "")}, "python -m benchmarks demo"),
    "gpu": on_gpu("BERT-base", ""),
    "mpnet": on_gpu("MPNet", "_mpnet"),
    "smollm": on_gpu("SmolLM2", "_smollm"),
    "gpu_head": Section(
        "The head on a GPU, in graphs",
        [*OVER_STOCK, "BERT-base's step, 32x128: share of the card's matrix rate"],
        {"": ("head_gpu.json", "")},
        "benchmarks/gpu.sh OUT head",
    ),
    "gpu_families": Section(
        "Backbones on a GPU",
        ["families whose passes are held as graphs, of those that run"],
        {"": ("graphs_gpu.json", "")},
        "benchmarks/gpu.sh OUT graphs",
    ),
    "gpu_study": Section(
        "Studies on a GPU",
        [*STUDY, "runs of a study per minute"],
        {"CoLA": ("study_gpu.json", "cola")},
        "benchmarks/gpu.sh OUT studies",
    ),
    "few": Section(
        "Few labels",
        [
            f"few labels, {task}, {count} per label: points over logistic regression"
            for task in ("movies", "products", "tweets", "sources", "cola", "rte", "stsb")
            for count in (8, 16, 64)
        ],
        {"": ("few_labels.json", "")},
        "python -m benchmarks few_labels --model_name_or_path MODEL --task NAME TRAIN.csv TEST.csv",
    ),
    "data": Section("Data", list(DATA), {"": ("data.json", "")}, "python -m benchmarks data --rows 5000000"),
    "faults": Section(
        "Faults", list(FAULTS), {"": ("faults.json", "")}, "python -m benchmarks faults --kills 50"
    ),
}


@dataclass(frozen=True)
class Entry:
    """One line of the table; `row` is None where nothing is stored."""

    section: Section
    column: str
    what: str
    aim: Any
    row: Mapping[str, Any] | None
    machine: Mapping[str, Any]
    command: str

    @property
    def met(self) -> bool:
        """Return whether the aim is reached: by the measurement's own judgement where it had the same aim."""
        assert self.row is not None
        same = self.row.get("required") == str(self.aim)
        return bool(self.row["met"] if same else self.aim.met(self.row["measured"]))

    @property
    def shown(self) -> str:
        """Return the number and the range of its rounds."""
        assert self.row is not None
        spread = " ({:.4g} to {:.4g})".format(*self.row["range"]) if self.row.get("range") else ""
        return f"{self.row['measured']:.4g}{spread}"

    @property
    def on(self) -> str:
        """Return on what it was measured, and when."""
        parts = [self.machine.get(name) for name in ("device", "precision", "date")]
        return ", ".join(str(part) for part in parts if part).replace("(R)", "")


def stored(name: str) -> dict[str, Any]:
    """Return the result in a file of this folder, empty without it."""
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def entries(section: Section) -> Iterator[Entry]:
    """Return a section's lines, row by row, each for all columns."""
    found = {
        column: (result := stored(file)).get("machine", {}) | {"date": result.get("date")}
        for column, (file, _) in section.columns.items()
    }
    rows = {
        (column, row["what"]): row
        for column, (file, task) in section.columns.items()
        for row in stored(file).get("rows", ())
        if row.get("task", "") in ("", task)
    }
    for what in section.rows:
        for column, (_, task) in list(section.columns.items())[: 1 if what in ONCE else None]:
            command = section.command.format(task=task)
            aim = AIMS.get(what, FEW_LABELS)
            yield Entry(section, column, what, aim, rows.get((column, what)), found[column], command)


def overview() -> str:
    """Return the table of all sections, as Markdown."""
    lines = ["| what | measured | aim | reached | on |", "|---|---|---|---|---|"]
    for section in SECTIONS.values():
        lines.append(f"| **{section.title}** | | | | |")
        for entry in entries(section):
            task = entry.column and "--help" not in entry.what
            what = f"{entry.column}: {entry.what}" if task else entry.what
            if entry.row is None:
                lines.append(f"| {what} | not measured | {entry.aim} | | `{entry.command}` |")
            else:
                reached = "yes" if entry.met else "no"
                lines.append(f"| {what} | {entry.shown} | {entry.aim} | {reached} | {entry.on} |")
    return "\n".join(lines)


def table(name: str) -> str:
    """Return one section's table for the README: what, a column each, the aim; missed aims are bold."""
    section = SECTIONS[name]
    columns = list(section.columns)
    lines = [
        f"| | {' | '.join(column or 'measured' for column in columns)} | aim |",
        "|---" * (len(columns) + 2) + "|",
    ]
    by_row: dict[str, list[Entry]] = {}
    for entry in entries(section):
        by_row.setdefault(entry.what, []).append(entry)
    for what, cells in by_row.items():
        shown = [
            "" if cell.row is None else cell.shown if cell.met else f"**{cell.shown}**" for cell in cells
        ]
        shown += [""] * (len(columns) - len(shown))
        if not any(shown):
            shown[0] = "not measured"
        lines.append(f"| {what} | {' | '.join(shown)} | {cells[0].aim} |")
    return "\n".join(lines) + "\n"


FEW_TITLES = {
    "movies": "movie reviews, 2 labels",
    "products": "product reviews, 3 labels",
    "tweets": "tweets, 3 labels",
    "sources": "where a sentence is from, 4 labels",
    "cola": "CoLA (chance is 50)",
    "rte": "RTE (chance is 50)",
}


def few_table() -> str:
    """Return the scores with few labels, a task per line: of both sides, for each number of texts."""
    points = {row["what"]: row["points"] for row in stored("few_labels.json")["rows"]}
    by_task: dict[str, list[list[float]]] = {}  # (count, side)
    for what in SECTIONS["few"].rows:
        by_task.setdefault(what.split(", ")[1], []).append(points[what])
    scores = by_task.pop("stsb")
    lines = {title: by_task[task] for task, title in FEW_TITLES.items()}
    lines["mean of the six"] = [
        [fmean(side) for side in zip(*cells, strict=True)] for cells in zip(*lines.values(), strict=True)
    ]
    found = [
        "| | per label | logistic regression on mean embeddings | closed form (`linear_probe`) |",
        "|---|---|---|---|",
    ]
    for title, cells in lines.items():
        found.append(f"| {title} | 8, 16, 64 | {_sides(cells)} |")
    found.append(f"| STS-B, Pearson, 16, 32, 128 pairs | | {_sides(scores)} |")
    return "\n".join(found) + "\n"


def _sides(cells: Sequence[Sequence[float]]) -> str:
    ours, theirs = (", ".join(f"{cell[side]:.1f}" for cell in cells) for side in (0, 1))
    return f"{theirs} | {ours}"


def filled(page: str) -> str:
    """Return a page with its marked tables made from what is stored."""

    def made(mark: re.Match[str]) -> str:
        return f"{mark[1]}{mark[2]}{few_table() if mark[1] == 'few' else table(mark[1])}"

    return MARKED.sub(made, page)
