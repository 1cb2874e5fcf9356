"""Backbones without a head: what `AutoModel` gives for a SoT checkpoint, and what a head can be put on."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    MODEL_MAPPING,
    AutoModel,
    BertModel,
    GPT2Model,
    OpenAIGPTModel,
    PreTrainedModel,
    RobertaModel,
)

from .configuration_sot import (
    SoTBertConfig,
    SoTConfig,
    SoTGPT2Config,
    SoTOpenAIGPTConfig,
    SoTRobertaConfig,
)

# Found by comparing padded with unpadded texts: FNet, RWKV and xLSTM take no mask, and RecurrentGemma's
# recurrence and CPMAnt (which pads by its pad token's id) read none; convolutions, neighbours' embeddings,
# landmarks and hashes see through it in the others.
PADDING_LEAKS = frozenset(
    {
        "canine", "convbert", "cpmant", "fnet", "mobilebert", "nystromformer", "recurrent_gemma", "rwkv",
        "xlstm", "yoso",
    }
)  # fmt: skip
# In a classifier's checkpoint, what its backbone ignores.
OTHER_WEIGHTS = [r"^classifier\.", r"pooler\."]


class SoTBertModel(BertModel):
    """The backbone of a `SoTBertForSequenceClassification`, for `AutoModel`."""

    config_class = SoTBertConfig
    _keys_to_ignore_on_load_unexpected = OTHER_WEIGHTS

    def __init__(self, config: SoTBertConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


class SoTRobertaModel(RobertaModel):
    """The backbone of a `SoTRobertaForSequenceClassification`, for `AutoModel`."""

    config_class = SoTRobertaConfig
    _keys_to_ignore_on_load_unexpected = OTHER_WEIGHTS

    def __init__(self, config: SoTRobertaConfig) -> None:
        super().__init__(config, add_pooling_layer=False)


class SoTOpenAIGPTModel(OpenAIGPTModel):
    """The backbone of a `SoTOpenAIGPTForSequenceClassification`, for `AutoModel`."""

    config_class = SoTOpenAIGPTConfig
    _keys_to_ignore_on_load_unexpected = OTHER_WEIGHTS


class SoTGPT2Model(GPT2Model):
    """The backbone of a `SoTGPT2ForSequenceClassification`, for `AutoModel`."""

    config_class = SoTGPT2Config
    _keys_to_ignore_on_load_unexpected = OTHER_WEIGHTS


class SoTGenericModel(PreTrainedModel):
    """The backbone of a `SoTGenericForSequenceClassification` (under `model`), for `AutoModel`."""

    config_class = SoTConfig
    base_model_prefix = "model"
    _keys_to_ignore_on_load_unexpected = OTHER_WEIGHTS
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: SoTConfig) -> None:
        super().__init__(config)
        self.model = bare_backbone(config.text_config)
        self.post_init()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the backbone's own forward."""
        return self.model(*args, **kwargs)


def bare_backbone(config: Any) -> Any:
    """Build a config's backbone, without its pooler where possible; checked by `backbone_class`."""
    options = inspect.signature(backbone_class(config).__init__).parameters
    pooler = {"add_pooling_layer": False} if "add_pooling_layer" in options else {}
    backbone = AutoModel.from_config(config, **pooler)
    unused = getattr(backbone, "pooler", None)
    if unused is not None:
        # Some build one always; DistributedDataParallel waits for the gradients of all that want one.
        unused.requires_grad_(False)
    return backbone


def backbone_class(config: Any) -> Any:
    """Return the class that `AutoModel` builds for a backbone's config.

    Raises:
        ValueError: naming the model type, if it isn't a text encoder or decoder that a head can be put on.
    """
    model_type = config.model_type
    if config.is_encoder_decoder:
        raise ValueError(
            f"a {model_type!r} model is an encoder-decoder: a SoT head needs an encoder or a decoder alone"
        )
    if type(config) not in MODEL_MAPPING:
        raise ValueError(f"transformers' AutoModel has no backbone for model type {model_type!r}")
    mapped: Any = MODEL_MAPPING[type(config)]
    model_class = mapped[0] if isinstance(mapped, tuple) else mapped
    modalities = model_class.input_modalities
    modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if model_class.main_input_name != "input_ids" or modalities != ("text",):
        raise ValueError(
            f"a {model_type!r} model reads {' and '.join(modalities)}"
            f" ({model_class.main_input_name}): a SoT head for text needs a text backbone"
        )
    if model_type in PADDING_LEAKS:
        raise ValueError(f"a {model_type!r} model lets padding and batch mates change a text's results")
    return model_class


def first_position(backbone: nn.Module) -> int:
    """Return the position of the first real token: RoBERTa and its kind keep the first rows for padding."""
    for name, module in backbone.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            return 0 if module.padding_idx is None else module.padding_idx + 1
    return 0


def check_length(attention_mask: Tensor, limit: int | None, backbone: nn.Module) -> None:
    """Check that no text of a batch, (B, N) with 0 at padding, passes the end of a table of positions.

    The table itself says no more than "index out of range", and on a GPU the process is lost. Backbones that
    compute their positions have no such end. While a graph is compiled or exported nothing is looked at.

    Raises:
        ValueError: for a text of more than `limit` tokens.
    """
    tracing = torch.compiler.is_compiling() or torch.jit.is_tracing()
    if tracing or limit is None or attention_mask.shape[1] <= limit:
        return
    longest = int((attention_mask != 0).sum(1).max())
    tables = ("position_embeddings", "embed_positions", "positions_embed", "wpe")
    modules = backbone.named_modules()
    if longest > limit and any(isinstance(m, nn.Embedding) and name.endswith(tables) for name, m in modules):
        raise ValueError(
            f"a text of {longest} tokens, but this backbone has positions for {limit}: cut longer texts (a "
            "tokenizer and a pipeline do it with truncation=True)"
        )


def selected_states(
    states: Sequence[Tensor] | None, wanted: bool | int | Sequence[int] | None
) -> tuple[Any, ...] | None:
    """Return the hidden states that `output_hidden_states` asks for, by transformers' rules.

    True keeps all; indices, which may be negative, keep those and put None in the place of the others; False,
    None, 0 and an empty list keep nothing.
    """
    if not wanted or states is None:
        return None
    if wanted is True:
        return tuple(states)
    count = len(states)
    indices = [wanted] if isinstance(wanted, int) else wanted
    kept = {index % count for index in indices if -count <= index < count}
    return tuple(state if index in kept else None for index, state in enumerate(states))
