"""The head's settings: one frozen dataclass, checked as a whole, and the named values of it.

Nothing here imports torch, so that a command line can list, check and override the settings cheaply.
Sources: Xie et al., arXiv 2104.10935 ("the paper"), and its published code for text and for vision.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MATRIX_POOLINGS = ("cross_covariance", "covariance")
VECTOR_POOLINGS = ("mean", "max", "attention")
# What can follow a pooling that gives a vector: svPN and iSQRT-COV act on singular values and eigenvalues.
VECTOR_NORMALIZATIONS = ("power", "layer_norm", "fixed_scale", "learned_scale", "none")

CHOICES: dict[str, tuple[str, ...]] = {
    "pooling": (*MATRIX_POOLINGS, *VECTOR_POOLINGS, "none"),
    "map_norm": ("batch_norm", "layer_norm", "none"),
    "map_activation": ("relu", "none"),
    "centering": ("channel", "scalar", "none"),
    "normalization": ("svpn", "svpn_exact", "isqrt_cov", *VECTOR_NORMALIZATIONS),
    "start_side": ("x", "y"),
    "fusion": ("sum", "concat", "aggregate_all", "late", "class_token", "words"),
    "class_token": ("linear", "stock"),
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
}


@dataclass(frozen=True, kw_only=True)
class SoTHeadConfig:
    """What a SoT head is made of; any change gives a new, checked value (`replace`).

    A field that the chosen pooling has no use for is kept and ignored (the maps' fields with `mean`,
    `width_y` with `covariance`), so that an ablation is one override; a combination that would mean
    something else than it says is refused. The fields without a default make up every head; a field that
    is added later has as its default what heads did before it, so that older checkpoints load unchanged.

    Args:
        pooling: what is taken over the word tokens. `cross_covariance` (the paper's MGCrP) and `covariance`
            (of the x map alone; its upper triangle is kept) give a matrix a head; `mean`, `max` and
            `attention` (softmax over tokens against one learned query a head) give vectors of the hidden
            states themselves, without the maps; `none` leaves the classification token alone.
        num_heads: heads, each with maps of its own (published: 1 for text, 6 for vision).
        width_x: P, a head's width of the x map.
        width_y: Q, a head's width of the y map; `covariance` has no y map.
        map_norm: behind each linear map: `batch_norm` over the real word tokens (text recipe),
            `layer_norm` over a head's channels, or `none` (vision recipe).
        map_activation: behind that: `relu` (text recipe) or `none` (vision recipe).
        centering: what is taken off before the products: `channel`, each channel's mean over the words
            (text recipe, and the covariance's definition); `scalar`, one mean over words and channels for
            each example and head (vision code); `none`.
        normalization: `svpn`, singular value power normalisation by power iteration (the paper's fast
            form); `svpn_exact`, through an SVD; `isqrt_cov`, the matrix square root of a covariance by
            Newton-Schulz (arXiv 1712.01034); `power`, sign(x) |x|^alpha and then length 1; `layer_norm`;
            `fixed_scale`, 1/sqrt(d), d the width of a vector or of a matrix (of its two widths the
            geometric mean); `learned_scale`, one learned factor that starts there; `none`. Vectors accept the
            last five. A LayerNorm is over a matrix's rows, as published.
        alpha: exponent of svPN and of `power`, in (0, 1); published 0.5.
        num_singular_values: r, how many leading singular triples the fast svPN finds; published 1.
        num_iterations: power iterations for each of them; published 1.
        num_newton_schulz_iterations: steps of `isqrt_cov`; published 5.
        start_side: the map on whose width the fast svPN's learned start vectors (one a singular triple) live:
            `x` (text code) or `y` (vision code).
        fusion: how words and classification token meet: `sum` of both branches' logits (published
            default), `concat` before one linear, `aggregate_all` (the classification token is pooled with
            the words), `late` (a loss a branch, logits summed at inference), or one branch alone:
            `class_token`, `words`.
        class_token: what the classification token passes before its linear: nothing (`linear`, both
            recipes), or the transform of the backbone's own Hugging Face head (`stock`).
        dropout: probability, on the pooled features before their linear.
        num_layers: 1 pools the last layer (published); k > 1 a learned mixture of the last k.
        include_separators: whether special tokens inside the text (`[SEP]`) count as words; the published
            code pools them.

    Raises:
        ValueError: naming every field at fault, its value and the valid ones.
    """

    pooling: str
    num_heads: int
    width_x: int
    width_y: int
    map_norm: str
    map_activation: str
    centering: str
    normalization: str
    start_side: str
    fusion: str
    class_token: str
    dropout: float | int
    alpha: float | int = 0.5
    num_singular_values: int = 1
    num_iterations: int = 1
    num_newton_schulz_iterations: int = 5
    num_layers: int = 1
    include_separators: bool = True

    def __post_init__(self) -> None:
        problems = [*self._bad_values(), *self._bad_combinations()]
        if problems:
            raise ValueError("head settings: " + "; ".join(problems))

    def _bad_values(self) -> list[str]:
        problems = []
        for name, valid in CHOICES.items():
            value = getattr(self, name)
            if value not in valid:
                problems.append(f"{name}={_shown(value)} is not one of {', '.join(valid)}")
        for name, (low, high) in INTEGER_RANGES.items():
            value = getattr(self, name)
            if not _is_integer(value) or not low <= value <= high:
                problems.append(f"{name}={_shown(value)} is not an integer from {low} to {high}")
        if not _is_number(self.alpha) or not 0 < self.alpha < 1:
            problems.append(f"alpha={_shown(self.alpha)} is not a number above 0 and below 1")
        if not _is_number(self.dropout) or not 0 <= self.dropout < 1:
            problems.append(f"dropout={_shown(self.dropout)} is not a number from 0 to below 1")
        if not isinstance(self.include_separators, bool):
            problems.append(f"include_separators={_shown(self.include_separators)} is not true or false")
        return problems

    def _bad_combinations(self) -> list[str]:
        problems = []
        if self.pooling == "none" and self.fusion != "class_token":
            problems.append(
                f"fusion={_shown(self.fusion)} needs word tokens, but pooling='none' has none: "
                "use fusion='class_token', or another pooling"
            )
        if self.pooling != "none" and self.fusion == "class_token":
            problems.append(
                f"fusion='class_token' leaves the words out, but pooling={_shown(self.pooling)} pools them: "
                "use pooling='none', or another fusion"
            )
        if self.pooling in VECTOR_POOLINGS and self.normalization not in VECTOR_NORMALIZATIONS:
            problems.append(
                f"normalization={_shown(self.normalization)} needs a matrix, but pooling={self.pooling!r} "
                f"gives a vector: use one of {', '.join(VECTOR_NORMALIZATIONS)}"
            )
        if self.pooling == "cross_covariance" and self.normalization == "isqrt_cov":
            problems.append(
                "normalization='isqrt_cov' is the square root of a symmetric matrix: it needs "
                "pooling='covariance', not 'cross_covariance'"
            )
        widths = (self.width_x, self.width_y if self.pooling == "cross_covariance" else self.width_x)
        if (
            self.pooling in MATRIX_POOLINGS
            and self.normalization == "svpn"
            and all(_is_integer(value) for value in (*widths, self.num_singular_values))
            and self.num_singular_values > min(widths) >= 1
        ):
            problems.append(
                f"num_singular_values={self.num_singular_values} is more than a {widths[0]}x{widths[1]} "
                f"matrix has: use 1 to {min(widths)}"
            )
        if self.pooling == "none" and _is_integer(self.num_layers) and self.num_layers > 1:
            problems.append(
                f"num_layers={self.num_layers} mixes layers of words, but pooling='none' has no words: use 1"
            )
        return problems

    @property
    def uses_words(self) -> bool:
        """Whether the head pools anything."""
        return self.pooling != "none"

    @property
    def uses_class_token(self) -> bool:
        """Whether the classification token has a branch of its own (`aggregate_all` pools it instead)."""
        return self.fusion in ("sum", "concat", "late", "class_token")

    @property
    def has_scalar_gain(self) -> bool:
        """Whether the normalisation multiplies each head by one number: word logits are sums over tokens."""
        return self.normalization in ("none", "fixed_scale", "learned_scale") or (
            self.normalization == "svpn" and self.num_singular_values == 1
        )

    @property
    def has_exact_contributions(self) -> bool:
        """Whether each word's share of the word logits is known exactly."""
        return self.pooling not in ("none", "max") and self.has_scalar_gain

    @property
    def widths(self) -> tuple[int, int]:
        """(P, Q) of a head's matrix."""
        return (self.width_x, self.width_x if self.pooling == "covariance" else self.width_y)

    def replace(self, **overrides: Any) -> SoTHeadConfig:
        """A checked copy with some fields changed; an unknown field is refused by name."""
        _refuse_unknown(overrides)
        return dataclasses.replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal head back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SoTHeadConfig:
        """The settings that `to_dict` gave, of this version or an older one.

        Fields that came later take their defaults, which are what older heads did.

        Raises:
            ValueError: for unknown fields (with near names) and for missing ones, all at once.
        """
        _refuse_unknown(settings)
        required = [field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING]
        missing = [name for name in required if name not in settings]
        if missing:
            raise ValueError(
                f"head settings: no value for {', '.join(missing)} "
                f"(to change single fields of a preset, name it: {', '.join(PRESETS)})"
            )
        return cls(**settings)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:79] + "…"


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(SoTHeadConfig)]
    unknown = [name for name in settings if name not in known]
    if unknown:
        raise ValueError(
            "head settings: " + "; ".join(f"no field {_shown(n)} ({_near(str(n), known)})" for n in unknown)
        )


def _near(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"


_TEXT = SoTHeadConfig(
    pooling="cross_covariance",
    num_heads=1,
    width_x=96,  # CoLA's; the published sizes of the other tasks stand in their task files
    width_y=48,
    map_norm="batch_norm",
    map_activation="relu",
    centering="channel",
    normalization="svpn",
    start_side="x",
    fusion="sum",
    class_token="linear",
    dropout=0.5,
)

# The published text recipe on the words of the last four layers, mixed by learned shares (studies/README.md
# says how it was chosen).
_SOT = _TEXT.replace(num_layers=4)

DEFAULT_PRESET = "sot"

PRESETS: dict[str, SoTHeadConfig] = {
    "sot": _SOT,
    # The published text recipe, at CoLA's size.
    "text": _TEXT,
    # The published vision recipe at its smallest width but one (14, 24 and 38 by model size) and its middle
    # dropout (0, 0.5 and 0.7).
    "vision": _TEXT.replace(
        num_heads=6,
        width_x=24,
        width_y=24,
        map_norm="none",
        map_activation="none",
        centering="scalar",
        start_side="y",
    ),
    # The backbone's own Hugging Face head: the baseline.
    "stock": _TEXT.replace(pooling="none", fusion="class_token", class_token="stock"),
    # The paper's ablation: word tokens alone.
    "words": _TEXT.replace(fusion="words"),
}


# They share the sizes that a task's recipe gives.
TEXT_FAMILY = ("sot", "text", "words")


def resolve_head(head: str | Mapping[str, Any] | SoTHeadConfig | None, **overrides: Any) -> SoTHeadConfig:
    """The settings of a preset's name (None: `sot`), of a saved dict or as given, with fields overridden.

    Raises:
        ValueError: for an unknown preset (with near names), unknown fields, or settings that do not hold.
    """
    if head is None:
        head = DEFAULT_PRESET
    if isinstance(head, str):
        if head not in PRESETS:
            raise ValueError(f"head settings: no preset {_shown(head)} ({_near(head, list(PRESETS))})")
        config = PRESETS[head]
    elif isinstance(head, SoTHeadConfig):
        config = head
    elif isinstance(head, Mapping):
        config = SoTHeadConfig.from_dict(head)
    else:
        raise ValueError(
            f"head settings: {_shown(head)} is neither a preset ({', '.join(PRESETS)}) nor a dict of settings"
        )
    return config.replace(**overrides) if overrides else config
