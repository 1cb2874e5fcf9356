"""transformers' Auto classes know the SoT models after `import sot_nlp`, in whichever order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer
from tests.support import fresh_python

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, backbone_folder) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert")).save_pretrained(folder)
    load_tokenizer(backbone_folder("bert")).save_pretrained(folder)
    return folder


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
LIGHT = """
import sys, sot_nlp
heavy = {"torch", "transformers", "datasets", "numpy", "accelerate"} & set(sys.modules)
assert not heavy, heavy
assert "AutoSoTForSequenceClassification" in dir(sot_nlp)
try:
    sot_nlp.nothing
except AttributeError as error:
    print(error)
"""
PROGRAMS = {
    "transformers first": "from transformers import AutoModel; import sot_nlp, transformers" + LOAD,
    "ours first": "from sot_nlp import SoTBertConfig; import sot_nlp, transformers" + LOAD,
    # This package first, and transformers from the side of a model.
    "reload": f"""
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
""",
}


@pytest.fixture(scope="module")
def printed(saved, tmp_path_factory) -> dict[str, list[str]]:
    """The lines that each of the programs prints."""
    folder = tmp_path_factory.mktemp("printed")
    programs = {
        name: fresh_python.start(program, saved, log=folder / name, path=(ROOT,))
        for name, program in PROGRAMS.items()
    }
    for program in programs.values():
        assert program.wait() == 0, program.errors()
    return {name: program.log.read_text().splitlines() for name, program in programs.items()}


def test_importing_the_package_imports_neither_torch_nor_transformers():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "module 'sot_nlp' has no attribute 'nothing'\n", done.stderr


@pytest.mark.parametrize("order", ["transformers first", "ours first"])
def test_the_order_of_imports_does_not_matter(order, printed):
    assert printed[order] == CLASSES


def test_a_reload_registers_again(printed):
    assert printed["reload"] == [*CLASSES, CLASSES[1]]


def test_every_public_name_is_there():
    import sot_nlp

    for name in sot_nlp.__all__:
        assert getattr(sot_nlp, name) is not None
