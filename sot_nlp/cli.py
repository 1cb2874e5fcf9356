"""`sot-nlp <command>`: the commands, their flags, and how their mistakes are told.

A command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from sot_nlp.arguments import Arguments, build_arguments
from sot_nlp.command_line import parse_flags, read_config
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.interruption import Interrupted, LostProcessError

USER_MISTAKE = 2


@dataclass(frozen=True)
class Command:
    """One word after `sot-nlp`: what it does, in a line, and the function that takes the words behind it."""

    summary: str
    run: Callable[[Sequence[str], str], int]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see {self.prog} --help")


def run_arguments(argv: Sequence[str], prog: str, summary: str) -> Arguments:
    """The settings of a run from its flags, its `--config` and its task's recipe."""
    flags, config = parse_flags(argv, prog, summary)
    in_file = read_config(config) if config else {}
    task = flags.get("task", in_file.get("task"))
    layers: list[tuple[str, dict[str, object]]] = []
    if task is not None:
        from sot_nlp.task_spec import load_task

        spec = load_task(str(task))
        layers.append((f"recipe of {spec.name}", dict(spec.recipe)))
    if config:
        layers.append((config, in_file))
    return build_arguments([*layers, ("flag", flags)])


def train(argv: Sequence[str], prog: str) -> int:
    """Train, evaluate each epoch, keep the best model and write its record."""
    arguments = run_arguments(argv, prog, TRAIN_SUMMARY)
    if arguments.task is None and arguments.train_file is None and arguments.dataset_name is None:
        raise UserError(
            "nothing to train on: give --task (see `sot-nlp tasks`), --train_file or --dataset_name"
        )
    if arguments.task == "demo" and "model_name_or_path" not in arguments.sources:
        from sot_nlp.demo import run_demo

        run_demo(arguments)
    else:
        from sot_nlp.runner import run

        run(arguments)
    return 0


def evaluate(argv: Sequence[str], prog: str) -> int:
    """Score a saved model on a task's splits."""
    if any(word in ("-h", "--help") for word in argv):
        parse_flags(["--help"], f"{prog} FOLDER", COMMANDS["evaluate"].summary)
    if not argv or argv[0].startswith("-"):
        raise UserError(f"the model's folder is missing: {prog} FOLDER [--task NAME] [flags]")
    from sot_nlp.evaluate_saved import evaluate_saved

    folder, *rest = argv
    flags, config = parse_flags(rest, prog, "")
    layers: list[tuple[str, dict[str, object]]] = [("record", _settings_of(folder))]
    if config:
        layers.append((config, read_config(config)))
    evaluate_saved(build_arguments([*layers, ("flag", {**flags, "model_name_or_path": folder})]))
    return 0


def _settings_of(folder: str) -> dict[str, object]:
    """The settings of the run in `folder` that also shape how its model is evaluated."""
    from sot_nlp import records

    if not (Path(folder) / records.NAME).exists():
        return {}
    record = records.read(folder)
    saved = record.get("arguments", {})
    kept = ("data_dir", "max_length", "text_column_names", "label_column_name", "label_mapping", "cache_dir")
    return {"task": record.get("task"), **{name: saved[name] for name in kept if saved.get(name) is not None}}


def submission(argv: Sequence[str], prog: str) -> int:
    """Gather the test predictions of runs into GLUE's zip."""
    parser = _Parser(prog=prog, description=COMMANDS["submission"].summary)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help="folders of runs, or folders that hold them")
    parser.add_argument("-o", "--output", default="glue.zip", metavar="ZIP", help="default: %(default)s")
    given = parser.parse_args(argv)
    from sot_nlp.submission import write_submission

    print(write_submission(given.runs, given.output).report())
    return 0


def push(argv: Sequence[str], prog: str) -> int:
    """Push a run's model, tokenizer and model card to the Hub."""
    parser = _Parser(prog=prog, description=COMMANDS["push"].summary)
    parser.add_argument("folder", metavar="FOLDER", help="the folder of a run")
    parser.add_argument("--hub_model_id", required=True, metavar="USER/NAME", help="the repository")
    parser.add_argument("--hub_private_repo", action="store_true", help="make it private if it is new")
    parser.add_argument("--hub_token", metavar="TOKEN", help="default: the one of `hf auth login`")
    parser.add_argument("--license", metavar="ID", help="the model's licence, as the Hub names it")
    given = parser.parse_args(argv)
    from sot_nlp import hub

    url = hub.push(
        given.folder,
        repo_id=given.hub_model_id,
        private=given.hub_private_repo,
        token=given.hub_token,
        license=given.license,
    )
    print(url)
    return 0


def explain(argv: Sequence[str], prog: str) -> int:
    """Show which words drive a model's decision."""
    from sot_nlp.explain_command import main as explain_main

    return explain_main(argv, prog)


def tasks(argv: Sequence[str], prog: str) -> int:
    """List the tasks that come with the package."""
    from sot_nlp.task_spec import available_tasks, load_task

    parser = _Parser(prog=prog, description=COMMANDS["tasks"].summary)
    parser.parse_args(argv)
    for name in available_tasks():
        spec = load_task(name)
        print(f"{name:6} {spec.main_metric:22} {spec.title}")
    return 0


TRAIN_SUMMARY = (
    "Fine-tune a text classifier with the SoT head. --task NAME trains by that task's recipe; any flag "
    "overrides it. Without --task, --train_file or --dataset_name names the data."
)
COMMANDS: dict[str, Command] = {
    "train": Command("fine-tune, evaluate and save a classifier", train),
    "evaluate": Command("score a saved model on a task's splits", evaluate),
    "explain": Command("show which words drive a saved model's decision", explain),
    "submission": Command("gather test predictions into the zip that GLUE's server takes", submission),
    "push": Command("push a run's model and its card to the Hugging Face Hub", push),
    "tasks": Command("list the tasks that come with the package", tasks),
}


def usage(prog: str) -> str:
    """The text of `sot-nlp --help`."""
    lines = [f"  {name:12} {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {prog} COMMAND ...",
            "",
            "Fine-tune text classifiers with the second-order (SoT) head.",
            "",
            *lines,
            "",
            f"`{prog} COMMAND --help` shows a command's flags.",
        ]
    )


def main(argv: Sequence[str] | None = None, prog: str = "sot-nlp") -> int:
    """Run one command; returns the exit code: 0, 1 after a lost process, 2 for a mistake, 128 + signal."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage(prog))
            return 0 if words else USER_MISTAKE
        if words[0] in ("-V", "--version"):
            from sot_nlp import __version__

            print(f"sot-nlp {__version__}")
            return 0
        command = COMMANDS.get(words[0])
        if command is None:
            raise UserError(f"unknown command {printable(words[0])!r}: {did_you_mean(words[0], COMMANDS)}")
        name = prog if prog != "sot-nlp" else f"{prog} {words[0]}"
        return command.run(words[1:], name)
    except UserError as error:
        return _report(str(error), prog)
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"{prog}: {stop}", file=sys.stderr)
        return stop.exit_code
    except LostProcessError as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to say, and Python's own flush would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    except KeyboardInterrupt:
        return 128 + 2


def _report(message: str, prog: str) -> int:
    """Print a user's mistake once, whatever the number of processes."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{prog}: error: {message}", file=sys.stderr)
    return USER_MISTAKE


if __name__ == "__main__":
    sys.exit(main())
