"""Check a head's settings: each alone, the parts against each other, and the parts against the settings."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .parts import CLASS_TOKENS, FUSIONS, HEADS, NORMALIZATIONS, POOLINGS, REGISTRY

# The values of the other settings of words; those of the parts are the parts' names.
_CHOICES: dict[str, tuple[str, ...]] = {
    "map_norm": ("batch_norm", "layer_norm", "none"),
    "map_activation": ("relu", "none"),
    "centering": ("channel", "scalar", "none"),
    "start_side": ("x", "y"),
    "token_norm": ("none", "layer_norm", "auto"),
    "word_output_init": ("normal", "zero"),
}
# Inclusive; the upper ends only stop a slip of the finger from asking for more memory than there is.
INTEGER_RANGES: dict[str, tuple[int, int]] = {
    "num_heads": (1, 256),
    "width_x": (1, 1024),
    "width_y": (1, 1024),
    "num_singular_values": (1, 1024),
    "num_iterations": (1, 100),
    "num_newton_schulz_iterations": (1, 100),
    "num_layers": (1, 1024),
    "mean_width": (0, 4096),
}
# Of these a user may have registered others.
OWN_KINDS = ("pooling", "normalization", "fusion")
OWN_HINT = (
    "a part of your own: import its file first (--plugin FILE.py), or trust the code that is saved with the "
    "model (--trust_remote_code, trust_remote_code=True)"
)


class HeadSettingsError(ValueError):
    """A head's settings don't hold, or not for this backbone; `reason` says which and what would be right."""

    @property
    def reason(self) -> str:
        """The message without the words that it is about the head; fields stand in it as `name=value`."""
        return str(self.args[0])

    def names(self, field: str) -> bool:
        """Return whether the message is about this field, or says that there is none of this name."""
        return f"{field}=" in self.reason or f"no field {shown(field)}" in self.reason

    def __str__(self) -> str:
        return f"head settings: {self.reason}"


def choices() -> dict[str, tuple[str, ...]]:
    """Return the values of every setting that has named ones, registered parts of your own among them."""
    return {kind: tuple(REGISTRY[kind]) for kind in (*OWN_KINDS, "class_token")} | _CHOICES


def problems(config: Any) -> list[str]:
    """Return what is wrong with a `SoTHeadConfig`, a line per problem."""
    return [*_bad_values(config), *_bad_combinations(config)] or list(_parts_problems(config))


def _bad_values(config: Any) -> Iterator[str]:
    for name, valid in choices().items():
        value = getattr(config, name)
        if value not in valid:
            own = f"; {OWN_HINT}" if name in OWN_KINDS else ""
            yield f"{name}={shown(value)} is not one of {', '.join(valid)}{own}"
    for name, (low, high) in INTEGER_RANGES.items():
        value = getattr(config, name)
        if not _is_integer(value) or not low <= value <= high:
            yield f"{name}={shown(value)} is not an integer from {low} to {high}"
    if not _is_number(config.alpha) or not 0 < config.alpha < 1:
        yield f"alpha={shown(config.alpha)} is not a number above 0 and below 1"
    if not _is_number(config.mean_alpha) or not 0 < config.mean_alpha <= 1:
        yield f"mean_alpha={shown(config.mean_alpha)} is not a number above 0 and at most 1"
    if not _is_number(config.dropout) or not 0 <= config.dropout < 1:
        yield f"dropout={shown(config.dropout)} is not a number from 0 to below 1"
    if not isinstance(config.include_separators, bool):
        yield f"include_separators={shown(config.include_separators)} is not true or false"
    if config.module and config.module not in HEADS:
        yield f"module={shown(config.module)} is not registered; {OWN_HINT}"
    if not isinstance(config.part_settings, Mapping):
        yield f"part_settings={shown(config.part_settings)} is not a mapping"


def _bad_combinations(config: Any) -> Iterator[str]:
    """Yield what the parts have against each other; of values that are none, nothing."""
    pooling, normalization = _part(POOLINGS, config.pooling), _part(NORMALIZATIONS, config.normalization)
    fusion = _part(FUSIONS, config.fusion)
    if pooling and fusion and not pooling.gives and fusion.words:
        yield (
            f"fusion={shown(config.fusion)} needs word tokens, but pooling={shown(config.pooling)} has "
            "none: use fusion='class_token', or another pooling"
        )
    if pooling and fusion and pooling.gives and not fusion.words:
        yield (
            f"fusion={shown(config.fusion)} leaves the words out, but pooling={shown(config.pooling)} "
            "pools them: use pooling='none', or another fusion"
        )
    if pooling and pooling.gives and normalization and pooling.gives not in normalization.takes:
        valid = [name for name, part in NORMALIZATIONS.items() if pooling.gives in part.takes]
        yield (
            f"normalization={shown(config.normalization)} needs a {normalization.takes[0]}, but "
            f"pooling={config.pooling!r} gives a {pooling.gives}: use one of {', '.join(valid)}"
        )
    elif pooling and pooling.gives and normalization and normalization.symmetric and not pooling.symmetric:
        symmetric = [repr(name) for name, part in POOLINGS.items() if part.symmetric]
        yield (
            f"normalization={config.normalization!r} is the square root of a symmetric matrix: it needs "
            f"pooling={' or '.join(symmetric)}, not {config.pooling!r}"
        )
    token = _part(CLASS_TOKENS, config.class_token)
    mixes = (pooling and pooling.gives) or (fusion and fusion.class_token and token and token.layers)
    if not mixes and pooling and _is_integer(config.num_layers) and config.num_layers > 1:
        several = [name for name, part in CLASS_TOKENS.items() if part.layers]
        yield (
            f"num_layers={config.num_layers} mixes layers of words, but pooling={config.pooling!r} has no "
            f"words: use 1, or class_token={' or '.join(several)}"
        )
    if config.word_output_init == "zero" and fusion and not (fusion.word_linear and fusion.class_token):
        yield (
            f"word_output_init='zero' leaves the classification token's branch alone at the start, but "
            f"fusion={config.fusion!r} has no two branches: use sum or late"
        )


def _parts_problems(config: Any) -> Iterator[str]:
    """Yield what the chosen parts have against the other settings, which are all valid by themselves."""
    for part in config.parts:
        yield from part.problems(config) if part.problems else ()
    if config.module:
        return  # its constructor knows its settings
    known = [name for part in config.parts for name in part.own_settings]
    for name, value in config.part_settings.items():
        if name not in known:
            yield f"part_settings: no setting {shown(name)} ({near(str(name), known)})"
        elif not isinstance(value, (bool, int, float, str)):
            yield f"part_settings: {name}={shown(value)} is no number, text, true or false"


def shown(value: object) -> str:
    """Return a value as a message shows it: its start where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def near(name: str, known: Sequence[str]) -> str:
    """Return a hint with the known names that are like `name`; with all of them where none is."""
    alike = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(alike)}?" if alike else f"known: {', '.join(known)}"


def _part(registry: Mapping[str, Any], name: object) -> Any:
    return registry.get(name) if isinstance(name, str) else None


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
