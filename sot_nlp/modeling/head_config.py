"""The head's settings: one frozen dataclass, checked as a whole, and its presets.

Nothing here imports torch, so that a command line can list, check and override the settings cheaply.
Sources: Xie et al., arXiv 2104.10935 ("the paper"), and its published code for text and for vision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .head_checks import INTEGER_RANGES as INTEGER_RANGES
from .head_checks import HeadSettingsError, near, problems, shown
from .head_checks import choices as choices
from .parts import CLASS_TOKENS, FUSIONS, HEADS, NORMALIZATIONS, POOLINGS, REGISTRY, Part, is_own
from .register import register_head


@dataclass(frozen=True, kw_only=True)
class SoTHeadConfig:
    """What a SoT head is made of; any change gives a new, checked value (`replace`).

    A field that the chosen pooling has no use for is kept and ignored (the maps' fields with `mean`,
    `width_y` with `covariance`), so that an ablation is one override; a combination that would mean
    something else than it says is refused. The fields without a default make up every head; a field that
    is added later has as its default what heads did before it, so that older checkpoints load unchanged.

    Args:
        pooling: what is taken over the word tokens; one of `parts.POOLINGS`. Matrix poolings and
            `mapped_mean` work on the maps of the hidden states, the others on the hidden states themselves.
        num_heads: heads, each with maps of its own (published: 1 for text, 6 for vision).
        width_x: P, a head's width of the x map.
        width_y: Q, a head's width of the y map; `covariance` has no y map.
        map_norm: behind each linear map: `batch_norm` over the real word tokens (text recipe),
            `layer_norm` over a head's channels, or `none` (vision recipe).
        map_activation: behind that: `relu` (text recipe) or `none` (vision recipe).
        centering: what is taken off before the products: `channel`, each channel's mean over the words
            (text recipe, and the covariance's definition); `scalar`, one mean over words and channels for
            each example and head (vision code); `none`.
        normalization: what follows the pooling; one of `parts.NORMALIZATIONS`.
        alpha: exponent of svPN and of `power`, in (0, 1); published 0.5.
        num_singular_values: r, how many leading singular triples the fast svPN finds; published 1.
        num_iterations: power iterations for each of them; published 1.
        num_newton_schulz_iterations: steps of `isqrt_cov`; published 5.
        start_side: the map on whose width the fast svPN's learned start vectors (one per singular triple)
            live: `x` (text code) or `y` (vision code).
        fusion: how words and classification token meet; one of `parts.FUSIONS`.
        class_token: what the classification token is made of before its linear; one of `parts.CLASS_TOKENS`.
        dropout: probability, on the pooled features before their linear.
        num_layers: 1 pools the last layer (published); k > 1 a learned mixture of the last k. The values of
            `class_token` that read several layers read these.
        include_separators: whether special tokens inside the text (`[SEP]`) count as words; the published
            code pools them.
        token_norm: `layer_norm` scales each token of each layer to mean 0 and variance 1 over its channels,
            without parameters, before layers are mixed; `none`; or `auto`, which a model's config replaces by
            `layer_norm` where layers of a pre-norm backbone are mixed (`SoTConfigMixin.pre_norm`).
        mean_width: of how many further learned maps `moments` takes the mean; 0: of the hidden states.
        mean_alpha: the power, in (0, 1], to which the length of that mean of maps is raised, as svPN raises
            the singular value of a one-row matrix; 1 leaves it as it is. Whatever `normalization` is; the
            hidden states' mean has `alpha`, and no power with the normalisation `none`.
        word_output_init: `zero` starts the words' linear at zero, so that training starts as the
            classification token's branch alone; `normal` draws it.
        module: the name of a head of your own (`register_head`), which takes the place of pooling,
            normalisation and linears; `num_layers`, `include_separators`, `class_token` and `fusion` say
            what it is given.
        part_settings: settings of registered parts of your own; what is not named has its default.

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
    # Left out of the saved settings at their defaults: what was saved before them is then what is saved now.
    token_norm: str = "none"
    word_output_init: str = "normal"
    mean_width: int = 0
    mean_alpha: float | int = 1.0
    module: str = ""
    part_settings: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if mistakes := problems(self):
            raise HeadSettingsError("; ".join(mistakes))

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that the head is made of."""
        if self.module:
            return (HEADS[self.module],)
        of_words = (POOLINGS[self.pooling], NORMALIZATIONS[self.normalization]) if self.uses_words else ()
        of_token = (CLASS_TOKENS[self.class_token],) if self.uses_class_token else ()
        return (*of_words, FUSIONS[self.fusion], *of_token)

    def setting(self, name: str) -> Any:
        """Return a setting of a registered part, by `part_settings` or its default."""
        defaults = {key: value for part in self.parts for key, value in part.own_settings.items()}
        return {**defaults, **self.part_settings}[name]

    @property
    def uses_words(self) -> bool:
        """Whether the head pools anything."""
        return bool(POOLINGS[self.pooling].gives)

    @property
    def pools_matrix(self) -> bool:
        """Whether it pools a matrix for each head."""
        return POOLINGS[self.pooling].gives == "matrix"

    @property
    def uses_class_token(self) -> bool:
        """Whether the classification token has a branch of its own (`aggregate_all` pools it instead)."""
        return FUSIONS[self.fusion].class_token

    @property
    def token_of_layers(self) -> bool:
        """Whether the classification token is that of each of the last `num_layers` layers."""
        return self.uses_class_token and not self.module and CLASS_TOKENS[self.class_token].layers

    @property
    def token_reads_words(self) -> bool:
        """Whether the classification token's branch reads the words, too."""
        return self.uses_class_token and not self.module and CLASS_TOKENS[self.class_token].words

    @property
    def pools_class_token(self) -> bool:
        """Whether the classification token counts among the words."""
        return FUSIONS[self.fusion].pools_class_token

    @property
    def scores(self) -> tuple[str, ...]:
        """The head's outputs that get a loss each: `logits`, or those of the branches (fusion `late`)."""
        return FUSIONS[self.fusion].scores

    @property
    def has_scalar_gain(self) -> bool:
        """Whether the normalisation multiplies each head by one number: word logits are sums over tokens."""
        return NORMALIZATIONS[self.normalization].scalar_gain(self)

    @property
    def has_exact_contributions(self) -> bool:
        """Whether each word's share of the word logits is known exactly."""
        linear = not self.module and not is_own(FUSIONS[self.fusion]) and not self.token_reads_words
        return linear and not POOLINGS[self.pooling].inexact and self.has_scalar_gain

    @property
    def has_exact_pairs(self) -> bool:
        """Whether each pair of words' share of the word logits is known exactly."""
        return self.has_exact_contributions and self.pools_matrix

    @property
    def widths(self) -> tuple[int, int]:
        """(P, Q) of a head's matrix."""
        return (self.width_x, self.width_x if POOLINGS[self.pooling].symmetric else self.width_y)

    def replace(self, /, **overrides: Any) -> SoTHeadConfig:
        """Return a checked copy with some fields changed; an unknown field is refused by name."""
        _refuse_unknown(overrides)
        return dataclasses.replace(self, **overrides)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; `from_dict` gives an equal head back."""
        # Later fields, at the values that change nothing.
        plain = {"token_norm": "none", "word_output_init": "normal", "mean_width": 0, "mean_alpha": 1.0}
        plain |= {"module": "", "part_settings": {}}
        values = dataclasses.asdict(self) | {"part_settings": dict(self.part_settings)}
        return {name: value for name, value in values.items() if name not in plain or value != plain[name]}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> SoTHeadConfig:
        """Return the settings that `to_dict` gave, of this version or an older one.

        Fields that came later take their defaults, which are what older heads did.

        Raises:
            ValueError: for unknown fields (with similar names) and for missing ones, all at once.
        """
        _refuse_unknown(settings)
        missing = dataclasses.MISSING
        required = [f.name for f in dataclasses.fields(cls) if f.default is f.default_factory is missing]
        absent = [name for name in required if name not in settings]
        if absent:
            raise HeadSettingsError(
                f"no value for {', '.join(absent)} "
                f"(to change single fields of a preset, name it: {', '.join(PRESETS)})"
            )
        return cls(**settings)


def _refuse_unknown(settings: Mapping[str, Any]) -> None:
    known = [field.name for field in dataclasses.fields(SoTHeadConfig)]
    unknown = [f"no field {shown(name)} ({near(str(name), known)})" for name in settings if name not in known]
    if unknown:
        raise HeadSettingsError("; ".join(unknown))


_TEXT = SoTHeadConfig(
    pooling="cross_covariance",
    num_heads=1,
    width_x=96,  # CoLA's; the published sizes of the other tasks are in their task files
    width_y=48,
    map_norm="batch_norm",
    map_activation="relu",
    centering="channel",
    normalization="svpn",
    start_side="x",
    fusion="sum",
    class_token="linear",
    dropout=0.5,
    token_norm="auto",
)

# The published text recipe on the words of the last four layers, mixed by learned shares (studies/README.md
# says how it was chosen).
_SOT = _TEXT.replace(num_layers=4)

_TOKEN = _TEXT.replace(pooling="none", fusion="class_token")

DEFAULT_PRESET = "mapped_moments"

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
    "stock": _TOKEN.replace(class_token="stock"),
    # The paper's ablation: word tokens alone.
    "words": _TEXT.replace(fusion="words"),
    # The words' mean over the last four layers, for few labels: a linear that is solved in closed form.
    "word_mean": _TEXT.replace(
        pooling="mean", normalization="none", fusion="words", num_layers=4, dropout=0.1
    ),
    # Both moments of the words of the last four layers.
    "moments": _SOT.replace(pooling="moments"),
    # Both orders: the mean of learned maps beside the covariance; svPN, and the same for a vector.
    "mapped_moments": _SOT.replace(pooling="moments", mean_width=256, mean_alpha=0.5),
    # The words' mean of learned maps: `sot` in the first order, with about as many features.
    "mapped_mean": _SOT.replace(pooling="mapped_mean", normalization="none", num_heads=4, width_x=256),
    # The three heads of MaxPoolBERT, on the classification token alone.
    "maxpool_layers": _TOKEN.replace(class_token="maximum", num_layers=3),
    "maxpool_attention": _TOKEN.replace(class_token="attention"),
    "maxpool_both": _TOKEN.replace(class_token="maximum_attention", num_layers=3),
}


# They share the sizes that a task's recipe gives.
TEXT_FAMILY = ("sot", "text", "words", "moments", "mapped_moments")


def resolve_head(head: Any = None, /, **overrides: Any) -> SoTHeadConfig:
    """Return the settings of a head, with fields overridden.

    Args:
        head: a preset's name (None: the default), a saved dict, a `SoTHeadConfig`, or a module that is a
            whole head (`register_head` says what it must be like; its class is registered under its name).
        overrides: fields to change.

    Raises:
        ValueError: for an unknown preset (with near names), unknown fields, or settings that do not hold.
    """
    if head is None:
        head = DEFAULT_PRESET
    if isinstance(head, str):
        if head not in PRESETS:
            raise HeadSettingsError(f"no preset {shown(head)} ({_near_presets(head)})")
        # A whole head gets what `text` gives: the last layer alone, unless a field says otherwise.
        config = PRESETS["text" if overrides.get("module") else head]
    elif isinstance(head, SoTHeadConfig):
        config = head
    elif isinstance(head, Mapping):
        config = SoTHeadConfig.from_dict(head)
    elif callable(getattr(head, "named_parameters", None)):
        name = type(head).__name__
        register_head(name, type(head))
        config = _TEXT.replace(module=name, part_settings=dict(getattr(head, "settings", {})))
    else:
        raise HeadSettingsError(
            f"{shown(head)} is neither a preset ({', '.join(PRESETS)}) nor a dict of settings"
        )
    return config.replace(**overrides) if overrides else config


def _near_presets(name: str) -> str:
    """Return what `name`, which is no preset, may mean: a part of that name, or a preset of a similar one."""
    fields = ["module" if kind == "head" else kind for kind, parts in REGISTRY.items() if name in parts]
    if fields:
        return f"it is a value of {' and of '.join(f'head.{field}' for field in fields)}"
    return near(name, list(PRESETS))
