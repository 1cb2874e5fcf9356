"""PEFT's LoRA on a SoT model: the backbone adapted, the head trained."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from sot_nlp import AutoSoTForSequenceClassification, lora_target_modules
from tests.support import tiny
from tests.support.padding import batch

peft = pytest.importorskip("peft")

TEXTS = [[5, 9, 33, 41, 12], [7, 50, 21], [19]]
FAMILIES = [*tiny.FAMILIES, "distilbert", "deberta-v2", "qwen3", "gpt_neox", "modernbert"]
TARGETS = {
    "bert": ["query", "value"],
    "roberta": ["query", "value"],
    "openai-gpt": ["c_attn"],
    "gpt2": ["c_attn"],
    "distilbert": ["q_lin", "v_lin"],
    "deberta-v2": ["query_proj", "value_proj"],
    "qwen3": ["q_proj", "v_proj"],
    "gpt_neox": ["query_key_value"],
    "modernbert": ["Wqkv"],
}


def build(family: str, **options):
    settings = tiny.OTHER_BACKBONES.get(family)
    config = AutoConfig.for_model(family, **settings) if settings else tiny.config(family)
    torch.manual_seed(0)
    return AutoSoTForSequenceClassification.from_config(config, **({"num_labels": 3} | options))


def adapted(model):
    config = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=lora_target_modules(model))
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("family", FAMILIES)
def test_target_modules_by_family(family):
    assert lora_target_modules(build(family)) == TARGETS[family]


@pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")
@pytest.mark.parametrize("head", ["text", "stock"])
@pytest.mark.parametrize("family", FAMILIES)
def test_trained_saved_reloaded_and_merged_give_the_same_logits(family, head, tmp_path):
    build(family, head=head).save_pretrained(tmp_path / "base")
    model = adapted(AutoSoTForSequenceClassification.from_pretrained(tmp_path / "base"))
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trainable)
    assert any(".classifier.modules_to_save." in name for name in trainable)
    assert all("lora_" in name or "classifier" in name for name in trainable)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    inputs = batch(TEXTS, 1)
    model.train()
    for _ in range(2):
        loss = model(**inputs, labels=torch.tensor([0, 1, 2])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    with torch.no_grad():
        expected = model(**inputs).logits
        assert (expected - base_logits(tmp_path / "base", inputs)).abs().max() > 1e-3
    model.save_pretrained(tmp_path / "adapter")

    again = peft.PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
    ).eval()
    torch.testing.assert_close(again(**inputs).logits, expected, atol=1e-6, rtol=1e-6)
    by_name = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(by_name(**inputs).logits, expected, atol=1e-6, rtol=1e-6)
    merged = again.merge_and_unload()
    torch.testing.assert_close(merged(**inputs).logits, expected, atol=1e-5, rtol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(loaded(**inputs).logits, expected, atol=1e-5, rtol=1e-5)


def base_logits(folder, inputs) -> torch.Tensor:
    return AutoSoTForSequenceClassification.from_pretrained(folder)(**inputs).logits


def test_an_adapter_of_another_base_is_refused(tmp_path):
    build("bert").save_pretrained(tmp_path / "base")
    model = adapted(AutoSoTForSequenceClassification.from_pretrained(tmp_path / "base"))
    model.save_pretrained(tmp_path / "adapter")
    others = {
        "gpt2": build("gpt2"),
        "another head": build("bert", head="vision"),
        "a part of the head": build("bert", head="words"),
        "other labels": build("bert", num_labels=5),
    }
    for name, other in others.items():
        other.save_pretrained(tmp_path / name)
        settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        settings["base_model_name_or_path"] = str(tmp_path / name)
        (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(settings))
        for load in (AutoSoTForSequenceClassification, AutoModelForSequenceClassification):
            with pytest.raises(ValueError, match=rf"adapter, an adapter for \S*/{name}.* fit"):
                load.from_pretrained(tmp_path / "adapter")
    tiny.save_backbone("bert", tmp_path / name)
    with pytest.raises(ValueError, match="that base has no such SoT head"):
        AutoSoTForSequenceClassification.from_pretrained(tmp_path / "adapter")
    shutil.rmtree(tmp_path / name)
    with pytest.raises(OSError, match=r"is an adapter for \S*/other labels, which cannot be read"):
        AutoSoTForSequenceClassification.from_pretrained(tmp_path / "adapter")


def test_layers_that_have_other_names_are_listed():
    model = build("bert")
    for layer in model.bert.encoder.layer:
        layer.attention.self.ask = layer.attention.self.query
        layer.attention.self.tell = layer.attention.self.value
        del layer.attention.self.query, layer.attention.self.value
    with pytest.raises(ValueError, match=r"no query or value projection found.* ask, dense, key, tell"):
        lora_target_modules(model)
