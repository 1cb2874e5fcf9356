"""What the guard before the page lets through."""

from __future__ import annotations

import asyncio

import pytest

from sot_nlp.serving.guard import Guard, names_this_machine
from sot_nlp.serving.limits import MAX_BODY


def status(method="GET", path="/", *, local=True, **headers):
    """The status that a request gets; 200 comes from the application behind the guard."""
    sent = []

    async def application(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def send(message):
        sent.append(message)

    headers = {"host": "127.0.0.1:7860", **headers}
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "method": method, "path": path, "headers": lines}
    asyncio.run(Guard(application, local=local)(scope, None, send))
    return sent[0]["status"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "[::1",
        "",
        "127.0.0.1.nip.io",
        "192.0.2.7",
    ],
)
def test_another_host_s_name_is_refused_unless_others_may_ask(host):
    assert not names_this_machine(host)
    assert status(host=host) == 403
    assert status(host=host, local=False) == 200


@pytest.mark.parametrize("host", ["localhost", "localhost:1", "127.0.0.1:7860", "[::1]:7860"])
def test_this_machine_s_names_are_let_through(host):
    assert status(host=host) == 200


def test_files_and_long_bodies_are_refused():
    for path in ("/gradio_api/upload", "/upload", "/gradio_api/upload_progress"):
        assert status("POST", path, content_length="1") == 404
    assert status("POST", content_length=str(MAX_BODY)) == 200
    assert status("POST", content_length=str(MAX_BODY + 1)) == 413
    assert status("POST", content_length="9" * 30) == 413
    for length in ("-1", "x", "1_0", ""):
        assert status("POST", content_length=length) == 411
    assert status("POST") == 411
    # In chunks a body goes on behind the length that is named beside them.
    assert status("POST", content_length="1", transfer_encoding="chunked") == 411
