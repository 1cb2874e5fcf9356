"""`sot-nlp predict`: the rows are what the model says of each text alone, in the texts' order."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import stat
import sys
import threading
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch

from sot_nlp.cli import main
from sot_nlp.errors import UserError
from sot_nlp.inference import predict as prediction
from sot_nlp.inference.predict import predict_file
from sot_nlp.inference.saved_model import open_model
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.modeling.tokenizer import load_tokenizer
from tests.support import tiny
from tests.support.saved_runs import LABELS, save_run

AWKWARD = ("=1+1", 'a "quoted", one', "two\nlines")
TEXTS = [
    "the zorp runs .",
    "",
    'every "dax" , near a wug',
    "a\u2028b \U0001f600 ünï",
    "=cmd",
    *tiny.sentences(60, seed=3, high=30),
]
OPTIONS: dict[str, Any] = {"cpu": True, "mixed_precision": "no"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs by kind of task. Read only."""
    folder = tmp_path_factory.mktemp("runs")
    several = {"labels": AWKWARD, "problem_type": "multi_label_classification"}
    return {
        "plain": save_run(folder / "plain"),
        "pair": save_run(folder / "pair", "roberta", text_columns=("premise", "hypothesis")),
        "causal": save_run(folder / "causal", "gpt2"),
        "score": save_run(folder / "score", labels=None, problem_type="regression"),
        "several": save_run(folder / "several", **several),
        "awkward": save_run(folder / "awkward", labels=AWKWARD),
    }


def alone(run: Path, *columns: list[str]) -> torch.Tensor:
    """Logits of each example in a batch of its own."""
    model, tokenizer = AutoSoTForSequenceClassification.from_pretrained(run).eval(), load_tokenizer(run)
    with torch.inference_mode():
        rows = [
            model(**tokenizer(*texts, truncation=True, max_length=128, return_tensors="pt")).logits[0]
            for texts in zip(*columns, strict=True)
        ]
    return torch.stack(rows)


def rows_of(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def probabilities_of(path: Path) -> torch.Tensor:
    return torch.tensor([list(row["probabilities"].values()) for row in rows_of(path)])


def write_texts(path: Path, columns: dict[str, list[str]]) -> Path:
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(columns))
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Any:
    def give(content: bytes, *, terminal: bool = False) -> None:
        stream = io.BytesIO(content)
        stream.isatty = lambda: terminal  # type: ignore[method-assign]
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(stream))

    return give


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_rows_are_in_order_and_what_each_text_gives_alone(
    runs: dict[str, Path], ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sot_nlp.data.readers.CHUNK", 25)  # several windows
    monkeypatch.setattr("sot_nlp.data.json_reader.CHUNK", 25)
    source = write_texts(
        tmp_path / f"texts.{ending}", {"id": list(map(str, range(len(TEXTS)))), "text": TEXTS}
    )
    summary = predict_file(runs["plain"], file=source, output=tmp_path / "out.jsonl", batch_size=8, **OPTIONS)
    expected = alone(runs["plain"], TEXTS).softmax(-1)
    rows = rows_of(tmp_path / "out.jsonl")
    assert [row["label"] for row in rows] == [LABELS[i] for i in expected.argmax(-1)]
    assert len({row["label"] for row in rows}) > 1
    probabilities = torch.tensor([[row["probabilities"][name] for name in LABELS] for row in rows])
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=2e-6)
    assert (summary.count, summary.cut, summary.columns) == (len(TEXTS), 0, ("text",))
    assert "examples from text in" in summary.report()


@pytest.mark.parametrize("quoting", [None, "true", "false"])
def test_quotes_of_a_tsv_are_guessed_and_said_or_as_the_flag_says(
    runs: dict[str, Path], quoting: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ['the "dax" sees it', "the zorp runs .", "every wug"]
    lines = ["text", *('"' + text.replace('"', '""') + '"' for text in texts)]
    source = tmp_path / "texts.tsv"
    source.write_text("\n".join(lines) + "\n")
    words = ["predict", str(runs["plain"]), "--file", str(source), "--output", str(tmp_path / "out.jsonl")]
    flags = [] if quoting is None else ["--quoting", quoting]
    assert main([*words, *flags, "--cpu", "--mixed_precision", "no"]) == 0
    assert ("(--quoting false keeps them)" in capsys.readouterr().err) == (quoting is None)
    read = lines[1:] if quoting == "false" else texts
    expected = alone(runs["plain"], read).softmax(-1)
    probabilities = probabilities_of(tmp_path / "out.jsonl")
    torch.testing.assert_close(probabilities, expected, rtol=0, atol=2e-6)
    assert not torch.allclose(
        expected, alone(runs["plain"], lines[1:] if read == texts else texts).softmax(-1)
    )


def test_csv_output_and_awkward_label_names(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_texts(tmp_path / "texts.csv", {"text": TEXTS})
    predict_file(runs["awkward"], file=source, output=tmp_path / "out.csv", **OPTIONS)
    predict_file(runs["awkward"], file=source, output=tmp_path / "out.jsonl", **OPTIONS)
    as_csv, as_json = rows_of(tmp_path / "out.csv"), rows_of(tmp_path / "out.jsonl")
    assert list(as_csv[0]) == ["label", *(f"probability_{name}" for name in AWKWARD)]
    assert [row["label"] for row in as_csv] == [row["label"] for row in as_json]
    assert {row["label"] for row in as_csv} <= set(AWKWARD)
    for one, other in zip(as_csv, as_json, strict=True):
        shares = [float(one[f"probability_{name}"]) for name in AWKWARD]
        assert shares == list(other["probabilities"].values())
        assert sum(shares) == pytest.approx(1, abs=3e-6)


def test_pairs_from_columns_and_from_tabs(runs: dict[str, Path], tmp_path: Path, type_in: Any) -> None:
    first, second = TEXTS[4:20], TEXTS[20:36]
    expected = alone(runs["pair"], first, second).softmax(-1)
    source = write_texts(tmp_path / "t.csv", {"hypothesis": second, "premise": first})
    predict_file(runs["pair"], file=source, output=tmp_path / "columns.jsonl", **OPTIONS)
    type_in("".join(f"{a}\t{b}\r\n" for a, b in zip(first, second, strict=True)).encode())
    predict_file(runs["pair"], output=tmp_path / "tabs.jsonl", **OPTIONS)
    for name in ("columns.jsonl", "tabs.jsonl"):
        torch.testing.assert_close(probabilities_of(tmp_path / name), expected, rtol=0, atol=2e-6)


def test_causal_models(runs: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "t.txt"
    lines = [text for text in TEXTS if text]
    source.write_text("\n".join(lines), encoding="utf-8")
    predict_file(runs["causal"], file=source, output=tmp_path / "out.jsonl", **OPTIONS)
    probabilities = probabilities_of(tmp_path / "out.jsonl")
    torch.testing.assert_close(probabilities, alone(runs["causal"], lines).softmax(-1), rtol=0, atol=2e-6)


def test_scores_of_a_regression(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t.csv", {"text": TEXTS})
    predict_file(runs["score"], file=source, output=tmp_path / "o.csv", **OPTIONS)
    predict_file(runs["score"], file=source, output=tmp_path / "o.jsonl", **OPTIONS)
    as_csv, as_json = rows_of(tmp_path / "o.csv"), rows_of(tmp_path / "o.jsonl")
    assert list(as_csv[0]) == ["score"]
    assert [float(row["score"]) for row in as_csv] == [row["score"] for row in as_json]
    scores = torch.tensor([row["score"] for row in as_json])
    torch.testing.assert_close(scores, alone(runs["score"], TEXTS)[:, 0], rtol=0, atol=2e-6)


def test_small_scores_are_not_rounded_away(runs: dict[str, Path]) -> None:
    saved = open_model(runs["score"])
    assert prediction.named(saved, numpy.float32(1.234567e-7)) == 1.234567e-7
    assert prediction.named(saved, numpy.float32(-2.5)) == -2.5


def test_several_labels(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t.csv", {"text": TEXTS})
    predict_file(runs["several"], file=source, output=tmp_path / "o.csv", **OPTIONS)
    predict_file(runs["several"], file=source, output=tmp_path / "o.jsonl", **OPTIONS)
    expected = alone(runs["several"], TEXTS).sigmoid()
    rows = rows_of(tmp_path / "o.jsonl")
    assert [row["label"] for row in rows] == [
        [name for name, share in zip(AWKWARD, shares, strict=True) if share > 0.5] for shares in expected
    ]
    assert len({len(row["label"]) for row in rows}) > 1
    assert [json.loads(row["label"]) for row in rows_of(tmp_path / "o.csv")] == [row["label"] for row in rows]


def test_batches_hold_little_padding(runs: dict[str, Path], tmp_path: Path) -> None:
    texts = tiny.sentences(600, seed=5, high=40)
    source = write_texts(tmp_path / "t.csv", {"text": texts})
    summary = predict_file(runs["plain"], file=source, output=tmp_path / "o.csv", batch_size=32, **OPTIONS)
    assert summary.padding < 1.06
    assert summary.tokens == sum(map(len, load_tokenizer(runs["plain"])(texts)["input_ids"]))


def test_long_texts_are_cut_and_counted(runs: dict[str, Path], tmp_path: Path) -> None:
    source = write_texts(tmp_path / "t.csv", {"text": ["zorp " * 50, "dax", "wug " * 10]})
    summary = predict_file(runs["plain"], file=source, output=tmp_path / "o.csv", max_length=12, **OPTIONS)
    assert summary.report().endswith("; 1 was cut to 12 tokens")
    with pytest.raises(UserError, match="--max_length 600: the model takes at most 512 tokens"):
        predict_file(runs["plain"], file=source, max_length=600, **OPTIONS)
    for too_short in (1, 2):
        with pytest.raises(UserError, match=f"--max_length {too_short} leaves no room .*: at least 3"):
            predict_file(runs["plain"], file=source, max_length=too_short, **OPTIONS)


def test_standard_input_to_standard_output(
    runs: dict[str, Path], type_in: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    type_in("\ufeff".encode() + "the zorp\r\n\nü\ta tab\nno end".encode())
    summary = predict_file(runs["plain"], **OPTIONS)
    sys.stdout.flush()
    lines = capfdbinary.readouterr().out.decode().splitlines()
    expected = alone(runs["plain"], ["the zorp", "", "ü\ta tab", "no end"]).softmax(-1)
    assert summary.count == 4
    assert lines[0] == "label,probability_no,probability_maybe,probability_yes"
    assert [line.split(",")[0] for line in lines[1:]] == [LABELS[i] for i in expected.argmax(-1)]


def test_nothing_typed_in_gives_a_header(
    runs: dict[str, Path], type_in: Any, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    type_in(b"")
    assert predict_file(runs["plain"], **OPTIONS).count == 0
    assert capfdbinary.readouterr().out.startswith(b"label,")


def test_a_terminal_is_answered_line_by_line(
    runs: dict[str, Path], type_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sizes = []
    predict = prediction.window_logits
    monkeypatch.setattr(
        prediction, "window_logits", lambda s, c, *rest: sizes.append(len(c[0])) or predict(s, c, *rest)
    )
    type_in(b"a\nb\nc\n", terminal=True)
    predict_file(runs["plain"], output=tmp_path / "o.csv", **OPTIONS)
    assert sizes == [1, 1, 1]


def test_a_pipe_is_written_as_it_goes(
    runs: dict[str, Path], type_in: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prediction, "WINDOW", 2)
    os.mkfifo(tmp_path / "pipe.jsonl")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend((tmp_path / "pipe.jsonl").read_text().splitlines()))
    reader.start()
    type_in(b"a\nb\nc\n")
    predict_file(runs["plain"], output=tmp_path / "pipe.jsonl", **OPTIONS)
    reader.join(10)
    assert len(lines) == 3
    assert stat.S_ISFIFO((tmp_path / "pipe.jsonl").stat().st_mode)


def test_a_reader_that_goes_away(
    runs: dict[str, Path], type_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        type_in(b"a\n")
        with pytest.raises(BrokenPipeError):
            predict_file(runs["plain"], **OPTIONS)
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed.fileno())


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("t.csv", "u,v\n1,2\n", {}, r"t\.csv: which column holds text\? .*--text_column_names.*u, v"),
        (
            "t.csv",
            "a zorp runs\na dax\n",
            {},
            r"column is called 'a zorp runs': if that is a text, the file lacks",
        ),
        ("t.csv", "x,y\n1,2\n", {"text_columns": ["z"]}, r"no column 'z'; its columns are x, y"),
        ("t.csv", "x,y\n1,2\n", {"text_columns": ["x", "y"]}, r"the model takes 1 text per example"),
        ("t.csv", "id,text\n1,a\n2\n", {}, r"t\.csv, line 3 has 1 column"),
        ("t.csv", 'text\n"a\n', {}, r"line 2: a quote .* never closes"),
        ("t.jsonl", '{"text": "a"}\n{"text": null}\n', {}, r"line 2: 'text' is null; expected a text"),
        ("t.jsonl", '{"text": "a"}\n{"text": 3}\n', {}, r"line 2: 'text' is no text but 3"),
        ("t.jsonl", '{"text": "a"}\n{"te\n', {}, r"line 2 is not JSON"),
        ("t.txt", "a\n\xff", {}, r"line 2 is not UTF-8 \(byte 0xff at position 1\)"),
        ("t.txt", "a\n", {"text_columns": ["x"]}, r"--text_column_names: only for a file with columns"),
        ("t.txt", "a\rb\r", {}, r"t\.txt ends its lines with CR alone"),
        ("t.txt", "", {}, r"is empty"),
        ("t.doc", "a", {}, r"ends in '\.doc'; expected one of"),
        ("t.csv", "text\na\n", {"format": "xml"}, r"--format 'xml': expected csv or jsonl"),
        ("t.csv", "text\na\n", {"output": "o.xml"}, r"--output o\.xml: pass --format"),
        ("t.csv", "text\na\n", {"output": "no/o.csv"}, r"--output no/o\.csv: its folder does not exist"),
        ("t.csv", "text\na\n", {"output": ".", "format": "csv"}, r"--output \.: is a folder; give a file"),
        (
            "t.csv",
            "text\na\n",
            {"output": "/proc/o.csv"},
            "cannot be written: No such file",
        ),
        (
            "t.csv",
            "text\na\n",
            {"output": "/dev/full", "format": "csv"},
            "cannot be written: No space left",
        ),
        ("t.csv", "text\na\n", {"output": "t.csv"}, r"--output t\.csv: is the input file"),
        ("t.csv", "text\na\n", {"batch_size": 0}, r"--per_device_eval_batch_size 0"),
        (None, "", {"file": "nothing.csv"}, r"--file: nothing\.csv does not exist"),
    ],
)
def test_bad_input(
    runs: dict[str, Path],
    name: str | None,
    content: str,
    options: dict[str, Any],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    if name is not None:
        Path(name).write_bytes(content.encode("latin-1"))
        options = {"file": name} | options
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match=message):
        predict_file(runs["plain"], **({"output": "out.csv"} | options), **OPTIONS)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["record.json", "predictions.json", "metrics.jsonl", "config.json"])
def test_a_file_of_the_run_is_not_replaced(runs: dict[str, Path], tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(runs["plain"], tmp_path / "run")
    (folder / "metrics.jsonl").write_text("{}\n")
    before = (folder / name).read_bytes()
    (tmp_path / "t.csv").write_text("text\na\n")
    with pytest.raises(UserError, match=rf"^--output .*{name}: is a file of the run in that folder"):
        predict_file(folder, file=tmp_path / "t.csv", output=folder / name, format="jsonl", **OPTIONS)
    assert (folder / name).read_bytes() == before
    predict_file(folder, file=tmp_path / "t.csv", output=folder / "labels.csv", **OPTIONS)
    predict_file(folder, file=tmp_path / "t.csv", output=folder / "labels.csv", **OPTIONS)


def test_a_line_that_is_no_pair(runs: dict[str, Path], type_in: Any, tmp_path: Path) -> None:
    type_in(b"a\tb\nc\n")
    with pytest.raises(UserError, match="standard input, line 2 has 0 tabs; the model takes a pair"):
        predict_file(runs["pair"], output=tmp_path / "o.csv", **OPTIONS)
    assert list(tmp_path.iterdir()) == []
