"""A parser of flags whose mistakes are the user's error, in one line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from sot_nlp.errors import UserError, printable


class FlagParser(argparse.ArgumentParser):
    """argparse's parser, which raises UserError where that one prints and exits; flags are never guessed."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise `message` as the user's error."""
        raise UserError(f"{printable(message, limit=1000)}; see {self.prog} --help")
