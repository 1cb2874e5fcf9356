"""A setting's traits, declared in its field of `Arguments`; every list of settings is derived from them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# What a setting affects. Runs that differ in one of kind `result` are different arms of a study.
SETTING_KINDS = (
    "result",  # it can change weights or scores
    "place",  # where files are, and whether they are written again
    "speed",  # the device and how fast it works
    "output",  # what is written, printed or pushed
    "secret",  # kept out of every record
)
# What a run that resumes from a checkpoint may do with a setting.
ON_RESUME = (
    "same",  # it must be the checkpoint's
    "free",  # it may be another one
    "unseen",  # it says how this start begins, and is not compared
)


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What `setting` declares of a field of `Arguments`.

    Attributes:
        help: its text in `--help`.
        kind: what it is for, one of `SETTING_KINDS`.
        on_resume: what a resumed run may do with it, one of `ON_RESUME`.
        low, above, high: the smallest value, or the bound below it that is itself excluded, and the largest.
        choices: the values of a text, where it takes only these.
        rival: the other setting that says the same; a layer that gives one drops the other of those below.
        needs: the setting without which it means nothing.
        budget: whether it is part of what a run may spend, on which compared arms must agree.
        grid: the flag of `sot-nlp compare` that sets it for every run of a study, if one does.
        data: how a saved model finds its data again: "own" (of the user's own data), "any" (of any task).
        probe: whether `sot-nlp probe` takes it.
        card: whether the model card shows it.
        aliases: other names that it is known by, in transformers' scripts and elsewhere.
        spelled: flags that say it in other words: name -> {their value: ours, None where it says nothing}.
    """

    help: str
    kind: str
    on_resume: str
    low: float | None = None
    above: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    rival: str | None = None
    needs: str | None = None
    budget: bool = False
    grid: str | None = None
    data: str | None = None
    probe: bool = False
    card: bool = False
    aliases: tuple[str, ...] = ()
    spelled: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)

    def range_problem(self, value: float) -> str | None:
        """Return what is wrong with `value`, where it is out of range."""
        low = self.above if self.low is None else self.low
        high = math.inf if self.high is None else self.high
        if low is None or (low < value <= high) or value == self.low:
            return None
        least = f"at least {low:.10g}" if self.above is None else f"above {low:.10g}"
        most = "" if self.high is None else f" and at most {high:.10g}"
        return f"{value} is out of range: it must be {least}{most}"


def setting(
    default: Any, help: str, *, kind: str = "result", on_resume: str | None = None, **traits: Any
) -> Any:
    """Return a field of `Arguments` with its default, its `--help` and what else `Traits` holds of it.

    A setting that changes no result is free on resuming, another one is not, where `on_resume` is not given.
    """
    on_resume = on_resume or ("same" if kind in ("result", "secret") else "free")
    assert kind in SETTING_KINDS
    assert on_resume in ON_RESUME
    metadata: Mapping[str, Any] = {"traits": Traits(help=help, kind=kind, on_resume=on_resume, **traits)}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)
