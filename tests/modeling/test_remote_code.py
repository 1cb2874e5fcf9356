"""A saved model loads in a process that has transformers and not this package."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForSequenceClassification

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from sot_nlp.modeling.head_config import PRESETS
from sot_nlp.modeling.remote_code import modeling_files
from tests.support import fresh_python, own_parts, tiny

TEXTS = ["the zorp runs .", "every wug"]

# Without the checkout and the working directory on the path, and never this package.
LOADER = """
import json, sys

class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "sot_nlp":
            raise ImportError("sot_nlp is not installed here")

sys.meta_path.insert(0, Forbidden())
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

out = {}
for folder in sys.argv[1:]:
    result = out[folder] = {}
    for trust in (False, True):
        try:
            model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=trust)
            inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)(
                ["the zorp runs .", "every wug"], padding=True, return_tensors="pt"
            )
            result[trust] = model(**inputs).logits.tolist()
        except Exception as error:
            result[trust] = f"{type(error).__name__}: {error}"
    if not isinstance(result[True], str):
        result["labels"] = model.config.id2label
        result["class"] = type(model).__name__
        backbone = AutoModel.from_pretrained(folder, trust_remote_code=True)
        states = backbone(**inputs).last_hidden_state
        result["backbone"] = torch.equal(states, model.base_model(**inputs).last_hidden_state)
        again = sys.argv[1] + "-again"
        model.save_pretrained(again)  # the code travels on from where it was loaded
        result["again"] = AutoModelForSequenceClassification.from_pretrained(again, trust_remote_code=True)(
            **inputs
        ).logits.tolist()
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory, backbone_folder) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("remote")
    for family in ("bert", "gpt2"):
        model = AutoSoTForSequenceClassification.from_pretrained(
            backbone_folder(family),
            head=PRESETS["text"].replace(num_layers=2),
            id2label={0: "bad", 1: "fair", 2: "good"},
        )
        model.save_pretrained(root / family)
        load_tokenizer(backbone_folder(family)).save_pretrained(root / family)
    config = AutoConfig.for_model("electra", **tiny.OTHER_BACKBONES["electra"] | {"vocab_size": 200})
    AutoSoTForSequenceClassification.from_config(config, head="stock").save_pretrained(root / "electra")
    load_tokenizer(backbone_folder("bert")).save_pretrained(root / "electra")
    own = {"normalization": "tempered", "pooling": "soft_maximum", "part_settings": {"sharpness": 2.0}}
    for name, head in (
        ("own", PRESETS["text"].replace(**own, fusion="gated")),
        ("module", own_parts.TwoLayers(32, 3, width=5)),
    ):
        users = AutoSoTForSequenceClassification.from_pretrained(
            backbone_folder("bert"), num_labels=3, head=head
        )
        users.save_pretrained(root / name)
        load_tokenizer(backbone_folder("bert")).save_pretrained(root / name)
    model.save_pretrained(root / "without", save_remote_code=False)
    load_tokenizer(backbone_folder("gpt2")).save_pretrained(root / "without")
    return {folder.name: folder for folder in root.iterdir()}


@pytest.fixture(scope="module")
def clean_process(folders, tmp_path_factory) -> dict:
    """What a process without this package makes of the folders, with and without trust."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"HF_HOME": str(elsewhere / "hf"), "HF_MODULES_CACHE": str(elsewhere / "modules")}
    output = fresh_python.printed(
        LOADER, *folders.values(), log=elsewhere / "output", environment=environment
    )
    results = json.loads(output.splitlines()[-1])
    return {name: results[str(folder)] for name, folder in folders.items()}


@pytest.mark.parametrize("name", ["bert", "gpt2", "electra", "own", "module"])
def test_the_logits_are_the_same_without_this_package(name, folders, clean_process):
    model = AutoSoTForSequenceClassification.from_pretrained(folders[name])
    inputs = load_tokenizer(folders[name])(TEXTS, padding=True, return_tensors="pt")
    expected = model(**inputs).logits
    result = clean_process[name]
    assert torch.equal(torch.tensor(result["true"]), expected)
    assert torch.equal(torch.tensor(result["again"]), expected)
    assert result["backbone"]
    assert result["class"] == type(model).__name__
    assert result["labels"] == {str(i): label for i, label in model.config.id2label.items()}


@pytest.mark.parametrize("name", ["bert", "gpt2", "electra"])
def test_without_trust_transformers_refuses_to_run_the_code(name, clean_process):
    assert clean_process[name]["false"].startswith("ValueError")
    assert "trust_remote_code=True" in clean_process[name]["false"]


def test_saving_the_code_can_be_turned_off(folders, clean_process):
    assert not list(folders["without"].glob("*.py"))
    assert "auto_map" not in json.loads((folders["without"] / "config.json").read_text())
    assert "sot_gpt2" in clean_process["without"]["true"], "transformers names the type that it lacks"


def test_the_modelling_files_and_nothing_else_travel(folders):
    travelled = {file.name for file in folders["bert"].glob("*.py")}
    assert travelled == {file.name for file in modeling_files()}
    assert {"head.py", "tokens.py", "configuration_sot.py", "modeling_sot.py"} <= travelled
    for file in folders["bert"].glob("*.py"):
        for line in file.read_text().splitlines():
            assert "sot_nlp" not in line or not line.lstrip().startswith(("import", "from")), (
                f"{file}: {line}"
            )


def test_with_this_package_the_code_beside_the_weights_never_runs(folders, tmp_path):
    """The installed classes are taken; it is for who trusts it (and has an older transformers) to run it."""
    model = AutoSoTForSequenceClassification.from_pretrained(folders["bert"])
    sign = tmp_path / "it-ran"
    model.save_pretrained(tmp_path / "planted")
    for name in ("modeling_sot", "configuration_sot", "backbone"):
        (tmp_path / "planted" / f"{name}.py").write_text(f"open({str(sign)!r}, 'w')\n")
    for trust in (None, False):
        AutoModelForSequenceClassification.from_pretrained(tmp_path / "planted", trust_remote_code=trust)
        AutoSoTForSequenceClassification.from_pretrained(tmp_path / "planted", trust_remote_code=trust)
    assert not sign.exists()
