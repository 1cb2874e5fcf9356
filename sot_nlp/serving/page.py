"""`sot-nlp demo`: a small local page where a text is typed and label, probabilities and heat map appear.

Python's own HTTP server is enough for one user on this machine. The page loads nothing from elsewhere; a
question goes in the body of a POST, so that no log or history holds it; nothing is written anywhere.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import ipaddress
import json
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from sot_nlp.errors import UserError, printable
from sot_nlp.explanation.attribution import METHODS, default_method, explain
from sot_nlp.explanation.view import View, shown
from sot_nlp.inference.saved_model import SavedModel

MAX_CHARACTERS = 5000
# A character is at most 12 bytes in JSON (a surrogate pair's escapes); two texts and what is around them.
MAX_BODY = 2 * 12 * MAX_CHARACTERS + 4096
# Questions that may wait for the model; one is answered at a time.
MAX_WAITING = 8
SECONDS = 20  # that a connection may stay silent
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Refused(Exception):  # noqa: N818  # it ends a request, not the program
    """A request that is answered by an error: status and what is wrong."""

    def __init__(self, status: HTTPStatus, reason: str):
        super().__init__(reason)
        self.status = status


class DemoServer(ThreadingHTTPServer):
    """Serves the page and `POST /explain` for one model.

    Args:
        saved: the model.
        name: what the page calls it.
        host, port: where to listen; port 0 takes a free one.
        max_characters: of a text.

    Raises:
        UserError: if it can't listen there.
    """

    daemon_threads = True

    def __init__(
        self,
        saved: SavedModel,
        *,
        name: str,
        host: str = "127.0.0.1",
        port: int = 0,
        max_characters: int = MAX_CHARACTERS,
    ) -> None:
        self.saved = saved
        self.max_characters = max_characters
        self.host = host
        self.methods = _methods(saved)
        self.page, self.policy = _page(saved, name, self.methods, max_characters)
        self.one_at_a_time = threading.Lock()
        self.waiting = threading.BoundedSemaphore(MAX_WAITING)
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            self.address_family = found[0][0]
            super().__init__((host, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot listen on {printable(host)}, port {port}: {reason}") from None

    def server_bind(self) -> None:
        """Bind, without the base class's question to the name server for this machine's name."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless a browser has just gone away."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)

    @property
    def address(self) -> str:
        """What to type into a browser on this machine."""
        host, port = self.server_address[:2]
        host = str(host)
        if ipaddress.ip_address(host).is_unspecified:
            host = "127.0.0.1"
        return f"http://{f'[{host}]' if ':' in host else host}:{port}/"

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(str(self.server_address[0])).is_loopback

    def knows(self, host: str | None) -> bool:
        """Whether a Host header names this server: by an address, or by a name that can only be its own.

        A page elsewhere whose name is pointed at 127.0.0.1 (DNS rebinding) sends that name.
        """
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if not host or not name:
            return False
        if name in ("localhost", self.host.lower(), socket.gethostname().lower()):
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def answer(self, question: Any) -> dict[str, Any]:
        """What the page shows for `{texts, method, toward}`. Raises Refused."""
        texts, method, output = self._checked(question)
        if not self.waiting.acquire(blocking=False):
            raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many questions at once; try again")
        try:
            with self.one_at_a_time:
                (found,) = explain(
                    self.saved.model,
                    self.saved.tokenizer,
                    [texts[0] if len(texts) == 1 else (texts[0], texts[1])],
                    method=method,
                    max_length=self.saved.max_length,
                )
        except UserError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, str(error)) from None
        finally:
            self.waiting.release()
        return _shown(View(name="", explanation=found, output=output))

    def _checked(self, question: Any) -> tuple[list[str], str, int | None]:
        wanted = len(_columns(self.saved))
        if not isinstance(question, dict):
            raise Refused(HTTPStatus.BAD_REQUEST, "expected an object")
        texts, method, output = (question.get(name) for name in ("texts", "method", "toward"))
        if (
            not isinstance(texts, list)
            or len(texts) != wanted
            or not all(isinstance(text, str) for text in texts)
        ):
            raise Refused(HTTPStatus.BAD_REQUEST, f"expected texts: a list of {wanted}")
        if any(len(text) > self.max_characters for text in texts):
            reason = f"a text is longer than {self.max_characters} characters"
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, reason)
        if not isinstance(method, str) or method not in self.methods:
            raise Refused(HTTPStatus.BAD_REQUEST, f"expected method: one of {', '.join(self.methods)}")
        outputs = range(len(self.saved.labels or ("",)))
        if output is not None and (type(output) is not int or output not in outputs):
            raise Refused(HTTPStatus.BAD_REQUEST, "expected toward: a label's number, or null")
        return texts, method, output


class _Handler(BaseHTTPRequestHandler):
    server: DemoServer
    timeout = SECONDS
    server_version = "sot-nlp"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            self._check_origin()
            if urlsplit(self.path).path != "/":
                raise Refused(HTTPStatus.NOT_FOUND, "there is only /")
            self._send(HTTPStatus.OK, self.server.page, "text/html; charset=utf-8")
        except Refused as error:
            self._refuse(error)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        try:
            self._check_origin()
            if urlsplit(self.path).path != "/explain":
                raise Refused(HTTPStatus.NOT_FOUND, "there is only /explain")
            answer = self.server.answer(self._question())
            body = json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()
            self._send(HTTPStatus.OK, body, "application/json")
        except Refused as error:
            self._refuse(error)

    def _check_origin(self) -> None:
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if not self.server.knows(host):
            raise Refused(HTTPStatus.FORBIDDEN, "the Host header does not name this server")
        if origin is not None and origin != f"http://{host}":
            raise Refused(HTTPStatus.FORBIDDEN, "asked from another page")

    def _question(self) -> Any:
        # Another page may send a form or plain text here without asking first, but not JSON.
        if self.headers.get_content_type() != "application/json":
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "expected application/json")
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()) or len(length) > 12:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if int(length) > MAX_BODY:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"more than {MAX_BODY} bytes")
        try:
            return json.loads(self.rfile.read(int(length)))
        except TimeoutError:
            raise Refused(HTTPStatus.REQUEST_TIMEOUT, "the question did not come") from None
        except (ValueError, RecursionError):
            raise Refused(HTTPStatus.BAD_REQUEST, "expected JSON") from None

    def _refuse(self, error: Refused) -> None:
        self.close_connection = True  # what is left of the body is not read
        body = json.dumps({"error": str(error)}).encode()
        self._send(error.status, body, "application/json")

    def _send(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {**HEADERS, "Content-Security-Policy": self.server.policy}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what is asked is nobody's business."""


def _columns(saved: SavedModel) -> tuple[str, ...]:
    return saved.text_columns or ("text",)


def _methods(saved: SavedModel) -> dict[str, str]:
    """What can be chosen for this model, the default first."""
    default = default_method(saved.model)
    names = [default, *(["pairs"] if _has_pairs(saved) else []), "occlusion"]
    if default == "exact":
        names += ["integrated_gradients"] if importlib.util.find_spec("captum") else []
    return {name: METHODS[name] for name in dict.fromkeys(names)}


def _has_pairs(saved: SavedModel) -> bool:
    head = getattr(saved.model.config, "head_config", None)
    return head is not None and head.has_exact_contributions and head.pooling.endswith("covariance")


def _page(saved: SavedModel, name: str, methods: dict[str, str], max_characters: int) -> tuple[bytes, str]:
    """The page, and the policy that lets nothing but its own script and style run."""
    folder = resources.files("sot_nlp.serving")
    texts = {end: (folder / f"page.{end}").read_text(encoding="utf-8") for end in ("html", "js", "css")}
    settings = {
        "model": shown(name),
        "columns": [shown(column) for column in _columns(saved)],
        "labels": None if saved.labels is None else [shown(label) for label in saved.labels],
        "methods": methods,
        "max_characters": max_characters,
    }
    # In a script element only "<" could end it.
    filled = {
        "style": "".join(
            (resources.files("sot_nlp.explanation") / f"{name}.css").read_text(encoding="utf-8")
            for name in ("page", "view")
        )
        + texts["css"],
        "script": texts["js"],
        "settings": json.dumps(settings, ensure_ascii=False).replace("<", "\\u003c"),
    }
    page = texts["html"]
    for place, text in filled.items():
        page = page.replace("{{" + place + "}}", text)
    style, script = (_hash(filled[name]) for name in ("style", "script"))
    policy = (
        f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    return page.encode(), policy


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _shown(view: View) -> dict[str, Any]:
    """A view as the page's script reads it; every text is safe to show as text."""
    each = view.explanation
    texts = []
    for part in range(len(each.texts)):
        pieces: list[dict[str, Any]] = []
        for piece in view.pieces(part):
            found: dict[str, Any] = {"text": piece.text}
            if piece.word is not None:
                value = view.number(view.values[piece.word])
                tokens = view.tokens_of(each.words[piece.word])
                found["value"] = f"{value} ({tokens})" if tokens else value
                found["strength"] = view.strength(piece.word)
            elif piece.cut:
                found["cut"] = True
            pieces.append(found)
        texts.append(pieces)
    chances = each.probabilities
    names = [shown(label) for label in each.labels or ()]
    summary = [[shown(name), view.number(share)] for name, share in view.summary]
    return {
        "prediction": view.prediction,
        "probabilities": [] if chances is None else list(zip(names, chances.tolist(), strict=True)),
        "how": f"{view.method}, toward {view.label}",
        "texts": texts,
        "summary": [*summary, ["=", view.number(view.total)]] if summary else [],
        "notes": view.notes,
        "values": [
            [shown(word.text), view.number(value)]
            for word, value in zip(each.words, view.values, strict=True)
        ],
    }
