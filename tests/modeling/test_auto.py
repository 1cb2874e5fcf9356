from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification

from sot_nlp import (
    AutoSoTForSequenceClassification,
    SoTBertForSequenceClassification,
    SoTForSequenceClassification,
    SoTHeadConfig,
    load_tokenizer,
)
from sot_nlp.modeling.head_config import DEFAULT_PRESET, PRESETS
from tests.support import tiny

CLASSES = {
    "bert": "SoTBertForSequenceClassification",
    "roberta": "SoTRobertaForSequenceClassification",
    "openai-gpt": "SoTOpenAIGPTForSequenceClassification",
    "gpt2": "SoTGPT2ForSequenceClassification",
}
LM = {
    "bert": "AutoModelForMaskedLM",
    "roberta": "AutoModelForMaskedLM",
    "openai-gpt": "AutoModelForCausalLM",
    "gpt2": "AutoModelForCausalLM",
}


@pytest.fixture
def saved(backbone_folder, tmp_path: Path) -> Path:
    """A SoT checkpoint on BERT with three named labels and its tokenizer."""
    folder = tmp_path / "saved"
    model = AutoSoTForSequenceClassification.from_pretrained(
        backbone_folder("bert"), id2label={0: "bad", 1: "fair", 2: "good"}
    )
    model.save_pretrained(folder)
    load_tokenizer(backbone_folder("bert")).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["AutoModel", "LM", "AutoModelForSequenceClassification"])
@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_plain_checkpoints_backbone_is_loaded_bit_for_bit(family, kind, backbone_folder, caplog):
    folder = backbone_folder(family, LM[family] if kind == "LM" else kind)
    with caplog.at_level(logging.INFO):
        model = AutoSoTForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert type(model).__name__ == CLASSES[family]
    assert not model.training
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    plain = AutoModel.from_pretrained(folder).state_dict()
    for name, value in model.base_model.state_dict().items():
        assert torch.equal(value, plain[name]), name
    assert warnings == [f"{folder}: new, to be trained: the SoT head (mapped_moments, 3 labels)"]


def test_a_folders_name_is_shown_without_its_escapes(backbone_folder, tmp_path, caplog):
    folder = shutil.copytree(backbone_folder("bert"), tmp_path / "a\x1b[31m\u202eb")
    AutoSoTForSequenceClassification.from_pretrained(folder)
    assert "a\\x1b[31m\\u202eb: new, to be trained" in caplog.text
    assert not {"\x1b", "\u202e"} & set("".join(caplog.messages))


def test_bert_takes_its_pretrained_pooler_for_the_stock_head(backbone_folder, caplog):
    folder = backbone_folder("bert")
    model = AutoSoTForSequenceClassification.from_pretrained(folder, head="stock")
    pooler = load_file(folder / "model.safetensors")["pooler.dense.weight"]
    assert torch.equal(model.bert.pooler.dense.weight, pooler)
    caplog.clear()
    AutoSoTForSequenceClassification.from_pretrained(
        backbone_folder("bert", "AutoModelForMaskedLM"), head="stock"
    )
    assert caplog.messages[-1].endswith("new, to be trained: the SoT head (stock, 2 labels) and the pooler")


def test_roberta_does_not_take_a_stock_heads_layers_for_its_own(backbone_folder):
    folder = backbone_folder("roberta", "AutoModelForSequenceClassification")
    model = AutoSoTForSequenceClassification.from_pretrained(folder, head="stock")
    theirs = load_file(folder / "model.safetensors")["classifier.dense.weight"]
    assert not torch.equal(model.classifier.class_token_transform.dense.weight, theirs)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_the_pad_token_is_set_up_and_saved(family, backbone_folder, tmp_path):
    folder = backbone_folder(family)
    tokenizer = load_tokenizer(folder)
    expected = {"bert": "[PAD]", "roberta": "<pad>", "openai-gpt": "<unk>", "gpt2": "<|endoftext|>"}[family]
    assert tokenizer.pad_token == expected
    model = AutoSoTForSequenceClassification.from_pretrained(folder, head="stock")
    assert model.config.pad_token_id == tokenizer.pad_token_id
    tokenizer.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again.pad_token == expected
    assert AutoConfig.from_pretrained(tmp_path).pad_token_id == tokenizer.pad_token_id
    both = again(["wug", "the zorp runs ."], padding=True, return_tensors="pt")
    assert model(**both).logits.isfinite().all()


def test_separators_come_from_the_tokenizer(backbone_folder):
    head = PRESETS["text"].replace(include_separators=False)
    model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert"), head=head)
    tokenizer = load_tokenizer(backbone_folder("bert"))
    assert model.config.separator_token_ids == [tokenizer.cls_token_id, tokenizer.sep_token_id]
    model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("roberta"), head=head)
    assert model.config.separator_token_ids == [0, 2]


def test_transformers_own_auto_classes_load_a_saved_model(saved):
    model = AutoSoTForSequenceClassification.from_pretrained(saved)
    same = AutoModelForSequenceClassification.from_pretrained(saved)
    inputs = load_tokenizer(saved)(["the zorp runs .", "wug"], padding=True, return_tensors="pt")
    assert type(same) is SoTBertForSequenceClassification
    assert isinstance(same, SoTForSequenceClassification)
    assert same.config.label2id == {"bad": 0, "fair": 1, "good": 2}
    assert torch.equal(same(**inputs).logits, model(**inputs).logits)
    backbone = AutoModel.from_pretrained(saved)
    expected = model.bert(**inputs).last_hidden_state
    assert torch.equal(backbone(**inputs).last_hidden_state, expected)


@pytest.mark.parametrize("family", ["roberta", "openai-gpt", "gpt2", "electra"])
def test_auto_model_gives_each_familys_backbone(family, tmp_path, caplog):
    if family == "electra":
        config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
    else:
        config = tiny.config(family)
    model = AutoSoTForSequenceClassification.from_config(config).eval()
    model.save_pretrained(tmp_path)
    backbone = AutoModel.from_pretrained(tmp_path)
    ids = torch.tensor([[3, 4, 5]])
    positions = torch.arange(3).unsqueeze(0) + model.position_offset
    torch.testing.assert_close(
        backbone(input_ids=ids, position_ids=positions).last_hidden_state,
        model.base_model(input_ids=ids, position_ids=positions).last_hidden_state,
    )
    assert not caplog.messages


def test_a_new_number_of_labels_says_what_it_starts_anew(saved, caplog):
    before = load_file(saved / "model.safetensors")
    for load in (AutoSoTForSequenceClassification, AutoModelForSequenceClassification):
        caplog.clear()
        model = load.from_pretrained(saved, num_labels=5)
        assert caplog.messages == [
            f"{saved}: new, to be trained: "
            "classifier.class_token_output.bias, classifier.class_token_output.weight, "
            "classifier.word_output.bias, classifier.word_output.weight (for 5 labels instead of 3)"
        ]
        assert model.config.num_labels == model.classifier.word_output.out_features == 5
        assert model.classifier.word_output.weight.std().item() == pytest.approx(0.02, rel=0.2)
        assert torch.equal(model.classifier.words.maps.weight, before["classifier.words.maps.weight"])


def test_other_head_settings_start_the_whole_head_anew(saved, caplog):
    before = load_file(saved / "model.safetensors")
    model = AutoSoTForSequenceClassification.from_pretrained(saved, head="words")
    assert caplog.messages == [f"{saved}: new, to be trained: the SoT head (words, 3 labels)"]
    assert not torch.equal(model.classifier.words.maps.weight, before["classifier.words.maps.weight"])
    assert model.classifier.words.maps.weight.std().item() == pytest.approx(0.02, rel=0.2)
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[name], before[name])
    assert not model.classifier.training


def test_a_saved_model_says_nothing_when_it_comes_back(saved, caplog):
    AutoSoTForSequenceClassification.from_pretrained(saved)
    AutoSoTForSequenceClassification.from_pretrained(saved, head=DEFAULT_PRESET, num_labels=3)
    assert not caplog.messages


def test_older_bert_checkpoints_load(backbone_folder, tmp_path):
    """As SpanBERT's: weights as a pickle with LayerNorm's old names, no model_type, a vocabulary file."""
    old = backbone_folder("bert")
    weights = {
        f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in load_file(old / "model.safetensors").items()
    }
    torch.save(weights, tmp_path / "pytorch_model.bin")
    settings = json.loads((old / "config.json").read_text())
    del settings["model_type"], settings["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    words = load_tokenizer(old).get_vocab()
    (tmp_path / "vocab.txt").write_text("\n".join(sorted(words, key=words.get)) + "\n")
    model = AutoSoTForSequenceClassification.from_pretrained(tmp_path)
    plain = AutoModel.from_pretrained(old).state_dict()
    for name, value in model.bert.state_dict().items():
        assert torch.equal(value, plain[name]), name
    text = "the zorp runs ."
    assert load_tokenizer(tmp_path)(text)["input_ids"] == load_tokenizer(old)(text)["input_ids"]


def test_from_config_builds_random_models():
    config = tiny.config("roberta")
    model = AutoSoTForSequenceClassification.from_config(
        config, head="vision", label2id={"no": 0, "yes": 1}, attn_implementation="eager"
    )
    assert type(model).__name__ == CLASSES["roberta"]
    assert model.config.head_preset == "vision"
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert model.config._attn_implementation == "eager"
    assert type(config) is transformers.RobertaConfig
    again = AutoSoTForSequenceClassification.from_config(model.config, num_labels=4)
    assert again.config.head_preset == "vision"
    assert again.num_labels == 4
    with pytest.raises(ValueError, match="no field headd"):
        AutoSoTForSequenceClassification.from_config(config, headd="text")


def test_head_settings_are_taken_in_every_form(backbone_folder):
    settings = SoTHeadConfig.from_dict(PRESETS["text"].to_dict() | {"num_heads": 2, "token_norm": "none"})
    for head in (settings, settings.to_dict()):
        model = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("gpt2"), head=head)
        assert model.classifier.config == settings


def change_config(folder: Path, **changes) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | changes))


def change_weights(folder: Path, change) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def test_head_settings_that_do_not_fit_the_weights_are_refused(saved):
    head = PRESETS["text"].replace(width_x=16).to_dict()
    change_config(saved, head=head)
    with pytest.raises(
        ValueError, match=r"do not fit its config: classifier\.\S+ is \S+ in the file, \S+ by"
    ):
        AutoSoTForSequenceClassification.from_pretrained(saved)
    change_config(saved, head=PRESETS["vision"].to_dict())
    with pytest.raises(ValueError, match=r"saved: its weights do not fit its config: classifier\."):
        AutoModelForSequenceClassification.from_pretrained(saved)


def test_labels_that_do_not_fit_the_weights_are_refused(saved):
    change_config(saved, id2label={"0": "a", "1": "b"}, label2id={"a": 0, "b": 1})
    with pytest.raises(ValueError, match=r"class_token_output\.bias is 3 in the file, 2 by the config"):
        AutoSoTForSequenceClassification.from_pretrained(saved)


def test_weights_taken_away_or_renamed_are_refused(saved, tmp_path):
    cut = tmp_path / "cut"
    shutil.copytree(saved, cut)
    change_weights(cut, lambda weights: {n: w for n, w in weights.items() if "layer.1.attention" not in n})
    with pytest.raises(ValueError, match=r"encoder\.layer\.1\.attention\.\S+ is missing; .* and 6 more"):
        AutoSoTForSequenceClassification.from_pretrained(cut)
    change_weights(
        saved, lambda weights: {n.replace("word_output", "words_out"): w for n, w in weights.items()}
    )
    with pytest.raises(ValueError, match=r"word_output\.bias is missing.*words_out\.bias is not part"):
        AutoSoTForSequenceClassification.from_pretrained(saved)


def test_a_plain_checkpoint_with_missing_weights_is_refused(backbone_folder, tmp_path):
    shutil.copytree(backbone_folder("gpt2"), tmp_path, dirs_exist_ok=True)
    change_weights(tmp_path, lambda weights: {n: w for n, w in weights.items() if n != "wpe.weight"})
    with pytest.raises(ValueError, match=r"transformer\.wpe\.weight is missing"):
        AutoSoTForSequenceClassification.from_pretrained(tmp_path)


def test_damaged_files_are_refused(saved, backbone_folder, tmp_path):
    file = saved / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"\xff" * 64 + whole[64:]):
        file.write_bytes(damaged)
        with pytest.raises(OSError, match="saved: its weights cannot be read, the file is damaged"):
            AutoSoTForSequenceClassification.from_pretrained(saved)
    file.unlink()
    with pytest.raises(OSError, match=r"model\.safetensors"):
        AutoSoTForSequenceClassification.from_pretrained(saved)
    old = tmp_path / "old"
    shutil.copytree(backbone_folder("bert"), old)
    (old / "model.safetensors").unlink()
    for damaged in (b"", whole[:1000]):
        (old / "pytorch_model.bin").write_bytes(damaged)
        with pytest.raises(OSError, match="old: its weights cannot be read, the file is damaged"):
            AutoSoTForSequenceClassification.from_pretrained(old)


def test_a_pickle_that_would_run_code_does_not(backbone_folder, tmp_path):
    """Weights as a pickle are read by torch's restricted loader."""
    sign = tmp_path / "it-ran"

    class Payload:
        def __reduce__(self):
            return (Path.touch, (sign,))

    folder = tmp_path / "planted"
    shutil.copytree(backbone_folder("bert"), folder)
    (folder / "model.safetensors").unlink()
    torch.save({"bert.pooler.dense.bias": Payload()}, folder / "pytorch_model.bin")
    with pytest.raises((OSError, ValueError)):
        AutoSoTForSequenceClassification.from_pretrained(folder)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {**PRESETS["text"].to_dict(), "poling": 1}}, r"no field 'poling' \(did you mean pooling"),
        ({"head": {"pooling": "mean"}}, "no value for"),
        ({"head_preset": "wors", "head": None}, "no preset 'wors'"),
        ({"model_type": "sot_brt"}, r"no model of type 'sot_brt' \(did you mean sot_bert"),
        ({"model_type": "sot_roberta"}, "do not fit its config"),
        ({"hidden_size": 64}, "do not fit its config"),
        ({"hidden_size": "wide"}, "hidden_size"),
    ],
)
def test_a_config_that_does_not_hold_is_refused(saved, changes, message):
    change_config(saved, **changes)
    with pytest.raises(ValueError, match=message):
        AutoSoTForSequenceClassification.from_pretrained(saved)


def test_a_config_that_is_no_settings_is_refused(saved, tmp_path):
    (saved / "config.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"its config\.json holds no object of settings"):
        AutoSoTForSequenceClassification.from_pretrained(saved)
    (saved / "config.json").write_text('{"model_type": ')
    with pytest.raises(OSError, match="not a valid JSON file"):
        AutoSoTForSequenceClassification.from_pretrained(saved)
    (saved / "config.json").unlink()
    with pytest.raises(OSError, match=r"there is no config\.json"):
        AutoSoTForSequenceClassification.from_pretrained(saved)
    with pytest.raises(OSError, match="nowhere"):
        AutoSoTForSequenceClassification.from_pretrained(tmp_path / "nowhere")


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "llama"])
def test_a_missing_tokenizer_is_not_made_up(family, tmp_path):
    settings = tiny.OTHER_BACKBONES.get(family)
    config = AutoConfig.for_model(family, **settings) if settings else tiny.config(family)
    AutoSoTForSequenceClassification.from_config(config, head="stock").save_pretrained(tmp_path / "sot")
    config.save_pretrained(tmp_path / "plain")
    for folder in ("sot", "plain"):
        with pytest.raises((OSError, ValueError), match=folder):
            load_tokenizer(tmp_path / folder)


def test_the_class_itself_is_not_made():
    with pytest.raises(OSError, match="from_pretrained"):
        AutoSoTForSequenceClassification()
