"""Allow one runner per folder of a study, or several that share its grid by `--shard K/N`."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sot_nlp.errors import UserError, printable
from sot_nlp.training.run_lock import NAME, OWNER, is_held, owner, run_lock

_T = TypeVar("_T")


@dataclass(frozen=True)
class Shard:
    """Part `number` (from 1) of `count` of a grid."""

    number: int
    count: int

    def of(self, cells: Sequence[_T]) -> list[_T]:
        """Return this part: every `count`-th of `cells`, so that each part has early seeds and late ones."""
        return list(cells[self.number - 1 :: self.count])

    @property
    def lock(self) -> str:
        """The name of this part's lock file."""
        return f"{NAME}-{self.number}-of-{self.count}"


WHOLE = Shard(1, 1)


def parse_shard(text: str) -> Shard:
    """Return the shard of `--shard K/N`. UserError for anything but whole numbers with 1 <= K <= N."""
    parts = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text, re.ASCII)
    if parts is None or not 1 <= int(parts[1]) <= int(parts[2]):
        raise UserError(
            f"--shard {printable(text)}: expected K/N, the part's number from 1 and the number of parts: "
            "1/4, 2/4, 3/4, 4/4"
        )
    return Shard(int(parts[1]), int(parts[2]))


@contextlib.contextmanager
def study_lock(folder: Path, shard: Shard) -> Iterator[None]:
    """Hold `folder` for the cells of `shard`.

    Raises UserError where another program runs the same part, or parts of another split, whose cells overlap.
    """
    with run_lock(folder, name=shard.lock, what="another study"):
        for path in sorted(folder.glob(f"{NAME}-*-of-*")):
            count = path.name.removesuffix(OWNER).rpartition("-")[2]
            if path.name.endswith(OWNER) or count == str(shard.count):
                continue
            if is_held(folder, path.name):
                number = path.name.removeprefix(f"{NAME}-").partition("-")[0]
                other = f"with --shard {number}/{count}" if count != "1" else "without --shard"
                raise UserError(
                    f"--output_dir {printable(folder)}: another study is running in it {other} "
                    f"({owner(folder, path.name)}); all programs that share a folder need the same N"
                )
        yield
