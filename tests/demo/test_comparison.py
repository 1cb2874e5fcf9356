"""The demo: its vocabulary, its tiny BERT, what it trains and what it prints."""

import contextlib
import io
import json
import re
import shlex
import sys
import types

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from sot_nlp import records
from sot_nlp.cli import main
from sot_nlp.demo import comparison, workers
from sot_nlp.demo.grammar import PHENOMENA, generate
from sot_nlp.demo.tiny_bert import FOLDER, SPECIAL, mask, train_tiny_bert, train_vocabulary
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import build_arguments

SMALL = comparison.Budget(train_size=200, validation_size=60, seeds=1)
SENTENCES = [e.sentence for e in generate("train", 8000, 0) if e.label == "acceptable"]
ONE_STEP = ["--max_train_steps", "1", "--cpu", "--disable_tqdm", "--per_device_eval_batch_size", "60"]


@pytest.fixture(scope="module")
def tokenizer():
    return train_vocabulary(SENTENCES)


def test_a_new_word_is_a_known_stem_and_a_known_ending(tokenizer):
    """What carries number, gender and verb class is one piece, the same behind every stem."""
    for ending in ("ard", "ards", "elle", "elles", "ish", "led", "ize", "izes", "ized"):
        assert tokenizer.tokenize(f"plud{ending}")[-1] == f"##{ending}"
    for word in ("himself", "herself", "themselves", "this", "these", "no", "not", "yet", "already", "had"):
        assert tokenizer.tokenize(word) == [word]
    seen = {piece for sentence in SENTENCES for piece in tokenizer.tokenize(sentence)}
    held_out = {p for e in generate("validation", 1000, 0) for p in tokenizer.tokenize(e.sentence)}
    assert held_out <= seen
    assert "[UNK]" not in held_out


def test_pretraining_learns_and_leaves_the_random_state_alone(tokenizer):
    def loss(model) -> float:
        batch = tokenizer(SENTENCES[:64], padding=True, return_tensors="pt")
        with torch.no_grad():
            return float(model(**batch, labels=batch["input_ids"]).loss)

    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first = train_tiny_bert(SENTENCES[:500], tokenizer, updates=20, seed=1)
    assert torch.equal(torch.rand(3), expected)
    again = train_tiny_bert(SENTENCES[:500], tokenizer, updates=20, seed=1)
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert loss(first) < loss(train_tiny_bert(SENTENCES[:500], tokenizer, updates=0, seed=1)) - 0.5


def test_masking_hides_a_fifth_of_the_words_and_nothing_else():
    torch.manual_seed(0)
    ids = torch.randint(len(SPECIAL), 100, (200, 50))
    ids[:, 0], ids[:, 40:] = 2, 0  # [CLS], [PAD]
    corrupted, masked = mask(ids, 4)
    assert not masked[:, 0].any()
    assert not masked[:, 40:].any()
    assert torch.equal(corrupted[~masked], ids[~masked])
    assert masked[:, 1:40].float().mean() == pytest.approx(0.2, abs=0.02)
    assert (corrupted[masked] == 4).float().mean() == pytest.approx(0.8, abs=0.03)
    kept = (corrupted == ids)[masked].float().mean()
    assert kept == pytest.approx(0.1 + 0.1 / 95, abs=0.02)


def test_the_backbone_that_comes_along_is_of_this_corpus_and_is_kept(tokenizer, tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(FOLDER)
    saved = AutoTokenizer.from_pretrained(FOLDER)
    # The trainer's own numbering of pieces differs between processes: this one is made again here.
    assert saved.get_vocab() == tokenizer.get_vocab()
    assert saved("The BRABARD.")["input_ids"] == saved("the brabard.")["input_ids"]
    batch = saved([e.sentence for e in generate("train", 400, 0)[::2]], padding=True, return_tensors="pt")
    torch.manual_seed(0)
    corrupted, masked = mask(batch["input_ids"], saved.mask_token_id)
    with torch.no_grad():
        logits = model(corrupted, attention_mask=batch["attention_mask"]).logits
    hits = (logits.argmax(-1) == batch["input_ids"])[masked].float().mean()
    assert hits > 0.5  # one in a hundred by chance

    comparison.prepare_demo(tmp_path, SMALL)
    weights = tmp_path / "tiny-bert" / "model.safetensors"
    assert weights.read_bytes() == (FOLDER / "model.safetensors").read_bytes()
    weights.write_bytes(b"of the user")
    comparison.prepare_demo(tmp_path, SMALL)
    assert weights.read_bytes() == b"of the user"
    comparison.prepare_demo(tmp_path, SMALL, overwrite=True)
    assert weights.read_bytes() == (FOLDER / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """A demo of one step a head: its folder and what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "Budget", lambda: SMALL)
        patch.setattr(comparison, "usable_cores", lambda: 1)
        text = io.StringIO()
        with contextlib.redirect_stdout(text):
            assert main(["train", "--task", "demo", "--output_dir", str(folder), *ONE_STEP]) == 0
    return folder, text.getvalue()


def test_both_heads_are_trained_alike_and_shown_side_by_side(shown):
    folder, text = shown
    runs = {head: records.read(folder / f"{head}-seed42") for head in ("stock", "text")}
    same = {
        **runs["stock"]["arguments"],
        "head": "text",
        "output_dir": runs["text"]["arguments"]["output_dir"],
    }
    assert runs["text"]["arguments"] == same
    assert runs["text"]["arguments"]["learning_rate"] == comparison.TRAINING["learning_rate"]
    for head, record in runs.items():
        assert record["head"] == head
        [line] = [line for line in text.splitlines() if re.match(rf"│ {head}\s+│", line)]
        cells = [cell.strip() for cell in line.strip("│").split("│")]
        assert cells[1] == cells[2] == f"{record['best']['value']:.3f}"
        rows = json.loads((folder / f"{head}-seed42" / "predictions.json").read_text(encoding="utf-8"))
        accuracy = sum(row["prediction"] == row["label"] for row in rows) / len(rows)
        assert cells[3] == f"{accuracy:.3f}"
        shares = comparison.accuracies(folder, head, [42])
        assert cells[4:] == [f"{shares[name]:.3f}" for name in PHENOMENA]
        assert sum(shares[name] for name in PHENOMENA) / 5 == pytest.approx(accuracy)


def test_the_printed_snippet_loads_the_model_and_judges(shown, capsys):
    _, text = shown
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    start = lines.index("import sot_nlp")
    code = "\n".join(lines[start : start + 4])
    exec(code, {})
    assert len(re.findall(r"'label': '(un)?acceptable'", capsys.readouterr().out)) == 2


def test_the_commands_that_are_printed_next_work(shown, monkeypatch, capsys):
    _, text = shown
    lines = [line.strip() for line in text.splitlines()]
    [predict] = [line for line in lines if "sot-nlp predict" in line]
    [explain] = [line for line in lines if line.startswith("sot-nlp explain")]
    asked, _, command = predict.partition(" | ")
    [_, sentence] = shlex.split(asked)
    stdin = types.SimpleNamespace(buffer=io.BytesIO(sentence.encode() + b"\n"))
    monkeypatch.setattr(sys, "stdin", stdin)
    assert main([*shlex.split(command)[1:], "--cpu"]) == 0
    assert "acceptable" in capsys.readouterr().out.splitlines()[1]
    assert main(shlex.split(explain)[1:]) == 0
    assert sentence.split()[1] in capsys.readouterr().out


def test_workers_train_what_one_process_trains(shown, tmp_path):
    """The same record, run for run, and a run that fails is named."""
    folder, _ = shown
    before = {head: records.read(folder / f"{head}-seed42") for head in ("stock", "text")}
    runs = {
        head: {**run["arguments"], "output_dir": str(tmp_path / head), "disable_tqdm": True}
        for head, run in before.items()
    }
    finished: list[str] = []
    with workers.started(tmp_path, 1) as started:
        started.train(runs, finished.append)
        assert finished == ["stock", "text"]
        wrong = {**runs["stock"], "output_dir": str(tmp_path / "wrong"), "data_dir": str(tmp_path / "none")}
        with pytest.raises(UserError, match="none"):
            started.train({"wrong": wrong, "never": runs["text"]}, finished.append)
        assert finished == ["stock", "text"]
    assert all(process.exitcode is not None for process in started.processes)
    for head, run in before.items():
        again = records.read(tmp_path / head)
        assert again["evaluations"] == run["evaluations"]
        assert again["best"] == run["best"]
        weights = [
            (path / "model.safetensors").read_bytes() for path in (folder / f"{head}-seed42", tmp_path / head)
        ]
        assert weights[0] == weights[1]


def test_a_folder_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(["train", "--task", "demo", "--output_dir", str(tmp_path / "file" / "out")]) == 2
    assert "--output_dir" in (shown := capsys.readouterr().err)
    assert shown.count("\n") == 1
    assert "cannot be written: Not a directory" in shown


def test_a_demo_that_is_stopped_says_how_to_resume(tmp_path, monkeypatch, capsys):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "usable_cores", lambda: 2)
    monkeypatch.setattr(comparison, "preload", lambda: None)
    monkeypatch.setattr(comparison, "prepare_demo", lambda *_, **__: None)
    monkeypatch.setattr(comparison, "started", stopped)
    arguments = build_arguments([("flag", {"head": "text", "output_dir": str(tmp_path)})])
    with pytest.raises(KeyboardInterrupt):
        comparison.run_demo(arguments)
    assert "the same command resumes" in capsys.readouterr().out


def test_runs_of_different_precision_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "prepare_demo", lambda *_, **__: None)
    monkeypatch.setattr(comparison, "show", lambda *_: pytest.fail("shown"))
    arguments = build_arguments([("flag", {"head": "sot", "output_dir": str(tmp_path)})])

    def train_one(settings):
        return {"environment": {"mixed_precision": "no" if settings["head"] == "sot" else "bf16"}}

    with pytest.raises(UserError, match=r"different precision \(bf16 and no\)"):
        comparison.run_demo(arguments, train_one)


def test_finished_runs_are_shown_again_and_other_settings_are_refused(shown, monkeypatch, capsys):
    folder, text = shown
    monkeypatch.setattr(comparison, "Budget", lambda: SMALL)
    command = ["train", "--task", "demo", "--output_dir", str(folder), *ONE_STEP]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")}
    assert main([*command, "--logging_steps", "3"]) == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("record.json")} == before
    table = [line for line in text.splitlines() if line.startswith("│")]
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")] == table
    assert main([*command, "--learning_rate", "0.5"]) == 2
    assert "holds a run with learning_rate 0.0007, not 0.5; use another" in capsys.readouterr().err
    # A setting that is no longer given counts too.
    assert main(["train", "--task", "demo", "--output_dir", str(folder)]) == 2
    assert "holds a run with" in capsys.readouterr().err
    assert main([*command, "--push_to_hub"]) == 2
    assert "--push_to_hub" in capsys.readouterr().err
    assert main([*command, "--head.alpha", "3"]) == 2  # a wrong setting, before what the folder holds
    assert "error: --head.alpha: alpha=3 is not" in capsys.readouterr().err


def test_which_runs_are_made_and_with_what(tmp_path, monkeypatch):
    """Two paired seeds; the head's own flags hold for its arm alone, all others for both."""
    asked = []

    def train_one(settings):
        asked.append(settings)
        return {"best": {"value": 0.5}}

    monkeypatch.setattr(comparison, "prepare_demo", lambda *_, **__: None)
    monkeypatch.setattr(comparison, "show", lambda *_: None)
    flags = {"head": "vision", "head_overrides": {"alpha": 0.7}, "seed": 3, "learning_rate": 0.1}
    arguments = build_arguments(
        [
            ("recipe of demo", {"head": "sot", "max_length": 32}),
            ("flag", {**flags, "output_dir": str(tmp_path)}),
        ]
    )
    found = comparison.run_demo(arguments, train_one, comparison.Budget(seeds=2))
    assert [(s["head"], s["seed"]) for s in asked] == [
        ("stock", 3),
        ("vision", 3),
        ("stock", 4),
        ("vision", 4),
    ]
    assert [s["head_overrides"] for s in asked] == [{}, {"alpha": 0.7}] * 2
    assert {s["learning_rate"] for s in asked} == {0.1}
    assert {s["num_train_epochs"] for s in asked} == {comparison.TRAINING["num_train_epochs"]}
    assert len({s["output_dir"] for s in asked}) == 4
    assert {head: len(runs) for head, runs in found.items()} == {"stock": 2, "vision": 2}
    for settings in asked:
        build_arguments([("demo", settings)])
    asked.clear()
    alone = build_arguments([("flag", {"head": "stock", "output_dir": str(tmp_path)})])
    comparison.run_demo(alone, train_one, comparison.Budget(seeds=1))
    assert [s["head"] for s in asked] == ["stock"]
    with pytest.raises(UserError, match="the demo trains several models"):
        comparison.run_demo(build_arguments([("flag", {"push_to_hub": True})]), train_one)


def test_any_model_can_be_trained_on_the_demos_corpus(backbone_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = ["train", "--task", "demo", "--model_name_or_path", str(backbone_folder("gpt2"))]
    short = ["--max_train_samples", "32", "--max_eval_samples", "20", "--output_dir", "out", *ONE_STEP]
    assert main([*command, *short]) == 0
    assert records.read("out")["model_class"] == "SoTGPT2ForSequenceClassification"
    assert (tmp_path / comparison.FOLDER / "data" / "Demo" / "train.tsv").is_file()
