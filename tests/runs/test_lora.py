"""Runs with LoRA: the adapter, the merged model, resuming, and what is refused."""

import json

import pytest
import torch

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer, records
from sot_nlp.cli import main
from tests.runs.conftest import command
from tests.support import tiny


def test_lora_saves_the_adapter_and_the_merged_model(glue, backbone_folder, tmp_path):
    peft = pytest.importorskip("peft")
    out = tmp_path / "lora"
    flags = ("--lora_r", "4", "--num_train_epochs", "1")
    assert main(command(glue, backbone_folder("bert"), out, *flags)) == 0
    record = records.read(out)
    merged, tokenizer = AutoSoTForSequenceClassification.from_pretrained(out).eval(), load_tokenizer(out)
    base = AutoSoTForSequenceClassification.from_pretrained(
        backbone_folder("bert"), head=record["head_config"], num_labels=2
    )
    adapted = peft.PeftModel.from_pretrained(base, out / "adapter").eval()
    batch = tokenizer(tiny.sentences(8), padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, adapted(**batch).logits, atol=1e-5, rtol=0)
        query = "bert.encoder.layer.0.attention.self.query.weight"
        assert not torch.equal(
            merged.get_parameter(query),
            base.get_parameter(query.replace("query.weight", "query.base_layer.weight")),
        )
    # Of query and value in two layers of width 32: A (4, 32) and B (32, 4).
    adapters, head = 2 * 2 * 2 * 4 * 32, sum(p.numel() for p in merged.classifier.parameters())
    assert record["num_trainable_parameters"] == adapters + head
    assert record["num_parameters"] == merged.num_parameters() + adapters


def test_a_lora_run_resumes_from_a_checkpoint_that_counts_the_replaced_head(glue, backbone_folder, tmp_path):
    """As the record of earlier versions did, too."""
    pytest.importorskip("peft")
    out = tmp_path / "lora"
    words = command(glue, backbone_folder("bert"), out, "--lora_r", "4", "--checkpointing_steps", "epoch")
    assert main(words) == 0
    whole = (out / "model.safetensors").read_bytes()
    record = records.read(out)
    head = AutoSoTForSequenceClassification.from_pretrained(out).classifier
    first = out / "checkpoints" / "step-00000010"
    fingerprint = json.loads((first / "progress.json").read_text())["fingerprint"]
    held = record["num_parameters"] + sum(parameter.numel() for parameter in head.parameters())
    assert fingerprint["num_parameters"] == held
    records.write(out, record | {"status": records.RUNNING, "num_parameters": held})
    (out / "model.safetensors").unlink()
    assert main([*words, "--resume_from_checkpoint", str(first)]) == 0
    assert records.read(out)["resumed_from"][0]["step"] == 10
    assert (out / "model.safetensors").read_bytes() == whole


def test_lora_is_refused_where_the_model_is_divided(glue, backbone_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("sot_nlp.training.distributed.is_sharded", lambda accelerator: True)
    assert main(command(glue, backbone_folder("bert"), tmp_path / "o", "--lora_r", "2")) == 2
    assert "--lora_r: adapters can't be merged" in capsys.readouterr().err
