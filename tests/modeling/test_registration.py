"""transformers' Auto classes know the SoT models after `import sot_nlp`, in whichever order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, backbone_folder) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert")).save_pretrained(folder)
    load_tokenizer(backbone_folder("bert")).save_pretrained(folder)
    return folder


def run(code: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_the_package_imports_neither_torch_nor_transformers():
    code = """
import sys, sot_nlp
heavy = {"torch", "transformers", "datasets", "numpy", "accelerate"} & set(sys.modules)
assert not heavy, heavy
assert "AutoSoTForSequenceClassification" in dir(sot_nlp)
try:
    sot_nlp.nothing
except AttributeError as error:
    print(error)
"""
    assert run(code) == "module 'sot_nlp' has no attribute 'nothing'"


LOAD = """
import sys
folder = sys.argv[1]
print(type(transformers.AutoConfig.from_pretrained(folder)).__name__)
print(type(transformers.AutoModelForSequenceClassification.from_pretrained(folder)).__name__)
print(type(transformers.AutoModel.from_pretrained(folder)).__name__)
import pickle
assert pickle.loads(pickle.dumps(sot_nlp.SoTBertConfig)) is sot_nlp.SoTBertConfig
"""
CLASSES = ["SoTBertConfig", "SoTBertForSequenceClassification", "SoTBertModel"]


@pytest.mark.parametrize(
    "imports",
    [
        "from transformers import AutoModel; import sot_nlp, transformers",
        "from sot_nlp import SoTBertConfig; import sot_nlp, transformers",
    ],
)
def test_the_order_of_imports_does_not_matter(imports, saved):
    assert run(imports + LOAD, saved).splitlines() == CLASSES


def test_a_reload_registers_again(saved):
    """In a process that imports this package first and transformers from the side of a model."""
    code = f"""
import sot_nlp
from transformers import BertModel
import transformers
{LOAD}
import importlib
import transformers.models.auto.configuration_auto as configs
import transformers.models.auto.modeling_auto as models
watchers = len(sys.meta_path)
for module in (configs, models, sot_nlp):
    importlib.reload(module)
assert len(sys.meta_path) == watchers
print(type(models.AutoModelForSequenceClassification.from_pretrained(folder)).__name__)
"""
    assert run(code, saved).splitlines() == [*CLASSES, CLASSES[1]]


def test_every_public_name_is_there():
    import sot_nlp

    for name in sot_nlp.__all__:
        assert getattr(sot_nlp, name) is not None
