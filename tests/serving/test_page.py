"""The page to try a classifier: its answers, what it refuses, and how it works in a real browser."""

from __future__ import annotations

import base64
import hashlib
import html
import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest

from sot_nlp import cli
from sot_nlp.errors import UserError
from sot_nlp.explanation.attribution import explain
from sot_nlp.inference.saved_model import open_model
from sot_nlp.serving.page import MAX_BODY, MAX_WAITING, DemoServer
from tests.support.saved_runs import save_run

HOSTILE = (
    "<script>document.title='pwned'</script><img src=x onerror=document.title='pwned'> \x1b[31m \u202eab"
)


def serve(saved, **settings):
    server = DemoServer(saved, name="tiny <model>", **settings)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return open_model(save_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def server(saved):
    server = serve(saved)
    yield server
    server.shutdown()
    server.server_close()


def ask(server, question, **headers):
    """(status, answer) of a question, sent as the page does it."""
    body = question if isinstance(question, bytes) else json.dumps(question).encode()
    status, _, content = request(
        server, "POST", "/explain", body, {"Content-Type": "application/json", **headers}
    )
    return status, json.loads(content)


def request(server, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


def question(text="the zorp runs .", method="exact", toward=None):
    return {"texts": [text], "method": method, "toward": toward}


def test_an_answer_is_the_explanation(server, saved):
    status, answer = ask(server, question())
    assert status == 200
    (each,) = explain(saved.model, saved.tokenizer, ["the zorp runs ."])
    assert [name for name, _ in answer["probabilities"]] == ["no", "maybe", "yes"]
    np.testing.assert_allclose(
        [chance for _, chance in answer["probabilities"]], each.probabilities, atol=1e-6
    )
    (pieces,) = answer["texts"]
    assert "".join(piece["text"] for piece in pieces) == "the zorp runs ."
    words = [piece for piece in pieces if "value" in piece]
    values = each.toward(each.word_scores, each.predicted)
    np.testing.assert_allclose([piece["strength"] for piece in words], values / abs(values).max(), atol=0.03)
    assert answer["summary"][0][0] == "words"
    assert answer["prediction"].startswith(each.labels[each.predicted])
    assert ask(server, question(toward=2))[1]["how"].endswith("toward yes")


@pytest.mark.parametrize(
    "text", ["", " \n", HOSTILE, "\ud800", "wug " * 1000, "\U0001f469\u200d\U0001f52c \u05e9\u05dc"]
)
@pytest.mark.parametrize("method", ["exact", "pairs", "occlusion"])
def test_odd_texts(server, text, method):
    text = text[:200] if method == "occlusion" else text
    status, answer = ask(server, question(text, method))
    assert status == 200
    assert abs(sum(chance for _, chance in answer["probabilities"]) - 1) < 1e-5
    shown = "".join(piece["text"] for pieces in answer["texts"] for piece in pieces)
    assert not re.search("[\x00-\x1f\u202e]", shown)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b"{", 400, "expected JSON"),
        (b"[" * 50_000, 400, "expected JSON"),
        (b"\xff", 400, "expected JSON"),
        (b"[]", 400, "expected an object"),
        ({}, 400, "expected texts: a list of 1"),
        (question() | {"texts": ["a", "b"]}, 400, "a list of 1"),
        (question() | {"texts": [3]}, 400, "a list of 1"),
        (question("x" * 5001), 413, "longer than 5000 characters"),
        (question(method="nothing"), 400, "expected method: one of exact"),
        (question() | {"method": ["exact"]}, 400, "expected method"),
        (question(toward=3), 400, "expected toward"),
        (question(toward=True), 400, "expected toward"),
        (b" " * (MAX_BODY + 1), 413, f"more than {MAX_BODY} bytes"),
    ],
)
def test_what_is_no_question(server, body, status, reason):
    found = ask(server, body)
    assert found[0] == status
    assert reason in found[1]["error"]


def test_headers_that_are_refused(server):
    port = server.server_address[1]
    for host in (
        "evil.example",
        f"evil.example:{port}",
        "localhost.evil.example",
        "[::1",
        "",
        "127.0.0.1.nip.io",
    ):
        assert ask(server, question(), Host=host)[0] == 403, host
        assert request(server, "GET", "/", headers={"Host": host})[0] == 403, host
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"[::1]:{port}"):
        assert ask(server, question(), Host=host)[0] == 200, host
    for origin in ("http://evil.example", "null", f"https://127.0.0.1:{port}", "http://127.0.0.1:1"):
        assert ask(server, question(), Origin=origin)[0] == 403, origin
    assert ask(server, question(), Origin=f"http://127.0.0.1:{port}")[0] == 200
    # What another page could send without being asked for leave.
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        assert ask(server, question(), **{"Content-Type": kind})[0] == 415
    for length in ("-1", "x", "9" * 30, "1_0"):
        headers = {"Content-Type": "application/json", "Content-Length": length}
        assert request(server, "POST", "/explain", b"", headers)[0] == 411


def test_other_paths_and_methods(server):
    for path in ("/explain", "/../setup.cfg", "/favicon.ico", "//etc/passwd", "/%2e%2e/"):
        assert request(server, "GET", path)[0] == 404, path
    assert request(server, "POST", "/", b"{}")[0] == 404
    assert request(server, "PUT", "/", b"")[0] == 501
    assert request(server, "HEAD", "/")[2] == b""


def test_the_page_runs_its_own_script_alone(server):
    status, headers, content = request(server, "GET", "/?x=1")
    assert status == 200
    page = content.decode()
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "tiny \\u003cmodel>" in page
    assert not re.search(r"https?://[^.…]", page)
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_a_pair_has_two_fields_and_a_score_no_labels(tmp_path):
    pair = open_model(save_run(tmp_path / "pair", text_columns=("first", "second")))
    with serve(pair) as server:
        assert '"columns": ["first", "second"]' in request(server, "GET", "/")[2].decode()
        status, answer = ask(server, {"texts": ["the zorp", "a wug"], "method": "exact", "toward": None})
        assert (status, len(answer["texts"])) == (200, 2)
        server.shutdown()
    score = open_model(save_run(tmp_path / "score", labels=None, problem_type="regression", head="stock"))
    with serve(score) as server:
        assert '"labels": null' in request(server, "GET", "/")[2].decode()
        status, answer = ask(server, question(method="occlusion"))
        assert (status, answer["probabilities"], answer["summary"]) == (200, [], [])
        assert answer["prediction"].startswith("score ")
        assert ask(server, question(method="exact"))[0] == 400
        server.shutdown()


def test_too_many_questions_at_once_are_told_so(server):
    with server.one_at_a_time:
        waiting = [threading.Thread(target=ask, args=(server, question())) for _ in range(MAX_WAITING)]
        for thread in waiting:
            thread.start()
        deadline = threading.Event()
        while server.waiting._value:
            deadline.wait(0.01)
        assert ask(server, question()) == (503, {"error": "too many questions at once; try again"})
    for thread in waiting:
        thread.join()
    assert ask(server, question())[0] == 200


def test_nothing_is_printed_or_kept(server, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ask(server, question("a secret wug"))
    request(server, "GET", "/?q=secret")
    assert "secret" not in "".join(capfd.readouterr())
    assert not list(tmp_path.iterdir())


def test_where_it_listens(saved):
    with DemoServer(saved, name="m") as server:
        assert server.is_local
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", server.address)
        assert server.knows("127.0.0.1")
        with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port \d+: "):
            DemoServer(saved, name="m", port=server.server_address[1])
    with DemoServer(saved, name="m", host="0.0.0.0") as server:
        assert not server.is_local
        assert server.address.startswith("http://127.0.0.1:")
        assert server.knows(f"192.0.2.7:{server.server_address[1]}")
        assert server.knows(socket.gethostname())
    with pytest.raises(UserError, match=r"cannot listen on nowhere\.invalid"):
        DemoServer(saved, name="m", host="nowhere.invalid")


def test_the_command(tmp_path, saved, monkeypatch, capsys):
    folder = save_run(tmp_path / "run")
    seen = []

    def stop(server):
        seen.append(server.is_local)
        raise KeyboardInterrupt

    monkeypatch.setattr(DemoServer, "serve_forever", stop)
    assert cli.main(["demo", str(folder), "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"open http://127\.0\.0\.1:\d+/ in a browser", out)
    assert "other machines" not in out
    assert cli.main(["demo", str(folder), "--port", "0", "--host", "0.0.0.0"]) == 0
    assert "other machines can reach this page" in capsys.readouterr().out
    assert seen == [True, False]
    for words, message in (
        (["--port", "99999"], "--port 99999: must be from 0 to 65535"),
        (["--max_length", "0"], "--max_length 0"),
    ):
        assert cli.main(["demo", str(folder), *words]) == 2
        assert message in capsys.readouterr().err
    assert cli.main(["demo", str(tmp_path / "nowhere")]) == 2


# -- in a browser -------------------------------------------------------------------------------------

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(scope="module")
def browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser here ({', '.join(BROWSERS)})")
    return found


def opened(browser: str, address: str, profile: Path) -> str:
    """The page as it stands in a real browser once its own script has asked and shown an answer."""
    quiet = ("background-networking", "component-update", "sync", "quic", "gpu")
    flags = ["--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{part}" for part in quiet)]
    flags += ["--virtual-time-budget=30000", f"--user-data-dir={profile}"]
    done = subprocess.run(
        [browser, *flags, "--dump-dom", address],
        capture_output=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout.decode()


def test_in_a_browser(browser, server, tmp_path):
    text = f"the zorp runs {HOSTILE}"
    page = opened(browser, f"{server.address}#text={quote(text)}&method=exact", tmp_path)
    assert 'data-done="1"' in page
    assert "<title>Try the classifier</title>" in page  # no script of the text ran
    assert re.search(r'<h2 id="prediction">(no|maybe|yes) \d+%</h2>', page)
    assert page.count('class="bar"') == 3
    (shown,) = re.findall(r'<p class="text" dir="auto">(.*?)</p>', page, re.DOTALL)
    assert "<script" not in shown
    assert "<img" not in shown
    plain = html.unescape(re.sub("<[^>]*>", "", shown))
    assert plain.startswith("the zorp runs <script>document.title='pwned'</script><img")
    assert re.search(
        r'<span class="w (pro|con)" title="[+\u2212][\d.]+" style="--s: ?[\d.]+;">zorp</span>', shown
    )


def test_mistakes_are_shown_in_a_browser(browser, tmp_path, saved):
    with serve(saved, max_characters=10) as server:
        page = opened(browser, f"{server.address}#text={'wug+' * 9}", tmp_path)
        assert "a text is longer than 10 characters" in page
        assert re.search(r'<div id="answer" hidden', page)
        server.shutdown()
