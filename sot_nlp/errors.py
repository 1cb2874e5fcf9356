"""The error for users, and text made fit for a terminal."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar

# How what is said to the user is worded, where that is not the command line's way.
REWORD: ContextVar[Callable[[str], str] | None] = ContextVar("REWORD", default=None)


class UserError(ValueError):
    """A mistake in what the user gave: one line that says what is wrong, where, and what would be right.

    The command line prints it on standard error without a traceback and exits with code 2.
    """


def printable(text: object, limit: int = 200) -> str:
    """Return `text` as one line of at most `limit` characters without raw control or bidi characters.

    Names and cells come from files; a terminal would obey the escape sequences in them.
    """
    characters = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    line = "".join(characters)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def worded(line: str) -> str:
    """Return a line for the user in the words of the interface in use: flags, or Python's arguments."""
    reword = REWORD.get()
    return line if reword is None else reword(line)


@contextlib.contextmanager
def rewording(reword: Callable[[str], str]) -> Iterator[None]:
    """Reword the UserErrors raised in the block, and the lines that pass `worded`."""
    token = REWORD.set(reword)
    try:
        yield
    except UserError as error:
        raise UserError(reword(str(error))) from error.__cause__
    finally:
        REWORD.reset(token)


def counted(count: int, one: str, many: str) -> str:
    """Return `count` with the word for one or for many of it."""
    return f"{count} {one if count == 1 else many}"


def decimal(value: float, digits: int, *, signed: bool = False) -> str:
    """Return `value` with `digits` decimals, `signed` also where it is above zero; 0.00 never has a sign."""
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    return text if float(text) else text.lstrip("+-")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a sentence that names the most similar of `known`, or all of them where none is similar."""
    known = list(known)
    # (one letter of two is half of the name; of a long name, half is another word)
    cutoff = 0.5 if len(name) < 4 else 0.6
    near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
