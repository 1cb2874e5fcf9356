"""`sot-nlp <command>`: the commands, and how their errors are reported.

A command imports what it needs when it runs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.files import NO_ROOM
from sot_nlp.settings.plugins import import_plugins
from sot_nlp.training.signals import Interrupted, LostProcessError
from sot_nlp.training.speed import threads

USER_MISTAKE = 2
LOST_PROCESS = 1


# Each is a file in sot_nlp/commands, imported when it is called.
COMMANDS = {
    "train": "fine-tune, evaluate and save a classifier",
    "evaluate": "score a saved model on a task's splits",
    "predict": "label the texts of a file or of standard input",
    "compare": "run a study over heads and seeds, and report it with its statistics",
    "report": "compare runs from their records alone",
    "tune": "search each head's settings with the same budget",
    "probe": "train heads on a frozen backbone's features, many seeds at once",
    "explain": "show which words drive a saved model's decision",
    "serve": "serve a page to try a saved model, or write it as a Hugging Face Space",
    "export": "write a saved model as ONNX, checked against torch",
    "push": "push a run's model and its card to the Hugging Face Hub",
    "submission": "gather test predictions into the zip that GLUE's server accepts",
    "tasks": "list the tasks that come with the package",
}
# What computes and does so in one process; train and evaluate run in several.
ALONE = ("predict", "compare", "tune", "probe", "explain", "serve", "export")
# They say what they are called now.
FORMER_COMMANDS = ("demo",)


def usage(prog: str) -> str:
    """Return the text of `sot-nlp --help`."""
    lines = [f"  {name:12} {summary}" for name, summary in COMMANDS.items()]
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
    """Run one command; returns the exit code: 0, 2 for a mistake, 128 + signal.

    Where another process of a run is lost, this one ends here, with the code 1.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            print(usage(prog))
            return 0 if words else USER_MISTAKE
        if words[0] in ("-V", "--version"):
            from sot_nlp import __version__

            print(f"sot-nlp {__version__}")
            return 0
        if words[0] not in (*COMMANDS, *FORMER_COMMANDS):
            raise UserError(f"unknown command {printable(words[0])!r}: {did_you_mean(words[0], COMMANDS)}")
        if words[0] in ALONE and "RANK" in os.environ and (count := os.environ.get("WORLD_SIZE", "1")) != "1":
            raise UserError(
                f"`{prog} {words[0]}` runs in one process, but was started in {printable(count)}: start it "
                "without the launcher, or with one process"
            )
        for line in threads.check_environment():
            _say(f"{prog}: {line}")
        words = import_plugins(words)
        name = prog if prog != "sot-nlp" else f"{prog} {words[0]}"
        command = importlib.import_module(f"sot_nlp.commands.{words[0]}")
        code = int(command.run(words[1:], name))
        sys.stdout.flush()  # here, where it may fail with one line
        return code
    except UserError as error:
        return _report(str(error), prog)
    except Interrupted as stop:
        if os.environ.get("RANK", "0") == "0":
            print(f"{prog}: {stop}", file=sys.stderr)
        return stop.exit_code
    except LostProcessError as error:
        if error.first:
            print(f"{prog}: error: {error}", file=sys.stderr)
        # The launcher waits, and Python's own end takes seconds where torch is loaded and cores are few.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LOST_PROCESS)
    except BrokenPipeError:
        # Whoever read our output has gone: nothing is left to say, and Python's own flush would fail again.
        _drop_output()
        return 128 + 13
    except OSError as error:
        if error.errno in NO_ROOM and error.filename is None:
            _drop_output()
            return _report(f"standard output: {error.strerror}", prog)
        if error.errno != errno.ENAMETOOLONG:
            raise
        return _report(f"{printable(error.filename)}: {error.strerror}", prog)
    except KeyboardInterrupt:
        return 128 + 2


def _drop_output() -> None:
    """Let Python's own flush at the end succeed, where what is printed can't be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report(message: str, prog: str) -> int:
    _say(f"{prog}: error: {message}")
    return USER_MISTAKE


def _say(line: str) -> None:
    """Print a line to standard error once per machine, whatever the number of processes."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(line, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
