"""The settings and data that a checkpoint must match before a run may resume from it."""

from __future__ import annotations

import json
from typing import Any

from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import TRAITS

# Some may differ because what they come to is compared itself: batch size and accumulation (the examples per
# update), the precision that "auto" chose, and what the data files hold.
MAY_CHANGE = {name for name, traits in TRAITS.items() if traits.on_resume == "free"} | {"processes"}
IGNORED = {name for name, traits in TRAITS.items() if traits.on_resume == "unseen"}
MISSING = "(not given)"


def changes(saved: dict[str, Any], current: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the allowed differences, `{name: [there, here]}`. Raises UserError naming each refused one."""
    there, here = _flat(saved), _flat(current)
    differing = {
        name: [there.get(name, MISSING), here.get(name, MISSING)]
        for name in sorted(there.keys() | here.keys())
        # A checkpoint may be older than a setting that is not given here either.
        if there.get(name) != here.get(name) and IGNORED.isdisjoint(name.split("."))
    }
    refused = {name: pair for name, pair in differing.items() if MAY_CHANGE.isdisjoint(name.split("."))}
    if refused:
        named = "; ".join(
            f"{printable(name)} {_show(a)} there, {_show(b)} here" for name, (a, b) in refused.items()
        )
        raise UserError(
            f"the checkpoint was made with other settings: {named}; use the same ones to resume, or another "
            "--output_dir (or --overwrite_output_dir) to start from scratch"
        )
    return differing


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            # Through JSON as the checkpoint went, so that a tuple equals the list that it became.
            flat[f"{prefix}{key}"] = json.loads(json.dumps(value))
    return flat


def _show(value: Any) -> str:
    return printable(value if isinstance(value, str) else json.dumps(value), limit=60)
