from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import transformers
from transformers import AutoConfig, BertConfig, LlamaConfig

from sot_nlp.modeling.configuration_sot import (
    SoTBertConfig,
    SoTConfig,
    SoTGPT2Config,
    SoTOpenAIGPTConfig,
    SoTRobertaConfig,
    is_causal,
)
from sot_nlp.modeling.head_config import DEFAULT_PRESET, PRESETS, resolve_head
from tests.support import tiny

CLASSES = [SoTBertConfig, SoTRobertaConfig, SoTOpenAIGPTConfig, SoTGPT2Config, SoTConfig]


@pytest.mark.parametrize("config_class", CLASSES)
def test_what_is_saved_comes_back(config_class, tmp_path: Path):
    config = config_class(head="vision", id2label={0: "bad", 1: "fair", 2: "good"}, problem_type=None)
    config.save_pretrained(tmp_path)
    assert config_class.from_pretrained(tmp_path).to_dict() == config.to_dict()
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is config_class
    assert loaded.head_config == PRESETS["vision"].replace(token_norm="none")
    assert loaded.head_preset == "vision"
    assert loaded.id2label == {0: "bad", 1: "fair", 2: "good"}
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["model_type"] == config_class.model_type
    assert written["head"] == loaded.head_config.to_dict()


def test_the_head_defaults_to_both_orders():
    assert DEFAULT_PRESET == "mapped_moments"
    assert SoTBertConfig().head_config == PRESETS[DEFAULT_PRESET].replace(token_norm="none")
    assert SoTBertConfig().head_preset == DEFAULT_PRESET


def test_a_preset_mixes_no_more_layers_than_there_are():
    assert SoTBertConfig(num_hidden_layers=2).head_config.num_layers == 2
    assert SoTGPT2Config(n_layer=3, head="sot").head_config.num_layers == 3
    projected = {"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 16, "num_hidden_layers": 3}
    assert SoTConfig(text_config=projected).head_config.num_layers == 1
    backbone = {"model_type": "distilbert", "n_layers": 1}
    assert SoTConfig(text_config=backbone).head_config.num_layers == 1
    # With its name, as a run gives the settings; a number that somebody gave stays.
    given = resolve_head("sot", dropout=0.1)
    assert SoTBertConfig(num_hidden_layers=2, head=given, head_preset="sot").head_config.num_layers == 2
    given = resolve_head("sot", num_layers=3)
    assert SoTBertConfig(num_hidden_layers=2, head=given, head_preset="sot").head_config.num_layers == 3


@pytest.mark.parametrize(
    ("config_class", "num_layers", "expected"),
    [
        (SoTGPT2Config, 2, "layer_norm"),
        (SoTGPT2Config, 1, "none"),  # the last layer has the model's final norm
        (SoTOpenAIGPTConfig, 2, "none"),  # normalises behind its blocks, as BERT
        (SoTBertConfig, 2, "none"),
    ],
)
def test_tokens_are_normalised_where_a_pre_norm_backbones_layers_are_mixed(
    config_class, num_layers, expected
):
    head = resolve_head("sot", num_layers=num_layers)
    assert config_class(head=head).head_config.token_norm == expected
    for asked in ("none", "layer_norm"):
        assert config_class(head=head.replace(token_norm=asked)).head_config.token_norm == asked
    # What was saved before there was such a setting did not normalise.
    older = {name: value for name, value in head.to_dict().items() if name != "token_norm"}
    assert config_class(head=older, head_preset="sot").head_config.token_norm == "none"


@pytest.mark.parametrize(
    ("backbone", "expected"),
    [
        ({"model_type": "llama"}, "layer_norm"),
        # A decoder that was made to see all tokens keeps its blocks.
        ({"model_type": "llama", "is_causal": False}, "layer_norm"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "layer_norm"),
        ({"model_type": "modernbert"}, "layer_norm"),
        ({"model_type": "mpnet"}, "none"),
        ({"model_type": "electra", "is_decoder": True}, "none"),
    ],
)
def test_which_other_families_are_pre_norm(backbone, expected):
    config = SoTConfig(text_config={"num_hidden_layers": 4, **backbone})
    assert config.head_config.token_norm == expected


def test_a_plain_backbone_lends_its_settings_and_nothing_of_its_identity(tmp_path: Path, caplog):
    BertConfig(hidden_size=32, architectures=["BertForMaskedLM"]).save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING, logger="transformers"):
        config = SoTBertConfig.from_pretrained(tmp_path, head="words", num_labels=3)
    assert config.model_type == "sot_bert"
    assert config.hidden_size == 32
    assert config.architectures is None
    assert config.num_labels == 3
    assert config.head_preset == "words"
    assert not caplog.records


def test_settings_of_a_head_have_no_preset_unless_one_is_named():
    settings = PRESETS["vision"].replace(num_heads=2, token_norm="none")
    assert SoTBertConfig(head=settings).head_preset is None
    config = SoTBertConfig(head=settings.to_dict(), head_preset="vision")
    assert config.head_preset == "vision"
    assert config.head_config == settings


def test_new_labels_replace_the_saved_ones_whole():
    saved = SoTBertConfig(id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}).to_dict()
    assert SoTBertConfig.from_dict(saved).label2id == {"no": 0, "yes": 1}
    assert SoTBertConfig.from_dict(saved, num_labels=2).label2id == {"no": 0, "yes": 1}
    assert SoTBertConfig.from_dict(saved, num_labels=3).id2label == {i: f"LABEL_{i}" for i in range(3)}
    named = SoTBertConfig.from_dict(saved, id2label={"0": "a", "1": "b", "2": "c"})
    assert named.id2label == {0: "a", 1: "b", 2: "c"}
    assert named.label2id == {"a": 0, "b": 1, "c": 2}
    by_name = SoTBertConfig.from_dict(saved, label2id={"x": 0, "y": 1, "z": 2})
    assert by_name.id2label == {0: "x", 1: "y", 2: "z"}
    with pytest.raises(ValueError, match=r"num_labels=4, but id2label names 2"):
        SoTBertConfig.from_dict(saved, num_labels=4, id2label={0: "a", 1: "b"})


def test_a_stale_problem_type_goes_with_the_labels_that_it_was_for(tmp_path: Path):
    BertConfig(problem_type="single_label_classification", num_labels=3).save_pretrained(tmp_path)
    config = SoTBertConfig.from_pretrained(tmp_path, num_labels=1, problem_type="regression")
    assert (config.num_labels, config.problem_type) == (1, "regression")
    assert SoTBertConfig.from_pretrained(tmp_path, num_labels=1).problem_type is None


@pytest.mark.parametrize(
    ("head", "message"),
    [
        ("txt", r"no preset 'txt' \(did you mean text"),
        ({**PRESETS["text"].to_dict(), "poling": "mean"}, r"no field 'poling' \(did you mean pooling"),
        ({**PRESETS["text"].to_dict(), "alpha": 2}, r"alpha=2 is not a number above 0 and below 1"),
        ({"pooling": "mean"}, r"no value for num_heads"),
        (7, r"7 is neither a preset"),
    ],
)
def test_head_settings_that_do_not_hold_are_refused(head, message):
    with pytest.raises(ValueError, match=message):
        SoTBertConfig(head=head)


def test_a_checkpoint_of_another_family_is_refused_by_name(tmp_path: Path):
    tiny.config("roberta").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"model type 'roberta', but SoTBertConfig reads 'bert'"):
        SoTBertConfig.from_pretrained(tmp_path)


def test_bert_configs_older_than_model_type_are_read(tmp_path: Path):
    settings = BertConfig(hidden_size=32).to_dict()
    del settings["model_type"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    assert SoTBertConfig.from_pretrained(tmp_path).hidden_size == 32
    (tmp_path / "config.json").write_text('{"architectures": ["Something"]}')
    with pytest.raises(ValueError, match="names no model_type"):
        SoTBertConfig.from_pretrained(tmp_path)


def test_any_backbone_stands_in_text_config(tmp_path: Path):
    backbone = LlamaConfig(hidden_size=32, num_labels=3, pad_token_id=4)
    backbone.name_or_path = "folder of someone/llama"
    backbone.save_pretrained(tmp_path)
    config = SoTConfig.from_pretrained(tmp_path)
    assert config.text_config.model_type == "llama"
    assert config.feature_size == 32
    assert config.num_labels == 3
    assert config.pad_token_id == 4
    assert config.causal is True
    config = SoTConfig(text_config=backbone)
    assert "someone" not in config.to_json_string()


def test_an_unknown_backbone_is_refused_with_near_names():
    with pytest.raises(ValueError, match=r"no model of type 'lama' \(did you mean llama"):
        SoTConfig(text_config={"model_type": "lama"})


def test_opt_may_project_its_output():
    config = SoTConfig(text_config={"model_type": "opt", "hidden_size": 32, "word_embed_proj_dim": 16})
    assert config.feature_size == 16


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (transformers.LlamaConfig(), True),
        (transformers.GPT2Config(), True),
        (transformers.XLNetConfig(), True),
        (transformers.BertConfig(), False),
        (transformers.BertConfig(is_decoder=True), True),
        (transformers.ElectraConfig(), False),
        (transformers.ModernBertConfig(), False),
        (transformers.BertGenerationConfig(), False),
        (transformers.Gemma3TextConfig(), True),
        (transformers.Gemma3TextConfig(use_bidirectional_attention=True), False),
    ],
)
def test_which_backbones_see_only_what_stands_before(config, expected):
    assert is_causal(config) is expected
