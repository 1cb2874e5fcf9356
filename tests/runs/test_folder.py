import json
from pathlib import Path

import pytest

from sot_nlp import records
from sot_nlp.errors import UserError
from sot_nlp.modeling.remote_code import modeling_files
from sot_nlp.runs import folder as run_folder
from sot_nlp.settings.arguments import Arguments


def record(status):
    return {"format_version": records.FORMAT_VERSION, "status": status, "task": "cola"}


def test_an_empty_or_new_folder_may_be_used(tmp_path):
    assert run_folder.claim(tmp_path / "a" / "b", Arguments()) is None
    assert (tmp_path / "a" / "b").is_dir()


def test_a_finished_run_is_refused_and_replaced_only_when_told(tmp_path):
    records.write(tmp_path, record(records.FINISHED))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "x").write_text("x")
    (tmp_path / "notes.md").write_text("mine")
    with pytest.raises(UserError, match=r"finished run.*--overwrite_output_dir"):
        run_folder.claim(tmp_path, Arguments())
    assert (tmp_path / "model.safetensors").exists()
    assert run_folder.claim(tmp_path, Arguments(overwrite_output_dir=True)) is None
    assert (tmp_path / "model.safetensors").exists()
    run_folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.md"]


def test_a_run_that_is_to_be_resumed_is_not_replaced(tmp_path):
    records.write(tmp_path, record(records.INTERRUPTED))
    for wanted in ("latest", str(tmp_path / "checkpoints" / "step-00000001"), "elsewhere"):
        arguments = Arguments(overwrite_output_dir=True, resume_from_checkpoint=wanted)
        with pytest.raises(UserError, match="omit it to continue with --resume_from_checkpoint"):
            run_folder.claim(tmp_path, arguments)


def test_all_that_a_run_leaves_can_be_replaced(tmp_path):
    records.write(tmp_path, record(records.FINISHED))
    for file in modeling_files():
        (tmp_path / file.name).write_text("code")
    # Also the file of a part of the user's own that was saved with the model, but no other.
    (tmp_path / "registered_parts.py").write_text("FILES: tuple[str, ...] = ('tempered.py', '../up.py')\n")
    (tmp_path / "tempered.py").write_text("copied")
    (tmp_path / "lora.py").write_text("mine")
    run_folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lora.py"]


def test_a_replacement_that_is_killed_leaves_a_runs_folder(tmp_path, monkeypatch):
    records.write(tmp_path, record(records.FINISHED))
    for name in ("metrics.jsonl", "train.log", "zzz.tsv"):
        (tmp_path / name).write_text("text")
    real = Path.unlink

    def unlink(path):
        real(path)
        if len(list(tmp_path.iterdir())) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        run_folder.clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [records.NAME]


def test_what_a_killed_run_left_beside_its_model_goes(tmp_path):
    (tmp_path / ".model-killed").mkdir()
    (tmp_path / ".model-killed" / "model.safetensors").write_bytes(b"half")

    class Part:
        def save_pretrained(self, folder, **settings):
            (Path(folder) / "config.json").write_text("{}")

    run_folder.save_model(tmp_path, Part(), Part(), remote_code=False)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


@pytest.mark.parametrize("status", [records.RUNNING, records.INTERRUPTED, records.FAILED])
def test_an_unfinished_run_goes_on(tmp_path, status):
    records.write(tmp_path, record(status))
    assert run_folder.claim(tmp_path, Arguments())["status"] == status


def test_a_folder_with_something_else_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("text")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"not a run's folder .*thesis\.tex"):
            run_folder.claim(tmp_path, Arguments(overwrite_output_dir=overwrite))
    assert (tmp_path / "thesis.tex").read_text() == "text"


def test_a_file_and_the_models_own_folder_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="is a file"):
        run_folder.claim(tmp_path / "file", Arguments())
    model = tmp_path / "model"
    model.mkdir()
    with pytest.raises(UserError, match="--model_name_or_path itself"):
        run_folder.claim(model, Arguments(model_name_or_path=str(tmp_path / "." / "model")))


def test_the_default_folder_says_task_model_head_and_seed_and_stays_inside():
    arguments = Arguments(task="cola", model_name_or_path="google-bert/bert-base-cased", seed=7)
    assert (
        str(run_folder.default_folder("cola", arguments)) == "runs/cola-bert-base-cased-mapped_moments-seed7"
    )
    arguments = Arguments(task="cola", model_name_or_path="/x/minilm/model/")
    assert str(run_folder.default_folder("cola", arguments)) == "runs/cola-minilm-model-mapped_moments-seed42"
    arguments = Arguments(model_name_or_path="../../x/..", head="a/../b")
    folder = run_folder.default_folder("../\x1b[31m<b>", arguments)
    assert folder.parts[0] == "runs"
    assert len(folder.parts) == 2
    assert not set(folder.name) & set("/\\<>\x1b")


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("google-bert/bert-base-cased", "bert-base-cased"),
        ("/a/gt_minilm/model", "gt_minilm-model"),
        ("..", "model"),
    ],
)
def test_model_label(name, label):
    assert run_folder.model_label(name) == label


def test_predictions_are_one_line_an_example(tmp_path):
    rows = [{"index": 0, "prediction": 1}, {"index": 1, "prediction": 0}]
    run_folder.write_predictions(tmp_path / "predictions.json", rows)
    text = (tmp_path / "predictions.json").read_text()
    assert json.loads(text) == rows
    assert len(text.splitlines()) == len(rows) + 2


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "not a run's folder"),
        ("{", "cannot be read as JSON"),
        ("[]", "not a run's record"),
        ('{"format_version": 99}', "format_version 99"),
    ],
)
def test_a_record_that_is_none_is_named(tmp_path, content, reason):
    if content is not None:
        (tmp_path / records.NAME).write_text(content)
    with pytest.raises(UserError, match=reason):
        records.read(tmp_path)
