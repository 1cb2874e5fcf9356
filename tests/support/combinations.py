"""The poolings, normalisations and fusions of this package, and which of them go together."""

from __future__ import annotations

import itertools

from sot_nlp.modeling.head_config import resolve_head
from sot_nlp.modeling.parts import REGISTRY, is_own

KINDS = ("pooling", "normalization", "fusion")


def ours(kind: str) -> list[str]:
    return [name for name, part in REGISTRY[kind].items() if not is_own(part)]


def accepted() -> list[dict[str, str]]:
    """Every combination that a head accepts, as settings; pooling `none` once, which leaves no choice."""
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for values in itertools.product(*map(ours, KINDS)):
        settings = dict(zip(KINDS, values, strict=True))
        try:
            resolve_head("text", **settings)
        except ValueError:
            continue
        found.setdefault(("none",) if values[0] == "none" else values, settings)
    return list(found.values())
