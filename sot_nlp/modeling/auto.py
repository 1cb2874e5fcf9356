"""Find the right class for a checkpoint's name: `AutoSoTForSequenceClassification`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from .configuration_sot import backbone_type
from .head_config import SoTHeadConfig
from .loading import Checkpoint
from .modeling_sot import (
    SoTBertForSequenceClassification,
    SoTForSequenceClassification,
    SoTGenericForSequenceClassification,
    SoTGPT2ForSequenceClassification,
    SoTOpenAIGPTForSequenceClassification,
    SoTRobertaForSequenceClassification,
)

FAMILIES: tuple[type[SoTForSequenceClassification], ...] = (
    SoTBertForSequenceClassification,
    SoTRobertaForSequenceClassification,
    SoTOpenAIGPTForSequenceClassification,
    SoTGPT2ForSequenceClassification,
)


class AutoSoTForSequenceClassification:
    """Makes a SoT classifier from a plain backbone's checkpoint, or loads a SoT one, by its `config.json`."""

    def __init__(self) -> None:
        raise OSError("use AutoSoTForSequenceClassification.from_pretrained(...) or .from_config(...)")

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike[str] | Checkpoint,
        *,
        num_labels: int | None = None,
        id2label: Mapping[int, str] | None = None,
        label2id: Mapping[str, int] | None = None,
        head: str | Mapping[str, Any] | SoTHeadConfig | nn.Module | None = None,
        problem_type: str | None = None,
        **options: Any,
    ) -> Any:
        """Return the classifier for a checkpoint.

        A plain backbone's weights are loaded bit-equal and a new head is put on it; a SoT checkpoint comes
        back as it was saved, but for what is given here. What is new is said in one line.

        Args:
            name_or_path: a folder, or a name on the Hub; also of a PEFT adapter, whose base is loaded first;
                or a checkpoint whose `config.json` has been read.
            num_labels: K; default: as many as the checkpoint's config names.
            id2label, label2id: the labels' names.
            head: a preset (`mapped_moments`, `sot`, `stock`, ...), settings, or a ready module; default: the
                checkpoint's own, and `mapped_moments` for a plain backbone.
            problem_type: `single_label_classification`, `multi_label_classification` or `regression`;
                default: by K and the labels' type.
            options: other config fields, and transformers' own (`dtype`, `revision`, ...).

        Raises:
            ValueError: if it is no text backbone, the head's settings do not hold, or weights do not fit.
            OSError: if files are missing or damaged.
        """
        given = {
            "num_labels": num_labels,
            "id2label": id2label,
            "label2id": label2id,
            "head": head,
            "problem_type": problem_type,
        }
        options |= {name: value for name, value in given.items() if value is not None}
        checkpoint = Checkpoint.read(name_or_path, options)
        model_class = class_for(backbone_type(checkpoint.saved, checkpoint.name))
        return model_class.from_pretrained(checkpoint, **options)

    @classmethod
    def from_config(cls, config: PreTrainedConfig, **options: Any) -> Any:
        """Return a classifier with random weights for a SoT config, or for a plain backbone's.

        Args:
            config: the config; it is copied where it is a plain backbone's.
            options: config fields to override (`num_labels`, `id2label`, `head`, `problem_type`, ...), and
                `dtype` and `attn_implementation`. A dtype "auto" is the config's.

        Raises:
            ValueError: as `from_pretrained`.
        """
        model_class = class_for(config.model_type)
        module = options["head"] if isinstance(options.get("head"), nn.Module) else None
        config_class: Any = model_class.config_class
        names = ("dtype", "torch_dtype", "attn_implementation")
        build = {name: value for name in names if (value := options.pop(name, "auto")) != "auto"}
        settings = config.to_dict()
        if not isinstance(config, config_class):
            settings = config_class.from_backbone(settings)
        config, unknown = config_class.from_dict(settings, return_unused_kwargs=True, **options)
        if unknown:
            raise ValueError(f"the config has no field {', '.join(unknown)}")
        model = model_class._from_config(config, **build)
        if module is not None:
            model.take_head(module)
        return model


def class_for(model_type: str) -> type[SoTForSequenceClassification]:
    """Return the SoT class for a config's `model_type`, a plain backbone's or a SoT one."""
    for model_class in FAMILIES:
        config_class: Any = model_class.config_class
        if model_type in (config_class.model_type, config_class.backbone_type):
            return model_class
    return SoTGenericForSequenceClassification
