"""ONNX export: the file that onnxruntime runs gives torch's logits, and a wrong one is not written."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from sot_nlp import cli, records
from sot_nlp.errors import UserError
from sot_nlp.inference import export
from sot_nlp.inference.evaluate import validation_score
from sot_nlp.inference.export import OnnxClassifier, export_onnx
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.head_config import PRESETS
from sot_nlp.modeling.tokenizer import load_tokenizer
from tests.support.saved_runs import LABELS, TEXTS, save_run

# Exports take seconds by the number of operations: one layer, and for all but BERT a head of few of them.
MEAN_HEAD = PRESETS["text"].replace(pooling="mean", normalization="none").to_dict()
POWER_HEAD = PRESETS["text"].replace(pooling="mean", normalization="power").to_dict()
ONE_LAYER: dict[str, dict[str, Any]] = {
    "roberta": {"num_hidden_layers": 1, "head": MEAN_HEAD},
    "openai-gpt": {"n_layer": 1, "head": POWER_HEAD},
    "gpt2": {"n_layer": 1, "head": MEAN_HEAD},
}


def lengths(model: nn.Module) -> Mapping[str, float]:
    """A score that looks at the logits: of one text."""
    batch = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    batch["token_type_ids"] = torch.zeros(1, 3, dtype=torch.long)
    with torch.inference_mode():
        return {"accuracy": model(**batch).logits.sum().item()}


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, export.OnnxExport]:
    """A BERT on pairs of texts and its export with int8. Read only."""
    run = save_run(tmp_path_factory.mktemp("bert") / "run", text_columns=("a", "b"), num_hidden_layers=1)
    return run, export_onnx(run, quantize="int8", score=lengths)


def torch_logits(run: Path, batch: Mapping[str, torch.Tensor]) -> np.ndarray:
    model = AutoSoTForSequenceClassification.from_pretrained(run).eval()
    with torch.inference_mode():
        return model(**batch).logits.numpy()


def test_bert_pairs_from_the_exported_folder_alone(bert: tuple[Path, export.OnnxExport]) -> None:
    run, _ = bert
    folder = run / "onnx"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    seen = []
    for texts, side in ((TEXTS[:1], "right"), (TEXTS[:2], "left"), (TEXTS, "right"), (TEXTS, "left")):
        batch = tokenizer(texts, texts[::-1], padding=True, padding_side=side, return_tensors="pt")
        (logits,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        np.testing.assert_allclose(logits, torch_logits(run, batch), rtol=0, atol=1e-5)
        seen.append(logits)
    assert seen[2].std() > 0.1
    config = json.loads((folder / "config.json").read_text())
    assert [config["id2label"][str(i)] for i in range(3)] == list(LABELS)
    assert "auto_map" not in config
    graph = onnx.load(folder / "model.onnx").graph
    shapes = {i.name: [d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input}
    assert shapes == {name: ["batch", "sequence"] for name in export.INPUTS}


def test_int8_is_smaller_near_and_reported(bert: tuple[Path, export.OnnxExport]) -> None:
    run, result = bert
    files = {path.name for path in (run / "onnx").iterdir()}
    assert files == {
        "model.onnx",
        "model_int8.onnx",
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert set(result.files) == files
    assert result.difference["model.onnx"] < 1e-5
    assert 1e-5 < result.difference["model_int8.onnx"] < 0.5
    assert result.megabytes["model_int8.onnx"] < result.megabytes["model.onnx"]
    # The head's matrices stay in fp32.
    graph = onnx.load(run / "onnx" / "model_int8.onnx").graph
    quantized = [node.name for node in graph.node if "Integer" in node.op_type]
    assert quantized
    assert not any(export._belongs_to_head(node) for node in graph.node if node.name in quantized)
    scores = {name: values["accuracy"] for name, values in result.scores.items()}
    assert scores["model.onnx"] == pytest.approx(scores["torch"], abs=1e-4)
    assert scores["model_int8.onnx"] == lengths(OnnxClassifier(run / "onnx" / "model_int8.onnx"))["accuracy"]
    change = scores["model_int8.onnx"] - scores["torch"]
    assert f"model_int8.onnx {scores['model_int8.onnx']:.4f} ({change:+.4f})" in result.report()
    assert "differ from torch's by at most" in result.report()


@pytest.mark.parametrize("family", ONE_LAYER)
def test_the_other_families(family: str, tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", family, **ONE_LAYER[family])
    # As the scores of a regression may be: their rounding in fp32 grows with them.
    size = 1e6 if family == "roberta" else 1.0
    model = AutoSoTForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        for output in model.classifier.outputs:
            output.weight.mul_(size)
    model.save_pretrained(run)
    result = export_onnx(run, output=tmp_path / "out")
    assert export.TOLERANCE * (size > 1) <= result.difference["model.onnx"] < 1e-5 * size
    tokenizer = load_tokenizer(run)
    batch = tokenizer(TEXTS, padding=True, return_tensors="pt")
    logits = OnnxClassifier(tmp_path / "out" / "model.onnx")(**batch).logits
    assert logits.std() > 0.01
    np.testing.assert_allclose(logits, torch_logits(run, batch), rtol=0, atol=1e-5 * size)
    if family == "gpt2":  # beyond what the example of the export had: more rows, more tokens
        texts = [" ".join(TEXTS), *TEXTS * 3]
        batch = tokenizer(texts, padding=True, truncation=True, max_length=300, return_tensors="pt")
        assert batch["input_ids"].shape == (len(texts), 300)
        logits = OnnxClassifier(tmp_path / "out" / "model.onnx")(**batch).logits
        np.testing.assert_allclose(logits, torch_logits(run, batch), rtol=0, atol=1e-5)


def test_a_graph_that_differs_is_not_written(
    bert: tuple[Path, export.OnnxExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = bert

    def write_wrong(saved: Any, path: Path) -> None:
        model = onnx.load(run / "onnx" / "model.onnx")
        weights = next(t for t in model.graph.initializer if t.name.endswith("class_token_output.weight"))
        values = onnx.numpy_helper.to_array(weights) + 0.01
        weights.CopyFrom(onnx.numpy_helper.from_array(values, weights.name))
        onnx.save(model, path)

    monkeypatch.setattr(export, "_write", write_wrong)
    with pytest.raises(UserError, match=r"differ from torch's by .*, more than 1e-04: nothing was written"):
        export_onnx(run, output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_said(
    bert: tuple[Path, export.OnnxExport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("no such\noperation")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(
        UserError, match=r"SoTBertForSequenceClassification can't be exported .*: no such operation"
    ):
        export_onnx(bert[0], output=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bad_input(
    tmp_path: Path, bert: tuple[Path, export.OnnxExport], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = bert
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="--quantize 'int4': the only format is int8"):
        export_onnx(run, quantize="int4")
    with pytest.raises(UserError, match=r"--output .*is a file"):
        export_onnx(run, output=tmp_path / "file")
    with pytest.raises(UserError, match=r"--output .*file/out: cannot be written"):
        export_onnx(run, output=tmp_path / "file" / "out")
    with pytest.raises(UserError, match="no folder of this name here; for a model of the Hub give --output"):
        export_onnx("me/zorps")
    with pytest.raises(UserError, match="no such folder"):
        export_onnx(tmp_path / "nothing", output=tmp_path / "out")
    with pytest.raises(UserError, match=r"no config\.json .*give the folder of a finished run"):
        export_onnx(tmp_path, output=tmp_path / "out")
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(UserError, match=r"no config\.json .*run is unfinished"):
        export_onnx(tmp_path, output=tmp_path / "out")
    with pytest.raises(UserError, match=r"not a SoT classifier .*'?bert"):
        export_onnx(run / "checkpoints" / "backbone", output=tmp_path / "out")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name)
    )
    with pytest.raises(UserError, match=r"ONNX needs onnxruntime, .*pip install 'sot-nlp\[onnx\]'"):
        export_onnx(run)


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("what", ["another run", "the run", "a model", "an adapter", "a config", "a graph"])
def test_only_an_earlier_export_is_replaced(
    bert: tuple[Path, export.OnnxExport], tmp_path: Path, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    folder, run = tmp_path / "folder", bert[0]
    if what in ("another run", "a model"):
        shutil.copytree(run, folder)
    if what == "the run":
        folder = run
    elif what == "a model":
        (folder / records.NAME).unlink()
    elif what != "another run":
        folder.mkdir()
        name = {"an adapter": "adapter_model.safetensors", "a config": "config.json", "a graph": "model.onnx"}
        (folder / name[what]).write_text('{"model_type": "bert"}')
    before = content(folder)
    assert cli.main(["export", str(run), "-o", str(folder)]) == 2
    told = capsys.readouterr().err
    assert re.search(rf"--output {folder}: holds \S+, which is not of an export; give another folder\n", told)
    assert content(folder) == before
    assert AutoSoTForSequenceClassification.from_pretrained(run).config.auto_map


def test_an_export_is_made_again_over_an_earlier_or_a_begun_one(
    bert: tuple[Path, export.OnnxExport], tmp_path: Path
) -> None:
    run = shutil.copytree(bert[0], tmp_path / "run")
    assert export_onnx(run).folder == run / "onnx"
    assert set(content(run / "onnx")) == {run / "onnx" / path.name for path in (bert[0] / "onnx").iterdir()}
    (run / "onnx" / "model.onnx").unlink()
    (run / "onnx" / "notes.txt").write_text("mine")
    export_onnx(run)
    onnx.checker.check_model(run / "onnx" / "model.onnx")
    assert (run / "onnx" / "notes.txt").read_text() == "mine"


def test_a_damaged_checkpoint_is_named(bert: tuple[Path, export.OnnxExport], tmp_path: Path) -> None:
    shutil.copytree(bert[0], tmp_path / "run")
    weights = tmp_path / "run" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    with pytest.raises(UserError, match="run: ") as caught:
        export_onnx(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_scores_on_the_runs_own_validation_data(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", labels=("no", "yes"), num_hidden_layers=1)
    rows = [f"{text.replace(',', ' ')},{'yes' if i % 3 else 'no'}" for i, text in enumerate(TEXTS)]
    for name in ("train", "dev"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    settings = {"train_file": str(tmp_path / "train.csv"), "validation_file": str(tmp_path / "dev.csv")}
    records.write(run, records.read(run) | {"arguments": settings | {"cache_dir": str(tmp_path / "cache")}})
    batch = load_tokenizer(run)([row.rpartition(",")[0] for row in rows], padding=True, return_tensors="pt")
    logits = torch_logits(run, batch)
    right = [(row.argmax() == 1) == (i % 3 > 0) for i, row in enumerate(logits)]
    model = AutoSoTForSequenceClassification.from_pretrained(run)
    scores = validation_score(run)(model)
    assert scores["accuracy"] == pytest.approx(np.mean(right))
    assert set(scores) == {"accuracy", "macro_f1"}
    (tmp_path / "dev.csv").unlink()
    with pytest.raises(UserError, match=r"dev\.csv does not exist"):
        validation_score(run)
    records.write(run, {"format_version": 1})
    with pytest.raises(UserError, match="holds no settings"):
        validation_score(run)


@pytest.mark.parametrize("words", [[], ["--quantize", "int8"]])
def test_a_folder_that_cannot_be_made_is_refused_before_the_model_is_read(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, output = tmp_path / "no-model", tmp_path / "file" / "x"
    (tmp_path / "file").touch()
    model.mkdir()
    assert cli.main(["export", str(model), "-o", str(output), *words]) == 2
    assert f"--output {output}: cannot be written" in capsys.readouterr().err
