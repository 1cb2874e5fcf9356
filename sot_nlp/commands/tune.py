"""`sot-nlp tune`: search settings for every arm with the same number of trials, on held-out training data."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable
from sot_nlp.files import make_folder
from sot_nlp.settings import plugins
from sot_nlp.settings.arguments import TRAITS
from sot_nlp.settings.command_line import parse_flags
from sot_nlp.settings.flag_parser import FlagParser, check_counts
from sot_nlp.settings.launcher import describe, launcher_settings
from sot_nlp.studies import own_data
from sot_nlp.studies.report.cells import shown
from sot_nlp.studies.search_space import SPACE, parse_space
from sot_nlp.studies.slots import room
from sot_nlp.studies.study import DEFAULT_HEADS, NO_VALIDATION, Study, finished, flat_settings
from sot_nlp.studies.study_file import parse_names, parse_seeds
from sot_nlp.studies.tune import Tuner

SUMMARY = (
    "Search settings for several heads, with the same number of trials for each, on held-out training data. "
    "Any setting of `sot-nlp train` may be given and is then fixed. Writes tuned.yaml, a study of the "
    "best settings for `sot-nlp compare`. The same command again resumes; machines may share --storage."
)


def run(argv: Sequence[str], prog: str) -> int:
    """Search, and write the best settings; return 1 if no trial finished, 128 + n after signal n."""
    own, rest = _parser(prog).parse_known_args(argv)
    check_counts(own, "trials", "jobs", "threads")
    space = parse_space(own.search or SPACE)
    study = _study(own, rest, prog, {parameter.name for parameter in space})
    own_data.check(study)
    real, shared = study, study.tasks_without_validation()
    folder = Path(own.output_dir or Path("runs") / "tune" / study.name)
    make_folder(folder, "--output_dir")
    study = study.with_held_out_tasks(folder / "tasks")
    study.cells()
    cpu = bool(study.arguments.get("cpu"))
    places, lines = room(own.jobs, own.threads, cpu=cpu, models=list(study.models.values()))
    for line in lines:
        print(line)
    tuner = Tuner(
        study,
        folder,
        space=space,
        trials=own.trials,
        storage=own.storage,
        slots=places,
        prune=not own.no_pruning,
    )
    tuner.run()
    best = tuner.best()
    for arm, (score, settings) in best.items():
        chosen = ", ".join(
            f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in settings.items()
        )
        what = f"with {chosen}" if chosen else "(nothing is searched for it)"
        print(f"{printable(arm)}: {shown(score, tuner.metric.times)} {what}")
    for failure in tuner.failures:
        print(f"failed: {failure}")
    if tuner.signum:
        print("stopped; the same command resumes from here")
        return 128 + tuner.signum
    if not best:
        return 1
    if shared:
        print(f"note: {printable(shared[0])}: {NO_VALIDATION}; what was chosen has seen parts of that")
    path = tuner.write(real)
    again = shlex.join(["sot-nlp", "compare", str(path), *plugins.flags()])
    print(f"wrote {printable(path)}; on fresh seeds: {printable(again, 1000)}")
    return 0


def _parser(prog: str) -> FlagParser:
    parser = FlagParser(prog=prog, description=SUMMARY)
    add = parser.add_argument
    add("--task", metavar="TASK", help="the task: a name, or its YAML file; or give --train_file")
    heads = f"presets (default: {' '.join(DEFAULT_HEADS)})"
    add("--heads", nargs="+", default=DEFAULT_HEADS, metavar="HEAD", help=heads)
    add("--trials", type=int, default=30, metavar="N", help="trials per arm (default: 30)")
    add(
        "--search",
        nargs="+",
        metavar="NAME=SPACE",
        help=f"NAME=LOW:HIGH, NAME=LOW:HIGH:log or NAME=A,B,C (default: {' '.join(SPACE)})",
    )
    add("--seeds", nargs="+", default=["1"], metavar="N", help="a trial's score is their mean (default: 1)")
    add("--storage", metavar="URL", help="a database that machines may share (default: a file)")
    add("--no_pruning", action="store_true", help="let every trial run to its end")
    add("--output_dir", metavar="DIR", help="default: runs/tune/TASK-MODEL")
    add("--jobs", type=int, metavar="N", help="runs at once (default: one per GPU, or one per core)")
    add("--threads", type=int, metavar="N", help="threads per run without a GPU (default: 1)")
    return parser


def _study(own: Any, rest: Sequence[str], prog: str, searched: set[str]) -> Study:
    flags, config = parse_flags(rest, prog, SUMMARY)
    if config:
        raise UserError("--config: pass the fixed settings as flags")
    for name in flags:
        if TRAITS[name].grid in ("--heads", "--seeds"):
            raise UserError(f"--{name} is set by the search; use --heads and --seeds")
    model = flags.pop("model_name_or_path", None)
    if model is None:
        raise UserError("--model_name_or_path: required")
    given = flat_settings(flags)
    launched = {name: v for name, v in launcher_settings().items() if name not in searched | given.keys()}
    for line in describe(launched):
        print(line, file=sys.stderr)
    fixed = {**launched, **given}
    if own.task is None and not own_data.DATA_SETTINGS & fixed.keys():
        raise UserError("give --task, or your own data with --train_file")
    for name in sorted(searched):
        for same in (name, TRAITS[name].rival if name in TRAITS else None):
            if same in fixed:
                raise UserError(f"--{same}: both fixed and searched (--search {name}); keep one of them")
    study = Study(
        name="",
        tasks=dict(parse_names([own.task] if own.task else [])),
        models=parse_names([model]),
        heads={head: {"head": head} for head in own.heads},
        seeds=parse_seeds(own.seeds),
        arguments=fixed,
        held_out=True,
    )
    study = finished(study)
    return dataclasses.replace(study, name="-".join([*study.tasks, *study.models]), settings={"": {}})
