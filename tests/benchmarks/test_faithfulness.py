"""The benchmark of explanations: what it takes away, and its numbers on a tiny run."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import faithfulness
from sot_nlp.explanation.inputs import Encoded
from tests.support.fake_explanation import explanation
from tests.support.saved_runs import save_run
from tests.support.tiny import sentences

EACH = Encoded(
    texts=("Good dog !",),
    ids=[2, 11, 12, 13, 3],
    types=[0, 0, 0, 1, 1],
    tokens=("[CLS]", "Good", "dog", "!", "[SEP]"),
    offsets=[(0, 0), (0, 4), (5, 8), (9, 10), (0, 0)],
    parts=[None, 0, 0, 0, None],
    lost=0,
)


def test_words_are_deleted_or_replaced():
    words = [[1], [2, 3]]
    assert faithfulness.without(EACH, words, [1], None) == ((2, 11, 3), (0, 0, 1))
    assert faithfulness.without(EACH, words, [1], 4) == ((2, 11, 4, 4, 3), (0, 0, 0, 1, 1))
    assert faithfulness.without(EACH, words, [], None) == ((2, 11, 12, 13, 3), (0, 0, 0, 1, 1))


def test_deletion_and_insertion_go_by_the_order():
    (whole,), deletion, insertion = faithfulness.curves(EACH, explanation(), [1, 0, 2], None)
    assert whole[0] == tuple(EACH.ids)
    # Of three words a tenth to half is one or two, never none.
    assert (deletion[0][0], insertion[0][0]) == ((2, 11, 13, 3), (2, 12, 3))
    assert (deletion[-1][0], insertion[-1][0]) == ((2, 3), (2, 11, 12, 13, 3))
    assert faithfulness._order(explanation(values=(0.1, 0.5, -0.2))) == [1, 0, 2]


def test_the_areas_are_means_and_differences_to_chance():
    drops = np.stack([np.full((6, 9), 0.5), np.full((6, 9), 0.25)], 1)
    random = np.stack([np.full((6, 9), 0.25), np.full((6, 9), 0.5)], 1)
    found = faithfulness._summary(drops, random)
    assert found["comprehensiveness"] == 0.5
    assert found["comprehensiveness_less_random"] == 0.25
    assert found["sufficiency_less_random"] == -0.25
    assert "sufficiency_less_random" not in faithfulness._summary(random, random)


def test_a_tiny_run(tmp_path, capsys):
    run = save_run(tmp_path / "run", labels=("unacceptable", "acceptable"))
    data = tmp_path / "glue" / "CoLA"
    data.mkdir(parents=True)
    lines = [f"x\t{i % 2}\t\t{text}" for i, text in enumerate(sentences(12, seed=1, low=3))]
    (data / "dev.tsv").write_text("\n".join(lines) + "\n")
    output = tmp_path / "numbers.json"
    words = [run, "--task", "cola", "--data_dir", data.parent, "--methods", "exact", "occlusion"]
    words += ["--examples", 8, "--output", output]
    assert faithfulness.main([str(word) for word in words]) == 0
    table = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == ["| exact", "| occlusion", "| random"]
    found = json.loads(output.read_text())
    assert found["examples"] == 8
    for removal in ("delete", "mask"):
        for values in found["removal"][removal].values():
            assert len(values["deletion_curve"]) == len(values["insertion_curve"]) == 9
            assert values["comprehensiveness"] == pytest.approx(np.mean(values["deletion_curve"]))
    # No sentence of a data set and no place on this machine may be among the numbers.
    text = output.read_text()
    assert "wug" not in text
    assert str(tmp_path) not in text
