"""Runs that start from checkpoints as people have them: other precisions, tokenizers, labels, lengths."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer, records
from sot_nlp.cli import main
from sot_nlp.inference.saved_model import open_model
from sot_nlp.publishing.model_card import model_card
from tests.support import saved_runs, tiny

QUICK = "--max_train_steps 2 --per_device_train_batch_size 8 --cpu --mixed_precision no --disable_tqdm"


def write(path: Path, labels: tuple[str, ...] = ("bad", "good"), *, pairs: bool = False) -> Path:
    """A CSV of 24 texts, or pairs of them, whose labels take turns."""
    texts = tiny.sentences(24, seed=3, low=3, high=9)
    columns = "one,two,label" if pairs else "text,label"
    lines = [
        ",".join([text, *([texts[-i]] if pairs else []), labels[i % len(labels)]])
        for i, text in enumerate(texts)
    ]
    path.write_text("\n".join([columns, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def train(tmp_path: Path) -> Callable[..., Path]:
    """`train(backbone, *flags)`: two updates on the CSV, in a new folder."""
    file = write(tmp_path / "data.csv")

    def run(backbone: Path, *flags: str, train_file: Path = file, code: int = 0) -> Path:
        out = tmp_path / f"run{len(list(tmp_path.glob('run*')))}"
        words = f"--model_name_or_path {backbone} --output_dir {out} --train_file {train_file} {QUICK}"
        assert main(["train", *words.split(), "--cache_dir", str(tmp_path / "cache"), *flags]) == code
        return out

    return run


def stored(folder: Path, dtype: torch.dtype | None, family: str = "bert") -> Path:
    """A tiny checkpoint in `dtype`; None: half of its weights in fp16, the others in fp32."""
    tiny.save_backbone(family, folder)
    model: Any = transformers.AutoModel.from_pretrained(folder)
    model = model.to(dtype) if dtype is not None else model
    if dtype is None:
        model.encoder.half()
        model.config.dtype = None
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("dtype", "family", "flags"),
    [
        (torch.float16, "bert", ""),
        (torch.float16, "bert", "--head stock"),
        (torch.float16, "bert", "--freeze_backbone"),
        (torch.float16, "bert", "--trainable_layers 1"),
        (torch.float16, "bert", "--lora_r 4"),
        (torch.bfloat16, "gpt2", ""),
        (torch.bfloat16, "roberta", "--head vision --mixed_precision bf16"),
        (torch.float64, "openai-gpt", ""),
        (None, "bert", ""),
    ],
)
def test_training_keeps_fp32_weights_whatever_is_stored(dtype, family, flags, train, tmp_path):
    if "lora" in flags:
        pytest.importorskip("peft")
    out = train(stored(tmp_path / "stored", dtype, family), *flags.split())
    assert {weight.dtype for weight in load_file(out / "model.safetensors").values()} == {torch.float32}
    assert json.loads((out / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sot_model_stored_in_half_precision_is_evaluated_and_trained_on(dtype, train, tmp_path, capsys):
    folder = saved_runs.save_run(tmp_path / "sot", labels=("bad", "good"))
    AutoSoTForSequenceClassification.from_pretrained(folder).to(dtype).save_pretrained(folder)
    file = str(write(tmp_path / "dev.csv"))
    data = ("--validation_file", file, "--cache_dir", str(tmp_path / "cache"))
    assert main(["evaluate", str(folder), *data, "--cpu", "--mixed_precision", "no"]) == 0
    assert "accuracy" in capsys.readouterr().out
    assert main(["predict", str(folder), "--file", file, "--cpu"]) == 0
    train(folder)


@pytest.mark.parametrize(
    ("family", "tokenizer_family", "overrides"),
    [("roberta", "bert", {}), ("bert", "bert", {"type_vocab_size": 1})],
)
def test_token_types_that_the_model_lacks_are_not_made(
    family, tokenizer_family, overrides, train, tmp_path, caplog
):
    tokenizer = tiny.tokenizer(tokenizer_family)
    folder = tiny.save_backbone(family, tmp_path / "stored", vocab_size=len(tokenizer) + 2, **overrides)
    for file in folder.glob("*"):
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    tokenizer.save_pretrained(folder)
    file = write(tmp_path / "pairs.csv", pairs=True)
    with caplog.at_level(logging.WARNING):
        out = train(folder, "--text_column_names", "one", "two", train_file=file)
    assert "the tokenizer makes token types up to 1, the model has 1: none are used" in caplog.text
    assert main(["predict", str(out), "--file", str(file), "--cpu"]) == 0
    explain = ["explain", str(out), "--text", "the zorp runs .", "--text_pair", "wug ."]
    assert main(explain) == 0
    classify = transformers.pipeline("text-classification", model=str(out), device="cpu")
    assert "token_type_ids" not in classify.tokenizer("wug", "dax")
    # A tokenizer from elsewhere changes nothing: a model of one type ignores them.
    model = AutoSoTForSequenceClassification.from_pretrained(out)
    pair = tokenizer("the zorp runs .", "wug .", return_tensors="pt")
    with torch.no_grad():
        logits = model(**pair).logits
        types = pair.pop("token_type_ids")
        assert types.max() == 1
        assert torch.equal(logits, model(**pair).logits)


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_token_types_are_no_words(family, train, tmp_path):
    """GPT's kind would look types up among its words, of which 0 and 1 are two."""
    tokenizer = tiny.tokenizer("bert")
    folder = tiny.save_backbone(family, tmp_path / "stored", vocab_size=len(tokenizer) + 2)
    for file in folder.glob("*"):
        if file.name not in ("config.json", "model.safetensors"):
            file.unlink()
    tokenizer.save_pretrained(folder)
    out = train(folder, "--text_column_names", "one", "two", train_file=write(tmp_path / "p.csv", pairs=True))
    model = AutoSoTForSequenceClassification.from_pretrained(out)
    pair = tokenizer("the zorp runs .", "wug .", return_tensors="pt")
    with torch.no_grad():
        logits = model(**pair).logits
        assert pair.pop("token_type_ids").max() == 1
        assert torch.equal(logits, model(**pair).logits)


def test_xlnet_tells_segments_apart():
    settings = tiny.OTHER_BACKBONES["xlnet"]
    config = transformers.AutoConfig.for_model("xlnet", **settings)
    model = AutoSoTForSequenceClassification.from_config(config).eval()
    ids, types = torch.tensor([[3, 4, 5, 6]]), torch.tensor([[0, 0, 1, 1]])
    with torch.no_grad():
        assert not torch.equal(model(input_ids=ids, token_type_ids=types).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize("flags", ["", "--head stock", "--freeze_backbone", "--lora_r 4"])
@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_added_tokens_get_embeddings_before_training(family, flags, train, tmp_path, caplog):
    if "lora" in flags:
        pytest.importorskip("peft")
    folder = tiny.save_backbone(family, tmp_path / "stored")
    tokenizer = load_tokenizer(folder)
    before = len(tokenizer)
    tokenizer.add_tokens(["<new>", "<other>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    with caplog.at_level(logging.WARNING):
        out = train(folder, *flags.split())
    said = f"the tokenizer has {before + 2} tokens, the checkpoint {before} embeddings: 2 are new"
    assert said in caplog.text
    model = AutoSoTForSequenceClassification.from_pretrained(out)
    assert model.get_input_embeddings().num_embeddings == before + 2
    assert model.config.vocab_size == before + 2
    (tmp_path / "texts.txt").write_text("the <new> zorp <other>\n")
    assert main(["predict", str(out), "--file", str(tmp_path / "texts.txt"), "--cpu"]) == 0


def test_tokens_added_after_the_training_are_refused(tmp_path, capsys):
    folder = saved_runs.save_run(tmp_path / "sot", labels=("bad", "good"))
    tokenizer = load_tokenizer(folder)
    count = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(folder)
    file = str(write(tmp_path / "dev.csv"))
    data = ("--validation_file", file, "--cache_dir", str(tmp_path / "cache"), "--cpu")
    for words in (
        ["evaluate", str(folder), *data],
        ["predict", str(folder), "--file", file, "--cpu"],
        ["explain", str(folder), "--text", "the zorp runs ."],
    ):
        capsys.readouterr()
        assert main(words) != 0
        error = capsys.readouterr().err
        said = f"{folder}: the tokenizer has {count + 1} tokens, the model {count} embeddings: 1 was added"
        assert said in error
        assert error.count("\n") == 1


def test_the_trained_length_travels_with_the_tokenizer(train, backbone_folder, tmp_path):
    out = train(backbone_folder("bert"), "--max_length", "16")
    assert load_tokenizer(out).model_max_length == 16
    long = " ".join(["zorp"] * 100)
    classify = transformers.pipeline("text-classification", model=str(out), device="cpu", top_k=None)
    cut = {entry["label"]: entry["score"] for entry in classify([long], truncation=True)[0]}
    same = {entry["label"]: entry["score"] for entry in classify([" ".join(["zorp"] * 14)])[0]}
    assert cut == pytest.approx(same, abs=1e-6)
    # It is what was trained, not what fits: longer texts are read where somebody asks for it.
    (out / records.NAME).unlink()
    assert open_model(out).max_length == 16
    assert open_model(out, max_length=100).max_length == 100
    again = train(out, "--max_length", "64")
    assert load_tokenizer(again).model_max_length == 64


def outputs(folder: Path) -> torch.Tensor:
    return load_file(folder / "model.safetensors")["classifier.word_output.weight"]


def test_a_trained_output_layer_is_kept_for_its_own_labels_alone(train, tmp_path, caplog, capsys):
    folder = saved_runs.save_run(tmp_path / "sot", labels=("good", "bad"))
    still = ("--learning_rate", "1e-30", "--weight_decay", "0")
    for labels in (("bad", "good"), ("Good", "BAD")):
        kept = train(folder, *still, train_file=write(tmp_path / "same.csv", labels))
        torch.testing.assert_close(outputs(kept), outputs(folder))
    record = records.read(kept)
    assert (record["labels"], record["output_labels"]) == (["BAD", "Good"], ["good", "bad"])
    same = train(folder, *still, "--head", "text", train_file=tmp_path / "same.csv")  # its own, by name
    torch.testing.assert_close(outputs(same), outputs(folder))
    assert records.read(same)["output_labels"] == ["good", "bad"]
    assert "| 0 | good |\n| 1 | bad |" in model_card(record)
    caplog.clear()
    file = write(tmp_path / "other.csv", ("cold", "warm"))
    other = train(folder, *still, train_file=file)
    assert "labels (good, bad) are not the task's (cold, warm): its output layer is new" in caplog.text
    assert (outputs(other) - outputs(folder)).abs().min() > 0
    assert list(AutoSoTForSequenceClassification.from_pretrained(other).config.id2label.values()) == [
        "cold",
        "warm",
    ]
    nameless = saved_runs.save_run(tmp_path / "nameless", labels=("LABEL_0", "LABEL_1"))
    capsys.readouterr()
    named = train(nameless, *still, train_file=file)
    torch.testing.assert_close(outputs(named), outputs(nameless))
    assert "assumed in the task's order: 0 cold, 1 warm" in capsys.readouterr().out
    assert json.loads((named / "config.json").read_text())["id2label"] == {"0": "cold", "1": "warm"}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_a_backbone_taken_out_of_a_sot_model_gets_a_head_again(family, train, tmp_path, capsys):
    saved = saved_runs.save_run(tmp_path / "sot", family, labels=("bad", "good"))
    model = AutoSoTForSequenceClassification.from_pretrained(saved)
    folder = tmp_path / "backbone"
    model.base_model.save_pretrained(folder)
    load_tokenizer(saved).save_pretrained(folder)
    file = str(write(tmp_path / "dev.csv"))
    for words in (
        ["evaluate", str(folder), "--validation_file", file, "--cache_dir", str(tmp_path / "cache")],
        ["predict", str(folder), "--file", file],
        ["explain", str(folder), "--text", "the zorp runs ."],
    ):
        assert main([*words, *(["--cpu"] if words[0] != "explain" else [])]) != 0
        assert "holds the backbone of a SoT model, saved without its head" in capsys.readouterr().err
    out = train(folder, "--freeze_backbone")
    for name, weight in model.base_model.state_dict().items():
        after = AutoSoTForSequenceClassification.from_pretrained(out).base_model.state_dict()[name]
        assert torch.equal(after, weight), name
