"""Pushing to a hub and loading from it: the real client over HTTP, against a server on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard

from sot_nlp import records
from sot_nlp.errors import UserError
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.tokenizer import load_tokenizer
from sot_nlp.publishing import hub, model_card
from tests.support import fresh_python
from tests.support.hub_server import Hub, serve
from tests.support.saved_runs import TEXTS, record, save_run

TOKEN = "hf_writer"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run's folder. Read only."""
    return save_run(tmp_path_factory.mktemp("run") / "zorps")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serve() as hub:
        hub.connect(monkeypatch)
        # The client waits up to 23 s between its tries.
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
        yield hub


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Files of a model, without a model."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "tokenizer.json").write_text("{}")
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


LOAD = """
import json, sys
sys.modules["sot_nlp"] = None  # as where it is not installed
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer
name, *texts = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=True)
model = AutoModelForSequenceClassification.from_pretrained(name, trust_remote_code=True).eval()
with torch.inference_mode():
    print(json.dumps(model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.tolist()))
"""


def test_what_is_pushed_loads_elsewhere_to_the_same_logits(
    run: Path, server: Hub, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = contents(run)
    url = hub.push(run, repo_id="me/zorps-sot", private=True, token=TOKEN)
    assert contents(run) == before
    assert url.startswith(f"{server.endpoint}/me/zorps-sot/commit/")
    repo = server.repos["me/zorps-sot"]
    assert repo.private
    assert len(repo.branches["main"]) == 2  # the empty repository, and one commit with all
    files = repo.files()
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    expected = {"README.md", "training.png", "config.json", "tokenizer.json", "tokenizer_config.json"}
    expected |= {"model.safetensors"} | {path.name for path in run.glob("*.py")}
    assert set(files) == expected

    environment = {**os.environ, **server.environment(TOKEN), "HF_HOME": str(tmp_path / "cache")}
    words = ("me/zorps-sot", *TEXTS)
    printed = fresh_python.printed(LOAD, *words, log=tmp_path / "log", environment=environment)
    there = torch.tensor(json.loads(printed.splitlines()[-1]))
    model, tokenizer = AutoSoTForSequenceClassification.from_pretrained(run).eval(), load_tokenizer(run)
    with torch.inference_mode():
        here = model(**tokenizer(TEXTS, padding=True, return_tensors="pt")).logits
    assert here.std() > 0.1
    torch.testing.assert_close(there, here, rtol=0, atol=1e-6)
    # Nothing that was said or stored holds the token.
    said = capfd.readouterr()
    assert TOKEN not in said.out + said.err + printed + (tmp_path / "log.err").read_text()
    assert not any(TOKEN.encode() in content for content in (*files.values(), *contents(run).values()))


def test_the_pushed_card_holds_the_scores(run: Path, server: Hub) -> None:
    hub.push(run, repo_id="zorps", token=TOKEN, license="mit")
    card = ModelCard(server.repos["me/zorps"].files()["README.md"].decode())
    assert ("POST", "/api/validate-yaml") in server.requests
    assert card.data.license == "mit"
    scores = {(r.dataset_split, r.metric_type): r.metric_value for r in card.data.eval_results}
    assert scores["validation_matched", "accuracy"] == 0.7
    assert 'model="me/zorps"' in card.text


def test_a_push_repeats_replaces_and_makes_no_empty_commit(folder: Path, server: Hub) -> None:
    hub.push(folder, repo_id="me/x", token=TOKEN)
    hub.push(folder, repo_id="me/x", token=TOKEN)
    repo = server.repos["me/x"]
    assert len(repo.branches["main"]) == 2
    (folder / "model.safetensors").unlink()
    (folder / "model-00001-of-00001.safetensors").write_bytes(b"others")
    repo.branches["main"][-1]["notes.txt"] = b"the user's"
    hub.push(folder, repo_id="me/x", token=TOKEN, commit_message="Shards")
    assert set(repo.files()) == {
        "config.json", "tokenizer.json", "model-00001-of-00001.safetensors", "notes.txt",
    }  # fmt: skip
    assert repo.messages[-1] == "Shards"


def test_another_branch(folder: Path, server: Hub) -> None:
    hub.push(folder, repo_id="me/x", token=TOKEN, revision="epoch-1")
    assert server.repos["me/x"].files() == {}
    assert "model.safetensors" in server.repos["me/x"].files("epoch-1")


def test_only_the_model_travels(folder: Path) -> None:
    for name in (
        "optimizer.safetensors",
        "pytorch_model.bin",
        "token",
        ".env",
        "train.log",
        "stray.py",
        "a.json",
    ):
        (folder / name).write_text("no")
    for name in ("checkpoints", "logs"):
        (folder / name).mkdir()
        (folder / name / "model.safetensors").write_text("no")
    assert hub.files_to_push(folder) == ["config.json", "model.safetensors", "tokenizer.json"]
    (folder / "config.json").write_text('{"auto_map": {"AutoModel": "first.Model"}}')
    (folder / "first.py").write_text("from .second import x\n")
    (folder / "second.py").write_text("x = 1\n")
    assert hub.files_to_push(folder)[3:] == ["first.py", "second.py"]
    (folder / "second.py").unlink()
    with pytest.raises(UserError, match=r"second\.py: missing"):
        hub.files_to_push(folder)


@pytest.mark.parametrize("missing", ["model.safetensors", "config.json"])
def test_a_folder_without_a_model_is_refused(folder: Path, missing: str) -> None:
    (folder / missing).unlink()
    with pytest.raises(UserError, match=r"model\.safetensors|config\.json"):
        hub.push(folder, repo_id="me/x", token=TOKEN)


def test_without_a_token(folder: Path, server: Hub) -> None:
    with pytest.raises(UserError, match=r"no token .*hf auth login.*sot-nlp push .* --hub_model_id me/x"):
        hub.push(folder, repo_id="me/x")
    assert server.requests == []


@pytest.mark.parametrize(
    ("repo_id", "token", "message"),
    [
        ("me/x", "hf_wrong", r"answered 401: the token is not valid"),
        ("me/x", "hf_reader", r"answered 403: the token may not write"),
        ("others/x", "hf_writer", r"answered 403: .*organisation"),
        ("me/x/y", "hf_writer", r"--hub_model_id 'me/x/y'"),
        ("me/a b", "hf_writer", r"--hub_model_id 'me/a b'"),
        ("me/\x1b[2J", "hf_writer", r"--hub_model_id 'me/\\+x1b\[2J'"),
    ],
    ids=["bad-token", "read-only", "others", "two-slashes", "space", "control"],
)
def test_no_rights(folder: Path, server: Hub, repo_id: str, token: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        hub.push(folder, repo_id=repo_id, token=token)
    assert "\n" not in str(caught.value)
    assert token not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert server.repos == {}


@pytest.mark.parametrize(
    ("call", "failure", "message"),
    [
        (("POST", "/api/repos/create"), "drop", "no connection to http://127.0.0.1"),
        (("POST", "/api/repos/create"), 500, "answered 500"),
        (("POST", "/preupload/"), 503, "answered 503"),
        (("PUT", "/blob/"), 403, "answered 403"),
        (("PUT", "/blob/"), "drop", "no connection to http://127.0.0.1"),
        (("POST", "/commit/"), "drop", "no connection to http://127.0.0.1"),
        (("POST", "/commit/"), 413, "answered 413: the files are too large"),
    ],
)
def test_a_push_that_breaks_off_is_whole_when_repeated(
    folder: Path, server: Hub, call: tuple[str, str], failure: int | str, message: str
) -> None:
    before = contents(folder)
    server.failures[call] = failure
    with pytest.raises(UserError, match=message) as caught:
        hub.push(folder, repo_id="me/x", token=TOKEN)
    text = str(caught.value)
    assert "\n" not in text
    assert TOKEN not in text  # the server's answer repeats the request's header
    assert text.endswith(
        f"the local files are complete, repeat with `sot-nlp push {folder} --hub_model_id me/x`"
    )
    assert contents(folder) == before
    assert "me/x" not in server.repos or server.repos["me/x"].files() == {}
    server.failures.clear()
    hub.push(folder, repo_id="me/x", token=TOKEN)
    assert set(server.repos["me/x"].files()) == set(before)


def test_a_server_that_is_gone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as gone:
        gone.connect(monkeypatch)
    with pytest.raises(UserError, match=r"no connection to http://127\.0\.0\.1"):
        hub.push(folder, repo_id="me/x", token=TOKEN)


def test_offline_mode(folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="offline mode is on: unset HF_HUB_OFFLINE"):
        hub.push(folder, repo_id="me/x", token=TOKEN)


def test_a_private_push_never_lands_in_a_public_repository(folder: Path, server: Hub) -> None:
    hub.push(folder, repo_id="me/x", token=TOKEN)
    with pytest.raises(UserError, match="me/x exists and is public; nothing was pushed"):
        hub.push(folder, repo_id="me/x", private=True, token=TOKEN)


def test_a_file_with_the_token_is_not_pushed(folder: Path, server: Hub) -> None:
    records.write(folder, record(task=f"a task {TOKEN}", task_spec={}))
    with pytest.raises(UserError, match=r"README\.md holds the Hub's token") as caught:
        hub.push(folder, repo_id="me/x", token=TOKEN)
    assert TOKEN not in str(caught.value)
    assert server.repos["me/x"].files() == {}


def test_a_card_of_the_users_own_is_kept(folder: Path, server: Hub) -> None:
    records.write(folder, record())
    (folder / "README.md").write_text(model_card.model_card(record()))
    hub.push(folder, repo_id="me/x", token=TOKEN)
    assert b'model="me/x"' in server.repos["me/x"].files()["README.md"]
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\nMine.\n")
    hub.push(folder, repo_id="me/x", token=TOKEN)
    assert server.repos["me/x"].files()["README.md"].endswith(b"Mine.\n")


def test_a_card_that_the_hub_refuses(folder: Path, server: Hub) -> None:
    (folder / "README.md").write_text("---\nbase_model: ../secret/place\n---\n")
    with pytest.raises(UserError, match=r"Invalid metadata in README\.md.*base_model"):
        hub.push(folder, repo_id="me/x", token=TOKEN)
