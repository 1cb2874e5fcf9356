"""What trackers are given: where it lies, and under which names."""

import json
from pathlib import Path

import pytest

from sot_nlp.cli import main
from tests.runs.conftest import command


def test_trackers_write_into_the_runs_folder(glue, backbone_folder, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    monkeypatch.chdir(tmp_path)
    words = command(glue, backbone_folder("bert"), "OUT", "--with_tracking", "--report_to", "tensorboard")
    at = words.index("--output_dir")
    assert main(words[:at] + words[at + 2 :]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    (folder,) = (tmp_path / "runs").iterdir()
    assert list((folder / "logs").rglob("events.out.tfevents.*"))


def test_trackers_show_training_and_each_validation_split_as_curves_of_their_own(
    tmp_path, backbone_folder, monkeypatch
):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    for name, count in (("train", 16), ("dev", 8), ("more", 6)):
        rows = [f"the zorp runs {i},{'yes' if i % 2 else 'no'}" for i in range(count)]
        Path(f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    Path("task.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\nmetrics: [accuracy]\n"
        "files: {train: train.csv, validation: dev.csv, validation_two: more.csv}\n"
    )
    words = f"train --task task.yaml --model_name_or_path {backbone_folder('bert')} --output_dir out --cpu"
    words += " --num_train_epochs 2 --per_device_train_batch_size 4 --logging_steps 2 --cache_dir cache"
    assert main([*words.split(), "--disable_tqdm", "--report_to", "tensorboard"]) == 0
    shown = EventAccumulator("out/logs/sot-nlp").Reload()
    curves = {
        tag: [(event.step, pytest.approx(event.value)) for event in shown.Scalars(tag)]
        for tag in shown.Tags()["scalars"]
    }
    entries = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    training = [entry for entry in entries if "split" not in entry]
    for name in ("loss", "learning_rate", "grad_norm", "examples_per_second"):
        assert [(entry["step"], entry[name]) for entry in training] == curves.pop(f"train/{name}")
    scores = [(entry["step"], entry["splits"]) for entry in entries if "split" in entry]
    assert (len(training), len(scores)) == (4, 2)
    for split in ("validation", "validation_two"):
        for name in ("loss", "accuracy"):
            assert [(step, of[split][name]) for step, of in scores] == curves.pop(f"{split}/{name}")
    assert [(entry["step"], entry["epoch"]) for entry in entries] == curves.pop("epoch")
    assert not curves
