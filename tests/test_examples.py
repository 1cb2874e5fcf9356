"""Every example and notebook runs, on a tiny model."""

import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

from tests.support import tiny

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
# What a finished run of another example is needed for.
USES = {"with_pipeline": "own_csv", "with_cross_encoder": "pairs", "with_onnx": "own_csv"}
NEEDS = {
    "lora_causal": "peft",
    "with_peft": "peft",
    "with_onnx": "onnxruntime",
    "with_cross_encoder": "sentence_transformers",
}


@pytest.fixture(scope="module")
def run_example(tmp_path_factory, backbone_folder):
    """`run_example(name)`: run it once, in a folder of its own; returns the folder of its run."""
    # Of one layer, because the export to ONNX takes seconds for each.
    encoder = tiny.save_backbone("bert", tmp_path_factory.mktemp("bert"), num_hidden_layers=1)
    causal = backbone_folder("gpt2")
    done = {}

    def run(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name) / "run"
            model = str(causal if "causal" in name else encoder)
            words = [str(run(USES[name]))] if name in USES else [model, str(folder)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [f"{name}.py", *words])
                patch.setenv("XDG_CACHE_HOME", str(folder.with_name("cache")))
                patch.chdir(folder.parent)
                runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
            done[name] = folder
        return done[name]

    return run


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py")))
def test_an_example_runs(name, run_example, capsys):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    run_example(name)
    assert capsys.readouterr().out.strip()


def test_the_notebooks_run_and_are_kept_without_outputs(tmp_path, backbone_folder, monkeypatch):
    """In one kernel, which each leaves without variables: imports take most of the time."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebooks = {path.stem: nbformat.read(path, as_version=4) for path in EXAMPLES.glob("*.ipynb")}
    both = nbformat.v4.new_notebook()
    for name, notebook in notebooks.items():
        shutil.copytree(EXAMPLES / "data", tmp_path / name / "data")
        assert all(not cell.get("outputs") and not cell.get("execution_count") for cell in notebook.cells)
        start = nbformat.v4.new_code_cell(f"%reset -f\n%cd {tmp_path / name}")
        both.cells += [start, *notebook.cells]
    monkeypatch.setenv("MODEL", str(backbone_folder("bert")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    )
    nbclient.NotebookClient(both, timeout=300).execute()
    for name, notebook in notebooks.items():
        outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
        assert any("text/html" in output.get("data", {}) for output in outputs), name


def test_the_study_of_the_examples_plans_its_runs(capsys):
    from sot_nlp.cli import main

    assert main(["compare", str(EXAMPLES / "study.yaml"), "--plan"]) == 0
    assert capsys.readouterr().out.count("--seed=") == 6
