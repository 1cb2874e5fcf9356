"""`sot-nlp explain`: show which words drive a decision, in the terminal, as HTML, PNG or JSON."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.files import check_output, write_atomic, write_json, writing
from sot_nlp.runs.own_files import check_not_own
from sot_nlp.settings.flag_parser import FlagParser, check_counts

if TYPE_CHECKING:
    from sot_nlp.explanation.attribution import Text
    from sot_nlp.explanation.view import View
    from sot_nlp.inference.saved_model import SavedModel

SUMMARY = (
    "Show which words drive a classifier's decision. Several FOLDERs are shown one under another. Without "
    "--method it is the head's own exact sum over tokens where there is one, else integrated gradients."
)
# More is no picture any more, and all of it is held in memory.
MAX_TEXTS = 1000

# The endings of what is written, and none at all: a device, a pipe.
ENDINGS = {"html": (".html", ".htm", ""), "png": (".png", ""), "json": (".json", "")}


def run(argv: Sequence[str], prog: str) -> int:
    """Print the texts with coloured words, and write what is asked for."""
    flags = _parser(prog).parse_args(argv)
    _check(flags)

    from sot_nlp.explanation import terminal
    from sot_nlp.explanation.attribution import METHODS
    from sot_nlp.inference.saved_model import open_model

    if flags.method is not None and flags.method not in METHODS:
        raise UserError(f"--method {printable(flags.method)}: {did_you_mean(flags.method, METHODS)}")
    texts: list[Text] = []
    columns: list[list[View]] = []
    for folder, name in zip(flags.folders, _names(flags), strict=True):
        saved = open_model(
            folder,
            max_length=flags.max_length,
            any_classifier=True,
            trust_remote_code=flags.trust_remote_code,
        )
        texts = texts or _texts(flags, saved)
        columns.append(_views(flags, saved, name, texts))
    groups = list(zip(*columns, strict=True))
    terminal.show(groups)
    _write(flags, groups)
    return 0


def _parser(prog: str) -> FlagParser:
    parser = FlagParser(prog=prog, description=SUMMARY)
    add = parser.add_argument
    add("folders", nargs="+", metavar="FOLDER", help="a run's folder, or a model's name on the Hub")
    add("--text", action="append", metavar="TEXT", help="a text; may be given several times")
    add("--text_pair", action="append", metavar="TEXT", help="the second text of a pair, one per --text")
    add(
        "--file",
        metavar="PATH",
        help="texts instead of --text: one per line, the two of a pair separated by a tab; CSV, TSV, JSON, "
        "JSONL or Parquet with columns; - is standard input",
    )
    parser.add_reading_flags()
    add("--label", action="append", metavar="LABEL", help="the correct label, one per text, in order")
    add("--toward", metavar="LABEL", help="the label to explain (default: the predicted one)")
    add("--method", metavar="NAME", help="exact, pairs, integrated_gradients or occlusion")
    add("--steps", type=int, default=50, metavar="N", help="of integrated gradients (default: %(default)s)")
    add("--max_length", type=int, metavar="N", help="tokens per text (default: as in training)")
    parser.add_precision_flag()
    parser.add_trust_flag()
    add("--name", action="append", metavar="NAME", help="what to call the models, one per FOLDER")
    add("--html", metavar="PATH", help="write a self-contained page")
    add("--png", metavar="PATH", help="write a picture")
    add("--json", metavar="PATH", help="write the numbers")
    return parser


def _check(flags: Any) -> None:
    if (flags.text is None) == (flags.file is None):
        raise UserError("give the texts either by --text or by --file")
    if flags.text_pair and len(flags.text_pair) != len(flags.text or ()):
        raise UserError(
            f"--text_pair: {len(flags.text_pair)} for {len(flags.text or ())} --text; each needs one"
        )
    if flags.text_column_names and flags.text is not None:
        raise UserError("--text_column_names: only for --file with columns")
    if flags.quoting is not None and flags.text is not None:
        raise UserError("--quoting: only fields of --file are quoted")
    if flags.name and len(flags.name) != len(flags.folders):
        raise UserError(f"--name: {len(flags.name)} for {len(flags.folders)} folders; each needs one")
    check_counts(flags, "steps", "max_length")
    for flag in ("html", "png", "json"):
        path = getattr(flags, flag)
        if path is not None:
            if Path(path).suffix.lower() not in ENDINGS[flag]:
                # A slip such as `--html train.csv` must not cost the file of that name.
                raise UserError(
                    f"--{flag} {printable(path)}: expected a name that ends in {ENDINGS[flag][0]}"
                )
            check_output(path, f"--{flag}")
            check_not_own(path, f"--{flag}")


def _names(flags: Any) -> list[str]:
    """Return the models' names: the last part of their folders, more of it where two are equal."""
    if flags.name:
        return list(flags.name)
    paths = [str(folder).rstrip("/\\") for folder in flags.folders]
    short = [Path(path).name or path for path in paths]
    return short if len(set(short)) == len(short) else paths


def _texts(flags: Any, saved: SavedModel) -> list[Text]:
    if flags.text is not None:
        pairs = flags.text_pair
        texts: list[Text] = list(zip(flags.text, pairs, strict=True)) if pairs else list(flags.text)
    else:
        from sot_nlp.data.file_format import check_file
        from sot_nlp.inference.predict import Summary, text_windows

        path = None if flags.file == "-" else Path(flags.file)
        if path is not None:
            check_file(path, "--file")
        summary = Summary()
        windows = text_windows(path, saved, flags.text_column_names, summary, flags.quoting)
        for note in summary.notes:
            print(note, file=sys.stderr)
        rows = (row for columns in windows for row in zip(*columns, strict=True))
        texts = [row if len(row) == 2 else row[0] for row in itertools.islice(rows, MAX_TEXTS + 1)]
    if not texts:
        raise UserError("--file: holds no text")
    if len(texts) > MAX_TEXTS:
        raise UserError(f"more than {MAX_TEXTS} texts are too many to show; give a part of them")
    if flags.label and len(flags.label) != len(texts):
        raise UserError(f"--label: {len(flags.label)} for {len(texts)} texts; each needs one")
    return texts


def _views(flags: Any, saved: SavedModel, name: str, texts: Sequence[Text]) -> list[View]:
    from sot_nlp.explanation.attribution import default_method, explain
    from sot_nlp.explanation.view import View
    from sot_nlp.training.speed.precision import computing_in

    wanted = len(saved.text_columns)
    for text in texts:
        given = 1 if isinstance(text, str) else 2
        if wanted and given != wanted:
            columns = ", ".join(map(printable, saved.text_columns))
            hint = "give --text_pair too" if wanted == 2 else "give --text alone"
            raise UserError(f"{printable(name)}: was trained on {wanted} text(s), {columns}; {hint}")
    output = None if flags.toward is None else _label(saved, flags.toward, "--toward")
    truths = [_truth(saved, label) for label in flags.label] if flags.label else [None] * len(texts)
    method = flags.method or default_method(saved.model)
    with computing_in(_precision(flags, saved, name), saved.model, saved.model.device):
        explained = explain(
            saved.model, saved.tokenizer, texts, method=method, max_length=saved.max_length, steps=flags.steps
        )
    return [
        View(name=name, explanation=explanation, truth=truth, output=output)
        for explanation, truth in zip(explained, truths, strict=True)
    ]


def _precision(flags: Any, saved: SavedModel, name: str) -> str:
    """Return the precision to compute in, as `sot-nlp predict` does: the flag's, or the training's, said."""
    from sot_nlp.training.speed import precision

    device = saved.model.device
    before = precision.as_trained(saved.record, cpu=device.type == "cpu") or "no"
    mode, _ = precision.choose(flags.mixed_precision, device, before)
    line = precision.beside_training(saved.record, mode)
    # The default needs no word.
    if flags.mixed_precision == "auto" and line and line != "precision no, as in training":
        print(f"{printable(name)}: {line}", file=sys.stderr)
    return mode


def _label(saved: SavedModel, label: str, flag: str) -> int:
    if saved.labels is None:
        raise UserError(f"{flag} {printable(label)}: the model gives a score, it has no labels")
    if label not in saved.labels:
        raise UserError(f"{flag} {printable(label)}: {did_you_mean(label, map(printable, saved.labels))}")
    return saved.labels.index(label)


def _truth(saved: SavedModel, label: str) -> float:
    if saved.kind == "multi_label":
        raise UserError("--label: a text of this model has several labels, so none alone is right")
    if saved.labels is not None:
        return _label(saved, label, "--label")
    try:
        return float(label)
    except ValueError:
        raise UserError(f"--label {printable(label)}: the model gives a score; expected a number") from None


def _write(flags: Any, groups: Sequence[Sequence[View]]) -> None:
    notes: list[str] = []
    for flag in ("html", "png", "json"):
        path = getattr(flags, flag)
        if path is None:
            continue
        with writing(path, f"--{flag}"):
            if flag == "html":
                from sot_nlp.explanation import page

                write_atomic(path, page.page(groups))
            elif flag == "png":
                from sot_nlp.explanation import picture as explanation_png

                picture, notes = explanation_png.png(groups)
                write_atomic(path, picture)
            else:
                write_json(
                    path,
                    [{"model": v.name, **v.explanation.to_dict()} for views in groups for v in views],
                )
        print(f"wrote {printable(path)}")
    for note in notes:
        print(f"note: {note}")
