import numpy as np
import pytest

from sot_nlp.errors import UserError
from sot_nlp.tasks.labels import align_labels, other_spellings

NLI = ("entailment", "neutral", "contradiction")


def test_another_order_and_letter_case_give_the_same_predictions():
    alignment = align_labels({0: "CONTRADICTION", 1: "Neutral", 2: "Entailment"}, NLI)
    assert alignment.columns == (2, 1, 0)
    assert not alignment.same_order
    assert "by name" in alignment.note
    logits = np.array([[9.0, 1.0, 0.0], [0.0, 1.0, 9.0]])  # contradiction, entailment
    assert logits[:, alignment.columns].argmax(-1).tolist() == [2, 0]


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_every_order_lines_up(order):
    alignment = align_labels({i: NLI[task_id] for i, task_id in enumerate(order)}, NLI)
    assert [order[column] for column in alignment.columns] == [0, 1, 2]


def test_the_same_order_needs_no_word():
    alignment = align_labels({"0": "entailment", "1": "not-entailment"}, ["entailment", "not_entailment"])
    assert alignment.columns == (0, 1)
    assert alignment.same_order
    assert alignment.note is None


def test_a_composed_letter_is_the_same_as_its_parts():
    composed, parts = "caf\u00e9", "cafe\u0301"
    assert align_labels({0: "tea", 1: composed}, [parts, "tea"]).columns == (1, 0)
    assert other_spellings([parts], ["tea", composed]) == {parts: composed}
    assert other_spellings([parts], [parts, composed]) == {}


def test_names_that_differ_only_in_letter_case_are_told_apart():
    assert align_labels({0: "us", 1: "US"}, ["US", "us"]).columns == (1, 0)
    with pytest.raises(UserError, match="not the task's"):
        align_labels({0: "us", 1: "US"}, ["Us", "uS"])


def test_generic_names_are_taken_in_order_and_said_so():
    alignment = align_labels({0: "LABEL_0", 1: "LABEL_1"}, ["unacceptable", "acceptable"])
    assert alignment.same_order
    assert "0 unacceptable, 1 acceptable" in alignment.note
    assert align_labels({0: "LABEL_0", 1: "LABEL_1"}, ["LABEL_1", "LABEL_0"]).columns == (1, 0)
    with pytest.raises(UserError, match="the model has 2 labels, the task has 3"):
        align_labels({0: "LABEL_0", 1: "LABEL_1"}, NLI)


def test_numbers_never_agree_with_names():
    with pytest.raises(UserError, match=r"--label_mapping 0=NAME 1=NAME 2=NAME.*Neutral.*0, 1, 2"):
        align_labels({0: "Contradiction", 1: "Neutral", 2: "Entailment"}, ["0", "1", "2"])
    with pytest.raises(UserError, match="--label_mapping 0=NAME 1=NAME"):
        align_labels({0: "0", 1: "1"}, ["negative", "positive"])
    assert align_labels({0: "1", 1: "0"}, ["0", "1"]).columns == (1, 0)


@pytest.mark.parametrize(
    ("id2label", "labels", "message"),
    [
        (
            {0: "good", 1: "bad"},
            ["positive", "negative"],
            "model's labels: good, bad; the task's: positive, negative",
        ),
        ({0: "a", 1: "b", 2: "c"}, ["a", "b"], "the model has 3 labels, the task has 2"),
        ({0: "a", 2: "b"}, ["a", "b"], "ids 0, 2; expected 0 to 1"),
        ({0: "a", 1: "a"}, ["a", "b"], "not the task's"),
        ({0: "a\x1b[2J", 1: "b"}, ["a", "b"], r"a\\x1b\[2J"),
    ],
)
def test_what_does_not_line_up_is_refused_with_both_lists(id2label, labels, message):
    with pytest.raises(UserError, match=message):
        align_labels(id2label, labels)


def test_a_long_list_is_cut():
    with pytest.raises(UserError, match=r"n19, \.\.\. \(300 in all\)"):
        align_labels({i: f"n{i}" for i in range(300)}, [f"m{i}" for i in range(300)])
