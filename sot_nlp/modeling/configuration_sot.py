"""Config classes, one per backbone family: the backbone's own settings, and the head's.

A `config.json` that these classes write has a `model_type` of its own (`sot_bert`, ...), so that no program
takes it for a plain backbone and drops the head's weights. Reading a plain backbone's `config.json` is what
starts a fine-tuning: its settings are taken, and the head's come from the arguments.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from huggingface_hub.errors import StrictDataclassError
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    BertConfig,
    GPT2Config,
    OpenAIGPTConfig,
    PreTrainedConfig,
    RobertaConfig,
)

from .head_config import DEFAULT_PRESET, PRESETS, SoTHeadConfig, resolve_head
from .registered_parts import FILES as FILES  # a user's own parts are known from here on

# What a plain backbone's config says about itself and no longer holds once another head is on it.
BACKBONE_ONLY = (
    "architectures",
    "auto_map",
    "problem_type",
    "sentence_transformers",
    "sbert_ce_default_activation_function",
)
# What sentence-transformers' CrossEncoder puts over the logits, by kind of problem. Without it, it takes a
# sigmoid for one output, which would squash the scores of a regression.
ACTIVATIONS = {
    "regression": "torch.nn.modules.linear.Identity",
    "single_label_classification": "torch.nn.modules.linear.Identity",
    "multi_label_classification": "torch.nn.modules.activation.Sigmoid",
}


# Encoders normalise behind each block, and decoders before it, but for these.
PRE_NORM_ENCODERS = frozenset(
    {"eurobert", "megatron-bert", "modernbert", "roberta-prelayernorm", "xlm-roberta-xl"}
)
POST_NORM_DECODERS = frozenset({"openai-gpt", "xlnet"})
# Decoders in neither of transformers' lists of language models: most are a part of a larger model.
UNLISTED_DECODERS = frozenset(
    {
        "clip_text_model", "cosmos3_edge_text", "gemma4_unified_text", "glm4v_moe_text", "glm4v_text",
        "glm5_next_text", "glm_image_text", "glm_ocr_text", "granite_docling_text", "hunyuan_vl_text",
        "mistral4", "muse_glimmer_text", "muse_spark_text", "qwen2_5_vl_text", "qwen2_vl_text",
        "qwen3_vl_moe_text", "qwen3_vl_text",
    }
)  # fmt: skip
# Whose inner layers have another shape than the last one: several streams per token, or other widths.
ODD_LAYERS = frozenset({"deepseek_v4", "embedding_gemma2_text", "gemma3n_text", "hy_v4", "qwen4_exp_text"})


@dataclass(kw_only=True)
class SoTConfigMixin:
    """What every SoT config adds to its backbone's.

    Args:
        head: the head's settings as a plain dict; also accepted: a preset's name or a `SoTHeadConfig`
            (default: the preset `mapped_moments`). A preset mixes no more layers than the backbone has.
            `head_config` gives them back as a `SoTHeadConfig`.
        head_preset: the name of the preset that the settings come from, for the record; None where unknown.
        separator_token_ids: ids of the special tokens inside a text, which a head with
            `include_separators=False` leaves out of the words.

    Raises:
        ValueError: for head settings that do not hold, or a checkpoint of another family.
    """

    head: Any = None
    head_preset: str | None = None
    separator_token_ids: list[int] | None = None

    backbone_type: ClassVar[str] = ""
    # A Trainer would otherwise pass the branches' logits to `compute_metrics` beside the logits.
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["word_logits", "class_token_logits"]

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)  # type: ignore[misc]  # the backbone's config is behind the mixin
        self.set_head(self.head if self.head is not None else self.head_preset, preset=self.head_preset)

    def set_head(
        self, head: str | Mapping[str, Any] | SoTHeadConfig | None, preset: str | None = None
    ) -> None:
        """Take other head settings; `preset` names where they come from (a name in `head` says it itself)."""
        settings = resolve_head(head)
        if head is None or isinstance(head, str):
            preset = head or DEFAULT_PRESET
        # A number of layers that somebody gave stays: where it is too large, the model says so.
        if preset in PRESETS and settings.num_layers == PRESETS[preset].num_layers:
            most = self.mixable_layers or settings.num_layers
            settings = settings.replace(num_layers=min(settings.num_layers, most))
        if settings.token_norm == "auto":
            mixes_unnormalized = settings.num_layers > 1 and self.pre_norm
            settings = settings.replace(token_norm="layer_norm" if mixes_unnormalized else "none")
        self.head, self.head_preset = settings.to_dict(), preset

    def name_activation(self) -> None:
        """Set `sentence_transformers.activation_fn`, for CrossEncoder, by the kind of problem."""
        self.__dict__.pop("sentence_transformers", None)
        if self.problem_type in ACTIVATIONS:  # type: ignore[attr-defined]
            self.sentence_transformers = {"activation_fn": ACTIVATIONS[self.problem_type]}  # type: ignore[attr-defined]

    @property
    def head_config(self) -> SoTHeadConfig:
        """The head's settings, checked."""
        return resolve_head(self.head)

    @property
    def feature_size(self) -> int:
        """C, the width of the backbone's last hidden state."""
        return self.hidden_size  # type: ignore[attr-defined]

    @property
    def pre_norm(self) -> bool:
        """Whether the backbone normalises before its blocks, so that its inner layers' states are not.

        They hold the residual stream, in which a few channels and the first token outgrow the rest: in the
        last layers of SmolLM2 the first token is forty times as long as the others.
        """
        family = self.backbone_type or self.get_text_config().model_type  # type: ignore[attr-defined]
        return family in PRE_NORM_ENCODERS or (is_decoder(family) and family not in POST_NORM_DECODERS)

    @property
    def mixable_layers(self) -> int | None:
        """How many of the last layers a head can mix: those of the last one's width; None where unknown."""
        backbone: Any = self.get_text_config()  # type: ignore[attr-defined]
        projected = getattr(backbone, "word_embed_proj_dim", None)  # OPT's smaller sizes
        if (projected is not None and projected != backbone.hidden_size) or backbone.model_type in ODD_LAYERS:
            return 1
        return getattr(backbone, "num_hidden_layers", None)

    @classmethod
    def from_backbone(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        """Return this class's settings from a plain backbone's `config.json`."""
        return {n: value for n, value in config_dict.items() if n not in ("model_type", *BACKBONE_ONLY)}

    @classmethod
    def get_config_dict(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> tuple[dict, dict]:
        """Return the settings in a checkpoint's `config.json`, a SoT model's or a plain backbone's."""
        config_dict, kwargs = super().get_config_dict(pretrained_model_name_or_path, **kwargs)  # type: ignore[misc]
        return cls.own_settings(config_dict, pretrained_model_name_or_path), kwargs

    @classmethod
    def own_settings(cls, config_dict: dict[str, Any], source: object) -> dict[str, Any]:
        """Return this class's settings from the `config.json` of `source`, a SoT or a plain checkpoint.

        Raises:
            ValueError: if it is a backbone that another class reads.
        """
        model_type = backbone_type(config_dict, source)
        if model_type == cls.model_type:  # type: ignore[attr-defined]
            return config_dict
        if cls.backbone_type not in ("", model_type):
            raise ValueError(
                f"{source} is of model type {model_type!r}, but {cls.__name__} reads "
                f"{cls.backbone_type!r} and {cls.model_type!r} "  # type: ignore[attr-defined]
                "(AutoSoTForSequenceClassification finds the right class)"
            )
        return cls.from_backbone(config_dict)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build a config as the base class does; labels and head settings given replace the saved ones."""
        config_dict = dict(config_dict)
        if "head" in kwargs:
            config_dict["head_preset"] = None
        saved_count = len(config_dict.get("id2label") or (0, 1))
        names = kwargs.pop("id2label", None)
        ids = kwargs.pop("label2id", None)
        if names is None and ids is not None:
            names = {index: name for name, index in ids.items()}
        if names is not None:
            names = {int(index): name for index, name in dict(names).items()}
            count = kwargs.pop("num_labels", None)
            if count is not None and count != len(names):
                raise ValueError(f"num_labels={count}, but id2label names {len(names)} labels: {names}")
            config_dict["id2label"] = names
            config_dict["label2id"] = ids or {name: index for index, name in names.items()}
        count = len(names) if names is not None else kwargs.get("num_labels") or saved_count
        if count != saved_count:
            # The names and the kind of problem that were saved belong to the labels that were.
            config_dict.pop("problem_type", None)
            if names is None:
                config_dict.pop("id2label", None)
                config_dict.pop("label2id", None)
        # From here: the base class would set these one by one, on a config already checked without them.
        for name in ("head", "head_preset", "problem_type"):
            if name in kwargs:
                config_dict[name] = kwargs.pop(name)
        try:
            return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]
        except StrictDataclassError as error:  # not a ValueError, and of two lines
            raise ValueError(f"config: {error.__cause__ or error}") from error


class SoTBertConfig(SoTConfigMixin, BertConfig):
    """BERT with a SoT head (`SoTConfigMixin` says what it adds to BERT's settings)."""

    model_type = "sot_bert"
    backbone_type = "bert"
    causal = False


class SoTRobertaConfig(SoTConfigMixin, RobertaConfig):
    """RoBERTa with a SoT head."""

    model_type = "sot_roberta"
    backbone_type = "roberta"
    causal = False


class SoTOpenAIGPTConfig(SoTConfigMixin, OpenAIGPTConfig):
    """GPT with a SoT head; the last real token is the classification token."""

    model_type = "sot_openai_gpt"
    backbone_type = "openai-gpt"
    causal = True


class SoTGPT2Config(SoTConfigMixin, GPT2Config):
    """GPT-2 with a SoT head; the last real token is the classification token."""

    model_type = "sot_gpt2"
    backbone_type = "gpt2"
    causal = True


class SoTConfig(SoTConfigMixin, PreTrainedConfig):
    """Any other text backbone of transformers with a SoT head.

    Args:
        text_config: the backbone's own config, or its `to_dict()` with `model_type`.
        causal: whether tokens see only what precedes them, so that the last real token is the
            classification token; None decides by the backbone's kind and is then filled in.
        pad_token_id, bos_token_id, eos_token_id: the tokenizer's, for transformers' warning where a batch
            seems padded and has no attention mask; which tokens are padding, the mask alone says.
    """

    model_type = "sot"
    # As a class attribute it works in every transformers 5; newer ones derive it from other declarations.
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012

    text_config: Any = None
    causal: bool | None = None
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if self.text_config is None:
            self.text_config = {"model_type": "bert"}
        if isinstance(self.text_config, Mapping):
            self.text_config = read_backbone(dict(self.text_config))
        # Where the backbone came from may be a folder of the user's machine; it must not travel along.
        self.text_config.name_or_path = ""
        if self.causal is None:
            self.causal = is_causal(self.text_config)
        super().__post_init__(**kwargs)

    @property
    def feature_size(self) -> int:
        """C, the width of the backbone's last hidden state."""
        # OPT's smaller sizes project their output to another width.
        size = getattr(self.text_config, "word_embed_proj_dim", None) or self.text_config.hidden_size
        return int(size)

    @classmethod
    def from_backbone(cls, config_dict: dict[str, Any]) -> dict[str, Any]:
        """Return the backbone's settings as `text_config`; the labels' names move up."""
        backbone = {name: value for name, value in config_dict.items() if name not in BACKBONE_ONLY}
        shared = ("id2label", "label2id", "pad_token_id", "bos_token_id", "eos_token_id", "dtype")
        settings = {"text_config": backbone} | {name: backbone[name] for name in shared if name in backbone}
        backbone.pop("id2label", None)
        backbone.pop("label2id", None)
        return settings


def backbone_type(config_dict: Mapping[str, Any], source: object) -> str:
    """Return a checkpoint's `model_type`, also where its `config.json` is older than that field.

    Raises:
        ValueError: if it names none and is not a BERT's either.
    """
    model_type = config_dict.get("model_type")
    if model_type:
        return str(model_type)
    # The BERT-weight checkpoints of 2019 and 2020 (SpanBERT, ...) carry BERT's own settings and no type.
    if {"hidden_size", "num_hidden_layers", "type_vocab_size", "vocab_size"} <= set(config_dict):
        return "bert"
    raise ValueError(f"{source}: its config.json names no model_type, so the backbone's kind is unknown")


def read_backbone(config_dict: dict[str, Any]) -> PreTrainedConfig:
    """Build a backbone's config from its plain values.

    Raises:
        ValueError: for a model type that this transformers does not know (similar names are listed).
    """
    model_type = config_dict.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        near = difflib.get_close_matches(str(model_type), list(CONFIG_MAPPING), n=3, cutoff=0.6)
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(f"transformers ships no model of type {model_type!r}{hint}")
    return CONFIG_MAPPING[model_type](**config_dict)


def is_causal(config: PreTrainedConfig) -> bool:
    """Return whether tokens see only what precedes them, by what transformers trains the backbone for."""
    if getattr(config, "is_decoder", False):
        return True
    # Gemma 4's "vision" is of images' tokens alone.
    if getattr(config, "use_bidirectional_attention", None) in (True, "all"):
        return False
    if getattr(config, "is_causal", None) is False:
        return False
    return is_decoder(config.model_type)


def is_decoder(model_type: str) -> bool:
    """Return whether transformers trains a family to predict the next token, whatever its attention sees."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    # BERT and its like are in both lists, for use as decoders; bert-generation is an encoder by default.
    encoders = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES, "bert-generation"}
    listed = model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and model_type not in encoders
    return listed or model_type in UNLISTED_DECODERS
