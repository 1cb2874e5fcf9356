"""`sot-nlp predict`: label texts from a file or standard input, with probabilities, streamed in order.

Some thousands of texts are read at a time; each such window is tokenised, batched with little padding and
written before the next one is read, so memory does not grow with the file.
Shapes: n texts in a window, K labels.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sot_nlp.data.file_format import check_file, list_names
from sot_nlp.errors import UserError, counted, printable
from sot_nlp.files import NO_ROOM, atomic_file, check_output
from sot_nlp.runs.own_files import check_not_own

if TYPE_CHECKING:
    from sot_nlp.data.tables import Table
    from sot_nlp.inference.saved_model import SavedModel

FORMATS = ("csv", "jsonl")
WINDOW = 10_000  # texts; as many as a table yields at a time
MAX_LINE = 1 << 26  # bytes
STDIN = "standard input"

Columns = list[list[str]]  # one list of texts, or two of the same length


@dataclass
class Summary:
    """What was predicted: examples, how many were cut to the longest length, padded over real tokens.

    `precision`: a line about the precision beside the training's, where a record names that.
    """

    columns: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # how the file was read
    max_length: int = 0
    count: int = 0
    cut: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    seconds: float = 0.0
    precision: str | None = None

    @property
    def padding(self) -> float:
        """Padded over real tokens: 1.0 is no waste."""
        return self.padded_tokens / max(1, self.tokens)

    def report(self) -> str:
        """Return the summary as one line."""
        rate = self.count / max(self.seconds, 1e-9)
        source = f" from {' and '.join(map(printable, self.columns))}" if self.columns else ""
        cut = f"; {counted(self.cut, 'was', 'were')} cut to {self.max_length} tokens" if self.cut else ""
        examples = counted(self.count, "example", "examples")
        kept = f"; {self.precision}" if self.precision else ""
        return f"{examples}{source} in {self.seconds:.1f} s ({rate:.0f} per second){cut}{kept}"


def predict_file(
    name_or_path: str | Path,
    *,
    file: str | Path | None = None,
    output: str | Path | None = None,
    format: str | None = None,
    text_columns: Sequence[str] | None = None,
    batch_size: int | None = None,
    max_length: int | None = None,
    mixed_precision: str = "auto",
    cpu: bool = False,
    revision: str = "main",
    quoting: bool | None = None,
    trust_remote_code: bool = False,
) -> Summary:
    """Predict every text of `file`, one row per example, in the file's order.

    A row is the label and the probability of each label. As CSV: `label`, then `probability_<name>` for
    each; as JSON lines: `{"label": ..., "probabilities": {name: ...}}`. A regression gives `score` alone.
    With several labels per example, `label` is the list (JSON) of those with a probability above 0.5.

    Args:
        name_or_path: the folder of a run, or a name on the Hub.
        file: CSV, TSV, JSON, JSONL or Parquet with text columns, or .txt with one text per line; None or "-"
            is standard input, one text per line. A pair of texts on a line is separated by a tab.
        output: the file to write, whole or not at all; None or "-" is standard output.
        format: "csv" or "jsonl"; by the output's ending when None, else CSV.
        text_columns: the one or two columns to read; those of the training data, or guessed, when None.
        batch_size: examples a forward pass; 64, or 256 on a GPU, when None.
        max_length: tokens that an example is cut to; as in training when None.
        mixed_precision: no, bf16 or fp16; auto: that of the training where a record tells, else chosen as
            there.
        cpu: do not use a GPU.
        revision: branch, tag or commit on the Hub.
        quoting: whether a `"` quotes a field; in CSV it does, in TSV by the whole file, when None.
        trust_remote_code: run the code that is saved with the model.

    Raises:
        UserError: for input that is none, with file and line.
        BrokenPipeError: when whoever reads standard output has gone.
    """
    style = _output_format(output, format)
    path = None if file is None or str(file) == "-" else Path(file)
    if path is not None:
        check_file(path, "--file")
        if output is not None and Path(output).exists() and path.resolve() == Path(output).resolve():
            raise UserError(f"--output {printable(output)}: is the input file; give another name")
    if output is not None and str(output) != "-":
        if not Path(output).parent.is_dir():
            raise UserError(f"--output {printable(output)}: its folder does not exist")
        check_output(output, "--output")
        check_not_own(output, "--output")
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--per_device_eval_batch_size {batch_size}: must be at least 1")

    from sot_nlp.inference.saved_model import open_model
    from sot_nlp.settings.arguments import Arguments
    from sot_nlp.training.distributed import create_accelerator
    from sot_nlp.training.speed.precision import as_trained, beside_training

    saved = open_model(
        name_or_path, revision=revision, max_length=max_length, trust_remote_code=trust_remote_code
    )
    summary = Summary(max_length=saved.max_length)
    windows = text_windows(path, saved, text_columns, summary, quoting)
    trained = as_trained(saved.record, cpu=cpu)
    settings = Arguments(mixed_precision=mixed_precision, cpu=cpu)
    accelerator = create_accelerator(settings, precision_before=trained)
    if mixed_precision == "auto":
        summary.precision = beside_training(saved.record, accelerator.mixed_precision)
    saved.model.to(accelerator.device)
    begin = time.perf_counter()
    with _open_output(output) as target:
        writer = _Writer(target, style, saved)
        for columns in windows:
            writer.write(window_logits(saved, columns, accelerator, batch_size, summary))
    summary.seconds = time.perf_counter() - begin
    return summary


# -- reading ------------------------------------------------------------------------------------------


def text_windows(
    path: Path | None,
    saved: SavedModel,
    names: Sequence[str] | None,
    summary: Summary,
    quoting: bool | None = None,
    *,
    flag: str = "--file",
) -> Iterator[Columns]:
    """Return the texts, a window at a time; what is wrong before the first is raised here, by `flag`."""
    if path is not None and path.suffix.lower() != ".txt":
        from sot_nlp.data.readers import open_table

        table = open_table(path, flag=flag, quoting=quoting)
        summary.notes = table.notes
        summary.columns = _choose_columns(table, saved, names)
        return _table_windows(table, summary.columns)
    if names:
        raise UserError("--text_column_names: only for a file with columns; here a tab separates a pair")
    if path is None:
        return _line_windows(sys.stdin.buffer, STDIN, saved)
    return _file_line_windows(path, saved)


def _choose_columns(table: Table, saved: SavedModel, names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the columns to read: those named, those of the training data, or those with a usual name."""
    from sot_nlp.data.infer_task import guess_label, guess_texts

    wanted = len(saved.text_columns)
    if names:
        for name in names:
            table.position(name)
        if len(names) != (wanted or len(names)) or len(names) > 2:
            raise UserError(
                f"--text_column_names {list_names(list(names))}: the model takes "
                f"{wanted or '1 or 2'} text{'s' * (wanted != 1)} per example"
            )
        return tuple(names)
    if wanted and set(saved.text_columns) <= set(table.columns):
        return saved.text_columns
    guessed = guess_texts(table.columns, guess_label(table.columns))
    if len(table.columns) == 1 and " " in table.columns[0].strip():
        raise UserError(
            f"{table.name}: its one column is called {printable(table.columns[0], 60)!r}: if that is a text, "
            "the file lacks a first line with the column's name; if not, name it with --text_column_names"
        )
    if guessed and len(guessed) == (wanted or len(guessed)):
        return guessed
    raise UserError(
        f"{table.name}: which {'two columns hold' if wanted == 2 else 'column holds'} text? "
        f"Name it with --text_column_names; the columns are {list_names(list(table.columns))}"
    )


def _table_windows(table: Table, names: tuple[str, ...]) -> Iterator[Columns]:
    from sot_nlp.data.row_checks import check_texts

    for rows in table.rows(names):
        check_texts(table, names, rows, rows.columns)
        yield rows.columns


def _file_line_windows(path: Path, saved: SavedModel) -> Iterator[Columns]:
    with path.open("rb") as file:
        yield from _line_windows(file, printable(path), saved)


def _line_windows(stream: BinaryIO, name: str, saved: SavedModel) -> Iterator[Columns]:
    """Yield windows of UTF-8 lines, each a text or a tab-separated pair; from a terminal, single lines."""
    size = 1 if stream.isatty() else WINDOW
    pair = len(saved.text_columns) == 2
    examples: list[list[str]] = []
    for number, line in enumerate(_lines(stream, name), 1):
        if number == 1 and not saved.text_columns:
            pair = line.count("\t") == 1
        parts = line.split("\t") if pair else [line]
        if pair and len(parts) != 2:
            raise UserError(
                f"{name}, line {number} has {len(parts) - 1} tabs; the model takes a pair of texts: "
                "expected them separated by one tab"
            )
        examples.append(parts)
        if len(examples) == size:
            yield [list(column) for column in zip(*examples, strict=True)]
            examples.clear()
    if examples:
        yield [list(column) for column in zip(*examples, strict=True)]


def _lines(stream: BinaryIO, name: str) -> Iterator[str]:
    number = 0
    while raw := stream.readline(MAX_LINE + 1):
        number += 1
        if len(raw) > MAX_LINE:
            raise UserError(
                f"{name}, line {number} is longer than {MAX_LINE >> 20} MiB; expected one text per line"
            )
        if number == 1:
            raw = raw.removeprefix(b"\xef\xbb\xbf")
            if b"\r" in raw.rstrip(b"\r") and not raw.endswith(b"\n"):  # many lines, read as one
                raise UserError(f"{name} ends its lines with CR alone; save it with LF or CRLF line ends")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            wrong = f"byte 0x{raw[error.start]:02x} at position {error.start + 1}"
            raise UserError(f"{name}, line {number} is not UTF-8 ({wrong}); save the text as UTF-8") from None
        yield text.removesuffix("\n").removesuffix("\r")


# -- predicting ---------------------------------------------------------------------------------------


def window_logits(
    saved: SavedModel, columns: Columns, accelerator: Any, batch_size: int | None, summary: Summary
) -> np.ndarray:
    """Return logits (n, K) of a window, in its order. UserError where one is no finite number."""
    from sot_nlp.data.tokenization import encode_split
    from sot_nlp.inference.saved_model import check_finite
    from sot_nlp.training import evaluation
    from sot_nlp.training.batching import evaluation_batches, padded_tokens

    split, lost = encode_split(columns, saved.tokenizer, saved.max_length)
    logits = evaluation.predict(
        saved.model,
        split,
        accelerator,
        batch_size=batch_size,
        pad_token_id=saved.tokenizer.pad_token_id,
        padding_side=saved.tokenizer.padding_side,
    )
    check_finite(logits, summary.count)
    on_gpu = accelerator.device.type == "cuda"
    batches = evaluation_batches(split.lengths, num_processes=1, batch_size=batch_size, on_gpu=on_gpu)
    summary.count += len(split)
    summary.cut += int((lost > 0).sum())
    summary.tokens += int(split.lengths.sum())
    summary.padded_tokens += sum(padded_tokens(batch, split.lengths) for [batch] in batches)
    return logits


# -- writing ------------------------------------------------------------------------------------------


def _output_format(output: str | Path | None, format: str | None) -> str:
    if format is not None:
        if format not in FORMATS:
            raise UserError(f"--format {printable(format)!r}: expected {' or '.join(FORMATS)}")
        return format
    ending = Path(output).suffix[1:].lower() if output is not None and str(output) != "-" else "csv"
    if ending in ("json", "ndjson"):
        ending = "jsonl"
    if ending not in FORMATS:
        raise UserError(f"--output {printable(output)}: pass --format csv or jsonl, or use such an ending")
    return ending


@contextmanager
def _open_output(output: str | Path | None) -> Iterator[BinaryIO]:
    """Open standard output, a pipe or device, or a file that appears once it is whole."""
    if output is None or str(output) == "-":
        yield sys.stdout.buffer
        return
    try:
        with atomic_file(output) as raw:
            yield raw
    except OSError as error:
        if error.errno not in NO_ROOM:  # of what was read meanwhile, say
            raise
        raise UserError(f"--output {printable(output)}: cannot be written: {error.strerror}") from None


def named(saved: SavedModel, decision: Any) -> Any:
    """Return a decision of `scoring.decisions` as label, list of labels, or score."""
    if saved.labels is None:
        return float(f"{decision:.7g}")  # what fp32 holds of it, whatever its scale
    if saved.kind == "multi_label":
        return [name for name, on in zip(saved.labels, decision, strict=True) if on]
    return saved.labels[int(decision)]


class _Writer:
    """Rows of predictions, as CSV or JSON lines in UTF-8, each window flushed."""

    def __init__(self, target: BinaryIO, style: str, saved: SavedModel):
        self.target = target
        self.saved = saved
        self.kind = saved.kind
        self.labels = saved.labels or ()
        self.lines = self._csv_lines if style == "csv" else self._json_lines
        if style == "csv":
            names = [f"probability_{name}" for name in self.labels]
            self._send(_csv([["score"] if self.kind == "regression" else ["label", *names]]))

    def write(self, logits: np.ndarray) -> None:
        """Write one row for each of (n, K) logits."""
        from sot_nlp.runs.scoring import decisions
        from sot_nlp.training.evaluation import probabilities

        labels = [named(self.saved, decision) for decision in decisions(logits, self.kind)]
        shares = [[round(share, 6) for share in row] for row in probabilities(logits, self.kind).tolist()]
        self._send(self.lines(labels, shares))

    def _csv_lines(self, labels: list[Any], shares: list[list[float]]) -> str:
        if self.kind == "regression":
            return _csv([score] for score in labels)
        if self.kind == "multi_label":
            labels = [json.dumps(names, ensure_ascii=False) for names in labels]
        return _csv([label, *row] for label, row in zip(labels, shares, strict=True))

    def _json_lines(self, labels: list[Any], shares: list[list[float]]) -> str:
        rows: list[dict[str, Any]]
        if self.kind == "regression":
            rows = [{"score": score} for score in labels]
        else:
            rows = [
                {"label": label, "probabilities": dict(zip(self.labels, row, strict=True))}
                for label, row in zip(labels, shares, strict=True)
            ]
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def _send(self, text: str) -> None:
        self.target.write(text.encode())
        self.target.flush()


def _csv(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
