"""`sot-nlp compare`: run a study, show its progress, and report it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sot_nlp.errors import UserError, printable
from sot_nlp.settings.command_line import parse_flags
from sot_nlp.settings.flag_parser import FlagParser
from sot_nlp.studies import read_results
from sot_nlp.studies.comparison import compare
from sot_nlp.studies.growth import Growth
from sot_nlp.studies.report import write
from sot_nlp.studies.sharding import parse_shard
from sot_nlp.studies.slots import fitting, slots
from sot_nlp.studies.study import GRID_FLAGS, Study, finished, flat_settings, published_command, shown_command
from sot_nlp.studies.study_display import Lines, LiveTable
from sot_nlp.studies.study_file import parse_names, parse_seeds, read_study
from sot_nlp.studies.study_runner import Stopped, StudyRunner
from sot_nlp.studies.workers import Start, WorkerPool

SUMMARY = (
    "Run a study, a grid of tasks, backbones, settings, heads and seeds, and compare its arms. STUDY is a "
    "YAML file (studies/README.md); flags override or replace it. Any setting of `sot-nlp train` may be "
    "given and applies to every run. The same command again resumes a study that was stopped."
)


def run(argv: Sequence[str], prog: str) -> int:
    """Run what is not finished, and report; return 1 if a run failed, 128 + n after signal n."""
    # By hand: argparse would take the value of a run's setting for the study.
    file, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    own, rest = _parser(prog).parse_known_args(words)
    study = _study(file, own, rest, prog)
    folder = Path(own.output_dir or Path("runs") / "studies" / study.name)
    study = study.with_held_out_tasks(folder / "tasks")
    shard = parse_shard(own.shard)
    planned = study.cells()
    cells = shard.of(planned)
    if not cells:
        raise UserError(f"--shard {own.shard}: the study has only {len(planned)} runs")
    if own.plan:
        for cell in cells:
            print(shown_command(cell.command(folder / "runs" / cell.folder)))
        return 0
    try:
        study.write_plan(folder, planned, published_command([*prog.split(), *argv]))
    except OSError as error:
        raise UserError(f"--output_dir {printable(folder)}: cannot be written: {error.strerror}") from None
    console = Console(highlight=False)
    display = LiveTable(console, study, folder) if console.is_terminal else Lines(console, len(cells))
    try:
        with _launcher(own, study, console) as (places, start):
            options = {"slots": places, "start": start, "keep_models": own.keep_models, "shard": shard}
            if own.launcher == "local" and own.jobs is None and "CUDA_VISIBLE_DEVICES" in places[0]:
                options["growth"] = Growth(places)
            runner = StudyRunner(cells, folder, display=display, **options)
            with display:
                state = runner.run()
    except Stopped as stop:
        console.print(
            f"stopped: {len(runner.state.finished)} of {len(cells)} runs are finished; "
            "the same command resumes from here",
            markup=False,
        )
        return 128 + stop.signum
    results = read_results.read_results(folder, allow_mixed=own.allow_mixed)
    groups = compare(results)
    write.show(results, groups)
    for written in write.write(results, groups, folder, [*write.FORMATS, "json"]):
        print(f"wrote {printable(written)}")
    return 1 if state.failed else 0


def _parser(prog: str) -> FlagParser:
    parser = FlagParser(prog=prog, usage="%(prog)s [STUDY] [flags]", description=SUMMARY)
    add = parser.add_argument
    add("--tasks", nargs="+", metavar="TASK", help="tasks, or NAME=FILE.yaml")
    add("--models", nargs="+", metavar="MODEL", help="backbones, or NAME=FOLDER")
    add("--heads", nargs="+", metavar="HEAD", help="presets, or some of the file's heads")
    add("--settings", nargs="+", metavar="NAME", help="some of the file's settings")
    add("--seeds", nargs="+", metavar="N", help="how many (10), a span (100-109), or several")
    add("--baseline", metavar="HEAD", help="what to compare with (default: stock)")
    add("--allow_unequal_budget", action="store_true", help="let arms differ in what they spend")
    add("--held_out", action="store_true", help="score on held-out training data, to choose settings")
    add("--output_dir", metavar="DIR", help="the study's folder (default: runs/studies/NAME)")
    add("--jobs", type=int, metavar="N", help="runs at once (default: one per GPU, or one per core)")
    add("--threads", type=int, metavar="N", help="threads per run without a GPU (default: 1)")
    add("--shard", metavar="K/N", default="1/1", help="run only part K of N of the grid, for job arrays")
    add("--launcher", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    add("--ray_address", metavar="ADDRESS", default="auto", help="the cluster (default: this machine's)")
    add("--keep_models", action="store_true", help="keep the weights of the finished runs")
    add("--allow_mixed", action="store_true", help="report runs on different data too, marked")
    add("--plan", action="store_true", help="print the commands of the runs without running them")
    return parser


@contextlib.contextmanager
def _launcher(own: Any, study: Study, console: Console) -> Iterator[tuple[list[dict[str, str]], Start]]:
    """Give room for the runs, and what starts one: workers of this machine, or a Ray cluster."""
    if own.launcher == "ray":
        from sot_nlp.studies.ray_launcher import RayLauncher

        launcher = RayLauncher(own.ray_address, own.threads or 1)
        yield launcher.slots(own.jobs), launcher.start
        return
    places = slots(own.jobs, own.threads, cpu=bool(study.arguments.get("cpu")))
    room, said = fitting(places, list(study.models.values()))
    if said:
        console.print(said, markup=False)
    with WorkerPool() as pool:
        yield room, pool.start


def _study(file: str | None, own: Any, rest: Sequence[str], prog: str) -> Study:
    """Return the study of the file and the flags, checked but for its cells."""
    flags, config = parse_flags(rest, prog, SUMMARY)
    if config:
        raise UserError("--config: a study has its settings in its own YAML file, under `arguments`")
    for name in ("jobs", "threads"):
        if getattr(own, name) is not None and getattr(own, name) < 1:
            raise UserError(f"--{name} {getattr(own, name)}: must be at least 1")
    study = read_study(Path(file)) if file else Study(name="study", tasks={}, models={}, heads={})
    changes: dict[str, Any] = {"arguments": {**study.arguments, **flat_settings(flags)}}
    for name in GRID_FLAGS:
        if name in flags:
            raise UserError(f"--{name} is set by the study's grid; use {GRID_FLAGS[name]}")
    if own.tasks:
        changes["tasks"] = parse_names(own.tasks)
    if own.models:
        changes["models"] = parse_names(own.models)
    if own.heads:
        changes["heads"] = {name: study.heads.get(name, {"head": name}) for name in own.heads}
    if own.settings:
        unknown = [name for name in own.settings if name not in study.settings]
        if unknown:
            known = ", ".join(printable(name) for name in study.settings)
            raise UserError(
                f"--settings {printable(unknown[0])}: not in the study, which has {known or 'none'}"
            )
        changes["settings"] = {name: study.settings[name] for name in own.settings}
    if own.seeds:
        changes["seeds"] = parse_seeds(own.seeds)
    if own.baseline:
        changes["baseline"] = own.baseline
    for name in ("allow_unequal_budget", "held_out"):
        if getattr(own, name):
            changes[name] = True
    return finished(dataclasses.replace(study, **changes))
