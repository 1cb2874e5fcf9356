"""`sot-nlp demo FOLDER`: a page on this machine to try a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sot_nlp.errors import UserError
from sot_nlp.settings.flag_parser import FlagParser


def run(argv: Sequence[str], prog: str) -> int:
    """Serve the page until Ctrl-C."""
    parser = FlagParser(
        prog=prog,
        description="Serve a page where a text is typed and label, probabilities and the words that drive "
        "them appear. Only this machine can reach it unless --host says otherwise.",
    )
    parser.add_argument("model", metavar="FOLDER", help="the folder of a run, or a name on the Hub")
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=7860, metavar="N", help="0: any; default: %(default)s")
    parser.add_argument("--max_length", type=int, metavar="N", help="tokens; default: as in training")
    given = parser.parse_args(argv)
    if not 0 <= given.port < 65536:
        raise UserError(f"--port {given.port}: must be from 0 to 65535")
    if given.max_length is not None and given.max_length < 1:
        raise UserError(f"--max_length {given.max_length}: must be at least 1")
    from sot_nlp.inference.saved_model import open_model
    from sot_nlp.serving.page import DemoServer

    saved = open_model(given.model, max_length=given.max_length, any_classifier=True)
    name = Path(given.model).resolve().name if Path(given.model).is_dir() else given.model
    with DemoServer(saved, name=name, host=given.host, port=given.port) as server:
        print(f"open {server.address} in a browser; Ctrl-C ends it", flush=True)
        if not server.is_local:
            print("note: other machines can reach this page, without a password", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")
    return 0
