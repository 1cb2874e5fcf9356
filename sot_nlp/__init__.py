"""Fine-tune text classifiers with the second-order (SoT) head on Hugging Face transformers.

Importing this package imports neither torch nor transformers; its names do, when they are first used.
transformers' Auto classes know the SoT models from here on, and where torch is not imported yet, its
waiting threads will sleep (`sot_nlp.training.speed.threads`).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sot_nlp import moved
from sot_nlp.modeling import registration
from sot_nlp.training.speed import threads

if TYPE_CHECKING:
    from .api.classifier import Classifier, Prediction, Predictions, load
    from .api.training import Run, train
    from .errors import UserError
    from .explanation.attribution import explain
    from .modeling.auto import AutoSoTForSequenceClassification
    from .modeling.configuration_sot import (
        SoTBertConfig,
        SoTConfig,
        SoTGPT2Config,
        SoTOpenAIGPTConfig,
        SoTRobertaConfig,
    )
    from .modeling.fusion import Fusion, SoTHeadOutput
    from .modeling.head import SoTHead
    from .modeling.head_config import PRESETS, SoTHeadConfig, resolve_head
    from .modeling.lora import lora_target_modules
    from .modeling.modeling_sot import (
        SoTBertForSequenceClassification,
        SoTForSequenceClassification,
        SoTGenericForSequenceClassification,
        SoTGPT2ForSequenceClassification,
        SoTOpenAIGPTForSequenceClassification,
        SoTRobertaForSequenceClassification,
    )
    from .modeling.normalizers import Normalization
    from .modeling.register import register_fusion, register_head, register_normalization, register_pooling
    from .modeling.tokenizer import load_tokenizer
    from .modeling.word_pooling import WordPooling
    from .tasks.metrics import register_metric

__version__ = "0.2.0.dev0"

_HOMES = {
    "api.classifier": ("Classifier", "Prediction", "Predictions", "load"),
    "api.training": ("Run", "train"),
    "errors": ("UserError",),
    "explanation.attribution": ("explain",),
    "modeling.auto": ("AutoSoTForSequenceClassification",),
    "modeling.configuration_sot": (
        "SoTBertConfig",
        "SoTConfig",
        "SoTGPT2Config",
        "SoTOpenAIGPTConfig",
        "SoTRobertaConfig",
    ),
    "modeling.fusion": ("Fusion", "SoTHeadOutput"),
    "modeling.head": ("SoTHead",),
    "modeling.head_config": ("PRESETS", "SoTHeadConfig", "resolve_head"),
    "modeling.lora": ("lora_target_modules",),
    "modeling.modeling_sot": (
        "SoTBertForSequenceClassification",
        "SoTForSequenceClassification",
        "SoTGPT2ForSequenceClassification",
        "SoTGenericForSequenceClassification",
        "SoTOpenAIGPTForSequenceClassification",
        "SoTRobertaForSequenceClassification",
    ),
    "modeling.normalizers": ("Normalization",),
    "modeling.register": ("register_fusion", "register_head", "register_normalization", "register_pooling"),
    "modeling.tokenizer": ("load_tokenizer",),
    "modeling.word_pooling": ("WordPooling",),
    "tasks.metrics": ("register_metric",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "PRESETS",
    "AutoSoTForSequenceClassification",
    "Classifier",
    "Fusion",
    "Normalization",
    "Prediction",
    "Predictions",
    "Run",
    "SoTBertConfig",
    "SoTBertForSequenceClassification",
    "SoTConfig",
    "SoTForSequenceClassification",
    "SoTGPT2Config",
    "SoTGPT2ForSequenceClassification",
    "SoTGenericForSequenceClassification",
    "SoTHead",
    "SoTHeadConfig",
    "SoTHeadOutput",
    "SoTOpenAIGPTConfig",
    "SoTOpenAIGPTForSequenceClassification",
    "SoTRobertaConfig",
    "SoTRobertaForSequenceClassification",
    "UserError",
    "WordPooling",
    "__version__",
    "explain",
    "load",
    "load_tokenizer",
    "lora_target_modules",
    "register_fusion",
    "register_head",
    "register_metric",
    "register_normalization",
    "register_pooling",
    "resolve_head",
    "train",
]

registration.install()
moved.install()
threads.let_waiting_threads_sleep()


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME_OF})
