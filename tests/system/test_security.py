"""Nothing that is read may run code: a payload is planted in every kind of file, and must not go off."""

from __future__ import annotations

import builtins
import json
import pickle
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from sot_nlp import records
from sot_nlp.data.token_cache import ArrayWriter, DamagedCacheError, _header_checksum, read_arrays
from sot_nlp.errors import UserError
from sot_nlp.inference.export import export_onnx
from sot_nlp.inference.predict import predict_file
from sot_nlp.inference.saved_model import open_model
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.tokenizer import load_tokenizer
from sot_nlp.publishing.submission import write_submission
from sot_nlp.runs import preparation
from sot_nlp.settings.arguments import Arguments
from sot_nlp.settings.command_line import read_config
from sot_nlp.tasks.spec import load_task
from sot_nlp.training.checkpointing import folders, tensor_files
from tests.support.saved_runs import save_run


class Payload:
    """Unpickled, it makes the marker file."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return builtins.open, (str(self.marker), "w")


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "it-went-off"


@pytest.fixture(scope="module")
def clean_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_run(tmp_path_factory.mktemp("security") / "run")


@pytest.fixture
def run(clean_run: Path, tmp_path: Path) -> Path:
    """A run to plant something in."""
    return Path(shutil.copytree(clean_run, tmp_path / "run"))


def code(marker: Path) -> str:
    """Python that makes the marker file when it is imported."""
    return f"open({str(marker)!r}, 'w').close()\n"


def yaml_payloads(marker: Path) -> list[str]:
    path = json.dumps(str(marker))
    return [
        f"task: !!python/object/apply:builtins.open [{path}, w]\n",
        f"name: !!python/object/new:io.open [{path}, w]\n",
        f"!!python/object/apply:os.mkdir [{path}]\n",
        f"? !!python/object/apply:os.mkdir [{path}]\n: 1\n",
    ]


def test_the_payloads_are_live(marker: Path, tmp_path: Path) -> None:
    """What the other tests plant does go off where it is let."""
    pickle.loads(pickle.dumps(Payload(marker)))
    assert marker.exists()
    marker.unlink()
    torch.save({"weight": Payload(marker)}, tmp_path / "x.bin")
    torch.load(tmp_path / "x.bin", weights_only=False)
    assert marker.exists()
    for text in yaml_payloads(marker)[::3]:
        marker.unlink() if marker.is_file() else marker.rmdir()
        yaml.unsafe_load(text)
        assert marker.exists()


@pytest.mark.parametrize("pack", ["pickle", "torch"])
@pytest.mark.parametrize(
    "name",
    ["record.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
)
def test_pickles_in_a_runs_folder(run: Path, name: str, pack: str, marker: Path, tmp_path: Path) -> None:
    if pack == "pickle":
        (run / name).write_bytes(pickle.dumps(Payload(marker)))
    else:
        torch.save({"classifier.weight": Payload(marker)}, run / name)
    (tmp_path / "t.csv").write_text("text\na\n")
    with pytest.raises(UserError):
        open_model(run)
    with pytest.raises(UserError):
        predict_file(run, file=tmp_path / "t.csv", output=tmp_path / "o.csv", cpu=True)
    with pytest.raises(UserError):
        export_onnx(run)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.bin", "model.pt", "flax_model.msgpack"])
def test_pickled_weights_in_place_of_safetensors(run: Path, name: str, marker: Path) -> None:
    weights: dict[str, Any] = load_file(run / "model.safetensors")
    (run / "model.safetensors").unlink()
    torch.save(weights | {"classifier.word_output.weight": Payload(marker)}, run / name)
    with pytest.raises(UserError) as caught:
        open_model(run)
    assert "\n" not in str(caught.value)
    assert not marker.exists()


def test_pickles_beside_safetensors_are_not_looked_at(run: Path, marker: Path) -> None:
    names = ("pytorch_model.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt", "training_args.bin")
    for name in (*names, "rng_state.pth", "random_states_0.pkl", "adapter_model.bin", "head.pkl"):
        torch.save(Payload(marker), run / name)
    assert open_model(run).labels == ("no", "maybe", "yes")
    assert not marker.exists()


def test_code_that_a_checkpoint_brings_along(run: Path, marker: Path) -> None:
    for path in run.glob("*.py"):
        path.write_text(code(marker) + path.read_text())
    (run / "__init__.py").write_text(code(marker))
    (run / "tokenizer_code.py").write_text(code(marker) + "class T: pass\n")
    settings = json.loads((run / "tokenizer_config.json").read_text())
    settings["auto_map"] = {"AutoTokenizer": ["tokenizer_code.T", "tokenizer_code.T"]}
    (run / "tokenizer_config.json").write_text(json.dumps(settings))
    open_model(run)
    AutoSoTForSequenceClassification.from_pretrained(run)
    load_tokenizer(run)
    # transformers itself, in a process that knows this package.
    AutoConfig.from_pretrained(run)
    AutoModelForSequenceClassification.from_pretrained(run)
    AutoTokenizer.from_pretrained(run, trust_remote_code=False)
    arguments = Arguments(model_name_or_path=str(run))
    data = type("Data", (), {"labels": ("no", "maybe", "yes")})
    checkpoint = preparation.read_checkpoint(arguments)
    tokenizer = preparation.load_tokenizer(arguments, checkpoint)
    preparation.load_saved(arguments, checkpoint, data, tokenizer)  # type: ignore[arg-type]
    assert not marker.exists()


def test_code_of_an_unknown_kind_of_model(run: Path, marker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run / "evil.py").write_text(
        f"{code(marker)}from transformers import BertConfig\n"
        "class EvilConfig(BertConfig):\n    model_type = 'sot_evil'\n"
    )
    config = json.loads((run / "config.json").read_text()) | {"model_type": "sot_evil"}
    config["auto_map"] = {"AutoConfig": "evil.EvilConfig"}
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError):
        open_model(run)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        AutoConfig.from_pretrained(run, trust_remote_code=False)
    assert not marker.exists()
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(run / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    AutoConfig.from_pretrained(run, trust_remote_code=True)
    assert marker.exists()


@pytest.mark.parametrize("number", range(4))
def test_yaml(number: int, marker: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml_payloads(marker)[number])
    for read in (read_config, load_task):
        with pytest.raises(UserError, match=r"x\.yaml"):
            read(str(path))
    assert not marker.exists()


def test_records_and_predictions(run: Path, marker: Path, tmp_path: Path) -> None:
    (run / "predictions.json").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(UserError):
        write_submission([run], tmp_path / "x.zip")
    for text in yaml_payloads(marker):
        (run / "record.json").write_text(text)
        with pytest.raises(UserError, match=r"record\.json"):
            records.read(run)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
def test_a_checkpoint_with_a_true_manifest(name: str, marker: Path, tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    names = [[name for name, _ in model.named_parameters()]]
    target = tmp_path / "step-00000001"

    def fill(folder: Path) -> None:
        tensor_files.save_model(folder / "model.safetensors", model)
        tensor_files.save_optimizer(folder / "optimizer.safetensors", optimizer, names)
        folders.Progress().write(folder)
        torch.save({"weight": Payload(marker)}, folder / name)
        (folder / "rng_state.pkl").write_bytes(pickle.dumps(Payload(marker)))

    folders.save_folder(target, fill)
    folders.open_checkpoint(target)

    def load() -> None:
        tensor_files.load_model(target / "model.safetensors", model)
        tensor_files.load_optimizer(target / "optimizer.safetensors", optimizer, names)

    with pytest.raises(folders.CheckpointError, match=name):
        load()
    assert not marker.exists()


@pytest.mark.parametrize("name", ["manifest.json", "progress.json"])
def test_a_checkpoints_own_files(name: str, marker: Path, tmp_path: Path) -> None:
    target = tmp_path / "step-00000001"
    folders.save_folder(target, folders.Progress().write)
    (target / name).write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(folders.CheckpointError):
        folders.open_checkpoint(target)
    assert not marker.exists()


def test_the_token_cache_holds_no_objects(marker: Path, tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "cache") as writer:
        writer.append("input_ids", np.arange(8, dtype=np.int64))
        writer.finish({})
    header = json.loads((tmp_path / "cache" / "header.json").read_text())
    header["arrays"]["input_ids"]["dtype"] = "|O"
    header.pop("crc32")
    header["crc32"] = _header_checksum(header)
    (tmp_path / "cache" / "header.json").write_text(json.dumps(header))
    # Its bytes would be taken for addresses of objects.
    with pytest.raises(DamagedCacheError, match="claims to hold object"):
        read_arrays(tmp_path / "cache")
    (tmp_path / "cache" / "header.json").write_bytes(pickle.dumps(Payload(marker)))
    with pytest.raises(DamagedCacheError):
        read_arrays(tmp_path / "cache")
    assert not marker.exists()
