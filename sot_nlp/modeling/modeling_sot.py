"""The SoT classifier of each backbone family.

What a family adds to `SoTForSequenceClassification` is a line or two: its backbone, its config, and the
transform of its stock head. Shapes: B batch, N tokens, C hidden size.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import (
    BertModel,
    BertPreTrainedModel,
    GPT2Model,
    GPT2PreTrainedModel,
    OpenAIGPTModel,
    OpenAIGPTPreTrainedModel,
    RobertaModel,
    RobertaPreTrainedModel,
)

from .backbone import bare_backbone
from .classifier import SoTClassifierOutput as SoTClassifierOutput
from .classifier import SoTForSequenceClassification
from .configuration_sot import (
    SoTBertConfig,
    SoTConfig,
    SoTGPT2Config,
    SoTOpenAIGPTConfig,
    SoTRobertaConfig,
)
from .tokens import gather_token


class SoTBertForSequenceClassification(SoTForSequenceClassification, BertPreTrainedModel):
    """BERT with a SoT head. Its stock head is the pretrained pooler, dropout and a linear."""

    config_class = SoTBertConfig
    backbone_class = BertModel

    def build_backbone(self) -> nn.Module:
        """Build BERT, with its pooler where the head uses it."""
        return BertModel(self.config, add_pooling_layer=self.stock)

    def class_token_transform(self) -> nn.Module:
        """Return dropout; the pooler before it is the backbone's own."""
        return nn.Dropout(self.stock_dropout)

    def pick_class_token(self, last_hidden_state: Tensor, index: Tensor) -> Tensor:
        """Pick the classification tokens, through the pooler if there is one: (B, N, C) at (B,) -> (B, C)."""
        class_token = gather_token(last_hidden_state, index)
        # The pooler takes the first token of what it is given, which under left padding is padding.
        pooler: Any = self.base_model.pooler
        return class_token if pooler is None else pooler(class_token.unsqueeze(1))


class SoTRobertaForSequenceClassification(SoTForSequenceClassification, RobertaPreTrainedModel):
    """RoBERTa with a SoT head. Its stock head is dropout, dense, tanh, dropout and a linear."""

    config_class = SoTRobertaConfig
    backbone_class = RobertaModel


class SoTOpenAIGPTForSequenceClassification(SoTForSequenceClassification, OpenAIGPTPreTrainedModel):
    """GPT with a SoT head. Its stock head is a linear without bias."""

    config_class = SoTOpenAIGPTConfig
    backbone_class = OpenAIGPTModel


class SoTGPT2ForSequenceClassification(SoTForSequenceClassification, GPT2PreTrainedModel):
    """GPT-2 with a SoT head. Its stock head is a linear without bias."""

    config_class = SoTGPT2Config
    backbone_class = GPT2Model


class SoTGenericForSequenceClassification(SoTForSequenceClassification):
    """Any other text backbone of transformers with a SoT head; the backbone is under `model`.

    The stock head is a linear without bias on causal backbones, as transformers has it there, and RoBERTa's
    on the others.
    """

    config_class = SoTConfig
    base_model_prefix = "model"
    # What the backbone itself supports is checked when it is built.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def build_backbone(self) -> nn.Module:
        """Build the backbone that `AutoModel` gives for `config.text_config`, without a pooler."""
        backbone = bare_backbone(self.config.text_config)
        self.supports_gradient_checkpointing = backbone.supports_gradient_checkpointing
        return backbone
