"""Push a run's folder to a repository of the Hugging Face Hub, in one commit that may be repeated."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp import records
from sot_nlp.errors import UserError, printable
from sot_nlp.publishing import model_card
from sot_nlp.publishing.training_plot import training_plot

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

WEIGHTS = re.compile(
    r"(model|adapter_model)(-\d+-of-\d+)?\.safetensors|(model|adapter_model)\.safetensors\.index\.json"
)
SETTINGS = re.compile(
    r"(config|generation_config|adapter_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|tokenizer\.model|chat_template\.jinja"
)
RELATIVE_IMPORT = re.compile(r"^\s*from\s+\.(\w+)\s+import", re.MULTILINE)
HINTS = {
    401: "the token is not valid: store a new one with `hf auth login`",
    402: "the Hub requires a payment",
    403: "the token may not write there: it needs the role 'write' for that user or organisation",
    404: "there is no such repository, or the token can't see it",
    413: "the files are too large for it",
    429: "too many requests: wait a little, then repeat",
}


def push(
    folder: str | Path,
    *,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    license: str | None = None,
) -> str:
    """Push model, tokenizer, modelling code, model card and training plot of a run; returns the commit's URL.

    The repository is made if needed. All files travel in one commit, so that it holds the old model or
    the new one; weights and settings that the folder no longer has are deleted there by the same commit.
    Pushing an unchanged folder again makes no commit. Nothing in the folder is written.

    Args:
        folder: a run's folder.
        repo_id: `user/name`, or `name` for the token's own user.
        private: make the repository private; one that exists must be private already.
        token: the Hub's token; the one of `hf auth login` or `HF_TOKEN` when None.
        revision: the branch; `main` when None, made if needed.
        commit_message: the commit's title.
        license: the Hub's identifier of the licence for the card's metadata.

    Raises:
        UserError: with the cause and the command that repeats it; the folder stays as it is.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    files = files_to_push(folder)
    command = _command(folder, repo_id, private, revision)
    token = usable_token(repo_id, token, then=f"; then push with `{command}`")
    api = HfApi(token=token, library_name="sot-nlp")
    with _told_in_one_line(token, command, api.endpoint):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise UserError(
                f"--hub_private_repo: {repo_id} exists and is public; nothing was pushed "
                f"(make it private on {api.endpoint}/{repo_id}/settings, or push to another name)"
            )
        if revision not in (None, "main"):
            api.create_branch(repo_id, branch=str(revision), exist_ok=True)
        operations = _operations(api, folder, files, repo_id, revision, license)
        _refuse_secret(operations, token)
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=commit_message or f"Push {folder.resolve().name}",
            revision=revision,
        )
    return str(commit.commit_url)


def usable_token(repo_id: str, token: str | None = None, then: str = "") -> str:
    """Return the token to push with, `token` or the stored one; asks nothing of the Hub.

    Raises UserError for a name that no repository can have, or where there is no token; `then` is said after
    the latter.
    """
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--hub_model_id {printable(repo_id)!r}: {printable(error)}") from None
    token = token or get_token()
    if not token:
        raise UserError(f"no token for the Hub: pass --hub_token, set HF_TOKEN or run `hf auth login`{then}")
    return token


def files_to_push(folder: Path) -> list[str]:
    """Return the names of the files in `folder` that make up the model: weights, settings, tokenizer, code.

    An allow-list, so that checkpoints, logs, predictions and anything else in the folder are not uploaded.
    Raises UserError if there is no model in it.
    """
    if not folder.is_dir():
        raise UserError(f"{printable(folder)}: no such folder")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    kept = [name for name in names if WEIGHTS.fullmatch(name) or SETTINGS.fullmatch(name)]
    if not any(WEIGHTS.fullmatch(name) for name in kept):
        raise UserError(f"{printable(folder)}: holds no model (no model.safetensors) to push")
    if not {"config.json", "adapter_config.json"} & set(kept):
        raise UserError(f"{printable(folder)}: holds weights but no config.json, so it would not load")
    return kept + _modeling_code(folder)


def _modeling_code(folder: Path) -> list[str]:
    """Return the Python files that config.json names, and those that they import from the same folder."""
    import json

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        named = list(config.get("auto_map", {}).values())
    except FileNotFoundError:
        return []
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{printable(folder / 'config.json')}: cannot be read: {printable(error)}") from None
    waiting = [name.partition(".")[0] for name in named if isinstance(name, str) and "--" not in name]
    modules: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = folder / f"{module}.py"
        if module in modules or not module.isidentifier():
            continue
        if not path.is_file():
            raise UserError(f"{printable(path)}: missing, but the model's code needs it")
        modules.add(module)
        waiting += RELATIVE_IMPORT.findall(path.read_text(encoding="utf-8"))
    return [f"{module}.py" for module in sorted(modules)]


def _operations(
    api: HfApi, folder: Path, files: list[str], repo_id: str, revision: str | None, license: str | None
) -> list[CommitOperationAdd | CommitOperationDelete]:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    content: dict[str, str | bytes] = {name: str(folder / name) for name in files}
    content |= _card(folder, repo_id, license, remote_code=any(name.endswith(".py") for name in files))
    present = api.list_repo_files(repo_id, revision=revision)
    ours = [name for name in present if WEIGHTS.fullmatch(name) or SETTINGS.fullmatch(name)]
    stale = [name for name in ours if name not in content]
    return [
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=source) for name, source in content.items()),
        *(CommitOperationDelete(path_in_repo=name) for name in stale),
    ]


def _card(folder: Path, repo_id: str, license: str | None, *, remote_code: bool) -> dict[str, str | bytes]:
    """Return README.md and plot as the repository shall hold them; a user's own README.md is unchanged."""
    content: dict[str, str | bytes] = {}
    record = records.read(folder) if (folder / records.NAME).exists() else None
    plot = training_plot(record) if record is not None else None
    if plot is not None:
        content[model_card.PLOT_NAME] = plot
    text = model_card.own_card(folder)
    if text is None and record is not None:
        text = model_card.model_card(
            record, repo_id=repo_id, license=license, remote_code=remote_code, plot=plot is not None
        )
    if text is not None:
        content[model_card.CARD_NAME] = text.encode()
    return content


def _refuse_secret(operations: list[Any], token: str) -> None:
    """Raise UserError if a text that would become public holds the token."""
    for operation in operations:
        source = getattr(operation, "path_or_fileobj", None)
        if source is None or operation.path_in_repo.endswith((".safetensors", ".png")):
            continue
        if token.encode() in (source if isinstance(source, bytes) else Path(source).read_bytes()):
            raise UserError(
                f"{operation.path_in_repo} holds the Hub's token: remove it there, nothing was pushed"
            )


def _command(folder: Path, repo_id: str, private: bool, revision: str | None) -> str:
    words = ["sot-nlp", "push", str(folder), "--hub_model_id", repo_id]
    words += ["--hub_private_repo"] if private else []
    words += ["--revision", revision] if revision else []
    return shlex.join(printable(word) for word in words)


@contextmanager
def _told_in_one_line(token: str, command: str, endpoint: str) -> Iterator[None]:
    """Turn whatever the Hub, the network or a disk does wrong into one line that can't hold the token."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except UserError:
        raise
    # The client raises RuntimeError for an upload that broke off, ValueError for an answer or a card that
    # it can't accept, HTTPError for the transport, OSError for the rest and for local files.
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = _root(error)
        if isinstance(cause, OfflineModeIsEnabled):
            text = "offline mode is on: unset HF_HUB_OFFLINE"
        elif isinstance(cause, HfHubHTTPError):
            status = cause.response.status_code
            text = f"{endpoint} answered {status}: {HINTS.get(status) or cause.server_message or cause}"
        elif isinstance(cause, HTTPError):
            text = f"no connection to {endpoint} ({type(cause).__name__}: {cause})"
        else:
            text = f"{cause}" or type(cause).__name__
        text = " ".join(text.replace(token, "***").split())
        raise UserError(
            f"the push failed: {printable(text, 400)}; the local files are complete, repeat with `{command}`"
        ) from None


def _root(error: BaseException) -> BaseException:
    """Return what caused an upload's RuntimeError, or else the error itself."""
    if isinstance(error, RuntimeError) and error.__cause__ is not None:
        return _root(error.__cause__)
    return error
