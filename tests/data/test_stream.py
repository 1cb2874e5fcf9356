"""Windows of a stream are the stored tokens; what was found in them adds up to the report of a whole file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sot_nlp.data import stream, tables
from sot_nlp.data.data_report import stream_report
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.stream import StreamedSplit, add_found
from sot_nlp.data.task_data import TaskData, load_data
from sot_nlp.errors import UserError
from sot_nlp.runs.targets import training_split
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.labels import align_labels
from tests.support import tiny

COUNT = 23


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sot_nlp.data.json_reader.CHUNK", 5)
    monkeypatch.setattr("sot_nlp.data.readers.CHUNK", 5)


def write(path: Path, texts: list[Any], labels: list[Any]) -> Path:
    rows = [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = tiny.sentences(COUNT, seed=3, low=2, high=14)
    texts[4], texts[9] = "", "a\0b"
    train = write(tmp_path / "train.jsonl", texts, [("no", "yes", "maybe")[i % 3] for i in range(COUNT)])
    validation = write(
        tmp_path / "validation.jsonl", [texts[2], texts[7], "the rath hums ."], ["no", "yes", "no"]
    )
    return {"train_file": str(train), "validation_file": str(validation)}


def loaded(files: dict[str, str], cache: Path, *, streaming: bool, **settings: Any) -> TaskData:
    steps = {"max_train_steps": 5} if streaming else {}
    settings = {"max_length": 9, "cache_dir": str(cache), "disable_tqdm": True, **steps, **settings}
    arguments = Arguments(streaming=streaming, **files, **settings)
    return load_data(user_task(arguments), arguments, tiny.tokenizer("bert"))


@pytest.fixture
def stored(files: dict[str, str], tmp_path: Path) -> TaskData:
    return loaded(files, tmp_path / "stored", streaming=False)


def streamed(files: dict[str, str], cache: Path, **settings: Any) -> StreamedSplit:
    stream = loaded(files, cache, streaming=True, **settings).stream
    assert stream is not None
    return stream


def batch(split: Any, rows: Any) -> dict[str, list[Any]]:
    return {name: tensor.tolist() for name, tensor in split.collate(rows, pad_token_id=0).items()}


def test_windows_are_the_stored_examples_round_and_round(
    files: Any, stored: TaskData, tmp_path: Path
) -> None:
    split = streamed(files, tmp_path / "cache")
    for number in range(5):
        window = split.window(number, 11).split
        rows = [(number * 11 + i) % COUNT for i in range(11)]
        assert window.indices.tolist() == rows
        assert batch(window, range(11)) == batch(stored.splits["train"], rows)
    split.close()
    assert split.labels.dtype == stored.splits["train"].labels.dtype
    assert not list((tmp_path / "cache").rglob("streamed-*"))
    assert len(list((tmp_path / "cache").rglob("header.json"))) == 1  # the validation data's


@pytest.mark.parametrize("drop", [False, True])
def test_a_window_is_the_same_whether_read_in_turn_or_at_once(files: Any, tmp_path: Path, drop: bool) -> None:
    in_turn = streamed(files, tmp_path, drop_leaked=drop)
    windows = [in_turn.window(number, 8) for number in range(6)]
    in_turn.close()
    for number in (5, 3):
        at_once = streamed(files, tmp_path, drop_leaked=drop)
        window = at_once.window(number, 8)
        at_once.close()
        assert window.found == windows[number].found
        assert window.split.indices.tolist() == windows[number].split.indices.tolist()
    indices = [index for window in windows for index in window.split.indices.tolist()]
    kept = [row for row in range(COUNT) if not drop or row not in (2, 7)]
    assert indices == (kept * 3)[:48]
    # Rows 2 and 7 stand in the validation data: a window counts those that it came by, and no others.
    passed = [sum(1 for row in window.split.indices.tolist() if row in (2, 7)) for window in windows]
    if drop:
        passed = [sum(1 for row in window.split.indices.tolist() if row in (3, 8)) for window in windows]
    assert [window.found["leaked"] for window in windows] == passed


def test_what_was_found_adds_up_to_the_report_of_the_stored_file(
    files: Any, stored: TaskData, tmp_path: Path
) -> None:
    split = streamed(files, tmp_path / "cache")
    total: dict[str, Any] = {}
    for number in range(COUNT):  # windows of one example: the whole file once
        total = add_found(total, json.loads(json.dumps(split.window(number, 1).found)))
    split.close()
    report = stream_report("name", total, dropped=False)
    expected = stored.report["splits"]["train"]
    same = (
        "examples",
        "empty_texts",
        "nul_texts",
        "truncated",
        "truncated_tokens_p95",
        "max_length",
        "labels",
    )
    assert {name: report[name] for name in same} == {name: expected[name] for name in same}
    assert expected["truncated"] > 2
    assert report["mean_length"] == pytest.approx(expected["mean_length"])
    assert report["leaked"]["train_examples"] == 2
    assert report["windows"] == COUNT


def test_scores_add_up_to_their_range_and_mean(tmp_path: Path) -> None:
    scores = [round(float(x), 2) for x in np.random.RandomState(0).uniform(-3, 3, 12)]
    files = {
        "train_file": str(write(tmp_path / "t.jsonl", tiny.sentences(12), scores)),
        "validation_file": str(write(tmp_path / "v.jsonl", tiny.sentences(3, seed=1), [0.5, 1.5, 2.5])),
    }
    split = streamed(files, tmp_path)
    total: dict[str, Any] = {}
    for number in range(3):
        total = add_found(total, split.window(number, 4).found)
    split.close()
    labels = total["labels"]
    assert (labels["lowest"], labels["highest"]) == pytest.approx((min(scores), max(scores)))
    assert labels["mean"] == pytest.approx(np.mean(scores))


@pytest.mark.parametrize(
    ("text", "label", "message"),
    [
        (None, "no", r"train.jsonl, line 24: 'text' is null"),
        ("fine", None, r"train.jsonl, line 24 has no label"),
        ("fine", 7.5, r"train.jsonl, line 24: label '7.5' is not one of"),
    ],
)
def test_a_bad_example_is_told_by_its_line_when_it_comes(
    files: Any, tmp_path: Path, text: Any, label: Any, message: str
) -> None:
    split = streamed(files, tmp_path)  # the labels are known from before the bad line is there
    with Path(files["train_file"]).open("a") as file:
        file.write(json.dumps({"text": text, "label": label}) + "\n")
    split.window(0, 10)
    with pytest.raises(UserError, match=message):
        split.window(1, 20)
    split.close()


def test_a_file_without_examples_left_is_refused(files: Any, tmp_path: Path) -> None:
    Path(files["validation_file"]).write_text(Path(files["train_file"]).read_text())
    split = streamed(files, tmp_path, drop_leaked=True)
    with pytest.raises(UserError, match="--drop_leaked: every training example occurs in the validation"):
        split.window(0, 4)
    split.close()


def test_a_chunk_of_unreadable_lines_alone_hands_on_what_was_dropped_before_it() -> None:
    none = np.zeros(0, dtype=np.int64)
    arrays = dict.fromkeys(("labels", "indices", "digests", "empty", "nul_texts", "leaked"), none)
    chunk = stream._Chunk(texts=[[]], unreadable=[(7, "is empty")], **arrays)
    rest, dropped = stream._without(chunk, none.astype(bool), 3)
    assert (len(rest), dropped) == (0, 3)


def test_labels_are_numbered_as_the_model_numbers_them(files: Any, stored: TaskData, tmp_path: Path) -> None:
    data = loaded(files, tmp_path / "cache", streaming=True)
    assert data.labels is not None
    alignment = align_labels(dict(enumerate(reversed(data.labels))), data.labels)
    split: Any = training_split(data, alignment)
    numbered: Any = training_split(stored, alignment)
    assert split.window(0, COUNT).split.labels.tolist() == numbered.labels.tolist()
    assert numbered.labels.tolist() != stored.splits["train"].labels.tolist()
    split.close()
    assert data.stream is not None
    assert data.stream.window(0, COUNT).split.labels.tolist() == stored.splits["train"].labels.tolist()
    data.stream.close()


def test_nothing_can_be_held_out_of_a_stream(files: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--streaming with --max_train_steps: .* --validation_file"):
        loaded({"train_file": files["train_file"]}, tmp_path, streaming=True)


def test_an_epoch_or_a_part_of_a_stream_is_stored(files: Any, tmp_path: Path) -> None:
    part = loaded(files, tmp_path, streaming=True, max_train_samples=7)
    assert part.stream is None
    assert len(part.splits["train"]) == 7
    assert len(loaded(files, tmp_path, streaming=True, max_train_steps=None).splits["train"]) == COUNT


def test_a_window_is_whole_updates(files: Any, tmp_path: Path) -> None:
    split = streamed(files, tmp_path)
    assert split.window_size(32) == stream.WINDOW
    assert split.window_size(48) % 48 == 0
    assert 0 <= split.window_size(48) - stream.WINDOW < 48
    split.close()
    assert tables.CHUNK == 10_000
