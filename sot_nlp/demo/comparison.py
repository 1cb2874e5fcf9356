"""`--task demo`: create a corpus, and train two heads on it, on a tiny BERT that comes with the package.

Nothing is downloaded. The stock head and the SoT head start from the same backbone, see the same data in the
same order, and get the same updates and learning rates; the table shows the result as it is.
"""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp import records
from sot_nlp.demo.grammar import (
    CORPUS_SEED,
    PHENOMENA,
    TRAIN_SIZE,
    VALIDATION_SIZE,
    generate,
    phenomenon,
    write_corpus,
)
from sot_nlp.demo.workers import preload, started
from sot_nlp.errors import UserError, decimal, printable
from sot_nlp.files import writing
from sot_nlp.runs.preparation import head_of
from sot_nlp.settings.arguments import TRAITS, Arguments, build_arguments
from sot_nlp.training.speed.threads import usable_cores

if TYPE_CHECKING:
    from rich.table import Table

FOLDER = Path("runs") / "demo"
BASELINE = "stock"
# One policy for both heads; flags override it for both. The rate was set from runs of the stock head; grammar
# and sizes were chosen with the scores of both heads in view, on one seed; the epochs by time.
TRAINING: dict[str, Any] = {
    "num_train_epochs": 4,
    "learning_rate": 7e-4,
    "per_device_train_batch_size": 32,
    "warmup_ratio": 0.1,
    "max_length": 64,
}

Key = tuple[str, int]  # a head and a seed


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Say how much the demo does: sized for about a minute on two idle cores."""

    train_size: int = TRAIN_SIZE
    validation_size: int = VALIDATION_SIZE
    seeds: int = 1


def ensure_demo_data(folder: str | os.PathLike[str] = FOLDER, budget: Budget | None = None) -> Path:
    """Return the folder to pass as `--data_dir`, `folder`/data, with the demo's corpus in it."""
    budget = budget or Budget()
    data = Path(folder) / "data"
    with writing(folder, "--output_dir"):
        write_corpus(data, CORPUS_SEED, budget.train_size, budget.validation_size)
    return data


def prepare_demo(
    folder: str | os.PathLike[str] = FOLDER, budget: Budget | None = None, *, overwrite: bool = False
) -> None:
    """Write the corpus, and the tiny BERT unless its folder is there; `overwrite` replaces it."""
    from sot_nlp.demo import tiny_bert

    ensure_demo_data(folder, budget)
    model = Path(folder) / "tiny-bert"
    if overwrite or not model.exists():
        with writing(folder, "--output_dir"):
            shutil.copytree(tiny_bert.FOLDER, model, dirs_exist_ok=True)


def run_demo(
    arguments: Arguments,
    train_one: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    budget: Budget | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Train both heads with each seed and print the scores side by side; returns the records by head.

    `--head` (`text` by default) is compared with the stock head, from `--seed` on; other flags hold for both.
    `--output_dir` (default `runs/demo`) holds data, backbone and runs. Runs that are finished there with
    these settings are shown, not run again, unless `--overwrite_output_dir` says so. `train_one` (settings
    to record) is the runner. Raises UserError.
    """
    if arguments.push_to_hub:
        raise UserError("--push_to_hub: the demo trains several models; use `sot-nlp push FOLDER` for one")
    head_of(arguments)
    begun = time.time()
    budget = budget or Budget()
    folder = Path(arguments.output_dir or FOLDER)
    heads = list(dict.fromkeys((BASELINE, arguments.head)))
    seeds = range(arguments.seed, arguments.seed + budget.seeds)
    planned = {(head, seed): run_settings(arguments, folder, head, seed) for seed in seeds for head in heads}
    done = {} if arguments.overwrite_output_dir else finished_runs(planned)
    waiting = {key: settings for key, settings in planned.items() if key not in done}
    # A launcher's processes train each run together.
    at_once = 1 if train_one or "RANK" in os.environ else min(len(waiting), usable_cores())
    if at_once > 1:
        preload()
    say(f"writing the corpus, and a tiny BERT trained on its acceptable sentences: {printable(folder)}")
    prepare_demo(folder, budget, overwrite=arguments.overwrite_output_dir)
    if at_once > 1:
        done |= _train_at_once(folder, waiting, at_once)
    else:
        done |= {key: (train_one or _run)(settings) for key, settings in waiting.items()}
    runs_of_head = {head: [done[head, seed] for seed in seeds] for head in heads}
    _check_precision(runs_of_head)
    if os.environ.get("RANK", "0") == "0":
        show(folder, runs_of_head, seeds, time.time() - begun)
    return runs_of_head


def _train_at_once(
    folder: Path, waiting: Mapping[Key, dict[str, Any]], at_once: int
) -> dict[Key, dict[str, Any]]:
    """Train the runs `at_once`, a line for each that is finished; returns the records."""
    say(f"training {len(waiting)} models, {at_once} at once")
    done = {}

    def finished(key: Key) -> None:
        done[key] = record = records.read(waiting[key]["output_dir"])
        best, seconds = record["best"], record["timings"]["total_seconds"]
        say(f"  {key[0]}, seed {key[1]}: {best['metric']} {decimal(best['value'], 3)} ({seconds:.0f} s)")

    # The baseline's take less time than the others', and fill what those leave.
    order = sorted(waiting, key=lambda key: key[0] == BASELINE)
    try:
        with started(folder, at_once) as workers:
            workers.train({key: {**waiting[key], "disable_tqdm": True} for key in order}, finished)
    except KeyboardInterrupt:
        say("stopped; the same command resumes")
        raise
    return done


def _check_precision(runs_of_head: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Refuse to compare runs of different precision, as where some were made on another machine."""
    modes = {
        run.get("environment", {}).get("mixed_precision") for runs in runs_of_head.values() for run in runs
    }
    if len(modes) > 1:
        raise UserError(
            f"--output_dir: holds runs of different precision ({' and '.join(sorted(map(str, modes)))}), "
            "which do not compare; use another folder, or --overwrite_output_dir"
        )


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    from sot_nlp.runs import runner

    return runner.run(build_arguments([("demo", settings)]))


def run_folder(folder: Path, head: str, seed: int) -> Path:
    """Return the folder of one of the demo's runs."""
    return folder / f"{head}-seed{seed}"


def run_settings(arguments: Arguments, folder: Path, head: str, seed: int) -> dict[str, Any]:
    """Return a run's settings: `TRAINING`, over it flags and `--config`, then the demo's own."""
    given = {
        name: getattr(arguments, name)
        for name, source in arguments.sources.items()
        if not source.startswith("recipe")
    }
    return {
        **TRAINING,
        **given,
        "task": "demo",
        "data_dir": str(folder / "data"),
        "model_name_or_path": str(folder / "tiny-bert"),
        "head": head,
        "head_overrides": arguments.head_overrides if head == arguments.head else {},
        "seed": seed,
        "output_dir": str(run_folder(folder, head, seed)),
        "cache_dir": arguments.cache_dir or str(folder / "cache"),
    }


def finished_runs(planned: Mapping[Key, dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    """Return the records of those planned runs that are finished.

    Raises UserError where one was made with other settings: its scores would not compare.
    """
    finished = {}
    for key, settings in planned.items():
        path = Path(settings["output_dir"])
        record = records.read(path) if (path / records.NAME).exists() else {}
        if record.get("status") != records.FINISHED:
            continue
        now, then = build_arguments([("demo", settings)]).to_dict(), record["arguments"]
        shaping = {name for name, traits in TRAITS.items() if traits.kind == "result"}
        for name in sorted(shaping - {"model_name_or_path"}):  # the demo's own, wherever the folder is
            if then.get(name) != now[name]:
                raise UserError(
                    f"--output_dir: {printable(path)} holds a run with {name} {printable(then.get(name))}, "
                    f"not {printable(now[name])}; use another folder, or --overwrite_output_dir"
                )
        finished[key] = record
    return finished


def say(line: str) -> None:
    """Print a line once, whatever the number of processes."""
    if os.environ.get("RANK", "0") == "0":
        print(line, flush=True)


def constructions(data: Path) -> list[str]:
    """Return the construction of each validation sentence, in the file's order."""
    with (data / "Demo" / "validation.tsv").open(encoding="utf-8", newline="") as file:
        return [row["construction"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def accuracies(folder: Path, head: str, seeds: Sequence[int]) -> dict[str, float]:
    """Return a head's accuracy over its seeds: in all (`accuracy`) and by phenomenon."""
    names = constructions(folder / "data")
    right: dict[str, list[bool]] = {name: [] for name in ("accuracy", *PHENOMENA)}
    for seed in seeds:
        path = run_folder(folder, head, seed) / "predictions.json"
        for row in json.loads(path.read_text(encoding="utf-8")):
            for name in ("accuracy", phenomenon(names[row["index"]])):
                right[name].append(row["prediction"] == row["label"])
    return {name: sum(hits) / len(hits) for name, hits in right.items() if hits}


def score_table(
    folder: Path, runs_of_head: Mapping[str, list[dict[str, Any]]], seeds: Sequence[int]
) -> Table:
    """Return a table, one row per head: Matthews per seed and their mean, and accuracies over all seeds."""
    from rich.table import Table

    table = Table(title="held-out words and constructions", title_justify="left")
    table.add_column("head")
    for name in (*(f"Matthews\nseed {seed}" for seed in seeds), "Matthews\nmean"):
        table.add_column(name, justify="right")
    for name in ("accuracy", *PHENOMENA):
        table.add_column(name, justify="right")
    for head, runs in runs_of_head.items():
        values = [run["best"]["value"] for run in runs]
        shares = accuracies(folder, head, seeds)
        table.add_row(
            head,
            *(decimal(value, 3) for value in (*values, sum(values) / len(values))),
            *(f"{shares[name]:.3f}" if name in shares else "-" for name in ("accuracy", *PHENOMENA)),
        )
    return table


def minimal_pair() -> list[str]:
    """Return an acceptable and an unacceptable sentence that differ in one word."""
    examples = generate("validation", 20, CORPUS_SEED)
    pair = next(e.pair for e in examples if e.construction.startswith("agree"))
    return [e.sentence for e in examples if e.pair == pair]


def snippet(model: Path) -> str:
    """Return Python that loads a model of the demo and judges a minimal pair of its own."""
    return "\n".join(
        [
            "import sot_nlp",
            "from transformers import pipeline",
            f'classify = pipeline("text-classification", model={str(model)!r})',
            f"print(classify({json.dumps(minimal_pair())}))",
        ]
    )


def next_commands(model: Path) -> list[str]:
    """Return commands to try next: what a model answers, and why."""
    folder, sentence = shlex.quote(str(model)), shlex.quote(minimal_pair()[0])
    return [
        f"echo {sentence} | sot-nlp predict {folder}",
        f"sot-nlp explain {folder} --text {sentence}",
    ]


def show(
    folder: Path, runs_of_head: Mapping[str, list[dict[str, Any]]], seeds: Sequence[int], seconds: float
) -> None:
    """Print the scores side by side, where the models are, and how to load one."""
    from rich.console import Console

    # A fixed width where the output is no terminal, so that the table is not folded.
    console = Console(width=None if os.isatty(1) else 120)
    console.print()
    console.print(score_table(folder, runs_of_head, seeds))
    model = run_folder(folder, list(runs_of_head)[-1], seeds[0])
    lines = [
        f"Seeds: {len(seeds)}. Both heads had the same backbone, data, order, updates and learning rates;",
        "each is shown at its best epoch. Another seed moves a score by some hundredths: `sot-nlp compare`",
        "trains over many.",
        f"models, records and predictions: {printable(folder)}; {seconds:.0f} s in all. To load one:",
        "",
        *(f"    {line}" for line in snippet(model).splitlines()),
        "",
        "What next: ask a model, and see which words decided;",
        "",
        *(f"    {line}" for line in next_commands(model)),
        "",
        "train on a table of your own, with a column of text and one of labels, from any model:",
        "sot-nlp train --train_file FILE --model_name_or_path MODEL --output_dir out",
    ]
    print("\n".join(lines), flush=True)
