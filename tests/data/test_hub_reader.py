"""Data sets as the Hub has them, from a folder in its layout: `datasets` reads both alike."""

from pathlib import Path

import datasets
import pytest

from sot_nlp.data import hub_reader
from sot_nlp.data.hub_reader import hub_splits, open_hub_table
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.task_data import load_data
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from tests.support import tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """40, 20 and 10 examples with named classes, in an order that is not the alphabet's; the last without."""
    folder = tmp_path_factory.mktemp("hub") / "words"
    folder.mkdir()
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=["yes", "no", "maybe"])
    )
    for seed, (split, count) in enumerate((("train", 40), ("validation", 20), ("test", 10))):
        labels = [-1 if split == "test" else i % 2 for i in range(count)]
        rows = {"text": tiny.sentences(count, seed=seed), "label": labels}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return folder


def test_numbers_come_as_names_and_minus_one_as_no_label(folder, tmp_path):
    assert sorted(hub_splits(str(folder), None)) == ["test", "train", "validation"]
    table = open_hub_table(str(folder), None, "train", cache_dir=str(tmp_path))
    (rows,) = table.rows(["label", "text"])
    assert rows.columns[0][:4] == ["yes", "no", "yes", "no"]
    assert rows.columns[1] == tiny.sentences(40, seed=0)
    assert (rows.lines[0], rows.indices[0]) == (1, 0)
    assert table.label_names("label") == ("yes", "no", "maybe")
    test = open_hub_table(str(folder), None, "test", cache_dir=str(tmp_path))
    assert next(iter(test.rows(["label"]))).columns == [[None] * 10]


@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_makes_a_task_with_its_names_in_its_order(folder, tmp_path, streaming):
    arguments = Arguments(
        dataset_name=str(folder), cache_dir=str(tmp_path), streaming=streaming, max_train_samples=7
    )
    spec = user_task(arguments)
    assert (spec.name, spec.labels) == ("words", ("yes", "no", "maybe"))
    data = load_data(spec, arguments, tiny.tokenizer("bert"), splits=("train", "validation", "test"))
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 7,
        "validation": 20,
        "test": 10,
    }
    rows = data.splits["train"].indices.tolist()
    assert (rows == list(range(7))) == streaming
    assert data.splits["train"].labels.tolist() == [row % 2 for row in rows]
    assert data.splits["test"].labels is None
    assert data.report["splits"]["train"]["examples_in_file"] == (7 if streaming else 40)
    assert (data.report["splits"]["train"]["sha256"] is None) == streaming


def test_second_reading_finds_the_tokens(folder, tmp_path):
    arguments = Arguments(dataset_name=str(folder), cache_dir=str(tmp_path))
    spec = user_task(arguments)
    first, second = (load_data(spec, arguments, tiny.tokenizer("bert")) for _ in range(2))
    assert set(first.caches.values()) == {"built"}
    assert set(second.caches.values()) == {"reused"}
    assert first.report == second.report


def test_unreachable_or_unknown_data_says_what_works_without_network(folder, tmp_path):
    with pytest.raises(UserError, match=r"dataset nyu-mll/glue \(cola\) can't be loaded: .*--data_dir"):
        open_hub_table("nyu-mll/glue", "cola", "train", cache_dir=str(tmp_path))
    with pytest.raises(UserError, match="Unknown split"):
        open_hub_table(str(folder), None, "dev", cache_dir=str(tmp_path))
    with pytest.raises(UserError, match="BuilderConfig 'other' not found"):
        open_hub_table(str(folder), "other", "train", cache_dir=str(tmp_path))


def test_stream_of_files_that_do_not_tell_their_columns(tmp_path):
    lines = ["text,label", *(f"{text},{'yn'[i % 2]}" for i, text in enumerate(tiny.sentences(12)))]
    (tmp_path / "train.csv").write_text("\n".join(lines), encoding="utf-8")
    table = open_hub_table(str(tmp_path), None, "train", streaming=True)
    assert table.columns == ("text", "label")
    (rows,) = table.rows(["label", "text"])
    assert rows.columns == [["y", "n"] * 6, tiny.sentences(12)]
    (tmp_path / "train.csv").write_text("text,label\n", encoding="utf-8")
    with pytest.raises(UserError, match="split train holds no examples"):
        open_hub_table(str(tmp_path), None, "train", streaming=True)


def test_damage_that_a_stream_meets_on_its_way_is_one_line(tmp_path, monkeypatch):
    features = datasets.Features(text=datasets.Value("string"))

    def generate():
        yield {"text": "zorp"}
        raise ConnectionError("Server Disconnected\nand more")

    stream = datasets.IterableDataset.from_generator(generate, features=features)
    monkeypatch.setattr(hub_reader, "CHUNK", 1)
    rows = hub_reader.HubTable(stream, "dataset zorp, split train").rows(["text"])
    assert next(rows).columns == [["zorp"]]
    with pytest.raises(UserError, match=r"dataset zorp, split train can't be loaded: Server Disconnected;"):
        next(rows)


def test_what_is_wrong_with_a_file_is_told(tmp_path):
    (tmp_path / "train.csv").write_text('text,label\na,"b\n', encoding="utf-8")
    with pytest.raises(UserError, match="EOF inside string"):
        open_hub_table(str(tmp_path), None, "train", cache_dir=str(tmp_path / "cache"))
