"""The page to try a classifier: its answers, what it refuses and keeps, how it works in a real browser."""

from __future__ import annotations

import http.client
import json
import re
import shutil
import socket
import sys
from urllib.parse import urlsplit

import numpy as np
import pytest

from sot_nlp import cli
from sot_nlp.commands import serve as serve_command
from sot_nlp.errors import UserError
from sot_nlp.explanation.attribution import explain
from sot_nlp.inference.saved_model import open_model
from tests.support.saved_runs import save_run

gradio = pytest.importorskip("gradio", reason="the extra `serve` is not installed")

from sot_nlp.serving.limits import MAX_CHARACTERS, MAX_WAITING  # noqa: E402
from sot_nlp.serving.page import PREDICTED, build_page, classifier, free_port, is_loopback, launch  # noqa: E402

HOSTILE = "<script>document.title='pwned'</script><img src=x onerror=document.title='pwned'> ${1+1} {{value}}"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return open_model(save_run(tmp_path_factory.mktemp("run")))


@pytest.fixture(scope="module")
def address(saved):
    page = build_page(saved, name=f"tiny {HOSTILE}", examples=[["the zorp runs ."], [HOSTILE]])
    yield launch(page, host="127.0.0.1", port=0, local=True, block=False)
    page.close(verbose=False)


def ask(address, *data):
    """(event, its data) of a question over HTTP, as gradio's client asks it."""
    started = request(address, "POST", "/gradio_api/call/classify", json.dumps({"data": data}).encode())
    assert started[0] == 200, started
    number = json.loads(started[1])["event_id"]
    text = request(address, "GET", f"/gradio_api/call/classify/{number}")[1].decode()
    event, _, rest = text.partition("\n")
    return event.removeprefix("event: "), json.loads(rest.removeprefix("data: ").strip())


def request(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", urlsplit(address).port, timeout=60)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_an_answer_is_the_explanation(address, saved):
    event, (label, words) = ask(address, "the zorp runs .", "exact", PREDICTED)
    assert event == "complete"
    (explanation,) = explain(saved.model, saved.tokenizer, ["the zorp runs ."])
    chances = {entry["label"]: entry["confidence"] for entry in label["confidences"]}
    np.testing.assert_allclose(
        [chances[name] for name in explanation.labels], explanation.probabilities, atol=1e-6
    )
    assert label["label"] == explanation.labels[explanation.predicted]
    assert re.findall(r'class="w[^>]*>([^<]*)<', words)[-4:] == ["the", "zorp", "runs", "."]
    assert "toward yes" in ask(address, "the zorp runs .", "exact", 2)[1][1]


@pytest.mark.parametrize(
    "text", ["", " \n", HOSTILE, "\ud800", "wug " * 1000, "\U0001f469\u200d\U0001f52c שלום"]
)
@pytest.mark.parametrize("method", ["exact", "pairs", "occlusion"])
def test_odd_texts(saved, text, method):
    chances, words = classifier(saved)(text[:200] if method == "occlusion" else text, method, PREDICTED)
    assert abs(sum(chances.values()) - 1) < 1e-5
    assert "<script" not in words
    assert "<img" not in words
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", words)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (("x" * (MAX_CHARACTERS + 1), "exact", PREDICTED), f"longer than {MAX_CHARACTERS} characters"),
        ((3, "exact", PREDICTED), "expected texts"),
        ((None, "exact", PREDICTED), "expected texts"),
        (("wug", "nothing", PREDICTED), "expected a method: exact"),
        (("wug", "exact", 3), "expected the number of a label"),
        (("wug", "exact", -1), "expected the number of a label"),
        (("wug", "exact", True), "expected the number of a label"),
    ],
)
def test_what_is_no_question(saved, given, reason):
    with pytest.raises(gradio.Error, match=reason):
        classifier(saved)(*given)


def test_over_http_too_much_is_refused(address):
    assert ask(address, "x" * (MAX_CHARACTERS + 1), "exact", PREDICTED)[0] == "error"
    assert request(address, "POST", "/gradio_api/call/classify", b" " * 200_000)[0] == 413
    assert request(address, "POST", "/gradio_api/upload", b"x")[0] == 404
    assert request(address, "GET", "/", headers={"Host": "evil.example"})[0] == 403


def test_kinds_of_models(tmp_path):
    pair = open_model(save_run(tmp_path / "pair", text_columns=("first", "second")))
    assert set(classifier(pair)("the zorp", "a wug", "exact", PREDICTED)[0]) == {"no", "maybe", "yes"}
    boxes = [
        block.label
        for block in build_page(pair, name="m").blocks.values()
        if type(block).__name__ == "Textbox"
    ]
    assert boxes == ["first", "second"]
    score = open_model(save_run(tmp_path / "score", labels=None, problem_type="regression", head="stock"))
    shown, _ = classifier(score)("the zorp", "occlusion", PREDICTED)
    assert float(shown) == pytest.approx(
        explain(score.model, score.tokenizer, ["the zorp"], method="occlusion")[0].logits[0], abs=6e-4
    )
    with pytest.raises(gradio.Error, match="expected a method: "):
        classifier(score)("the zorp", "exact", PREDICTED)
    several = open_model(save_run(tmp_path / "several", problem_type="multi_label_classification"))
    chances, _ = classifier(several)("the zorp runs .", "exact", PREDICTED)
    np.testing.assert_allclose(
        list(chances.values()),
        explain(several.model, several.tokenizer, ["the zorp runs ."])[0].probabilities,
    )


def test_nothing_is_kept_and_nobody_is_called(saved, address, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    ask(address, "a secret wug", "exact", PREDICTED)
    assert "secret" not in "".join(capfd.readouterr())
    assert not list(tmp_path.iterdir())
    called = []
    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", lambda self, to: called.append(to) or connect(self, to))
    page = build_page(saved, name="m")
    launch(page, host="127.0.0.1", port=0, local=True, block=False)
    page.close(verbose=False)
    assert {to[0] for to in called if isinstance(to, tuple)} <= {"127.0.0.1", "::1"}
    config = page.get_config_file()
    assert config["analytics_enabled"] is False
    assert page.run_history is False
    assert page._queue.max_size == MAX_WAITING


def test_where_it_listens():
    assert is_loopback("127.0.0.1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match=r"cannot listen on 127\.0\.0\.1, port \d+: "):
            free_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"cannot listen on nowhere\.invalid"):
        free_port("nowhere.invalid", 0)


def test_the_command(tmp_path, monkeypatch, capsys):
    folder = save_run(tmp_path / "run")

    def stop():
        raise KeyboardInterrupt

    monkeypatch.setattr(serve_command, "wait", stop)
    assert cli.main(["serve", str(folder), "--port", "0"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"open http://127\.0\.0\.1:\d+/? in a browser", out)
    assert "other machines" not in out
    assert cli.main(["serve", str(folder), "--port", "0", "--host", "0.0.0.0"]) == 0
    out = capsys.readouterr().out
    assert "other machines can reach this page" in out
    assert "open http://localhost:" in out
    (tmp_path / "pairs.tsv").write_text("first\tsecond\na\tb\n")
    (tmp_path / "empty.txt").write_text("")
    for words, message in (
        (["--port", "99999"], "--port 99999: must be from 0 to 65535"),
        (["--max_length", "0"], "--max_length 0"),
        (["--examples", str(tmp_path / "none.txt")], "--examples"),
        (["--examples", str(tmp_path / "empty.txt")], "empty.txt"),
        (["--examples", str(tmp_path / "pairs.tsv")], "text"),
        (["--space", str(folder)], "is not an empty folder"),
    ):
        assert cli.main(["serve", str(folder), *words]) == 2, words
        assert message in capsys.readouterr().err
    assert cli.main(["serve", str(tmp_path / "nowhere")]) == 2
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert cli.main(["serve", str(folder)]) == 2
    assert capsys.readouterr().err.strip().endswith("the page needs gradio: pip install 'sot-nlp[serve]'")


def test_the_former_command_says_what_it_is_called_now(capsys):
    assert cli.main(["demo", "a run", "--port", "0"]) == 2
    assert "`sot-nlp serve 'a run' --port 0` now" in capsys.readouterr().err


# -- in a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    driver = shutil.which("chromedriver")
    if driver is None:
        pytest.skip("no chromedriver here (chromium-driver)")
    options = selenium.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(driver))
    yield opened
    opened.quit()


def wait_for(browser, selector):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(lambda page: page.find_elements("css selector", selector))


@pytest.mark.parametrize("width", [1200, 400])
def test_in_a_browser(browser, address, width):
    size = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(address)
    (box,) = wait_for(browser, "textarea")
    text = f"the zorp runs {HOSTILE}"
    box.send_keys(text)
    next(b for b in browser.find_elements("css selector", "button") if b.text == "Classify").click()
    wait_for(browser, ".sot-view .w[title]")
    assert browser.find_element("css selector", ".sot-view .text").get_attribute("textContent") == text
    body = browser.find_element("css selector", "body").text
    assert all(name in body for name in ("no", "maybe", "yes", "%"))
    assert browser.title == f"tiny {HOSTILE}"  # no script of the text or of the name ran
    assert not browser.find_elements("css selector", "img[src=x]")
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    hosts = {
        urlsplit(entry["params"]["request"]["url"]).hostname
        for entry in asked
        if entry["method"] == "Network.requestWillBeSent"
    }
    assert hosts - {None} == {"127.0.0.1"}
