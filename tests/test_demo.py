import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from sot_nlp import demo, records
from sot_nlp.cli import main


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return demo.save_tiny_bert(tmp_path_factory.mktemp("demo") / "bert", seed=1)


def test_the_backbone_is_an_ordinary_checkpoint_and_the_same_each_time(backbone, tmp_path):
    again = demo.save_tiny_bert(tmp_path / "again", seed=1)
    model, other = AutoModel.from_pretrained(backbone), AutoModel.from_pretrained(again)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert (
        AutoTokenizer.from_pretrained(backbone).get_vocab()
        == AutoTokenizer.from_pretrained(again).get_vocab()
    )


def test_endings_are_pieces_and_no_held_out_word_is_unknown(backbone):
    tokenizer = AutoTokenizer.from_pretrained(backbone)
    for example in demo.generate("validation", 200, seed=0):
        assert tokenizer.unk_token_id not in tokenizer(example.sentence)["input_ids"]
    pieces = tokenizer.tokenize("zigelles")
    assert pieces[-1] in ("##s", "##elles", "##es")


def test_both_heads_are_trained_and_shown_side_by_side_and_not_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "SEEDS", (1,))
    words = ["train", "--task", "demo", "--output_dir", str(tmp_path / "demo"), "--cpu"]
    quick = ["--max_train_samples", "64", "--max_eval_samples", "50", "--num_train_epochs", "1"]
    assert main([*words, *quick]) == 0
    shown = capsys.readouterr().out
    values = {}
    for head in demo.HEADS:
        record = records.read(tmp_path / "demo" / f"{head}-seed1")
        assert record["head"] == head
        values[head] = record["best"]["value"]
        line = next(line for line in shown.splitlines() if line.startswith(f"{head} "))
        assert f"{values[head]:.3f}" in line
    finished = {path: path.stat().st_mtime for path in (tmp_path / "demo").rglob("record.json")}
    assert main([*words, *quick]) == 0
    assert {path: path.stat().st_mtime for path in (tmp_path / "demo").rglob("record.json")} == finished


def test_any_model_can_be_trained_on_the_demos_corpus(backbone_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["train", "--task", "demo", "--model_name_or_path", str(backbone_folder("gpt2")), "--cpu"]
    quick = ["--max_train_samples", "64", "--max_eval_samples", "50", "--num_train_epochs", "1"]
    assert main([*words, *quick, "--output_dir", str(tmp_path / "out"), "--disable_tqdm"]) == 0
    assert records.read(tmp_path / "out")["model_class"] == "SoTGPT2ForSequenceClassification"
