"""`sot-nlp explain` as a user runs it: files, flags, several models, and mistakes told in a line."""

from __future__ import annotations

import json
import re
import sys

import numpy as np
import pytest
from transformers import AutoModelForSequenceClassification

from sot_nlp import cli
from tests.support import tiny
from tests.support.saved_runs import save_run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of tiny runs: words and both branches, a stock head, and one of pairs."""
    root = tmp_path_factory.mktemp("runs")
    save_run(root / "both")
    save_run(root / "words", head="words")
    save_run(root / "stock", head="stock")
    save_run(root / "pairs", family="roberta", text_columns=("first", "second"))
    save_run(root / "score", family="gpt2", labels=None, problem_type="regression")
    return root


def run(capsys, *words) -> tuple[int, str, str]:
    code = cli.main(["explain", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_texts_labels_and_every_picture(runs, tmp_path, capsys):
    files = {name: tmp_path / f"out.{name}" for name in ("html", "png", "json")}
    code, out, _ = run(
        capsys, runs / "both", "--text", "the zorp runs .", "--text", "no rath", "--label", "yes", "--label",
        "no", *(word for name, path in files.items() for word in (f"--{name}", path)),
    )  # fmt: skip
    assert code == 0
    assert out.count("the head's own sum over tokens") == 2
    assert len(re.findall(r"\bright\b|\bwrong: it is\b", out)) == 2
    assert all(f"wrote {path}" in out for path in files.values())
    assert "zorp" in files["html"].read_text()
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    first, _ = json.loads(files["json"].read_text())
    total = np.sum(first["scores"], 0) + first["class_token"] + np.array(first["base"])
    np.testing.assert_allclose(total, first["logits"], atol=1e-5)
    assert [word["text"] for word in first["words"]] == ["the", "zorp", "runs", "."]
    # As few digits as identify a float32.
    numbers = [
        first["logits"],
        first["class_token"],
        *first["scores"],
        *(w["scores"] for w in first["words"]),
    ]
    assert all(float(str(np.float32(number))) == number for row in numbers for number in row)
    assert first["predicted"] == int(np.argmax(first["logits"]))


def test_models_one_under_another(runs, tmp_path, capsys):
    code, out, _ = run(
        capsys, runs / "stock", runs / "words", runs / "both", "--name", "class token", "--name", "words",
        "--name", "both", "--text", "the zorp .", "--method", "occlusion", "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert code == 0
    heads = [line for line in out.splitlines() if "when a word is masked" in line]
    assert [line.split("  ")[0] for line in heads] == ["class token", "words", "both"]
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 1
    assert page.count("<article>") == 3


def test_each_model_has_its_own_default_method(runs, capsys):
    pytest.importorskip("captum")
    code, out, _ = run(capsys, runs / "stock", runs / "both", "--text", "the zorp runs .", "--steps", 4)
    assert code == 0
    assert "stock  " in out
    assert out.index("integrated gradients") < out.index("own sum over tokens")


def test_a_file_of_lines_with_odd_texts(runs, tmp_path, capsys):
    file = tmp_path / "texts.txt"
    lines = [
        "the zorp .",
        "",
        "<b>\x1b[31m\u202e",
        "\U0001f469\u200d\U0001f52c \u05e9\u05dc\u05d5\u05dd",
        "wug " * 2000,
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    code, out, _ = run(capsys, runs / "both", "--file", file, "--html", tmp_path / "page.html")
    assert code == 0
    assert "no word in this text" in out
    assert "\x1b" not in out
    assert "\u202e" not in out
    assert re.search(r"\d+ tokens were cut off by the length limit", out)
    assert (tmp_path / "page.html").read_text().count("<article>") == 5


def test_pairs_by_flags_and_by_file(runs, tmp_path, capsys):
    code, out, _ = run(
        capsys, runs / "pairs", "--text", "the zorp .", "--text_pair", "a wug", "--method", "pairs"
    )
    assert code == 0
    assert len([line for line in out.splitlines() if "\u00d7" in line]) == 8
    file = tmp_path / "pairs.csv"
    file.write_text('first,second\n"the zorp .",a wug\n')
    _, again, _ = run(capsys, runs / "pairs", "--file", file, "--method", "pairs")
    assert again == out


def test_a_score(runs, capsys):
    code, out, _ = run(capsys, runs / "score", "--text", "the zorp runs .", "--label", "2.5")
    assert code == 0
    assert "toward score" in out
    assert "the right score is 2.5" in out


def test_another_model_is_explained_by_gradients_alone(tmp_path, capsys):
    pytest.importorskip("captum")
    config = tiny.config("bert", num_labels=2)
    tiny.random_model(config, AutoModelForSequenceClassification).save_pretrained(tmp_path)
    tiny.tokenizer("bert").save_pretrained(tmp_path)
    code, out, _ = run(capsys, tmp_path, "--text", "the zorp .", "--steps", 4)
    assert code == 0
    assert "integrated gradients" in out
    code, _, err = run(capsys, tmp_path, "--text", "the zorp .", "--method", "exact")
    assert code == 2
    assert "has no SoT head; use integrated_gradients or occlusion" in err


def test_an_untrained_model_is_none(tmp_path, capsys):
    tiny.save_backbone("bert", tmp_path)
    code, _, err = run(capsys, tmp_path, "--text", "the zorp .")
    assert code == 2
    assert "not a trained classifier (no weights for classifier.bias, classifier.weight)" in err


@pytest.mark.parametrize(
    ("folder", "words", "message"),
    [
        ("both", [], "give the texts either by --text or by --file"),
        ("both", ["--text", "a", "--file", "b"], "either by --text or by --file"),
        ("both", ["--text", "a", "--method", "exakt"], "--method exakt: did you mean exact?"),
        ("both", ["--text", "a", "--toward", "maybee"], "--toward maybee: did you mean maybe?"),
        ("both", ["--text", "a", "--label", "yes", "--label", "no"], "--label: 2 for 1 texts"),
        ("both", ["--text", "a", "--label", "si"], "--label si: known: no, maybe, yes"),
        ("both", ["--text", "a", "--text_pair", "b"], "was trained on 1 text(s), text; give --text alone"),
        ("pairs", ["--text", "a"], "was trained on 2 text(s), first, second; give --text_pair too"),
        ("both", ["--text", "a", "--text_pair", "b", "--text_pair", "c"], "--text_pair: 2 for 1 --text"),
        ("both", ["--text", "a", "--name", "x", "--name", "y"], "--name: 2 for 1 folders"),
        ("both", ["--text", "a", "--max_length", "0"], "--max_length 0: must be at least 1"),
        ("both", ["--text", "a", "--max_length", "600"], "takes at most 512 tokens"),
        ("both", ["--text", "a", "--max_length", "2"], "no room for text"),
        ("both", ["--text", "a", "--steps", "0"], "--steps 0"),
        ("both", ["--text", "a", "--html", "."], "--html .: is a folder"),
        (
            "both",
            ["--text", "a", "--html", "train.csv"],
            "--html train.csv: expected a name that ends in .html",
        ),
        ("both", ["--text", "a", "--json", "x.html"], "--json x.html: expected a name that ends in .json"),
        ("both", ["--text", "a", "--json", "{runs}/both/record.json"], "record.json: is a file of the run"),
        ("both", ["--text", "a", "--png", "x.jpg"], "--png x.jpg: expected a name that ends in .png"),
        ("both", ["--text", "a", "--html", "/dev/null/x.html"], "--html /dev/null/x.html: cannot be written"),
        ("both", ["--text", "a", "--json", "/dev/full"], "--json /dev/full: cannot be written: No space"),
        ("both", ["--file", "nowhere.txt"], "does not exist"),
        ("stock", ["--text", "a", "--method", "exact"], "pooling='none' is not a sum over words"),
        ("score", ["--text", "a", "--toward", "yes"], "gives a score, it has no labels"),
        ("score", ["--text", "a", "--label", "yes"], "expected a number"),
        ("nowhere/", ["--text", "a"], "no such folder"),
    ],
)
def test_mistakes_are_told_in_a_line(runs, capsys, folder, words, message):
    code, _, err = run(capsys, runs / folder, *(word.replace("{runs}", str(runs)) for word in words))
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1 or "Loading" in err


@pytest.mark.parametrize("quoting", [None, "true"])
def test_quotes_of_a_tsv_are_guessed_and_said(runs, tmp_path, capsys, quoting):
    (tmp_path / "a.tsv").write_text('text\tlabel\n"the ""dax"" sees"\tyes\nthe wug runs .\tno\n')
    words = ["--file", tmp_path / "a.tsv", "--json", tmp_path / "a.json"]
    code, _, err = run(capsys, runs / "both", *words, *([] if quoting is None else ["--quoting", quoting]))
    assert code == 0
    note = "its quotes are those of quoted fields, and are removed (--quoting false keeps them)\n"
    assert (note in err) == (quoting is None)
    texts = [text["texts"] for text in json.loads((tmp_path / "a.json").read_text())]
    assert texts == [['the "dax" sees'], ["the wug runs ."]]


def test_a_binary_file_is_named(runs, tmp_path, capsys):
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    code, _, err = run(capsys, runs / "both", "--file", tmp_path / "a.txt")
    assert code == 2
    assert "line 1 is not UTF-8" in err


def test_more_texts_than_a_picture_holds(runs, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("wug\n" * 1001)
    code, _, err = run(capsys, runs / "both", "--file", tmp_path / "a.txt")
    assert code == 2
    assert "more than 1000 texts" in err


def test_a_missing_extra_is_named(runs, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.chdir(tmp_path)
    words = ["--text", "the zorp .", "--method", "integrated_gradients"]
    code, _, err = run(capsys, runs / "both", *words)
    assert code == 2
    assert "pip install 'sot-nlp[explain]'" in err
    assert not list(tmp_path.iterdir())
