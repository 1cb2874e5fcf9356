"""The folder of a Space: what is in it, and that its app.py runs by itself."""

from __future__ import annotations

import json
import os
import re
import urllib.request

import pytest
from huggingface_hub import SpaceCard

from sot_nlp import cli
from tests.support import fresh_python
from tests.support.saved_runs import save_run

gradio = pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from sot_nlp.inference.saved_model import open_model  # noqa: E402
from sot_nlp.serving.page import free_port  # noqa: E402
from sot_nlp.serving.space import write_space  # noqa: E402


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    """The Space of a model of pairs, made by the command with one example."""
    folder = tmp_path_factory.mktemp("space")
    run = save_run(folder / "zorps", text_columns=("first", "second"))
    (folder / "pairs.txt").write_text("the zorp\ta wug\n")
    words = ["--examples", str(folder / "pairs.txt"), "--max_length", "9", "--space", str(folder / "out")]
    assert cli.main(["serve", str(run), *words]) == 0
    return folder / "out"


def test_what_is_in_it(space):
    names = {path.name for path in space.iterdir()}
    assert names == {"app.py", "requirements.txt", "README.md", "settings.json", "model", "sot_nlp"}
    data = SpaceCard.load(space / "README.md").data
    assert (data.title, data.sdk, data.sdk_version, data.app_file) == (
        "zorps",
        "gradio",
        gradio.__version__,
        "app.py",
    )
    settings = json.loads((space / "settings.json").read_text())
    assert settings == {
        "model": "model",
        "name": "zorps",
        "text_columns": ["first", "second"],
        "max_length": 9,
        "trust_remote_code": False,
        "examples": [["the zorp", "a wug"]],
    }
    files = {path.name for path in (space / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files
    assert not files & {"record.json", "train.log", "predictions.json", "checkpoints"}
    lines = (space / "requirements.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w-]+==[\w.]+", line) for line in lines)
    assert any(line.startswith("torch==") for line in lines)
    assert not list(space.rglob("__pycache__"))


def test_a_model_of_the_hub_is_named_and_not_copied(tmp_path):
    saved = open_model(save_run(tmp_path / "run"))
    write_space(tmp_path / "out", "user/zorps", saved, name="user/zorps")
    assert not (tmp_path / "out" / "model").exists()
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["model"] == "user/zorps"
    assert SpaceCard.load(tmp_path / "out" / "README.md").data.models == ["user/zorps"]


def test_its_app_answers_by_itself(space, tmp_path):
    """With the copied package, in another folder, where the environment says, as a Space does it."""
    port = free_port("127.0.0.1", 0)
    environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), "GRADIO_SERVER_NAME": "127.0.0.1"}
    environment |= {"HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    program = "import runpy, sys; runpy.run_path(sys.argv[1], run_name='__main__')"
    app = fresh_python.start(
        program, space / "app.py", path=(space,), log=tmp_path / "log", environment=environment
    )
    try:
        from gradio_client import Client

        address = f"http://127.0.0.1:{port}/"
        _until_it_answers(address, app)
        client = Client(address, verbose=False, download_files=False)
        answer, words = client.predict("the zorp", "a wug", "exact", 2, api_name="/classify")
    finally:
        app.terminate()
        app.wait(30)
    assert {entry["label"] for entry in answer["confidences"]} == {"no", "maybe", "yes"}
    assert "toward yes" in words


def _until_it_answers(address, app):
    import time

    for _ in range(1200):
        assert app.poll() is None, app.errors()
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError("no answer in two minutes")


def test_a_folder_that_cannot_be_made_is_refused_before_the_model_is_read(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["serve", str(tmp_path / "no-model"), "--space", str(tmp_path / "file" / "x")]) == 2
    assert f"--space {tmp_path / 'file' / 'x'}: cannot be written" in capsys.readouterr().err
