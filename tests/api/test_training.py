"""`sot_nlp.train`: the same run as the command's, from Python."""

import inspect
import json

import pytest

import sot_nlp
from sot_nlp.cli import main
from sot_nlp.settings.arguments import FIELDS
from tests.support import tiny

SETTINGS = {
    "num_train_epochs": 1,
    "max_length": 16,
    "per_device_train_batch_size": 8,
    "mixed_precision": "no",
    "disable_tqdm": True,
    "seed": 3,
}


def rows(count=24):
    texts = tiny.sentences(count, seed=1)
    return [{"text": text, "label": "long" if len(text) > 25 else "short"} for text in texts]


def test_a_run_from_python_is_the_command_s_own(tmp_path, backbone_folder, capsys):
    file = tmp_path / "mine.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows()))
    model = str(backbone_folder("bert"))
    run = sot_nlp.train(
        rows(),
        model_name_or_path=model,
        head="text",
        output_dir=tmp_path / "a",
        cache_dir=tmp_path / "c",
        **SETTINGS,
    )
    flags = [word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))]
    command = ["train", "--train_file", str(file), "--model_name_or_path", model, "--head", "text"]
    command += ["--test_file", str(file)]  # changes nothing, and says so
    assert main([*command, "--output_dir", str(tmp_path / "b"), *flags]) == 0
    assert "note: --test_file is not predicted without --do_predict" in "".join(capsys.readouterr())
    record = json.loads((tmp_path / "b" / "record.json").read_text())
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        tmp_path / "b" / "model.safetensors"
    ).read_bytes()
    assert run.scores == {
        name: record["evaluations"][-1][name] for name in ("loss", *record["task_spec"]["metrics"])
    }
    assert run.folder == tmp_path / "a"
    assert f"{run.scores['loss']:.4f}" in run._repr_html_()
    assert run.classifier.predict(["the zorp runs ."]).labels[0] in ("long", "short")


def test_every_setting_is_a_documented_argument():
    signature = inspect.signature(sot_nlp.train)
    assert set(FIELDS) <= set(signature.parameters)
    assert signature.parameters["learning_rate"].annotation is float
    assert signature.parameters["num_train_epochs"].default == FIELDS["num_train_epochs"].default
    for name in FIELDS:
        assert f"    {name}: " in sot_nlp.train.__doc__


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to train on: give train_data"),
        ({"learning_rat": 1e-4}, "unknown setting 'learning_rat': did you mean learning_rate"),
        ({"pooling": "mean"}, r"unknown setting 'pooling': .* given as head_overrides={'pooling': \.\.\.}$"),
        ({"learning_rate": -1}, "^learning_rate: "),
        ({"num_train_epochs": "many"}, "^num_train_epochs: 'many' is not a finite number"),
        ({"train_file": "nowhere.csv"}, "nowhere.csv"),
        ({"train_data": "nowhere.csv"}, "nowhere.csv"),
        ({"train_data": ["a"], "train_file": "a.csv"}, "train_data and train_file: give one of them"),
        ({"config": "nowhere.yaml"}, "nowhere.yaml"),
        ({"train_dataset": []}, "unknown setting 'train_dataset': did you mean train_data"),
        ({"lr": -1}, "^learning_rate: "),
        ({"lr": 1e-4, "learning_rate": 1e-5}, "^lr: means the same as (--)?learning_rate; give one of them"),
        ({"tokenizer_name": "other"}, "^tokenizer_name: the tokenizer is that of"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(sot_nlp.UserError, match=message) as caught:
        sot_nlp.train(model_name_or_path="nowhere", **arguments)
    assert "\n" not in str(caught.value)


def test_a_second_training_in_the_process_is_refused_while_one_runs(tmp_path, backbone_folder, monkeypatch):
    from sot_nlp.runs.scoring import Scorer

    settings = {**SETTINGS, "model_name_or_path": str(backbone_folder("bert")), "cache_dir": tmp_path / "c"}
    call, refused = Scorer.__call__, []

    def train_inside(scorer, model):
        with pytest.raises(sot_nlp.UserError, match="another training is running in this process") as error:
            sot_nlp.train(rows(), output_dir=tmp_path / "second", **settings)
        refused.append(error)
        return call(scorer, model)

    with monkeypatch.context() as patched:
        patched.setattr(Scorer, "__call__", train_inside)
        first = sot_nlp.train(rows(), output_dir=tmp_path / "first", **settings)
    assert refused
    assert not (tmp_path / "second").exists()
    again = sot_nlp.train(rows(), output_dir=tmp_path / "again", **settings)  # now it may
    assert again.scores == first.scores
