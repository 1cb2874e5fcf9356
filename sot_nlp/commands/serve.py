"""`sot-nlp serve FOLDER`: serve a page to try a classifier, on this machine or as a Hugging Face Space."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, printable
from sot_nlp.settings.flag_parser import FlagParser, check_counts

if TYPE_CHECKING:
    from sot_nlp.inference.saved_model import SavedModel


def run(argv: Sequence[str], prog: str) -> int:
    """Serve the page until Ctrl-C, or write the folder of a Space."""
    parser = FlagParser(
        prog=prog,
        description="Serve a page where you type a text and see its label, its probabilities and the words "
        "that drive them. Only this machine can reach it unless --host says otherwise. Needs the extra "
        "`serve`.",
    )
    add = parser.add_argument
    add("model", metavar="FOLDER", help="the folder of a run, or a name on the Hub")
    add("--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s")
    add("--port", type=int, default=7860, metavar="N", help="0: any; default: %(default)s")
    add("--max_length", type=int, metavar="N", help="tokens; default: as in training")
    add(
        "--examples",
        metavar="PATH",
        help="texts to choose from: one per line, the two of a pair separated by a tab; or CSV, TSV, JSON, "
        "JSONL, Parquet with columns",
    )
    parser.add_reading_flags()
    parser.add_trust_flag()
    add("--space", metavar="DIR", help="write the folder of a Hugging Face Space instead of serving")
    given = parser.parse_args(argv)
    if not 0 <= given.port < 65536:
        raise UserError(f"--port {given.port}: must be from 0 to 65535")
    check_counts(given, "max_length")
    from sot_nlp.inference.saved_model import open_model
    from sot_nlp.serving.page import build_page, import_gradio, is_loopback, launch

    import_gradio()
    if given.space is not None:
        from sot_nlp.serving.space import check_space, write_space

        check_space(Path(given.space))  # before the model is loaded
    saved = open_model(
        given.model,
        max_length=given.max_length,
        any_classifier=True,
        trust_remote_code=given.trust_remote_code,
    )
    name = Path(given.model).resolve().name if Path(given.model).is_dir() else given.model
    examples = [] if given.examples is None else _examples(given, saved)
    if given.space is not None:
        write_space(
            Path(given.space),
            given.model,
            saved,
            name=name,
            examples=examples,
            trust_remote_code=given.trust_remote_code,
        )
        print(f"wrote {printable(given.space)}: its app.py runs the page, here or as a Space")
        return 0
    local = is_loopback(given.host)
    page = build_page(saved, name=name, examples=examples)
    address = launch(page, host=given.host, port=given.port, local=local, block=False)
    print(f"open {address} in a browser; Ctrl-C stops it", flush=True)
    if not local:
        print("note: other machines can reach this page, without a password", flush=True)
    try:
        wait()
    except KeyboardInterrupt:
        print("stopped")
    finally:
        page.close(verbose=False)
    return 0


def wait() -> None:
    """Wait for Ctrl-C."""
    threading.Event().wait()


def _examples(given: Any, saved: SavedModel) -> list[list[str]]:
    """Return the first texts of `--examples`: one list per example with one text per column."""
    from sot_nlp.data.file_format import check_file
    from sot_nlp.inference.predict import Summary, text_windows
    from sot_nlp.serving.limits import MAX_EXAMPLES

    path = Path(given.examples)
    check_file(path, "--examples")
    summary = Summary()
    windows = text_windows(path, saved, given.text_column_names, summary, given.quoting, flag="--examples")
    for note in summary.notes:
        print(note)
    rows = (list(row) for columns in windows for row in zip(*columns, strict=True))
    examples = list(itertools.islice(rows, MAX_EXAMPLES))
    if not examples:
        raise UserError(f"--examples {printable(path)}: holds no text")
    return examples
