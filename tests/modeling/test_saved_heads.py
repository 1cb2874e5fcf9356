"""Heads and a checkpoint that version 0.1.0 wrote: they load bit-equal and give the same logits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from sot_nlp import AutoSoTForSequenceClassification
from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import SoTHeadConfig

FOLDER = Path(__file__).with_name("saved_heads")
CHECKPOINT = FOLDER / "checkpoint"
with safe_open(FOLDER / "heads.safetensors", "pt") as file:
    NAMES = list(json.loads(file.metadata()["heads"]))


def saved_head(name: str) -> tuple[SoTHeadConfig, dict[str, Tensor], dict[str, Tensor]]:
    """The settings of a saved head, its weights, and the inputs and logits beside them."""
    path = FOLDER / "heads.safetensors"
    with safe_open(path, "pt") as file:
        settings: dict[str, Any] = json.loads(file.metadata()["heads"])[name]
    tensors = load_file(path)
    weights = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
    tensors["logits"] = weights.pop("logits")
    return SoTHeadConfig.from_dict(settings), weights, tensors


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_head_gives_its_logits(name: str) -> None:
    config, weights, tensors = saved_head(name)
    head = SoTHead(config, hidden_size=6, num_labels=3).eval()
    head.load_state_dict(weights)
    states = tuple(tensors["hidden"][-config.num_layers :])
    logits = head(states, tensors["mask"].bool(), tensors["class_token"]).logits
    torch.testing.assert_close(logits, tensors["logits"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_draws_the_weights_that_it_drew(name: str) -> None:
    config, weights, _ = saved_head(name)
    torch.manual_seed(11)
    drawn = SoTHead(config, hidden_size=6, num_labels=3).state_dict()
    assert list(drawn) == [key for key in drawn if key in weights]
    assert len(drawn) == len(weights)
    for key, tensor in drawn.items():
        assert torch.equal(tensor, weights[key]), key


def test_a_saved_checkpoint_loads_bit_equal() -> None:
    model = AutoSoTForSequenceClassification.from_pretrained(CHECKPOINT).eval()
    weights = load_file(CHECKPOINT / "model.safetensors")
    assert model.state_dict().keys() == weights.keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[key]), key
    saved = json.loads((CHECKPOINT / "config.json").read_text())["head"]
    assert model.config.head == saved, "settings that came later are left out where they change nothing"
    expected = load_file(CHECKPOINT / "expected.safetensors")
    logits = model(expected["input_ids"], expected["attention_mask"]).logits
    torch.testing.assert_close(logits, expected["logits"], rtol=0, atol=1e-6)
