"""The base of all SoT classifiers: gathering, loss, initialisation, loading and saving.

Shapes: B batch, N tokens, C hidden size, K labels.
"""

from __future__ import annotations

import functools
import inspect
import os
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, SequenceClassifierOutput

from .backbone import check_length, first_position, selected_states
from .class_token import DenseTransform, TransformedTokenHead
from .head import SoTHead, init_head_weights
from .head_checks import HeadSettingsError
from .loading import Checkpoint, quiet_report
from .losses import classification_loss, problem_type_of, scored_loss
from .remote_code import copy_modeling_files, remote_code_map
from .tokens import classification_index, gather_token, position_ids, word_mask


@dataclass
class SoTClassifierOutput(SequenceClassifierOutput):
    """transformers' output, and the branches' own logits where the fusion has branches.

    Shapes: `logits`, `word_logits` and `class_token_logits` (B, K) in fp32; `loss` a scalar.
    """

    word_logits: Tensor | None = None
    class_token_logits: Tensor | None = None


class SoTForSequenceClassification(PreTrainedModel):
    """The base of all SoT classifiers; `AutoSoTForSequenceClassification` picks the one for a checkpoint.

    The attention mask alone says which tokens are real, which one is the classification token (the first; in
    a causal model the last) and which are words, so neither padding, its side nor batch mates change a logit.
    The backbone is under `base_model_prefix` (`bert`, `roberta`, `transformer`, `model`), the head is
    `classifier`, a `SoTHead`.
    """

    backbone_class: ClassVar[Any] = None
    # transformers' Trainer takes a forward with **kwargs for one that divides by the accumulation steps.
    accepts_loss_kwargs = False

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.head_config = head = config.head_config
        self.stock = head.uses_class_token and head.class_token == "stock"
        backbone = self.build_backbone()
        setattr(self, self.base_model_prefix, backbone)
        layers = config.mixable_layers
        if layers is not None and head.num_layers > layers:
            raise HeadSettingsError(
                f"num_layers={head.num_layers}, but the backbone has {layers} layers"
                + (" of the last one's width" if layers == 1 else "")
            )
        if not head.include_separators and not config.separator_token_ids:
            raise HeadSettingsError(
                "include_separators=False needs the separators' ids: set separator_token_ids "
                "in the config (from_pretrained takes them from the checkpoint's tokenizer)"
            )
        accepted = inspect.signature(backbone.forward).parameters
        names = ["position_ids", "global_attention_mask"]
        # A tokenizer of another family may number two types where the backbone has an embedding for one, or
        # none and takes them for words (GPT's kind). XLNet tells segments apart without embeddings.
        backbone_config = config.get_text_config()
        types = getattr(backbone_config, "type_vocab_size", 2 * (backbone_config.model_type == "xlnet"))
        if types is None or types > 1:
            names.insert(0, "token_type_ids")
        self.backbone_arguments = tuple(name for name in names if name in accepted)
        self.takes_use_cache = "use_cache" in accepted
        self.position_offset = first_position(backbone)
        self.classifier = self.build_head()
        self.post_init()

    def build_backbone(self) -> nn.Module:
        """Build the backbone without its pooler: DistributedDataParallel stops on unused parameters."""
        options = inspect.signature(self.backbone_class.__init__).parameters
        pooler = {"add_pooling_layer": False} if "add_pooling_layer" in options else {}
        return self.backbone_class(self.config, **pooler)

    def build_head(self, num_labels: int | None = None) -> SoTHead:
        """Build a new head by `config.head`, for the config's number of labels unless another is given."""
        sizes = {
            "hidden_size": self.config.feature_size,
            "num_labels": num_labels or self.num_labels,
            "class_token_bias": not (self.stock and self.config.causal),  # as causal models' own heads
        }
        transform = self.class_token_transform() if self.stock else None
        if transform is None:
            return SoTHead(self.head_config, **sizes)
        return TransformedTokenHead(self.head_config, transform, **sizes)

    def renew_head(self) -> None:
        """Put a newly initialised head in the place of the present one."""
        head = self.build_head()
        head.reset_parameters(self.initializer_std)
        self._replace_head(head)

    def take_head(self, module: nn.Module) -> None:
        """Put a ready module in the place of the head's parts, with the weights that it has.

        `from_pretrained(..., head=module)` does it; `register_head` says what the module must be like.
        """
        self.config.set_head(module)
        self.head_config = self.config.head_config
        sizes = {"hidden_size": self.config.feature_size, "num_labels": self.num_labels}
        self._replace_head(SoTHead(module, **sizes))

    def _replace_head(self, head: SoTHead) -> None:
        parameter = next(self.classifier.parameters())
        self.classifier = head.to(parameter.device, parameter.dtype).train(self.training)

    def renew_outputs(self) -> None:
        """Reinitialise the head's output layers: the parameters whose size is the number of labels."""
        head, wider = self.build_head(), self.build_head(self.num_labels + 1)
        head.reset_parameters(self.initializer_std)
        sizes = {name: weight.shape for name, weight in wider.named_parameters()}
        present = dict(self.classifier.named_parameters())
        with torch.no_grad():
            for name, weight in head.named_parameters():
                if weight.shape != sizes[name]:
                    present[name].copy_(weight)

    @property
    def initializer_std(self) -> float:
        """The standard deviation of the backbone's initial weights."""
        return getattr(self.config.get_text_config(), "initializer_range", None) or 0.02

    def class_token_transform(self) -> nn.Module | None:
        """Return the classification token's transform in the family's stock head; None if it has none."""
        return None if self.config.causal else DenseTransform(self.config.feature_size, self.stock_dropout)

    @property
    def stock_dropout(self) -> float:
        """The dropout of the family's stock head."""
        config = self.config.get_text_config()
        names = ("classifier_dropout", "hidden_dropout_prob", "dropout")
        values = [value for name in names if (value := getattr(config, name, None)) is not None]
        return float(values[0]) if values else 0.0

    @property
    def max_tokens(self) -> int | None:
        """The longest text that the backbone has positions for, in tokens, special ones included, if any."""
        config = self.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        if not getattr(config, "position_biased_input", True):  # DeBERTa's kind knows distances alone
            return None
        return None if limit is None or limit <= 0 else limit - self.position_offset

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        init_head_weights(module, self.initializer_std)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        return_dict: bool | None = None,
        encoder_outputs: Any = None,
    ) -> SoTClassifierOutput | tuple[Any, ...]:
        """Return the logits of a batch, and the loss where labels are given.

        Args:
            input_ids: (B, N) token ids; or `inputs_embeds`, (B, N, C).
            attention_mask: (B, N), non-zero at real tokens; without one every token is taken as real.
            token_type_ids: (B, N), for backbones that have them; others, and those of one type, ignore them.
            position_ids: (B, N); by default real tokens are counted, whatever the padding's side.
            labels: (B,) class ids for one label of K; (B,) or (B, K) scores for a regression; (B, K) of 0
                and 1 for many labels of K. `config.problem_type` says which; unset, it is taken from K and
                the labels' type, as in transformers, and kept.
            output_attentions, output_hidden_states, return_dict: as in transformers; `output_hidden_states`
                may name the states to keep (0 is the embeddings' output, -1 the last), the others are None.
            encoder_outputs: what the backbone gave for these inputs, so that it need not run: an output of
                `encode`, or a tensor (B, N, L, C) of its last L layers' hidden states, the last one last.

        Raises:
            ValueError: without inputs, for a mask or labels of a wrong size, or a text beyond `max_tokens`.
        """
        outputs = _as_outputs(encoder_outputs)
        if input_ids is not None and not input_ids.shape[1]:
            # Empty texts, from a tokenizer without special tokens: padding alone, as beside other texts.
            pad = self.config.get_text_config().pad_token_id or 0
            input_ids = torch.full((len(input_ids), 1), pad, device=input_ids.device)
            attention_mask, token_type_ids, position_ids = torch.zeros_like(input_ids), None, None
        inputs = input_ids if input_ids is not None else inputs_embeds
        if inputs is None:
            if outputs is None:
                raise ValueError("give input_ids or inputs_embeds")
            inputs = outputs.last_hidden_state
        if attention_mask is None:
            if input_ids is not None:
                self.warn_if_padding_and_no_attention_mask(input_ids, attention_mask)
            attention_mask = torch.ones(inputs.shape[:2], dtype=torch.long, device=inputs.device)
        head = self.head_config
        wanted_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        if outputs is None:
            given = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
            outputs = self.encode(
                *given,
                output_attentions=output_attentions,
                output_hidden_states=bool(wanted_states) or head.num_layers > 1 or None,
            )
        last = outputs.last_hidden_state
        index = classification_index(attention_mask, causal=self.config.causal)
        # The last entry of hidden_states lacks the final norm in some families.
        layers = (*outputs.hidden_states[-head.num_layers : -1], last) if head.num_layers > 1 else last
        class_token = None
        if head.token_of_layers:
            of_layers = layers if isinstance(layers, tuple) else (layers,)
            class_token = torch.stack([gather_token(layer, index) for layer in of_layers], 1)
        elif head.uses_class_token:
            class_token = self.pick_class_token(last, index)
        words = None
        if head.uses_words or head.token_reads_words or head.module:
            words = word_mask(
                attention_mask,
                index,
                include_class_token=head.pools_class_token,
                input_ids=input_ids,
                separator_ids=() if head.include_separators else self.config.separator_token_ids,
            )
        result = self.classifier(layers, words, class_token)

        loss = None
        if labels is not None:
            kind = self.config.problem_type or problem_type_of(labels, self.num_labels)
            self.config.problem_type = kind
            mean = functools.partial(classification_loss, labels=labels, problem_type=kind)
            loss = scored_loss(head, result, mean, regression=kind == "regression")
        output = SoTClassifierOutput(
            loss=loss,
            logits=result.logits,
            hidden_states=selected_states(outputs.hidden_states, wanted_states),
            attentions=getattr(outputs, "attentions", None),
            word_logits=result.word_logits,
            class_token_logits=result.class_token_logits,
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state to pickle, without the hooks by which transformers records hidden states.

        They are local functions, which pickle refuses; the next forward sets them again.
        """
        for module in self.modules():
            hooks = module._forward_hooks
            for key, hook in tuple(hooks.items()):
                if getattr(hook, "__module__", None) == "transformers.utils.output_capturing":
                    del hooks[key]
            if hasattr(module, "_output_capturing_hooks_installed"):
                module._output_capturing_hooks_installed = False  # type: ignore[assignment]
        return self.__dict__

    def encode(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor,
        token_type_ids: Tensor | None = None,
        positions: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **options: Any,
    ) -> Any:
        """Return the backbone's output for a batch; arguments as in `forward`."""
        if positions is None:
            check_length(attention_mask, self.max_tokens, self.base_model)
            positions = position_ids(attention_mask, self.position_offset)
        given: dict[str, Any] = {"token_type_ids": token_type_ids, "position_ids": positions}
        if "global_attention_mask" in self.backbone_arguments:
            # Longformer: the classification token attends to the whole text, as in its own classifier.
            index = classification_index(attention_mask, causal=self.config.causal)
            given["global_attention_mask"] = one_hot(index, attention_mask.shape[1])
        arguments = {name: given[name] for name in self.backbone_arguments}
        if self.takes_use_cache:
            arguments["use_cache"] = False
        options["inputs_embeds"] = inputs_embeds  # not an argument of every backbone
        return self.base_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            return_dict=True,
            **arguments,
            **{name: value for name, value in options.items() if value is not None},
        )

    def pick_class_token(self, last_hidden_state: Tensor, index: Tensor) -> Tensor:
        """Pick the classification tokens: (B, N, C) at (B,) -> (B, C)."""
        return gather_token(last_hidden_state, index)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str] | Checkpoint | None,
        *model_args: Any,
        output_loading_info: bool = False,
        ignore_mismatched_sizes: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Load a model with the weights of a SoT checkpoint, or of a plain backbone's with a new head.

        Backbone weights must all be there and fit. The head's are new for a plain backbone (also one that was
        fine-tuned with another head) and where `head` differs from the saved settings; where only the number
        of labels does, its output layers are. What is new is said in one line.

        Args:
            pretrained_model_name_or_path: a folder, a name on the Hub, or a checkpoint that has been read.
            model_args: passed on.
            output_loading_info: return (model, transformers' loading info) instead.
            ignore_mismatched_sizes: reinitialise mismatched weights instead of refusing them.
            kwargs: config fields to override (`num_labels`, `id2label`, `head`, `problem_type`, ...), and
                transformers' own (`revision`, `dtype`, `attn_implementation`, ...). A ready module as `head`
                becomes the head with the weights that it has (`register_head` says what it must be like).

        Raises:
            ValueError: if weights are missing or do not fit, or the config does not hold.
            OSError: if files are missing or damaged.
        """
        if pretrained_model_name_or_path is None:
            return super().from_pretrained(
                None,
                *model_args,
                output_loading_info=output_loading_info,
                ignore_mismatched_sizes=ignore_mismatched_sizes,
                **kwargs,
            )
        module = kwargs["head"] if isinstance(kwargs.get("head"), nn.Module) else None
        checkpoint = Checkpoint.read(pretrained_model_name_or_path, kwargs)
        config, kwargs = checkpoint.model_config(cls.config_class, kwargs)
        if checkpoint.adapter is not None:
            kwargs["adapter_kwargs"] = {"_adapter_model_path": checkpoint.adapter}
        with quiet_report(), checkpoint.clear_errors():
            loaded: Any = super().from_pretrained(
                checkpoint.source,
                *model_args,
                config=config,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                key_mapping=checkpoint.key_mapping(config) | (kwargs.pop("key_mapping", None) or {}),
                **kwargs,
            )
        model, info = loaded
        checkpoint.check(model, info, allow_mismatch=ignore_mismatched_sizes)
        if module is not None:
            model.take_head(module)
        return (model, info) if output_loading_info else model

    def save_pretrained(  # type: ignore[override]  # transformers' named arguments are in kwargs
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *,
        save_remote_code: bool = True,
        **kwargs: Any,
    ) -> None:
        """Save config and weights, and the code that loads them where this package is not installed.

        Args:
            save_directory: the folder; made if needed.
            is_main_process: whether this process is the one that writes.
            save_remote_code: put the modelling files beside the weights and name them in the config, so that
                `AutoModelForSequenceClassification.from_pretrained(..., trust_remote_code=True)` works.
            kwargs: as in transformers (`push_to_hub`, `state_dict`, `max_shard_size`, ...).
        """
        self.config.__dict__.pop("auto_map", None)
        self.config.name_activation()
        if save_remote_code:
            self.config.auto_map = remote_code_map(self)
            if is_main_process:
                copy_modeling_files(save_directory, self.head_config.parts)
        # Under the names of the model, not of the checkpoint that it came from.
        kwargs.setdefault("save_original_format", False)
        super().save_pretrained(save_directory, is_main_process, **kwargs)


def _as_outputs(encoder_outputs: Any) -> Any:
    """Return the backbone's output; for a tensor (B, N, L, C) of layers, one made from it."""
    if not isinstance(encoder_outputs, Tensor):
        return encoder_outputs
    layers = encoder_outputs.unbind(2)
    return BaseModelOutput(last_hidden_state=layers[-1], hidden_states=layers)
