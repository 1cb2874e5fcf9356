"""Guard the page's server: serve no file, no long body, and no request under another host's name."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from sot_nlp.serving.limits import MAX_BODY

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Guard:
    """ASGI middleware around gradio's application.

    It refuses uploads (the page takes text alone, and gradio would write files to disk), bodies of more than
    `MAX_BODY` bytes or of unknown length, and, with `local`, requests whose Host header does not name this
    machine: a page elsewhere whose name is pointed at 127.0.0.1 (DNS rebinding) sends that name.
    """

    def __init__(self, app: Any, *, local: bool) -> None:
        self.app = app
        self.local = local

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer with an error."""
        if scope["type"] == "http" and (refusal := self._refusal(scope)):
            status, reason = refusal
            headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": reason.encode()})
            return
        await self.app(scope, receive, send)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        headers = dict(scope["headers"])
        if self.local and not names_this_machine(headers.get(b"host", b"").decode("latin-1")):
            return 403, "the Host header does not name this server"
        if "/upload" in scope["path"]:
            return 404, "this page takes no files"
        if scope["method"] not in ("POST", "PUT", "PATCH"):
            return None
        length = headers.get(b"content-length", b"")
        # A body in chunks may be longer than a length that is named beside it.
        if not length.isdigit() or b"transfer-encoding" in headers:
            return 411, "expected a Content-Length"
        if len(length) > 12 or int(length) > MAX_BODY:
            return 413, f"more than {MAX_BODY} bytes"
        return None


def names_this_machine(host: str) -> bool:
    """Return whether a Host header holds `localhost` or a loopback address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
