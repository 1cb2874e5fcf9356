"""`sot-nlp demo FOLDER`: the former name of `sot-nlp serve FOLDER`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from sot_nlp.errors import UserError


def run(argv: Sequence[str], prog: str) -> int:
    """Say what the command is called now."""
    raise UserError(f"`{prog}` is `{shlex.join(['sot-nlp', 'serve', *argv])}` now")
