"""The page to try a classifier, by gradio: texts in, label, probabilities and heat map out.

Nothing is stored: no flagging, no history of runs, no cached examples, no uploads, no telemetry.
"""

from __future__ import annotations

import html
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, printable
from sot_nlp.explanation.attribution import METHODS, default_method, explain
from sot_nlp.explanation.page import card
from sot_nlp.explanation.view import View, shown
from sot_nlp.inference.saved_model import SavedModel
from sot_nlp.serving.guard import Guard
from sot_nlp.serving.limits import MAX_BARS, MAX_CHARACTERS, MAX_WAITING

if TYPE_CHECKING:
    from gradio import Blocks

NOTE = "What you type goes only to the server that this page came from, and is not stored."
PREDICTED = "the predicted label"
# Its default fonts would be fetched from elsewhere where the machine lacks them.
FONTS = ("system-ui", "sans-serif")


def import_gradio() -> Any:
    """Return the module gradio, its telemetry off. UserError where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read at import, and by the check for a newer version
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio
    except ImportError:
        raise UserError("the page needs gradio: pip install 'sot-nlp[serve]'") from None
    return gradio


def build_page(saved: SavedModel, *, name: str, examples: Sequence[Sequence[str]] = ()) -> Blocks:
    """Return the page of one model, not yet served.

    Args:
        saved: the model.
        name: what the page calls it.
        examples: texts to choose from, each with one text per column of the model.

    Raises:
        UserError: without gradio (extra `serve`), or for an example with too few or too many texts.
    """
    gradio = import_gradio()
    columns = saved.text_columns or ("text",)
    for number, example in enumerate(examples, 1):
        if len(example) != len(columns):
            raise UserError(f"example {number}: {len(example)} text(s); the model takes {len(columns)}")
    methods = page_methods(saved)
    with gradio.Blocks(title=shown(name), analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{_safe(name)}</h1>")
        with gradio.Row():
            with gradio.Column():
                boxes = [
                    gradio.Textbox(
                        label=shown(column), lines=3, max_lines=8, max_length=MAX_CHARACTERS, autofocus=not i
                    )
                    for i, column in enumerate(columns)
                ]
                method = gradio.Dropdown(
                    [(meaning, key) for key, meaning in methods.items()],
                    label="Explain by",
                    value=next(iter(methods)),
                )
                toward = gradio.Dropdown(
                    [PREDICTED, *((shown(label), i) for i, label in enumerate(saved.labels or ()))],
                    label="toward",
                    value=PREDICTED,
                    visible=saved.labels is not None,
                )
                button = gradio.Button("Classify", variant="primary")
            with gradio.Column():
                answer = gradio.Label(
                    label="Score" if saved.labels is None else "Probabilities",
                    num_top_classes=MAX_BARS,
                    show_heading=saved.kind == "classification",
                )
        words = gradio.HTML(visible=True)
        inputs = [*boxes, method, toward]
        gradio.on(
            [button.click, *(box.submit for box in boxes)],
            classifier(saved),
            inputs=inputs,
            outputs=[answer, words],
            api_name="classify",
        )
        if examples:
            gradio.Examples(
                [list(example) for example in examples], inputs=boxes, cache_examples=False, api_name=False
            )
        gradio.HTML(f"<p><small>{NOTE}</small></p>")
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)
    return page


def classifier(saved: SavedModel) -> Callable[..., tuple[Any, str]]:
    """Return the function behind the page: texts, method and output -> (what `gradio.Label` shows, HTML)."""
    gradio = import_gradio()
    methods = page_methods(saved)
    outputs = range(len(saved.labels or ()))

    def refuse(reason: str) -> Exception:
        error: Exception = gradio.Error(html.escape(reason), print_exception=False)
        return error

    def classify(*given: Any) -> tuple[Any, str]:
        *texts, method, toward = given
        if not all(isinstance(text, str) for text in texts):
            raise refuse("expected texts")
        if any(len(text) > MAX_CHARACTERS for text in texts):
            raise refuse(f"a text is longer than {MAX_CHARACTERS} characters")
        if method not in methods:
            raise refuse(f"expected a method: {', '.join(methods)}")
        if toward != PREDICTED and (type(toward) is not int or toward not in outputs):
            raise refuse("expected the number of a label")
        text = texts[0] if len(texts) == 1 else (texts[0], texts[1])
        try:
            (explanation,) = explain(
                saved.model, saved.tokenizer, [text], method=method, max_length=saved.max_length
            )
        except UserError as error:
            raise refuse(str(error)) from None
        view = View(name="", explanation=explanation, output=None if toward == PREDICTED else toward)
        chances = explanation.probabilities
        if chances is None:
            return view.prediction.removeprefix("score "), card([view])
        names = map(shown, explanation.labels or ())
        return dict(zip(names, chances.tolist(), strict=True)), card([view])

    return classify


def page_methods(saved: SavedModel) -> dict[str, str]:
    """Return the ways to explain that this model can be asked for, the default first."""
    default = default_method(saved.model)
    head = getattr(saved.model.config, "head_config", None)
    pairs = head is not None and head.has_exact_pairs
    names = [default, *(["pairs"] if pairs else []), "occlusion"]
    if default == "exact" and importlib.util.find_spec("captum"):
        names.append("integrated_gradients")
    return {name: METHODS[name] for name in dict.fromkeys(names)}


def launch(page: Blocks, *, host: str | None, port: int | None, local: bool, block: bool) -> str:
    """Serve a page and return its address.

    Args:
        page: `build_page`'s.
        host, port: where to listen; None takes gradio's environment variables (a Space sets them), else
            127.0.0.1 and 7860 or the next free port.
        local: whether to answer only requests that name this machine.
        block: whether to return only when the server ends.

    Raises:
        UserError: if it can't listen there.
    """
    gradio = import_gradio()
    from starlette.middleware import Middleware

    if host is not None and port is not None:
        port = free_port(host, port)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            app_kwargs={"middleware": [Middleware(Guard, local=local)]},
            theme=gradio.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace")),
            footer_links=[],
            run_history=False,
            share=False,
            ssr_mode=False,
            mcp_server=False,
            pwa=False,
            enable_monitoring=False,
            max_file_size=1,
            quiet=True,
            prevent_thread_lock=not block,
        )
    except (OSError, ValueError) as error:
        raise UserError(f"cannot listen on {printable(host)}, port {port}: {printable(error)}") from None
    return str(address)


def free_port(host: str, port: int) -> int:
    """Return `port` if it is free at `host`, or any free one for 0. UserError where it can't be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {printable(host)}, port {port}: {reason}") from None


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches `host`, a name or an address."""
    try:
        addresses = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]).is_loopback for entry in addresses)


def _safe(text: str) -> str:
    return html.escape(shown(text))
