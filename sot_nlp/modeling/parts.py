"""The registry of the parts of a head: poolings, normalisations, fusions, and those that users register.

A part is one entry here and one class in a sibling file. Nothing here imports torch, so that a command line
can list and check the parts quickly; `Part.load` imports the class when a head is built. Settings, help
texts, the tables in this folder's README and the tests over all combinations are made from these entries.
Sources: Xie et al., arXiv 2104.10935 ("the paper"), and its published code for text and for vision.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Problems = Callable[[Any], Iterable[str]]  # of a SoTHeadConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """An entry of the registry.

    Args:
        name: the value of the setting that chooses the part.
        source: its class, or `file.Class` for a class in a file of this folder; empty if it has none.
        doc: one line for the help and the tables.
        settings: the fields of `SoTHeadConfig` that it reads.
        own_settings: names and defaults of a registered part's own settings; `part_settings` overrides them.
        problems: returns, one line per problem, what in a config does not suit the part.
    """

    kind: ClassVar[str] = "head"

    name: str
    source: str | type
    doc: str
    settings: tuple[str, ...] = ()
    own_settings: Mapping[str, Any] = field(default_factory=dict)
    problems: Problems | None = None

    def load(self) -> Any:
        """Return the part's class."""
        if not isinstance(self.source, str):
            return self.source
        file, _, name = self.source.partition(".")
        return getattr(importlib.import_module(f".{file}", __package__), name)


@dataclass(frozen=True, kw_only=True)
class PoolingPart(Part):
    """A pooling.

    Args:
        gives: `matrix` or `vector`, one per head; empty if the words are left out.
        symmetric: whether the matrix is symmetric.
        inexact: why a word's share of the logits is not known exactly; empty if it is.
    """

    kind: ClassVar[str] = "pooling"

    gives: Literal["matrix", "vector", ""]
    symmetric: bool = False
    inexact: str = ""


@dataclass(frozen=True, kw_only=True)
class NormalizationPart(Part):
    """A normalisation.

    Args:
        takes: what it can follow: `matrix`, `vector` or both.
        symmetric: whether the matrix must be symmetric.
        factor: the factor of its result when its input is multiplied by c.
        exact: when words have exact shares of the logits, for the table.
        scalar_gain: returns whether, with a given config, it multiplies each head by one number; word logits
            are then sums over the words, and each word's share is exact.
    """

    kind: ClassVar[str] = "normalization"

    takes: tuple[str, ...] = ("matrix", "vector")
    symmetric: bool = False
    factor: str = ""
    exact: str = "no"
    scalar_gain: Callable[[Any], bool] = lambda config: False


@dataclass(frozen=True, kw_only=True)
class FusionPart(Part):
    """A fusion of the words with the classification token.

    Args:
        words: whether it has a branch for the words.
        class_token: whether it has a branch for the classification token.
        pools_class_token: whether the classification token is pooled with the words.
        word_linear: whether the words have a linear layer of their own.
        scores: the outputs of the head that have a loss.
    """

    kind: ClassVar[str] = "fusion"

    words: bool = True
    class_token: bool = True
    pools_class_token: bool = False
    word_linear: bool = False
    scores: tuple[str, ...] = ("logits",)


@dataclass(frozen=True, kw_only=True)
class ClassTokenPart(Part):
    """What the classification token's linear layer reads.

    Args:
        layers: whether it reads the token of each of the last `num_layers` layers, not of the last one only.
        words: whether it reads the words too, so that a word's share of the logits is not exact.
    """

    kind: ClassVar[str] = "class_token"

    layers: bool = False
    words: bool = False


def _too_many_singular_values(config: Any) -> Iterable[str]:
    widths = config.widths
    smallest = min(widths)
    if config.pools_matrix and config.num_singular_values > smallest >= 1:
        yield (
            f"num_singular_values={config.num_singular_values} is more than a {widths[0]}x{widths[1]} "
            f"matrix has: use 1 to {smallest}"
        )


def _always(config: Any) -> bool:
    return True


MAP_SETTINGS = ("num_heads", "width_x", "map_norm", "map_activation", "centering")

POOLINGS: dict[str, PoolingPart] = {
    part.name: part
    for part in (
        PoolingPart(
            name="cross_covariance",
            source="matrix_pooling.CrossCovariance",
            doc="`S = (1/n) sum_t x_t^T y_t` of two maps, centred (the paper's MGCrP)",
            settings=(*MAP_SETTINGS, "width_y"),
            gives="matrix",
        ),
        PoolingPart(
            name="covariance",
            source="matrix_pooling.Covariance",
            doc="the same of the x map with itself; the upper triangle is kept (GCP)",
            settings=MAP_SETTINGS,
            gives="matrix",
            symmetric=True,
        ),
        PoolingPart(
            name="moments",
            source="matrix_pooling.Moments",
            doc="the mean of the hidden states over `norm(mean)^(1-alpha)`, or of `mean_width` learned maps "
            "over `norm(mean)^(1-mean_alpha)`, beside the cross-covariance (as G2DeNet, CVPR 2017)",
            settings=(*MAP_SETTINGS, "width_y", "mean_width", "mean_alpha", "alpha"),
            gives="matrix",
        ),
        PoolingPart(
            name="mean",
            source="word_pooling.Mean",
            doc="the words' mean hidden state (GAP)",
            gives="vector",
        ),
        PoolingPart(
            name="mapped_mean",
            source="matrix_pooling.MappedMean",
            doc="the words' mean of the x map: the first order of what `covariance` takes the second of",
            settings=tuple(name for name in MAP_SETTINGS if name != "centering"),
            gives="vector",
        ),
        PoolingPart(
            name="max",
            source="word_pooling.Maximum",
            doc="each channel's largest value over the words",
            gives="vector",
            inexact="is not a sum over words",
        ),
        PoolingPart(
            name="attention",
            source="word_pooling.Attention",
            doc="hidden states by softmax against one learned query per head",
            settings=("num_heads",),
            gives="vector",
        ),
        PoolingPart(
            name="none",
            source="",
            doc="leaves the words out",
            gives="",
            inexact="is not a sum over words",
        ),
    )
}

NORMALIZATIONS: dict[str, NormalizationPart] = {
    part.name: part
    for part in (
        NormalizationPart(
            name="svpn",
            source="normalizers.Svpn",
            doc="r leading singular triples to the power alpha, the rest over `s_r^(1-alpha)`",
            settings=("alpha", "num_singular_values", "num_iterations", "start_side"),
            takes=("matrix",),
            factor="c^alpha",
            exact="with `num_singular_values` 1",
            scalar_gain=lambda config: config.num_singular_values == 1,
            problems=_too_many_singular_values,
        ),
        NormalizationPart(
            name="svpn_exact",
            source="normalizers.SvpnExact",
            doc="`U diag(s) V^T -> U diag(s^alpha) V^T` through an SVD",
            settings=("alpha",),
            takes=("matrix",),
            factor="c^alpha",
        ),
        NormalizationPart(
            name="isqrt_cov",
            source="normalizers.IsqrtCovariance",
            doc="Newton-Schulz square root of `S / tr S`, times `sqrt(tr S)` (arXiv 1712.01034)",
            settings=("num_newton_schulz_iterations",),
            takes=("matrix",),
            symmetric=True,
            factor="c^(1/2)",
        ),
        NormalizationPart(
            name="power",
            source="normalizers.Power",
            doc="`sign(x) abs(x)^alpha` of each entry, then length 1 for each head",
            settings=("alpha",),
            factor="1",
        ),
        NormalizationPart(
            name="layer_norm",
            source="normalizers.LayerNormalization",
            doc="LayerNorm over a vector, or over each row of a matrix, as published",
            factor="1",
        ),
        NormalizationPart(
            name="fixed_scale",
            source="normalizers.FixedScale",
            doc="times `1/sqrt(d)`; d is a vector's width, or the geometric mean of a matrix's two",
            factor="c",
            exact="yes",
            scalar_gain=_always,
        ),
        NormalizationPart(
            name="learned_scale",
            source="normalizers.LearnedScale",
            doc="times one learned number that starts at `1/sqrt(d)`",
            factor="c",
            exact="yes",
            scalar_gain=_always,
        ),
        NormalizationPart(
            name="none",
            source="normalizers.NoNormalization",
            doc="as it is",
            factor="c",
            exact="yes",
            scalar_gain=_always,
        ),
    )
}

FUSIONS: dict[str, FusionPart] = {
    part.name: part
    for part in (
        FusionPart(
            name="sum",
            source="fusion.Branches",
            word_linear=True,
            doc="the sum of both branches' logits (the published default)",
        ),
        FusionPart(
            name="concat",
            source="fusion.Concatenation",
            doc="one linear over `[class token; words]`, dropout on the words only",
        ),
        FusionPart(
            name="aggregate_all",
            source="fusion.Branches",
            doc="the classification token is pooled with the words",
            class_token=False,
            pools_class_token=True,
        ),
        FusionPart(
            name="late",
            source="fusion.Branches",
            word_linear=True,
            doc="as `sum`, with a loss for each branch (the published `sum_loss`)",
            scores=("word_logits", "class_token_logits"),
        ),
        FusionPart(
            name="class_token",
            source="fusion.Branches",
            doc="the classification token alone, with pooling `none`",
            words=False,
        ),
        FusionPart(name="words", source="fusion.Branches", doc="the words alone", class_token=False),
    )
}

CLASS_TOKENS: dict[str, ClassTokenPart] = {
    part.name: part
    for part in (
        ClassTokenPart(name="linear", source="", doc="the token of the last layer as it is (both recipes)"),
        ClassTokenPart(
            name="stock", source="", doc="through the transform of the backbone's own Hugging Face head"
        ),
        ClassTokenPart(
            name="mixed",
            source="token_branch.MixedLayers",
            doc="the learned mixture of the last layers, the words' own where there are words",
            settings=("num_layers",),
            layers=True,
        ),
        ClassTokenPart(
            name="maximum",
            source="token_branch.LayerMaximum",
            doc="each channel's largest value over the last layers (MaxPoolBERT, arXiv 2505.15696)",
            settings=("num_layers",),
            layers=True,
        ),
        ClassTokenPart(
            name="attention",
            source="token_branch.TokenAttention",
            doc="one more attention of the token over the sequence, 4 heads (the same paper)",
            layers=True,
            words=True,
        ),
        ClassTokenPart(
            name="maximum_attention",
            source="token_branch.MaximumAttention",
            doc="the same over each token's largest values over the last layers (the same paper)",
            settings=("num_layers",),
            layers=True,
            words=True,
        ),
    )
}

# Whole heads that users registered; this package has only `SoTHead`.
HEADS: dict[str, Part] = {}

REGISTRY: dict[str, dict[str, Any]] = {
    "pooling": POOLINGS,
    "normalization": NORMALIZATIONS,
    "fusion": FUSIONS,
    "class_token": CLASS_TOKENS,
    "head": HEADS,
}


def is_own(part: Part) -> bool:
    """Return whether a user registered the part; its file is then saved with the model."""
    return not isinstance(part.source, str)
