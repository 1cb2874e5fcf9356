"""What a study's worker keeps between its runs: a copy for each run, and made anew where anything changed."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sot_nlp import records
from sot_nlp.data.task_data import load_data
from sot_nlp.runs import kept as module
from sot_nlp.runs import preparation
from sot_nlp.runs.kept import OF_DATA, kept, state_of
from sot_nlp.runs.runner import run
from sot_nlp.settings.arguments import Arguments, build_arguments
from sot_nlp.training.distributed import create_accelerator
from tests.support import tiny


@pytest.fixture
def keeping(monkeypatch):
    """As in a worker; how many values were made, by kind."""
    monkeypatch.setattr(module, "_shelves", {})
    made: list[str] = []

    def counting(kind, key_of, make, **options):
        def counted():
            made.append(kind)
            return make()

        return kept(kind, key_of, counted, **options)

    monkeypatch.setattr(preparation, "kept", counting)
    return made


@pytest.fixture
def files(tmp_path) -> Path:
    for name, count in (("train", 40), ("validation", 20)):
        with (tmp_path / f"{name}.csv").open("w", newline="") as table:
            rows = [[text, ("no", "yes")[i % 2]] for i, text in enumerate(tiny.sentences(count, seed=count))]
            csv.writer(table).writerows([["text", "label"], *rows])
    return tmp_path


def settings(files: Path, model: Path, **more: Any) -> Arguments:
    given = {
        "train_file": str(files / "train.csv"),
        "validation_file": str(files / "validation.csv"),
        "model_name_or_path": str(model),
        "cache_dir": str(files / "cache"),
        "training_method": "fine_tune",
        "num_train_epochs": 1.0,
        "max_train_samples": 24,
        "cpu": True,
        "disable_tqdm": True,
        **more,
    }
    return build_arguments([("flag", given)])


def prepared(arguments: Arguments) -> tuple[Any, Any]:
    """The tokenizer and the data of a run."""
    checkpoint = preparation.read_checkpoint(arguments)
    tokenizer = preparation.load_tokenizer(arguments, checkpoint)
    spec = preparation.task_of(arguments)
    accelerator = create_accelerator(arguments)
    splits = ["train", *spec.validation_splits]
    return tokenizer, preparation.load_data(arguments, checkpoint, spec, tokenizer, accelerator, splits)


def test_runs_with_kept_state_are_runs_of_their_own(files, backbone_folder, keeping, monkeypatch):
    model = backbone_folder("bert")

    def trained(name: str, seed: int) -> Path:
        folder = files / name
        run(settings(files, model, head="stock", seed=seed, output_dir=str(folder)))
        return folder

    trained("first", 1)
    with_kept = trained("kept", 2)
    assert keeping == ["tokenizer", "data"]
    monkeypatch.setattr(module, "_shelves", None)
    alone = trained("alone", 2)
    for file in ("model.safetensors", "predictions.json", "tokenizer.json", "tokenizer_config.json"):
        assert (with_kept / file).read_bytes() == (alone / file).read_bytes(), file
    ours, theirs = records.read(with_kept), records.read(alone)
    for name in ("evaluations", "data", "best", "num_parameters"):
        assert ours[name] == theirs[name]


def test_what_a_run_changes_is_its_own(files, backbone_folder, keeping):
    arguments = settings(files, backbone_folder("bert"))
    tokenizer, data = prepared(arguments)
    tokenizer.model_max_length = 7
    tokenizer("a b c", truncation=True, max_length=3, padding="max_length")
    tokenizer.add_tokens(["brandnew"])
    data.report["splits"].clear()
    data.splits.clear()
    again, fresh = prepared(arguments)
    assert again.model_max_length > 7
    assert again("a brandnew c")["input_ids"] != tokenizer("a brandnew c")["input_ids"]
    assert list(fresh.splits) == ["train", "validation"]
    assert fresh.report["splits"]["train"]
    assert fresh.caches == {"train": "reused", "validation": "reused"}
    with pytest.raises(ValueError, match="read-only"):
        fresh.splits["train"].labels[0] = 1
    assert keeping == ["tokenizer", "data"]


@pytest.mark.parametrize(
    ("change", "made"),
    [
        ({"seed": 5, "learning_rate": 1e-3, "head": "vision", "num_train_epochs": 2.0}, []),
        ({"max_train_samples": 12}, ["data"]),
        ({"data_seed": 3}, ["data"]),
        ({"max_length": 5}, ["data"]),
        ({"drop_leaked": True}, ["data"]),
        ({"overwrite_cache": True}, ["data", "data"]),  # nothing is kept of it
    ],
)
def test_what_data_depends_on_makes_it_anew(change, made, files, backbone_folder, keeping):
    model = backbone_folder("bert")
    prepared(settings(files, model))
    del keeping[:]
    changed = settings(files, model, **change)
    for _ in range(2):
        _, data = prepared(changed)
    assert keeping == made
    plain = load_data(preparation.task_of(changed), changed, prepared(changed)[0])
    for name, split in plain.splits.items():
        for field, array in vars(split).items():
            np.testing.assert_array_equal(vars(data.splits[name])[field], array)
    assert data.report == plain.report


def test_a_changed_file_is_read_again(files, backbone_folder, keeping):
    arguments = settings(files, backbone_folder("bert"), max_train_samples=None)
    _, before = prepared(arguments)
    with (files / "train.csv").open("a") as table:
        table.write("one more text,yes\n")
    _, after = prepared(arguments)
    assert len(after.splits["train"]) == len(before.splits["train"]) + 1
    assert keeping == ["tokenizer", "data", "data"]


def test_a_rewritten_file_of_the_same_size_is_another(tmp_path):
    path = tmp_path / "x"
    path.write_text("aa")
    before = state_of([path])
    assert state_of([path]) == before
    os.utime(path, ns=(1, 1))
    assert state_of([path]) != before


def test_all_that_loading_reads_is_in_the_key(files, backbone_folder):
    """A setting that `load_data` asks for and the key does not hold would be taken from another run."""
    arguments = settings(files, backbone_folder("bert"))
    tokenizer = preparation.load_tokenizer(arguments, preparation.read_checkpoint(arguments))
    asked: set[str] = set()

    class Watched(Arguments):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return object.__getattribute__(self, name)

    watched = object.__new__(Watched)
    object.__getattribute__(watched, "__dict__").update(vars(arguments))
    load_data(preparation.task_of(arguments), watched, tokenizer)
    # (a bar changes nothing, of the sources `max_length`'s alone is read, and streams are never kept)
    assert "max_length" in asked
    assert asked - {"disable_tqdm", "sources", "max_train_steps", "__class__"} <= set(OF_DATA)


def test_few_values_are_kept_and_none_by_a_single_run(monkeypatch):
    made: list[int] = []

    def get(number: int) -> list[int]:
        return kept("kind", lambda: number, lambda: made.append(number) or [number])

    for _ in range(2):
        assert get(0) == [0]
    assert made == [0, 0]
    monkeypatch.setattr(module, "_shelves", {})
    first = get(1)
    first.append(9)
    assert get(1) == [1]
    for number in range(2, 2 + module.MOST):
        get(number)
    get(1)
    assert made == [0, 0, 1, *range(2, 2 + module.MOST), 1]
