"""Whole runs on a few dozen invented sentences: what they leave behind, and what they refuse."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load
from scipy.stats import pearsonr
from sklearn.metrics import matthews_corrcoef

from sot_nlp import AutoSoTForSequenceClassification, load_tokenizer, records
from sot_nlp.cli import main
from sot_nlp.errors import UserError
from sot_nlp.inference.saved_model import open_model
from sot_nlp.runs.scoring import Scorer
from tests.runs.conftest import command
from tests.support import tiny

FAMILIES = ("bert", "roberta", "openai-gpt", "gpt2")


@pytest.fixture(scope="module")
def finished(glue, backbone_folder, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "cola"
    assert main(command(glue, backbone_folder("bert"), out, "--do_predict")) == 0
    return out


@pytest.mark.parametrize(
    ("family", "flags", "said"),
    [
        ("gpt2", [], True),
        ("gpt2", ["--head", "mapped_moments"], False),
        ("gpt2", ["--freeze_backbone"], False),
        ("bert", [], False),
    ],
)
def test_a_causal_backbone_is_not_given_the_default_head_in_silence(
    glue, backbone_folder, tmp_path, capsys, family, flags, said
):
    words = command(glue, backbone_folder(family), tmp_path / "o", "--num_train_epochs", "1", *flags)
    assert main(words) == 0
    assert ("compare with --head stock" in capsys.readouterr().out) == said


def test_predictions_without_test_data_are_refused(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("text,label\na zorp,yes\nthe dax,no\n" * 4)
    words = (
        f"train --train_file {tmp_path}/a.csv --model_name_or_path x --output_dir {tmp_path}/o --do_predict"
    )
    assert main(words.split()) == 2
    assert "--do_predict: there is no test data to predict; give --test_file" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_the_record_says_what_was_done_and_what_came_out(finished):
    record = records.read(finished)
    assert record["status"] == records.FINISHED
    assert (record["task"], record["head"], record["seed"]) == ("cola", "mapped_moments", 42)
    assert record["main_metric"] == "matthews_correlation"
    assert record["train_examples_per_second"] > 0
    assert [evaluation["epoch"] for evaluation in record["evaluations"]] == [1, 2]
    values = [evaluation["matthews_correlation"] for evaluation in record["evaluations"]]
    assert record["best"]["value"] == max(values)
    assert record["head_config"]["width_x"] == 96
    assert record["arguments"]["num_train_epochs"] == 2
    assert record["versions"]["torch"] == torch.__version__


def test_predictions_give_the_records_score_in_the_files_order(finished, glue):
    rows = json.loads((finished / "predictions.json").read_text())
    in_file = [int(line.split("\t")[1]) for line in (glue / "CoLA/dev.tsv").read_text().splitlines()]
    assert [row["index"] for row in rows] == list(range(len(in_file)))
    assert [row["label"] for row in rows] == in_file
    score = matthews_corrcoef(in_file, [row["prediction"] for row in rows])
    assert score == pytest.approx(records.read(finished)["best"]["value"], abs=1e-9)
    for row in rows:
        assert sum(row["probabilities"]) == pytest.approx(1, abs=1e-5)
        assert int(np.argmax(row["probabilities"])) == row["prediction"]


def test_the_saved_model_is_the_one_that_predicted(finished, glue):
    model = AutoSoTForSequenceClassification.from_pretrained(finished).eval()
    tokenizer = load_tokenizer(finished)
    assert model.config.id2label == {0: "unacceptable", 1: "acceptable"}
    texts = [line.split("\t")[3] for line in (glue / "CoLA/dev.tsv").read_text().splitlines()]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    saved = [row["probabilities"] for row in json.loads((finished / "predictions.json").read_text())]
    torch.testing.assert_close(logits.softmax(-1), torch.tensor(saved), atol=2e-6, rtol=0)


def test_test_predictions_are_in_the_files_order_and_by_name(finished):
    rows = json.loads((finished / "test_predictions.json").read_text())
    assert [row["index"] for row in rows] == list(range(13))
    assert {row["prediction"] for row in rows} <= {"unacceptable", "acceptable"}


def test_a_finished_run_is_refused_and_then_replaced(finished, glue, backbone_folder, tmp_path, capsys):
    before = (finished / "record.json").read_text()
    assert main(command(glue, backbone_folder("bert"), finished)) == 2
    assert "--overwrite_output_dir" in capsys.readouterr().err
    assert (finished / "record.json").read_text() == before


@pytest.mark.parametrize("mistake", [["--data_dir", "nowhere"], ["--head.num_layers", "9"]])
def test_a_mistake_does_not_cost_the_run_that_was_to_be_replaced(
    mistake, finished, glue, backbone_folder, tmp_path
):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    words = [*command(glue, backbone_folder("bert"), folder), "--overwrite_output_dir", *mistake]
    assert main(words) == 2
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == before


def test_a_replaced_run_leaves_nothing_behind(finished, glue, backbone_folder, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    assert (folder / "test_predictions.json").exists()
    words = command(glue, backbone_folder("bert"), folder, "--overwrite_output_dir", "--max_train_steps", "1")
    assert main(words) == 0
    assert not (folder / "test_predictions.json").exists()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_training_file_in_the_folder_of_the_replaced_run_stays_or_is_refused(
    finished, backbone_folder, tmp_path, capsys
):
    folder = shutil.copytree(finished, tmp_path / "run")
    rows = "text\tlabel\n" + "a zorp runs\tyes\nthe dax\tno\n" * 12
    for name in ("mine.tsv", "CoLA.tsv"):
        (folder / name).write_text(rows)
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    words = ["train", "--model_name_or_path", str(backbone_folder("bert")), "--output_dir", str(folder)]
    words += ["--overwrite_output_dir", "--cpu", "--mixed_precision", "no", "--disable_tqdm"]
    words += ["--cache_dir", str(tmp_path / "cache"), "--train_file"]
    assert main([*words, str(folder / "CoLA.tsv")]) == 2
    told = capsys.readouterr().err
    assert f"--train_file {folder}/CoLA.tsv: --overwrite_output_dir would delete it" in told
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert main([*words, str(folder / "mine.tsv")]) == 0
    assert (folder / "mine.tsv").read_text() == rows
    assert records.read(folder)["task"] == "mine"


def test_evaluate_gives_the_records_scores(finished, capsys):
    assert main(["evaluate", str(finished), "--cpu", "--mixed_precision", "no"]) == 0
    shown = capsys.readouterr().out
    assert f"matthews_correlation {records.read(finished)['best']['value']:.4f}" in shown
    assert "validation (40 examples)" in shown


def test_the_same_seed_gives_the_same_run(finished, glue, backbone_folder, tmp_path):
    assert main(command(glue, backbone_folder("bert"), tmp_path / "again")) == 0
    again = (tmp_path / "again" / "predictions.json").read_text()
    assert again == (finished / "predictions.json").read_text()


def test_a_regression_keeps_its_scores(glue, backbone_folder, tmp_path):
    out = tmp_path / "stsb"
    assert main(command(glue, backbone_folder("bert"), out, task="stsb")) == 0
    rows = json.loads((out / "predictions.json").read_text())
    assert "probabilities" not in rows[0]
    assert [row["label"] for row in rows[:3]] == [
        float(line.rsplit("\t", 1)[1]) for line in (glue / "STS-B/dev.tsv").read_text().splitlines()[1:4]
    ]
    value = pearsonr([row["label"] for row in rows], [row["prediction"] for row in rows]).statistic
    assert value == pytest.approx(records.read(out)["best"]["value"], abs=1e-6)
    assert records.read(out)["score_scale"] is None  # the recipe's rates are for these scores


@pytest.mark.parametrize("family", FAMILIES[1:])
def test_every_family_trains_saves_and_reloads(family, glue, backbone_folder, tmp_path):
    out = tmp_path / family
    assert main(command(glue, backbone_folder(family), out, "--num_train_epochs", "1")) == 0
    tokenizer, model = load_tokenizer(out), AutoSoTForSequenceClassification.from_pretrained(out).eval()
    texts = [line.split("\t")[3] for line in (glue / "CoLA/dev.tsv").read_text().splitlines()]
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    saved = [row["probabilities"] for row in json.loads((out / "predictions.json").read_text())]
    torch.testing.assert_close(logits.softmax(-1), torch.tensor(saved), atol=2e-6, rtol=0)


def test_what_the_head_asks_of_the_backbone_names_the_head_s_flag(glue, backbone_folder, tmp_path, capsys):
    assert main(command(glue, backbone_folder("bert"), tmp_path / "o", "--head.num_layers", "3")) == 2
    assert "error: --head.num_layers: num_layers=3, but the backbone has 2 layers" in capsys.readouterr().err


def test_a_frozen_backbone_stays_as_it_was(glue, backbone_folder, tmp_path):
    out = tmp_path / "frozen"
    flags = ("--freeze_backbone", "--num_train_epochs", "1")
    assert main(command(glue, backbone_folder("bert"), out, *flags)) == 0
    before = AutoSoTForSequenceClassification.from_pretrained(backbone_folder("bert"), num_labels=2)
    after = AutoSoTForSequenceClassification.from_pretrained(out)
    for name, parameter in after.named_parameters():
        if name.startswith("bert."):
            assert torch.equal(parameter, before.get_parameter(name)), name
    record = records.read(out)
    head = sum(parameter.numel() for parameter in after.classifier.parameters())
    assert record["num_trainable_parameters"] == head


def test_a_push_that_fails_leaves_the_finished_run(glue, backbone_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    out = tmp_path / "pushed"
    flags = ("--push_to_hub", "--hub_model_id", "me/cola", "--num_train_epochs", "1")
    assert main(command(glue, backbone_folder("bert"), out, *flags)) == 2
    assert "no token" in capsys.readouterr().err
    assert not out.exists()  # said before the training, not after it
    assert main(command(glue, backbone_folder("bert"), out, *flags, "--hub_token", "hf_any")) == 2
    assert f"sot-nlp push {out}" in capsys.readouterr().err.splitlines()[-1]
    assert records.read(out)["status"] == records.FINISHED
    assert (out / "model.safetensors").is_file()


@pytest.mark.parametrize("method", [(), ("--lora_r", "2")])
def test_every_save_pushes_behind_each_evaluation(
    method, glue, backbone_folder, tmp_path, capsys, monkeypatch
):
    pushed = []

    def push(folder, **settings):
        pushed.append((settings["repo_id"], (folder / "model.safetensors").read_bytes()))
        if len(pushed) == 1:
            raise UserError("the network is gone")
        return "url"

    monkeypatch.setattr("sot_nlp.publishing.hub.push", push)
    out = tmp_path / "pushed"
    flags = ("--push_to_hub", "--hub_token", "hf_any", "--hub_model_id", "me/cola", *method)
    flags += ("--hub_strategy", "every_save")
    assert main(command(glue, backbone_folder("bert"), out, *flags)) == 0
    assert [name for name, _ in pushed] == ["me/cola"] * 3
    assert pushed[0][1] != pushed[1][1]
    names = [set(load(weights)) for _, weights in pushed]  # whole models, whatever is trained of them
    assert names[0] == names[1] == names[2]
    assert "not pushed: the network is gone" in capsys.readouterr().out


def test_a_model_with_another_order_of_labels_scores_the_same(finished, glue, tmp_path, capsys):
    """The outputs and their names turned round: the task's scores must not change."""
    model = AutoSoTForSequenceClassification.from_pretrained(finished)
    with torch.no_grad():
        for name, parameter in model.classifier.named_parameters():
            if parameter.shape[:1] == (2,) and not name.endswith("start"):
                parameter.copy_(parameter.flip(0))
    model.config.id2label = {0: "Acceptable", 1: "UNACCEPTABLE"}
    model.config.label2id = {"Acceptable": 0, "UNACCEPTABLE": 1}
    model.save_pretrained(tmp_path)
    load_tokenizer(finished).save_pretrained(tmp_path)
    words = ["evaluate", str(tmp_path), "--task", "cola", "--data_dir", str(glue), "--cpu"]
    assert main([*words, "--mixed_precision", "no"]) == 0
    value = records.read(finished)["best"]["value"]
    assert f"matthews_correlation {value:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        (["--task", "colla"], ["--task", "did you mean cola"]),
        (["--task", "cola", "--head", "txt"], ["--head", "text"]),
        (["--task", "cola", "--head.alfa", "0.5"], ["--head", "alpha"]),
        (["--task", "cola", "--head.alpha", "2"], ["alpha", "below 1"]),
        (["--task", "ax"], ["no training data", "mnli"]),
        (["--task", "cola", "--model_name_or_path", "./nowhere"], ["--model_name_or_path", "no such folder"]),
        (["--head", "text"], ["nothing to train on", "--task"]),
        (["--task", "cola", "--num_train_epochs", "0"], ["--num_train_epochs", "above 0"]),
        (["--task", "cola", "--data_dir", "a\0b"], ["--data_dir", "a text without NUL"]),
        (["--task", "a" * 5000 + ".yaml"], ["aaa", "File name too long"]),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(flags, parts, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", *flags]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    for part in parts:
        assert part in captured.err
    assert not list(tmp_path.iterdir())


def test_a_stopped_run_keeps_the_precision_that_auto_chose(glue, backbone_folder, tmp_path, monkeypatch):
    evaluate = Scorer.__call__

    def interrupted(scorer, model):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(scorer, model)

    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    words = command(glue, backbone_folder("bert"), tmp_path / "run", "--mixed_precision", "auto")
    with monkeypatch.context() as first:
        first.setattr(Scorer, "__call__", interrupted)
        first.setattr("sot_nlp.training.speed.precision._automatic", lambda device: ("bf16", "a trial"))
        assert main(words) == 128 + signal.SIGTERM
    # A busy machine: now the trial comes out the other way.
    monkeypatch.setattr("sot_nlp.training.speed.precision._automatic", lambda device: ("no", "a trial"))
    assert main(words) == 0
    record = records.read(tmp_path / "run")
    assert record["environment"]["mixed_precision"] == "bf16"
    assert [entry["step"] for entry in record["resumed_from"]] == [5]
    # One that replaces it takes nothing over.
    assert main([*words, "--overwrite_output_dir"]) == 0
    assert records.read(tmp_path / "run")["environment"]["mixed_precision"] == "no"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", "{}"),
        ("tokenizer.json", '{"added_tokens": 5'),
        ("config.json", "[]"),
        ("config.json", '{"model_type": "bert", "id2label": ["a"]}'),
        ("config.json", '{"model_type": "bert", "max_position_embeddings": "many"}'),
    ],
)
def test_a_damaged_checkpoint_is_one_line(file, content, glue, tmp_path, capsys):
    damaged = tiny.save_backbone("bert", tmp_path / "damaged")
    (damaged / file).write_text(content)
    capsys.readouterr()
    assert main(command(glue, damaged, tmp_path / "out")) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sot-nlp: error: ")]
    assert len(told) == 1
    assert f"--model_name_or_path {damaged}" in told[0]


def test_the_data_folder_and_the_models_limit_are_checked(glue, backbone_folder, tmp_path, capsys):
    bert = backbone_folder("bert")
    assert main(command(tmp_path / "none", bert, tmp_path / "a")) == 2
    assert "--data_dir" in capsys.readouterr().err
    assert main(command(glue, bert, tmp_path / "b", "--max_length", "4096")) == 2
    assert "--max_length 4096" in capsys.readouterr().err
    # A model of fewer positions than its tokenizer says.
    short = tiny.save_backbone("bert", tmp_path / "short", max_position_embeddings=64)
    assert main(command(glue, short, tmp_path / "c", "--max_length", "65")) == 2
    assert "--max_length 65 is more than the model's 64 positions" in capsys.readouterr().err
    # What was not given is the model's, and the record says the length in use.
    assert main(command(glue, short, tmp_path / "d")) == 0
    assert "max_length is 64, the model's positions; the default is 128" in capsys.readouterr().out
    record = records.read(tmp_path / "d")
    assert (record["arguments"]["max_length"], record["data"]["max_length"]) == (64, 64)
    assert open_model(tmp_path / "d").max_length == 64
    assert json.loads((tmp_path / "d" / "tokenizer_config.json").read_text())["model_max_length"] == 64
    assert main(["evaluate", str(tmp_path / "d"), "--output_dir", str(tmp_path / "e"), "--cpu"]) == 0
    assert records.read(tmp_path / "e")["arguments"]["max_length"] == 64


def test_of_a_main_metric_that_falls_the_lowest_is_kept(backbone_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    texts = tiny.sentences(24, seed=1)
    rows = [f"{text},{('yes', 'no')[n % 2]}" for n, text in enumerate(texts)]
    Path("a.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    Path("t.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nkind: classification\nlabels: [no, yes]\n"
        "metrics: [accuracy, log_loss]\nmain_metric: log_loss\n"
        "files: {train: {file: a.csv}, validation: {file: a.csv}}\n"
    )
    quick = "--num_train_epochs 4 --learning_rate 3e-2 --cpu --disable_tqdm --cache_dir c"
    words = ["train", "--task", "t.yaml", "--model_name_or_path", str(backbone_folder("bert"))]
    assert main([*words, "--output_dir", "out", *quick.split()]) == 0
    record = records.read("out")
    values = [evaluation["log_loss"] for evaluation in record["evaluations"]]
    assert record["best"]["value"] == min(values) < max(values)
    assert main(["evaluate", "out", "--output_dir", "again", "--cpu"]) == 0
    assert records.read("again")["best"]["value"] == min(values)
