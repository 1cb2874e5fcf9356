"""Every example and notebook runs, on a tiny model."""

import os
import runpy
import shutil
import sys
from pathlib import Path

import pytest

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
    done = {}

    def run(name):
        if name not in done:
            folder = tmp_path_factory.mktemp(name) / "run"
            model = str(backbone_folder("gpt2" if "causal" in name else "bert"))
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


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_kept_without_outputs(path, tmp_path, backbone_folder, monkeypatch):
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
    shutil.copytree(EXAMPLES / "data", tmp_path / "data")
    monkeypatch.setenv("MODEL", str(backbone_folder("bert")))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(EXAMPLES.parent), os.environ.get("PYTHONPATH", "")])
    )
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = [
        output for cell in code for output in cell.get("outputs", []) if "text/html" in output.get("data", {})
    ]
    assert shown


def test_the_study_of_the_examples_plans_its_runs(capsys):
    from sot_nlp.cli import main

    assert main(["compare", str(EXAMPLES / "study.yaml"), "--plan"]) == 0
    assert capsys.readouterr().out.count("--seed=") == 6
