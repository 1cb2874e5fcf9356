import re

import numpy as np
import pytest

from sot_nlp.grammar import LABELS, PHENOMENA, generate, phenomenon, write_corpus

TRAIN, VALIDATION = generate("train", 4000, 0), generate("validation", 1000, 0)


def content_words(examples) -> set[str]:
    """Stems with their endings: what is in one split only, or in both as a function word."""
    return {word for e in examples for word in re.findall(r"[a-z]+", e.sentence.lower())}


def test_the_corpus_is_a_function_of_its_arguments():
    assert generate("train", 100, 3) == generate("train", 100, 3)
    assert generate("train", 100, 3) != generate("train", 100, 4)


@pytest.mark.parametrize("examples", [TRAIN, VALIDATION], ids=["train", "validation"])
def test_labels_and_phenomena_are_balanced_and_no_sentence_comes_twice(examples):
    labels = [e.label for e in examples]
    assert labels.count("acceptable") == labels.count("unacceptable")
    assert set(labels) == set(LABELS)
    counts = [sum(phenomenon(e.construction) == name for e in examples) for name in PHENOMENA]
    assert max(counts) - min(counts) <= 2
    assert len({e.sentence for e in examples}) == len(examples)


@pytest.mark.parametrize("examples", [TRAIN, VALIDATION], ids=["train", "validation"])
def test_a_pair_is_one_of_each_label_and_differs_in_one_word(examples):
    pairs: dict[int, list] = {}
    for e in examples:
        pairs.setdefault(e.pair, []).append(e)
    for one, other in pairs.values():
        assert {one.label, other.label} == set(LABELS)
        first, second = one.sentence.split(), other.sentence.split()
        assert len(first) == len(second)
        assert sum(a != b for a, b in zip(first, second, strict=True)) == 1


def test_validation_holds_out_words_and_constructions():
    shared = content_words(TRAIN) & content_words(VALIDATION)
    invented = {word for word in content_words(VALIDATION) if word not in shared}
    assert len(invented) > 50
    # What both splits share is English: invented words end as the grammar says, and none of those is shared.
    endings = re.compile(r"^(b|d|f|g|k|m|p|t|v|z)\w*(ards?|elles?|izes?|ized|ends?|ended|eems?|eemed|ish)$")
    assert not {word for word in shared if endings.match(word) and word not in ("himself", "herself")}
    assert not {e.construction for e in TRAIN} & {e.construction for e in VALIDATION}


def test_words_and_neighbouring_words_say_nothing_about_the_label():
    """A linear classifier on the counts of one and two words stays near chance on the held-out split."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    counts = CountVectorizer(ngram_range=(1, 2), token_pattern=r"\S+")
    model = LogisticRegression(max_iter=300).fit(
        counts.fit_transform([e.sentence for e in TRAIN]), [e.label for e in TRAIN]
    )
    predicted = model.predict(counts.transform([e.sentence for e in VALIDATION]))
    accuracy = np.mean(predicted == np.array([e.label for e in VALIDATION]))
    assert 0.42 < accuracy < 0.58


def test_the_files_are_in_glues_layout(tmp_path):
    folder = write_corpus(tmp_path, seed=1, train_size=20, validation_size=10)
    lines = (folder / "train.tsv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 21
    assert lines[0].split("\t")[:3] == ["sentence", "label", "construction"]
    assert {len(line.split("\t")) for line in lines} == {len(lines[0].split("\t"))}


def test_an_odd_size_is_refused():
    with pytest.raises(ValueError, match="even"):
        generate("train", 3, 0)
