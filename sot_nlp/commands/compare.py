"""`sot-nlp compare`: run a study, show its progress, and report it."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from sot_nlp.errors import UserError, printable
from sot_nlp.files import make_folder, writing
from sot_nlp.settings import plugins
from sot_nlp.settings.arguments import overridden
from sot_nlp.settings.command_line import parse_flags
from sot_nlp.settings.flag_parser import FlagParser, check_counts
from sot_nlp.settings.launcher import describe, launcher_settings
from sot_nlp.studies import own_data, rates, read_results
from sot_nlp.studies.comparison import compare
from sot_nlp.studies.growth import Growth
from sot_nlp.studies.rates import UnchosenRates
from sot_nlp.studies.report import write
from sot_nlp.studies.report.cells import shown_rates
from sot_nlp.studies.results import NAME
from sot_nlp.studies.sharding import parse_shard, study_lock
from sot_nlp.studies.slots import room
from sot_nlp.studies.study import (
    DEFAULT_HEADS,
    GRID_FLAGS,
    Study,
    StudyCell,
    finished,
    flat_settings,
    published_command,
    shown_command,
)
from sot_nlp.studies.study_display import Lines, LiveTable
from sot_nlp.studies.study_file import parse_names, parse_rate_words, parse_seeds, read_study
from sot_nlp.studies.study_runner import State, Stopped, StudyRunner
from sot_nlp.studies.workers import Start, WorkerPool

SUMMARY = (
    "Run a study, a grid of tasks, backbones, settings, heads and seeds, and compare its arms. STUDY is a "
    "YAML file (studies/README.md); flags override or replace it. Any setting of `sot-nlp train` may be "
    "given and applies to every run; without a task, --train_file names data of your own. The same command "
    "again resumes a study that was stopped."
)


def run(argv: Sequence[str], prog: str) -> int:
    """Run what is not finished, and report; return 1 if a run failed, 128 + n after signal n."""
    # By hand: argparse would take the value of a run's setting for the study.
    file, words = (argv[0], argv[1:]) if argv and not argv[0].startswith("-") else (None, argv)
    own, rest = _parser(prog).parse_known_args(words)
    study = _study(file, own, rest, prog)
    folder = Path(own.output_dir or Path("runs") / "studies" / study.name)
    own_data.check(study)
    runs = _Runs(own, folder, published_command([*prog.split(), *argv, *plugins.flags()]))
    if own.plan:
        runs.plan(study)
        return 0
    make_folder(folder, "--output_dir")
    if (folder / NAME).exists() and not (folder / read_results.STUDY_NAME).exists():
        raise UserError(f"--output_dir {printable(folder)}: its {NAME} is not a study's; give another folder")
    _check_name(study, folder)
    try:
        with runs.launcher(study):
            if study.rates:
                study = runs.choose_rates(study)
            state = runs.run(study.with_held_out_tasks(folder / "tasks"), folder)
    except Stopped as stop:
        runs.console.print(f"stopped: {stop.progress}; the same command resumes from here", markup=False)
        return 128 + stop.signum
    except UnchosenRates as waiting:
        print(waiting)
        return 0
    results = read_results.read_results(folder, allow_mixed=own.allow_mixed)
    groups = compare(results)
    write.show(results, groups)
    for written in write.write(results, groups, folder, [*write.FORMATS, "json"]):
        print(f"wrote {printable(written)}")
    return 1 if state.failed else 0


def _check_name(study: Study, folder: Path) -> None:
    """Refuse the folder of a study of another name: its plan and results would be replaced."""
    if not (folder / read_results.STUDY_NAME).exists():
        return
    name = read_results.planned_name(folder)
    if name not in (None, study.name):
        raise UserError(
            f"--output_dir {printable(folder)}: holds the study {printable(name)}, not "
            f"{printable(study.name)}; give another folder"
        )


def _parser(prog: str) -> FlagParser:
    parser = FlagParser(prog=prog, usage="%(prog)s [STUDY] [flags]", description=SUMMARY)
    add = parser.add_argument
    add("--tasks", nargs="+", metavar="TASK", help="tasks, or NAME=FILE.yaml")
    add("--models", nargs="+", metavar="MODEL", help="backbones, or NAME=FOLDER")
    heads = f"presets (default: {' '.join(DEFAULT_HEADS)}), or some of the file's heads"
    add("--heads", nargs="+", metavar="HEAD", help=heads)
    add("--settings", nargs="+", metavar="NAME", help="some of the file's settings")
    add("--seeds", nargs="+", metavar="N", help="how many (10), a span (100-109), or several")
    add(
        "--rates",
        nargs="+",
        metavar="NAME=A,B,C",
        help="learning rates among which every arm chooses its own, on held-out training data",
    )
    add("--rate_seeds", nargs="+", metavar="N", help="the seeds of that choice (default: 1000 1001)")
    add("--baseline", metavar="HEAD", help="what to compare with (default: stock)")
    add("--allow_unequal_budget", action="store_true", help="let arms differ in what they spend")
    add("--held_out", action="store_true", help="score on held-out training data, to choose settings")
    add("--output_dir", metavar="DIR", help="the study's folder (default: runs/studies/NAME)")
    add(
        "--jobs",
        type=int,
        metavar="N",
        help="runs at once (default: what fits a GPU and pays, or one per core)",
    )
    add("--threads", type=int, metavar="N", help="threads per run without a GPU (default: 1)")
    add("--shard", metavar="K/N", default="1/1", help="run only part K of N of the grid, for job arrays")
    add("--launcher", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    add("--ray_address", metavar="ADDRESS", default="auto", help="the cluster (default: this machine's)")
    add("--keep_models", action="store_true", help="keep the weights of the finished runs")
    add("--allow_mixed", action="store_true", help="report runs on different data too, marked")
    add("--plan", action="store_true", help="print the commands of the runs without running them")
    return parser


class _Runs:
    """Runs the cells of the study and of the search for its rates, as the command's flags say."""

    def __init__(self, own: Any, folder: Path, command: str):
        self.own = own
        self.folder = folder
        self.command = command
        self.shard = parse_shard(own.shard)
        self.console = Console(highlight=False)
        self.places: list[dict[str, str]] = []
        self.start: Start

    def plan(self, study: Study) -> None:
        """Print the command of every run that is known so far."""
        if study.rates:
            search, meanings = rates.search_study(study)
            self._print(search.with_held_out_tasks(self.folder / rates.FOLDER / "tasks"), rates.FOLDER)
            try:
                study = rates.with_chosen(study, self.folder, search, meanings)
            except UnchosenRates as waiting:
                print(f"# {waiting}")
                return
        self._print(study.with_held_out_tasks(self.folder / "tasks"), "")

    def _print(self, study: Study, folder: str) -> None:
        runs = self.folder / folder / "runs"
        for cell in self._cells(study, runs)[1]:
            print(shown_command(cell.command(runs / cell.folder)))

    @contextlib.contextmanager
    def launcher(self, study: Study) -> Iterator[None]:
        """Make room for the runs, and what starts one: workers of this machine, or a Ray cluster."""
        own = self.own
        if own.launcher == "ray":
            from sot_nlp.studies.ray_launcher import RayLauncher

            launcher = RayLauncher(own.ray_address, own.threads or 1)
            self.places, self.start = launcher.slots(own.jobs), launcher.start
            yield
            return
        cpu, models = bool(study.arguments.get("cpu")), list(study.models.values())
        self.places, lines = room(own.jobs, own.threads, cpu=cpu, models=models)
        for line in lines:
            self.console.print(line, markup=False)
        with WorkerPool() as pool:
            self.start = pool.start
            yield

    def choose_rates(self, study: Study) -> Study:
        """Run the search that is not finished; return the study with what every arm chose."""
        search, meanings = rates.search_study(study)
        folder = self.folder / rates.FOLDER
        self.run(search.with_held_out_tasks(folder / "tasks"), folder)
        chosen = rates.with_chosen(study, self.folder, search, meanings)
        for choice in chosen.chosen:
            self.console.print(
                f"{choice.title}: {shown_rates(choice.rates) or 'no rate to choose'}", markup=False
            )
        return chosen

    def _cells(self, study: Study, runs: Path) -> tuple[list[StudyCell], list[StudyCell]]:
        """Return all cells, and those of this part of the grid."""
        planned = study.cells(runs)
        cells = self.shard.of(planned)
        if not cells:
            raise UserError(f"--shard {self.own.shard}: the study has only {len(planned)} runs")
        return planned, cells

    def run(self, study: Study, folder: Path) -> State:
        """Run the cells that are not finished, into `folder`. Raises `Stopped` after a signal."""
        planned, cells = self._cells(study, folder / "runs")
        console = self.console
        display = LiveTable(console, study, folder) if console.is_terminal else Lines(console, len(cells))
        growth, places = None, self.places
        if (
            self.own.launcher == "local"
            and self.own.jobs is None
            and "CUDA_VISIBLE_DEVICES" in self.places[0]
        ):
            growth = Growth(self.places, list(study.models.values()))
            places = growth.slots
        runner = StudyRunner(
            cells,
            folder,
            display=display,
            slots=places,
            start=self.start,
            keep_models=self.own.keep_models,
            shard=self.shard,
            growth=growth,
        )
        # Under the lock: the plan of the study that runs there must not become another's.
        with study_lock(folder, self.shard):
            with writing(folder, "--output_dir"):
                study.write_plan(folder, planned, self.command)
            with display:
                return runner.run()


def _study(file: str | None, own: Any, rest: Sequence[str], prog: str) -> Study:
    """Return the study of the file and the flags, checked but for its cells."""
    flags, config = parse_flags(rest, prog, SUMMARY)
    if config:
        raise UserError("--config: a study has its settings in its own YAML file, under `arguments`")
    check_counts(own, "jobs", "threads")
    default_heads = {head: {"head": head} for head in DEFAULT_HEADS}
    study = read_study(Path(file)) if file else Study(name="study", tasks={}, models={}, heads=default_heads)
    changes: dict[str, Any] = {}
    if own.rates:
        changes["rates"] = parse_rate_words(own.rates)
    # A grid of the command line replaces the rates of the file, as a flag does.
    in_file = {name: v for name, v in study.arguments.items() if name not in changes.get("rates", ())}
    given = overridden(in_file, flat_settings(flags))
    launched = launcher_settings()
    for line in describe({name: value for name, value in launched.items() if name not in given}):
        print(line, file=sys.stderr)
    changes["arguments"] = overridden(launched, given)
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
    if own.rate_seeds:
        changes["rate_seeds"] = parse_seeds(own.rate_seeds)
    if own.baseline:
        changes["baseline"] = own.baseline
    for name in ("allow_unequal_budget", "held_out"):
        if getattr(own, name):
            changes[name] = True
    study = finished(dataclasses.replace(study, **changes))
    if file is None and None in study.tasks.values():
        return dataclasses.replace(study, name=next(iter(study.tasks)))
    return study
