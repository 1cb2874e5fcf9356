from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sot_nlp.data.label_values import LabelEncoder
from sot_nlp.data.readers import open_table
from sot_nlp.data.row_checks import Source
from sot_nlp.data.tokenization import REUSED, encode_texts, tokenize_sources, tokenizer_fingerprint
from tests.support import tiny


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("num_texts", [1, 2])
def test_ids_are_the_tokenizers_own(family, num_texts):
    tokenizer = tiny.tokenizer(family)
    texts = [tiny.sentences(20, seed=seed, high=20) for seed in range(num_texts)]
    ids, types, lost = encode_texts(texts, tokenizer, 12)
    expected = tokenizer(*texts, truncation="longest_first", max_length=12)
    assert ids == expected["input_ids"]
    assert types == expected.get("token_type_ids")
    whole = [len(sequence) for sequence in tokenizer(*texts)["input_ids"]]
    assert lost.tolist() == [max(0, length - 12) for length in whole]
    assert max(whole) > 12


def test_the_longer_text_of_a_pair_is_cut_first():
    tokenizer = tiny.tokenizer("bert")
    ids, _, lost = encode_texts([["a zorp"], [" ".join(["wug"] * 30)]], tokenizer, 12)
    zorp, wug = tokenizer.convert_tokens_to_ids(["zorp", "wug"])
    assert (ids[0].count(zorp), ids[0].count(wug)) == (1, 12 - 3 - 2)
    assert lost.tolist() == [2 + 30 + 3 - 12]


@pytest.mark.parametrize("family", ["gpt2", "openai-gpt"])
def test_empty_text_is_one_token(family):
    tokenizer = tiny.tokenizer(family)
    assert tokenizer("")["input_ids"] == []
    filler = tokenizer.eos_token_id if family == "gpt2" else tokenizer.unk_token_id
    assert encode_texts([["", "a zorp", ""]], tokenizer, 8)[0][0::2] == [[filler], [filler]]


def test_fingerprint_is_of_the_content_alone(tmp_path):
    import transformers

    tokenizer = tiny.tokenizer("bert")
    before = tokenizer_fingerprint(tokenizer)
    tokenizer("a zorp", truncation=True, padding="max_length", max_length=5)
    assert tokenizer_fingerprint(tokenizer) == before
    tokenizer.save_pretrained(tmp_path)
    assert tokenizer_fingerprint(transformers.AutoTokenizer.from_pretrained(tmp_path)) == before
    tokenizer.add_tokens(["blorp"])
    assert tokenizer_fingerprint(tokenizer) != before
    other = tiny.tokenizer("bert")
    other.truncation_side = "left"
    assert tokenizer_fingerprint(other) != before
    other = tiny.tokenizer("bert")
    other.split_special_tokens = True  # a "[SEP]" in a text is then a text, not the token
    assert encode_texts([["a [SEP]"]], other, 12)[0] != encode_texts([["a [SEP]"]], tokenizer, 12)[0]
    assert tokenizer_fingerprint(other) != before


def test_fingerprint_leaves_padding_and_truncation_as_they_are():
    tokenizer = tiny.tokenizer("bert")
    before = tokenizer_fingerprint(tokenizer)
    backend = tokenizer.backend_tokenizer
    backend.enable_padding(length=9, pad_id=2, direction="left", pad_token="x")
    backend.enable_truncation(7, stride=1, strategy="only_first", direction="left")
    settings = dict(backend.padding), dict(backend.truncation)
    assert tokenizer_fingerprint(tokenizer) == before
    assert (backend.padding, backend.truncation) == settings


@pytest.fixture
def source(tmp_path: Path) -> Source:
    path = tmp_path / "a.csv"
    path.write_text(
        "text,label\n" + "".join(f"{text},{i % 2}\n" for i, text in enumerate(tiny.sentences(30)))
    )
    return source_of(path)


def source_of(path: Path, labels: tuple[str, ...] = ("0", "1")) -> Source:
    return Source(
        table=open_table(path),
        text_columns=("text",),
        label_column="label",
        labels_optional=False,
        encoder=LabelEncoder("classification", labels, {}),
        files=(path,),
    )


def tokens(source: Source, cache: Path, *, tokenizer=None, max_length=16, **settings):
    made = tokenizer or tiny.tokenizer("bert")
    return tokenize_sources([source], made, max_length=max_length, cache=cache, progress=False, **settings)[0]


def test_arrays_hold_every_example(source, tmp_path):
    arrays = tokens(source, tmp_path / "cache").arrays
    tokenizer = tiny.tokenizer("bert")
    for i, text in enumerate(tiny.sentences(30)):
        begin, end = arrays["offsets"][i : i + 2]
        assert arrays["input_ids"][begin:end].tolist() == tokenizer(text)["input_ids"]
    assert arrays["labels"].tolist() == [0, 1] * 15
    assert arrays["indices"].tolist() == list(range(30))
    assert arrays["offsets"][-1] == len(arrays["input_ids"]) == len(arrays["token_type_ids"])


def test_same_content_and_settings_are_tokenised_once(source, tmp_path):
    cache = tmp_path / "cache"
    first = tokens(source, cache)
    moved = tmp_path / "moved.csv"
    moved.write_bytes(source.files[0].read_bytes())
    second = tokens(source_of(moved), cache)
    assert (first.cache, second.cache) == ("built", REUSED)
    assert len(list(cache.iterdir())) == 1
    assert all(np.array_equal(first.arrays[name], second.arrays[name]) for name in first.arrays)


@pytest.mark.parametrize("change", ["content", "tokenizer", "max_length", "labels", "column", "optional"])
def test_whatever_ids_depend_on_is_another_cache(source, tmp_path, change):
    cache, path = tmp_path / "cache", source.files[0]
    tokens(source, cache)
    settings = {}
    if change == "content":
        path.write_bytes(path.read_bytes() + b"one more,1\n")
    elif change == "tokenizer":
        settings["tokenizer"] = tiny.tokenizer("gpt2")
    elif change == "max_length":
        settings["max_length"] = 15
    elif change == "labels":
        source = source_of(path, ("1", "0"))
    elif change == "column":
        source = replace(source, label_column=None)
    else:
        source = replace(source, labels_optional=True)
    assert tokens(source, cache, **settings).cache == "built"
    assert len(list(cache.iterdir())) == 2


def test_damaged_cache_is_made_again_and_said(source, tmp_path):
    cache = tmp_path / "cache"
    good = tokens(source, cache).arrays["input_ids"].copy()
    (file,) = cache.glob("*/input_ids.bin")
    file.write_bytes(b"\xff" + file.read_bytes()[1:])
    rebuilt = tokens(source, cache)
    assert rebuilt.cache.startswith("rebuilt, because the old one was damaged (input_ids.bin has changed")
    assert rebuilt.arrays["input_ids"].tolist() == good.tolist()
    assert tokens(source, cache).cache == REUSED
    assert tokens(source, cache, overwrite=True).cache == "rebuilt, as requested"


def test_streamed_source_leaves_nothing_behind(source, tmp_path):
    streamed = tokens(replace(source, files=()), tmp_path / "cache")
    assert streamed.sha256 is None
    assert list((tmp_path / "cache").iterdir()) == []
    assert streamed.arrays["labels"].tolist() == [0, 1] * 15
