"""`sot-nlp probe`: train heads of several kinds on a frozen backbone's features, many seeds at once."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.files import write_json, writing
from sot_nlp.settings import plugins
from sot_nlp.settings.arguments import TRAITS, Arguments, build_arguments
from sot_nlp.settings.command_line import config_words, parse_flags, read_config
from sot_nlp.settings.flag_parser import FlagParser, check_counts
from sot_nlp.settings.launcher import SOURCE, describe, launcher_settings
from sot_nlp.studies.comparison import compare
from sot_nlp.studies.probe.probe import ARMS, PLAN
from sot_nlp.studies.study import published_command
from sot_nlp.training.run_lock import run_lock

if TYPE_CHECKING:
    from sot_nlp.studies.probe.probe import Probe

SUMMARY = (
    "Train heads on a frozen backbone's token features, many seeds at once, and compare them: which tokens, "
    "and which pooling, hold what the task needs."
)
DEFAULT_ARMS = ("class_token", "mean", "class_and_mean", "vision_words", "text_words", "text")
DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_train_epochs": 5,
    "per_device_train_batch_size": 32,
}
# The settings of a run that mean something here; another one that is given is refused.
USED = [name for name, traits in TRAITS.items() if traits.probe]


def run(argv: Sequence[str], prog: str) -> int:
    """Probe, show the comparison and write it."""
    own, rest = _parser(prog).parse_known_args(argv)
    if own.help:
        _parser(prog).print_help()
        print(f"\nsettings of a run that apply:\n  {', '.join('--' + name for name in USED)}")
        return 0
    arguments, config = _arguments(rest, prog)
    _check_own(own)
    with config_words(config, arguments.given_by(config)):
        _probe(own, arguments, published_command([*prog.split(), *argv, *plugins.flags()]))
    return 0


def _check_own(own: Any) -> None:
    for arm in own.arms:
        if arm not in ARMS:
            raise UserError(f"--arms {printable(arm)}: {did_you_mean(arm, ARMS)}")
    check_counts(own, "seeds", "jobs")
    if own.save is not None and own.save not in own.arms:
        raise UserError(f"--save {printable(own.save)}: not among --arms {', '.join(own.arms)}")
    for rate in own.learning_rates or ():
        if not 0 < rate < 1e3:
            raise UserError(f"--learning_rates {rate}: must be above 0")


def _probe(own: Any, arguments: Arguments, command: str) -> None:
    from sot_nlp.studies.probe.probe import Probe
    from sot_nlp.studies.report import write
    from sot_nlp.studies.slots import fitting_jobs
    from sot_nlp.training.speed.threads import usable_cores

    if arguments.num_train_epochs != int(arguments.num_train_epochs):
        raise UserError(f"--num_train_epochs {arguments.num_train_epochs}: a probe needs a whole number")
    jobs, said = fitting_jobs(own.jobs or usable_cores())
    if said:
        print(said)
    probe = Probe(arguments, tuple(dict.fromkeys(own.arms)), own.seeds, own.learning_rates, jobs)
    folder = Path(arguments.output_dir or Path("runs") / f"probe-{probe.spec.name}-{probe.model_label}")
    plan = _plan(probe)
    with run_lock(folder, what="another probe"):
        _check_folder(folder, plan)
        results = dataclasses.replace(probe.run(), command=command)
        groups = compare(results)
        write.show(results, groups)
        for line in probe.timing():
            print(line)
        with writing(folder, "--output_dir"):
            write_json(folder / PLAN, plan)
        for file in write.write(results, groups, folder, ["json", "markdown", "csv", "html"]):
            print(f"wrote {printable(file)}")
        if own.save is not None:
            with writing(folder / "model"):
                print(f"wrote {printable(probe.save(own.save, folder / 'model'))}")


def _plan(probe: Probe) -> dict[str, Any]:
    """Return what a probe's results depend on, as JSON has it."""
    settings = {
        name: value
        for name, value in probe.arguments.to_dict().items()
        if name in USED and TRAITS[name].kind == "result"
    }
    own = {"arms": probe.arms, "seeds": probe.seeds, "learning_rates": probe.rates}
    plan: dict[str, Any] = json.loads(json.dumps({**settings, **own}))
    return plan


def _check_folder(folder: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a folder that holds something else than the results of this very probe."""
    if not any(not path.name.startswith(".") for path in folder.iterdir()):
        return
    try:
        before = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        differing = [name for name, value in plan.items() if before.get(name) != value]
    except (OSError, ValueError, AttributeError):
        raise UserError(
            f"--output_dir {printable(folder)}: is not empty and holds no {PLAN}; give another folder"
        ) from None
    if differing:
        raise UserError(
            f"--output_dir {printable(folder)}: holds the results of a probe with other settings "
            f"({', '.join(differing)}); give another folder"
        )


def _parser(prog: str) -> FlagParser:
    parser = FlagParser(prog=prog, description=SUMMARY, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this message and exit")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=list(DEFAULT_ARMS),
        metavar="ARM",
        help=f"of {', '.join(ARMS)}; the first is the baseline (default: {' '.join(DEFAULT_ARMS)})",
    )
    parser.add_argument(
        "--seeds", type=int, default=20, metavar="N", help="seeds per arm, from --seed on (default: 20)"
    )
    parser.add_argument(
        "--learning_rates",
        nargs="+",
        type=float,
        metavar="X",
        help="learning rates to choose from, per arm, on a held-out tenth of the training data",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes (default: one per core; a GPU needs only one)"
    )
    parser.add_argument(
        "--save", metavar="ARM", help="save backbone and this arm's first head as a model in output_dir/model"
    )
    return parser


def _arguments(words: Sequence[str], prog: str) -> tuple[Arguments, str | None]:
    """Return the settings of a run that apply: the task's backbone and lengths, our defaults, flags.

    Beside them is the path of `--config`, if there is one.
    """
    flags, config = parse_flags(words, prog, SUMMARY)
    in_file = read_config(config) if config else {}
    for source, given in (("flag", flags), (config or "", in_file)):
        unused = [name for name in given if name not in USED]
        if unused:
            where = f"--{unused[0]}" if source == "flag" else f"{printable(source)}: {unused[0]}"
            raise UserError(f"{where}: does not apply to a probe; see {prog} --help for what does")
    layers: list[tuple[str, dict[str, Any]]] = []
    task = flags.get("task", in_file.get("task"))
    if task is not None:
        from sot_nlp.tasks.spec import load_task

        with config_words(config, in_file.keys() - flags.keys()):
            recipe = load_task(str(task)).recipe
        layers.append(
            ("recipe", {k: v for k, v in recipe.items() if k in ("model_name_or_path", "max_length")})
        )
    elif "train_file" not in {**in_file, **flags} and "dataset_name" not in {**in_file, **flags}:
        raise UserError(
            "nothing to probe on: give --task (see `sot-nlp tasks`), --train_file or --dataset_name"
        )
    launched = launcher_settings()
    if other := {name: value for name, value in launched.items() if name not in USED and value != "no"}:
        print(f"{describe(other)[0]}: not for a probe, whose passes are in fp32", file=sys.stderr)
    layers.append((SOURCE, {name: value for name, value in launched.items() if name in USED}))
    layers += [("default", DEFAULTS), (config or "file", in_file), ("flag", {**flags, "head": "stock"})]
    return build_arguments(layers), config
