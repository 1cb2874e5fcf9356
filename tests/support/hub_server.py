"""A small model hub on 127.0.0.1, in memory: what the real `huggingface_hub` client needs to push and load.

It answers the client's own calls (create, validate-yaml, preupload, LFS batch, commit, tree, resolve),
checks tokens and the model card's metadata by the Hub's published rules, and fails on request.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import yaml

LFS_FROM = 1 << 20  # bytes; smaller files travel inside the commit, unless their ending says binary
LFS_ENDINGS = (".safetensors", ".bin", ".onnx", ".png")
PIPELINE_TAGS = {"text-classification", "token-classification", "text-generation", "fill-mask"}
LICENSES = {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc-by-sa-4.0", "openrail", "other", "unknown"}
MODEL_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


@dataclass
class Repo:
    private: bool
    branches: dict[str, list[dict[str, bytes]]] = field(default_factory=lambda: {"main": [{}]})
    messages: list[str] = field(default_factory=list)

    def files(self, revision: str = "main") -> dict[str, bytes]:
        for name, commits in self.branches.items():
            for number, files in enumerate(commits):
                if revision == commit_id(name, number):
                    return files
        return self.branches[revision][-1]

    def commit(self, revision: str) -> str:
        if revision in self.branches:
            return commit_id(revision, len(self.branches[revision]) - 1)
        self.files(revision)
        return revision


@dataclass
class Hub:
    """What the server holds and has seen; a test reads and changes it directly."""

    endpoint: str = ""
    tokens: dict[str, str] = field(default_factory=lambda: {"hf_writer": "write", "hf_reader": "read"})
    user: str = "me"
    repos: dict[str, Repo] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    requests: list[tuple[str, str]] = field(default_factory=list)
    # (method, part of the path) -> status to answer with, or "drop": the connection is cut in mid-air
    failures: dict[tuple[str, str], int | str] = field(default_factory=dict)

    def environment(self, token: str | None = None) -> dict[str, str]:
        """Environment variables under which a new Python process talks to this server."""
        variables = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return variables | ({"HF_TOKEN": token} if token else {})

    def connect(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Point this process's already imported client at the server, without a token of the machine's."""
        import huggingface_hub.constants as constants

        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", "/nonexistent/token")
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            self.endpoint + "/{repo_id}/resolve/{revision}/{filename}",
        )


def commit_id(branch: str, number: int) -> str:
    return hashlib.sha1(f"{branch} {number}".encode()).hexdigest()


@contextmanager
def serve() -> Iterator[Hub]:
    """A running hub; it stops when the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": hub}))
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, body: Any = None):
        super().__init__(message)
        self.status, self.code = status, code
        self.body = {"error": message} if body is None else body


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *values: object) -> None:
        return

    def handle_any(self) -> None:
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.query = parse_qs(parts.query)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        self.hub.requests.append((self.command, path))
        for (method, part), failure in self.hub.failures.items():
            if method == self.command and part in path:
                if failure == "drop":
                    self.close_connection = True
                    self.connection.close()
                else:
                    said = f"failing on request, {self.headers.get('authorization')}"
                    self.answer(int(failure), {"error": said})
                return
        try:
            self.route(path, body)
        except RefusalError as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            self.answer(refusal.status, refusal.body, headers | {"X-Error-Message": str(refusal)})

    def read_chunks(self) -> bytes:
        pieces = []
        while size := int(self.rfile.readline().strip() or b"0", 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def answer(self, status: int, content: Any = None, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    # -- who asks ---------------------------------------------------------------------------------

    def role(self) -> str | None:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.tokens:
            raise RefusalError(401, "Invalid credentials in Authorization header")
        return self.hub.tokens.get(given)

    def writer(self, namespace: str) -> None:
        role = self.role()
        if role is None:
            raise RefusalError(401, "Invalid username or password.")
        if role != "write" or namespace != self.hub.user:
            raise RefusalError(
                403, f'You don\'t have the rights to create a model under the namespace "{namespace}"'
            )

    def repo(self, name: str) -> Repo:
        role = self.role()
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and role is None):
            raise RefusalError(404 if role else 401, "Repository not found", "RepoNotFound")
        return repo

    # -- the calls --------------------------------------------------------------------------------

    def route(self, path: str, body: bytes) -> None:
        if path == "/api/whoami-v2":
            if self.role() is None:
                raise RefusalError(401, "Invalid username or password.")
            self.answer(200, {"type": "user", "name": self.hub.user, "orgs": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/validate-yaml":
            problems = card_problems(json.loads(body)["content"])
            if problems:
                raise RefusalError(
                    400, "invalid card", body={"errors": [{"message": p} for p in problems], "warnings": []}
                )
            self.answer(200, {"errors": [], "warnings": []})
        elif match := re.fullmatch(r"/api/models/(.+?)/preupload/(.+)", path):
            self.preupload(match[1], match[2], json.loads(body))
        elif match := re.fullmatch(r"/(.+)\.git/info/lfs/objects/batch", path):
            self.batch(match[1], json.loads(body))
        elif match := re.fullmatch(r"/blob/([0-9a-f]{64})", path):
            if hashlib.sha256(body).hexdigest() != match[1]:
                raise RefusalError(400, "the content does not have this hash")
            self.hub.blobs[match[1]] = body
            self.answer(200, {})
        elif match := re.fullmatch(r"/api/models/(.+?)/commit/(.+)", path):
            self.commit(match[1], match[2], body)
        elif match := re.fullmatch(r"/api/models/(.+?)/branch/(.+)", path):
            self.branch(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(?:/.*)?", path):
            self.tree(match[1], match[2])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(match[1], match[2], match[3])
        else:
            raise RefusalError(404, f"no such call: {self.command} {path}")

    def create(self, wish: dict[str, Any]) -> None:
        namespace = wish.get("organization") or self.hub.user
        self.writer(namespace)
        name = f"{namespace}/{wish['name']}"
        address = {"url": f"{self.hub.endpoint}/{name}", "id": name}
        if name in self.hub.repos:
            raise RefusalError(409, "You already created this model repo", body=address | {"error": "exists"})
        private = wish.get("visibility") == "private" or bool(wish.get("private"))
        self.hub.repos[name] = Repo(private=private)
        self.answer(200, address)

    def preupload(self, name: str, revision: str, wish: dict[str, Any]) -> None:
        self.writer(name.split("/")[0])
        present = self.at(self.repo(name), revision)
        files = []
        for file in wish["files"]:
            large = file["size"] >= LFS_FROM or file["path"].endswith(LFS_ENDINGS)
            content = present.get(file["path"])
            files.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": None if content is None else object_id(content, large=large),
                }
            )
        self.answer(200, {"files": files})

    def batch(self, name: str, wish: dict[str, Any]) -> None:
        self.writer(name.split("/")[0])
        objects = []
        for wanted in wish["objects"]:
            entry = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.hub.blobs:
                entry["actions"] = {"upload": {"href": f"{self.hub.endpoint}/blob/{wanted['oid']}"}}
            objects.append(entry)
        self.answer(200, {"transfer": "basic", "objects": objects})

    def commit(self, name: str, revision: str, body: bytes) -> None:
        self.writer(name.split("/")[0])
        repo = self.repo(name)
        files = dict(self.at(repo, revision))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                repo.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
            else:
                raise RefusalError(400, f"unknown commit entry {entry['key']}")
        repo.branches[revision].append(files)
        oid = repo.commit(revision)
        self.answer(200, {"commitOid": oid, "commitUrl": f"{self.hub.endpoint}/{name}/commit/{oid}"})

    def branch(self, name: str, branch: str) -> None:
        self.writer(name.split("/")[0])
        repo = self.repo(name)
        if branch in repo.branches:
            raise RefusalError(409, "Reference already exists")
        repo.branches[branch] = [dict(repo.files())]
        self.answer(200, {})

    def tree(self, name: str, revision: str) -> None:
        files = self.at(self.repo(name), revision)
        answer = [
            {"type": "file", "path": path, "size": len(content), "oid": object_id(content, large=False)}
            for path, content in files.items()
        ]
        self.answer(200, answer)

    def info(self, name: str, revision: str) -> None:
        repo = self.repo(name)
        files = self.at(repo, revision)
        self.answer(
            200,
            {
                "id": name,
                "sha": repo.commit(revision),
                "private": repo.private,
                "tags": [],
                "downloads": 0,
                "siblings": [{"rfilename": path} for path in files],
            },
        )

    def resolve(self, name: str, revision: str, path: str) -> None:
        repo = self.repo(name)
        files = self.at(repo, revision)
        commit = {"X-Repo-Commit": repo.commit(revision)}
        if path not in files:
            self.answer(404, {"error": "Entry not found"}, commit | {"X-Error-Code": "EntryNotFound"})
            return
        content = files[path]
        tag = object_id(content, large=path.endswith(LFS_ENDINGS))
        headers = commit | {
            "ETag": f'"{tag}"',
            "X-Linked-Etag": f'"{tag}"',
            "X-Linked-Size": str(len(content)),
        }
        self.answer(200, content, headers)

    def at(self, repo: Repo, revision: str) -> dict[str, bytes]:
        try:
            return repo.files(revision)
        except KeyError:
            raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound") from None


for method in ("GET", "HEAD", "POST", "PUT", "DELETE"):
    setattr(Handler, f"do_{method}", Handler.handle_any)


def object_id(content: bytes, *, large: bool) -> str:
    """A large file is known by its SHA-256, another by its git blob id."""
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def card_problems(content: str) -> list[str]:
    """What the Hub's validation of a model card's metadata would refuse."""
    block = re.search(r"^(\s*---\r?\n)([\S\s]*?)(\r?\n---[ \t]*(\r?\n|$))", content)
    if block is None:
        return []
    try:
        data = yaml.safe_load(block[2])
    except yaml.YAMLError as error:
        return [f"invalid YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata must be a mapping"]
    problems = []
    for key in ("base_model", "datasets"):
        values = data.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            if not isinstance(value, str) or not MODEL_ID.fullmatch(value):
                problems.append(f'"{key}" with value "{value}" is not valid')
    for key, valid in (("pipeline_tag", PIPELINE_TAGS), ("license", LICENSES)):
        if key in data and data[key] not in valid:
            problems.append(f'"{key}" must be one of {sorted(valid)}')
    for key in ("tags", "metrics"):
        if not all(isinstance(value, str) for value in data.get(key, [])):
            problems.append(f'"{key}" must be an array of strings')
    for number, entry in enumerate(data.get("model-index", [])):
        problems += [f'"model-index[{number}]{problem}' for problem in index_problems(entry)]
    return problems


def index_problems(entry: dict[str, Any]) -> Iterator[str]:
    if not isinstance(entry.get("name"), str) or not entry["name"]:
        yield '.name" is required'
    if not isinstance(entry.get("results"), list) or not entry["results"]:
        yield '.results" is required'
        return
    for number, result in enumerate(entry["results"]):
        for key in ("task.type", "dataset.type", "dataset.name"):
            outer, inner = key.split(".")
            if not isinstance(result.get(outer, {}).get(inner), str):
                yield f'.results[{number}].{key}" is required'
        if not result.get("metrics"):
            yield f'.results[{number}].metrics" must not be empty'
        for metric in result.get("metrics", []):
            if not isinstance(metric.get("type"), str) or isinstance(
                metric.get("value"), (type(None), list, dict)
            ):
                yield f'.results[{number}].metrics" need a type and a value'
