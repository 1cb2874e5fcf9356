"""Loading checkpoints: stored precision, a backbone without its head, other labels on trained outputs."""

from __future__ import annotations

import pytest
import torch
import transformers
from transformers import AutoConfig, AutoModel

from sot_nlp import AutoSoTForSequenceClassification
from sot_nlp.modeling.head_config import PRESETS
from tests.support import tiny
from tests.support.hub_server import Repo, serve


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("family", ["bert", "electra"])
def test_a_stored_precision_is_kept_or_changed_as_transformers_does(name, family, tmp_path):
    if family == "bert":
        tiny.save_backbone(family, tmp_path)
    else:
        config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
        AutoModel.from_config(config).save_pretrained(tmp_path)
    AutoModel.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    own = getattr(transformers, "BertModel" if family == "bert" else "ElectraModel")
    model_class = type(AutoSoTForSequenceClassification.from_pretrained(tmp_path))
    for value in ("auto", "float16", "bfloat16", "float32", torch.float32, torch.bfloat16):
        expected = own.from_pretrained(tmp_path, **{name: value}).dtype
        for source in (AutoSoTForSequenceClassification, model_class):
            model = source.from_pretrained(tmp_path, **{name: value})
            assert {weight.dtype for weight in model.parameters()} == {expected} == {model.config.dtype}
        config = AutoConfig.from_pretrained(tmp_path)
        assert AutoSoTForSequenceClassification.from_config(config, **{name: value}).dtype == expected
    with pytest.raises(ValueError, match="dtype"):
        AutoSoTForSequenceClassification.from_pretrained(tmp_path, **{name: "float17"})


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "electra"])
def test_a_backbone_saved_out_of_a_sot_model_gets_a_head_again(family, tmp_path, caplog):
    if family == "electra":
        config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
    else:
        config = tiny.config(family)
    model = AutoSoTForSequenceClassification.from_config(config)
    model.base_model.save_pretrained(tmp_path / "base")
    model.save_pretrained(tmp_path / "whole")
    AutoModel.from_pretrained(tmp_path / "whole").save_pretrained(tmp_path / "auto")
    for folder, options in (("base", {}), ("auto", {}), ("auto", {"head": "vision", "num_labels": 3})):
        caplog.clear()
        again = AutoSoTForSequenceClassification.from_pretrained(tmp_path / folder, **options)
        for name, value in model.base_model.state_dict().items():
            assert torch.equal(again.base_model.state_dict()[name], value), name
        assert "new, to be trained: the SoT head" in caplog.text
        # A generic model's backbone is a model of its own kind, which doesn't know where it came from.
        if (family, folder) != ("electra", "base"):
            assert "the backbone of a SoT model, saved without its head" in caplog.text


def test_other_names_on_a_trained_output_layer_are_said(backbone_folder, tmp_path, caplog):
    saved = tmp_path / "saved"
    names = {0: "bad", 1: "fair", 2: "good"}
    first = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert"), id2label=names)
    first.save_pretrained(saved)
    model = AutoSoTForSequenceClassification.from_pretrained(saved, id2label={0: "bad", 1: "ok", 2: "fine"})
    before = AutoSoTForSequenceClassification.from_pretrained(saved)
    assert torch.equal(model.classifier.word_output.weight, before.classifier.word_output.weight)
    assert "renamed by position: fair is now ok, good is now fine" in caplog.messages[-1]
    caplog.clear()
    AutoSoTForSequenceClassification.from_pretrained(saved, id2label=names)
    assert not caplog.messages


@pytest.mark.parametrize("head", ["sot", "stock", "late", "concat"])
def test_renewed_outputs_are_those_of_the_labels_alone(head, backbone_folder):
    head = head if head in PRESETS else PRESETS["text"].replace(fusion=head)
    model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert"), head=head, num_labels=3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.renew_outputs()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    outputs = {name for name in before if name.endswith("_output.weight")}
    assert changed == outputs


@pytest.mark.parametrize(
    ("name", "state", "expected"),
    [
        ("me/none", "answers", "no folder of this name here, nor such a model on the Hub"),
        ("none", "answers", "no folder of this name here, nor such a model on the Hub"),
        ("me/none", "fails", "answered 500"),
        ("me/none", "gone", "nor in the Hub's cache, and http://127.* cannot be reached"),
        ("me/none", "offline", "nor in the Hub's cache, and offline mode is on .HF_HUB_OFFLINE."),
        ("./me/none", "answers", "no folder of this name here, and no model of the Hub is named so"),
        ("me/no ne", "offline", "no folder of this name here"),
    ],
)
def test_a_name_that_leads_nowhere_is_one_line_with_the_cause(name, state, expected, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    # The Hub's client waits longer before every further attempt.
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with serve() as hub:
        hub.connect(monkeypatch)
        if state == "fails":
            hub.failures = {("HEAD", "me"): 500, ("GET", "me"): 500}
        elif state == "offline":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        elif state == "gone":
            monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
            monkeypatch.setattr(
                "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
                "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}",
            )
        else:
            hub.repos["me/there"] = Repo(private=False)
            with pytest.raises(OSError, match="me/there: this model of the Hub has no such revision"):
                AutoSoTForSequenceClassification.from_pretrained(
                    "me/there", revision="v9", cache_dir=tmp_path / "cache"
                )
        with pytest.raises(OSError, match=expected) as caught:
            AutoSoTForSequenceClassification.from_pretrained(name, cache_dir=tmp_path / "cache")
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert message.count(name) == 1
    assert "\n" not in message
    assert message.endswith("give a model's folder, or its name on the Hub (OWNER/NAME)")
