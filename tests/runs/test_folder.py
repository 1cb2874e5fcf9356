import dataclasses
import json
from pathlib import Path

import pytest

from sot_nlp import records
from sot_nlp.errors import UserError
from sot_nlp.modeling.remote_code import modeling_files
from sot_nlp.publishing.model_card import MARK
from sot_nlp.runs import folder as run_folder
from sot_nlp.runs.own_files import check_inputs
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.spec import TaskFile, TaskSpec


def record(status):
    return {"format_version": records.FORMAT_VERSION, "status": status, "task": "cola"}


def test_an_empty_or_new_folder_may_be_used(tmp_path):
    assert run_folder.claim(tmp_path / "a" / "b", Arguments()) is None
    assert (tmp_path / "a" / "b").is_dir()


def test_a_finished_run_is_refused_and_replaced_only_when_told(tmp_path):
    records.write(tmp_path, record(records.FINISHED))
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "checkpoints" / "step-00000001").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-00000001" / "x").write_text("x")
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


def fill(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)


def left(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_what_the_user_put_beside_a_run_stays(tmp_path):
    spec = {"submission": {"test": "Mine.tsv", "test_b": "thesis.tex"}}
    splits = {"train": {}, "validation_a": {}, "test_b": {}}
    records.write(tmp_path, record(records.FINISHED) | {"task_spec": spec, "data": {"splits": splits}})
    fill(tmp_path, "CoLA.tsv", "Mine.tsv", "predictions.json", "predictions_a.json")
    fill(tmp_path, "test_predictions_b.json", "adapter/adapter_model.safetensors", "adapter/README.md")
    fill(tmp_path, "checkpoints/best-00000003/model.safetensors", "checkpoints/.unfinished-step-1/x")
    fill(tmp_path, "logs/sot-nlp/events.out.tfevents.1")
    own = {"SST-2.tsv", "mine.tsv", "thesis.tex", "README.md", "training.png", "predictions_old.json"}
    own |= {"logs/notes.txt", "checkpoints/best.txt", "adapter/notes.txt", "onnx/config.json"}
    fill(tmp_path, *own)
    run_folder.clear(tmp_path)
    assert left(tmp_path) == own


def test_the_card_and_the_export_of_a_replaced_run_go(tmp_path):
    records.write(tmp_path, record(records.FINISHED))
    fill(tmp_path, "training.png", "onnx/tokenizer.json", "onnx/model.onnx", "onnx/model_int8.onnx")
    (tmp_path / "README.md").write_text(f"# Mine\n{MARK}\n")
    (tmp_path / "onnx" / "config.json").write_text('{"model_type": "sot_bert"}')
    run_folder.clear(tmp_path)
    assert list(tmp_path.iterdir()) == []
    # A card in another encoding is the user's own.
    (tmp_path / "README.md").write_bytes(b"\xfcber")
    run_folder.clear(tmp_path)
    assert left(tmp_path) == {"README.md"}


def test_a_link_is_deleted_not_what_it_points_to(tmp_path):
    fill(tmp_path, "elsewhere/model.safetensors", "elsewhere/step-00000001/x", "run/record.json")
    (tmp_path / "run" / "model.safetensors").symlink_to(tmp_path / "elsewhere" / "model.safetensors")
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    run_folder.clear(tmp_path / "run")
    assert left(tmp_path) == {"elsewhere/model.safetensors"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoints"]


@pytest.mark.parametrize(
    ("setting", "name"),
    [
        ("train_file", "predictions.json"),
        ("validation_file", "CoLA.tsv"),
        ("model_name_or_path", "checkpoints/step-00000001"),
        ("task", "checkpoints/step-00000001/mine.yaml"),
    ],
)
def test_what_a_run_reads_is_not_deleted_before_it(tmp_path, monkeypatch, setting, name):
    records.write(tmp_path, record(records.FINISHED))
    file = f"{name}/config.json" if setting == "model_name_or_path" else name
    fill(tmp_path, "mine.tsv", "checkpoints/step-00000001/x", file)
    monkeypatch.chdir(tmp_path)
    spec = TaskSpec(name="own", source_path=name if setting == "task" else "")
    for flag in ("train_file", "validation_file"):
        split, file = flag.removesuffix("_file"), name if setting == flag else "mine.tsv"
        spec = dataclasses.replace(spec, files={**spec.files, split: TaskFile(file=str(tmp_path / file))})
    arguments = Arguments(train_file="mine.tsv", validation_file="mine.tsv")
    check_inputs(tmp_path, arguments, dataclasses.replace(spec, source_path="", files={}))
    with pytest.raises(UserError, match=rf"^--{setting} \S*{name}: --overwrite_output_dir would delete it"):
        check_inputs(tmp_path, dataclasses.replace(arguments, **{setting: name}), spec)
    link = tmp_path / "link"
    link.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(UserError, match="would delete it with the run in link; move it"):
        check_inputs(Path("link"), dataclasses.replace(arguments, **{setting: name}), spec)


def test_a_replacement_that_is_killed_leaves_a_runs_folder(tmp_path, monkeypatch):
    records.write(tmp_path, record(records.FINISHED))
    for name in ("metrics.jsonl", "train.log", "vocab.txt"):
        (tmp_path / name).write_text("text")
    real = Path.unlink

    def unlink(path, missing_ok=False):
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
