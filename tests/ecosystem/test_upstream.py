"""transformers' own common tests of models, run on the SoT classes.

Opt-in, as pip downloads them: `SOT_NLP_UPSTREAM=1 python -m pytest -rsx tests/ecosystem/test_upstream.py`.
"""

from __future__ import annotations

import contextlib
import os
import unittest
from typing import ClassVar

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NAMES

from sot_nlp.modeling.auto import FAMILIES, SoTGenericForSequenceClassification
from tests.support import tiny, upstream

if not os.environ.get("SOT_NLP_UPSTREAM"):
    pytest.skip("set SOT_NLP_UPSTREAM=1 to download and run transformers' tests", allow_module_level=True)

pytestmark = pytest.mark.upstream

# The tests that fail, and why that is meant; `sot_nlp/modeling/README.md` says the same to users.
DEPARTURES = {
    "test_load_with_mismatched_shapes": (
        "another number of labels is taken without ignore_mismatched_sizes: the output layers start anew, "
        "which one line says"
    ),
    "test_can_load_ignoring_mismatched_shapes": "as test_load_with_mismatched_shapes",
    "test_model_weights_reload_no_missing_tied_weights": (
        "a checkpoint without the backbone's weights is refused; transformers draws them at random"
    ),
}
GPT_INITIALISATION = (
    "transformers leaves GPT's Conv1D to its constructor: its own classifier fails in the same way; missing "
    "weights of a backbone are refused here"
)
GPT2_INITIALISATION = (
    "in classes of other packages transformers passes over modules without parameters of their own, and so "
    "over GPT-2's smaller c_proj: a plain subclass of its own classifier fails in the same way; missing "
    "weights of a backbone are refused here"
)


class CommonInputs:
    """What the mixin asks for its config and its inputs."""

    batch_size = 4
    seq_length = 7
    is_training = True

    def __init__(self, model_class, backbone):
        self.config_class = model_class.config_class
        self.backbone = backbone
        self.hidden_size = backbone.hidden_size
        self.num_hidden_layers = backbone.num_hidden_layers
        self.num_attention_heads = backbone.num_attention_heads

    def get_config(self):
        settings = self.config_class.from_backbone(self.backbone.to_dict())
        return self.config_class.from_dict(settings, num_labels=3)

    def prepare_config_and_inputs_for_common(self):
        ids = torch.randint(5, 60, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.fixture(autouse=True)
def known_classifiers(monkeypatch):
    """Name our classes where the mixin looks up what a class is for."""
    for model_class in (*FAMILIES, SoTGenericForSequenceClassification):
        monkeypatch.setitem(NAMES, model_class.config_class.model_type, model_class.__name__)


class CommonTests(upstream.model_tester_mixin()):
    """The mixin, set up for a class of ours and a family of backbones."""

    family = ""
    departures: ClassVar[dict[str, str]] = {}
    # The mixin leaves this test out for files without a year of their own.
    test_can_init_all_missing_weights_before_2023 = True

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        for name, reason in (DEPARTURES | cls.departures).items():
            mark = pytest.mark.xfail(reason=reason, strict=True)
            setattr(cls, name, mark(getattr(cls, name)))

    def setUp(self):
        if self.family in tiny.FAMILIES:
            backbone = tiny.config(self.family)
        else:
            backbone = transformers.AutoConfig.for_model(self.family, **tiny.OTHER_BACKBONES[self.family])
        self.model_tester = CommonInputs(self.all_model_classes[0], backbone)

    def subTest(self, *args, **kwargs):  # noqa: N802
        """Let a part's failure be the test's: each test has one class."""
        return contextlib.nullcontext()


BERT, ROBERTA, GPT, GPT2 = FAMILIES


class TestBert(CommonTests, unittest.TestCase):
    all_model_classes = (BERT,)
    family = "bert"


class TestRoberta(CommonTests, unittest.TestCase):
    all_model_classes = (ROBERTA,)
    family = "roberta"


class TestOpenAIGPT(CommonTests, unittest.TestCase):
    all_model_classes = (GPT,)
    family = "openai-gpt"
    departures: ClassVar = {"test_can_init_all_missing_weights": GPT_INITIALISATION}


class TestGPT2(CommonTests, unittest.TestCase):
    all_model_classes = (GPT2,)
    family = "gpt2"
    departures: ClassVar = {"test_can_init_all_missing_weights": GPT2_INITIALISATION}


class TestGenericEncoder(CommonTests, unittest.TestCase):
    all_model_classes = (SoTGenericForSequenceClassification,)
    family = "distilbert"


class TestGenericDecoder(CommonTests, unittest.TestCase):
    all_model_classes = (SoTGenericForSequenceClassification,)
    family = "qwen2"
