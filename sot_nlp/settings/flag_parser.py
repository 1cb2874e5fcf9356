"""Parse flags; report mistakes as one-line user errors."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from sot_nlp.errors import UserError, printable
from sot_nlp.settings import plugins


class FlagParser(argparse.ArgumentParser):
    """argparse's parser, which raises UserError where that one prints and exits; flags are never guessed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)
        # `cli.main` has taken it; here for the help.
        text = "import a file of your own first: its metrics, its parts of the head"
        self.add_argument(plugins.FLAG, metavar="FILE.py", default=argparse.SUPPRESS, help=text)

    def error(self, message: str) -> NoReturn:
        """Raise `message` as the user's error."""
        raise UserError(f"{printable(message, limit=1000)}; see {self.prog} --help")

    def add_reading_flags(self) -> None:
        """Add what says how a file of texts is read, which the errors about such a file name."""
        self.add_argument(
            "--text_column_names", nargs="+", metavar="NAME", help="default: the training data's, or guessed"
        )
        self.add_argument(
            "--quoting",
            choices=("true", "false"),
            help='whether a " quotes a field; default: CSV yes, TSV guessed',
        )

    def add_trust_flag(self) -> None:
        """Add what allows the code that was saved with a model to run."""
        self.add_argument(
            "--trust_remote_code",
            action="store_true",
            help="run the code that is saved with the model: its tokenizer's, its own parts of the head",
        )

    def add_precision_flag(self) -> None:
        """Add the precision to compute in."""
        self.add_argument(
            "--mixed_precision",
            default="auto",
            choices=("auto", "no", "bf16", "fp16"),
            help="default: auto, as in training",
        )

    def parse_args(self, *args: Any, **options: Any) -> Any:
        """As argparse's, with `quoting` as True, False or None."""
        given = super().parse_args(*args, **options)
        if getattr(given, "quoting", None) is not None:
            given.quoting = given.quoting == "true"
        return given


def check_counts(flags: Any, *names: str) -> None:
    """Raise UserError for the first of these flags that is given and below 1."""
    for name in names:
        value = getattr(flags, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} {value}: must be at least 1")
