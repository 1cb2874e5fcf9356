"""The rates that every arm of a study chooses for itself: what is tried, what is chosen, what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sot_nlp.commands import compare
from sot_nlp.errors import UserError
from sot_nlp.studies import read_results, study_runner, workers
from sot_nlp.studies.rates import choices, choose, search_study
from sot_nlp.studies.report import tables
from sot_nlp.studies.report.cells import shown_rates
from sot_nlp.studies.results import FAILED, FINISHED, Cell, Results, check_comparable
from sot_nlp.studies.study import finished
from sot_nlp.studies.study_file import parse_rate_words, read_study
from tests.support.fake_runs import fake

STUDY = """\
name: fair
tasks: {mine: task.yaml}
models: {tiny: google-bert/bert-base-cased}
heads:
  one rate: {head: stock, head_learning_rate: none}
  stock: stock
  text: text
seeds: 5-6
baseline: stock
rates:
  learning_rate: [1e-5, 1e-4]
  head_learning_rate: [none, 1e-3]
rate_seeds: 100-101
"""


@pytest.fixture
def file(tmp_path):
    lines = ["text,label", *(f"a text {i},{('no', 'yes')[i % 2]}" for i in range(600))]
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "task.yaml").write_text(
        "name: mine\ntext_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\n"
        "files: {train: train.csv, validation: train.csv}\n"
    )
    path = tmp_path / "fair.yaml"
    path.write_text(STUDY)
    return path


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """Runs without training; returns how many ran so far."""
    monkeypatch.setattr(study_runner.StudyCell, "command", fake)
    monkeypatch.setattr(study_runner, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(workers.WorkerPool, "start", lambda self, *run: workers.start_run(*run))
    monkeypatch.setenv("RUNS", str(tmp_path / "ran"))
    return lambda: len((tmp_path / "ran").read_text().splitlines())


def test_every_arm_tries_the_grid_but_for_what_it_fixes(file):
    study = finished(read_study(file))
    assert study.rates == {"learning_rate": (1e-5, 1e-4), "head_learning_rate": (None, 1e-3)}
    assert choices(study, "one rate") == [{"learning_rate": 1e-5}, {"learning_rate": 1e-4}]
    assert choices(study, "text")[1] == {"learning_rate": 1e-5, "head_learning_rate": 1e-3}
    search, meanings = search_study(study)
    assert search.seeds == (100, 101)
    assert search.held_out
    assert [meanings[arm][0] for arm in search.heads] == ["one rate"] * 2 + ["stock"] * 4 + ["text"] * 4
    cells = search.cells()
    assert len(cells) == 10 * 2
    tried = {(cell.settings["head"], cell.settings["learning_rate"]) for cell in cells}
    assert tried == {(head, rate) for head in ("stock", "text") for rate in (1e-5, 1e-4)}
    # Rates have all their digits: two arms of one name would be one.
    near = {"learning_rate": 1.23456e-4, "head_learning_rate": 0.001}
    assert shown_rates(near) == "1.23456e-4, head 1e-3"


def test_each_arm_has_its_own_rates_on_fresh_seeds_and_the_report_says_so(file, tmp_path, quick, capsys):
    words = [str(file), "--jobs", "2", "--output_dir", str(tmp_path / "s")]
    assert compare.run([*words, "--plan"], "sot-nlp compare") == 0
    planned = capsys.readouterr().out
    assert planned.count("--learning_rate=") == 20
    assert planned.splitlines()[-1].startswith("# 0 of 20 runs of the search for rates are finished")
    assert compare.run(words, "sot-nlp compare") == 0
    printed = capsys.readouterr().out
    assert "mine · tiny · text: 1e-5, head as the backbone" in printed
    assert quick() == 20 + 6
    plan = json.loads((tmp_path / "s" / "study.json").read_text())
    given = {cell["arm"]: cell["settings"] for cell in plan["cells"]}
    # The runs of tests/support/fake_runs.py score by learning_rate: `stock` the more, `text` the less.
    assert {arm: settings["learning_rate"] for arm, settings in given.items()} == {
        "one rate": 1e-4,
        "stock": 1e-4,
        "text": 1e-5,
    }
    assert {cell["seed"] for cell in plan["cells"]} == {5, 6}
    assert {cell["settings"]["task"] for cell in plan["cells"]} == {str(tmp_path / "task.yaml")}
    results = read_results.read_results(tmp_path / "s" / "results.json")
    assert results == read_results.read_results(tmp_path / "s")
    chosen = {rates.arm: rates for rates in results.rates}
    assert chosen["text"].rates == {"learning_rate": 1e-5, "head_learning_rate": None}
    assert (chosen["text"].among, chosen["one rate"].among) == (4, 2)
    assert chosen["text"].score == pytest.approx(0.5 + 0.0005 + 0.1 - 0.01)
    assert chosen["text"].at_edge == ("learning_rate",)
    text = (tmp_path / "s" / "report.md").read_text()
    assert (
        "may be better: mine · tiny · one rate (1e-4); mine · tiny · stock (1e-4); mine · tiny · text (1e-5)"
        in text
    )
    assert "Marked: mine: it has no validation data but a share of its training data" in text
    assert "| rates |" in text
    assert "1e-4, head as the backbone" in text
    assert "one rate among 2 combinations with 2 seeds each; stock and text among 4" in text
    assert "1e-4" in tables.latex(results, compare.compare(results))
    # Again: nothing is run. Another grid: only what is new, and the plan's rates follow.
    assert compare.run(words, "sot-nlp compare") == 0
    assert quick() == 26
    grid = ["--rates", "learning_rate=1e-5,1e-4,2e-4", "head_learning_rate=none,1e-3"]
    assert compare.run([*words, *grid], "sot-nlp compare") == 0
    assert quick() == 26 + 2 * (1 + 2 + 2) + 2 * 2
    # What an older search has of a grid counts for the plan, and what it has besides does not.
    capsys.readouterr()
    assert compare.run([*words, "--plan"], "sot-nlp compare") == 0
    assert capsys.readouterr().out.count("--learning_rate=") == 20 + 6
    other = ["--rates", "learning_rate=1e-5,3e-4", "--plan"]
    assert compare.run([*words, *other], "sot-nlp compare") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("# 2 of 12 runs of the search")


def test_parts_of_a_grid_wait_for_the_whole_search(file, tmp_path, quick, capsys):
    words = [str(file), "--jobs", "1", "--output_dir", str(tmp_path / "s")]
    assert compare.run([*words, "--shard", "1/2"], "sot-nlp compare") == 0
    assert "10 of 20 runs of the search for rates are finished" in capsys.readouterr().out
    assert not (tmp_path / "s" / "study.json").exists()
    for number in (2, 1):
        assert compare.run([*words, "--shard", f"{number}/2"], "sot-nlp compare") == 0
    assert quick() == 26


def cell(arm, score, seed=1, status=FINISHED, **other):
    place = {"task": "t", "model": "m", "setting": "", "arm": arm, "seed": seed, "metric": "f1"}
    reason = "" if status == FINISHED else "out of memory"
    return Cell(**place, status=status, score=score, reason=reason, **other)


MEANINGS = {"a 1": ("a", {"learning_rate": 1.0}), "a 2": ("a", {"learning_rate": 2.0})}


def chosen(*cells):
    results = Results(name="r", baseline="a 1", arms=("a 1", "a 2"), cells=cells)
    return [
        (rates.rates["learning_rate"], rates.score)
        for rates in choose(check_comparable(results).cells, MEANINGS)
    ]


def test_a_rate_inside_the_grid_is_not_at_its_edge():
    meanings = {
        f"a {rate}": ("a", {"learning_rate": rate, "head_learning_rate": None}) for rate in (1.0, 2.0, 3.0)
    }
    for best, edge in ((1.0, ("learning_rate",)), (2.0, ()), (3.0, ("learning_rate",))):
        cells = tuple(cell(f"a {rate}", -abs(rate - best)) for rate in (1.0, 2.0, 3.0))
        (rates,) = choose(cells, meanings)
        assert (rates.rates["learning_rate"], rates.at_edge) == (best, edge)


def test_the_best_mean_is_chosen_in_the_metrics_direction():
    pairs = [cell("a 1", 0.4), cell("a 1", 0.8, 2), cell("a 2", 0.7), cell("a 2", 0.6, 2)]
    assert chosen(*pairs) == [(2.0, pytest.approx(0.65))]
    errors = [dataclasses.replace(pair, higher_is_better=False) for pair in pairs]
    assert chosen(*errors) == [(1.0, pytest.approx(0.6))]
    assert chosen(cell("a 1", 0.5), cell("a 2", 0.5)) == [(1.0, 0.5)]
    assert chosen(cell("a 1", 0.4), cell("a 2", None, status=FAILED)) == [(1.0, 0.4)]
    with pytest.raises(
        UserError, match=r"^rates: t · m · a: every combination has a failed run: out of memory$"
    ):
        chosen(cell("a 1", None, status=FAILED), cell("a 2", None, status=FAILED))
    with pytest.raises(UserError, match="ran on different data"):
        chosen(cell("a 1", 0.4, data="one"), cell("a 2", 0.5, data="other"))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("rate_seeds: 100-101", "rate_seeds: 5", "rate_seeds: 5 is one of the study's seeds"),
        ("rate_seeds: 100-101", "arguments: {learning_rate: 1e-4}", "learning_rate is in `arguments`, too"),
        ("rate_seeds: 100-101", "settings: {full: {learning_rate: 1e-4}}", "is in the setting 'full', too"),
        (
            "rate_seeds: 100-101",
            "arguments: {freeze_backbone: true}",
            "rates: stock has a frozen backbone and a rate for its head",
        ),
        (
            "rate_seeds: 100-101",
            "arguments: {validation_fraction: 0.05}",
            "mine has 600 training examples, of which 30 would be held out to choose on; at least 50",
        ),
        ("  learning_rate: [1e-5, 1e-4]", "  weight_decay: [0, 0.1]", "fair.yaml:11: rates: 'weight_decay'"),
        ("[1e-5, 1e-4]", "[1e-5, fast]", "learning_rate: 'fast' is not a finite number"),
        ("[1e-5, 1e-4]", "[1e-5, -1]", "learning_rate"),
        ("[1e-5, 1e-4]", "[]", "learning_rate: no value is given"),
        ("[1e-5, 1e-4]", "[1e-5, 0.00001]", "occurs twice"),
    ],
)  # fmt: skip
def test_what_is_refused(file, old, new, message):
    assert STUDY.count(old) == 1
    seeds = "seeds: [5, 6]" if new == "rate_seeds: 5" else "seeds: 5-6"
    file.write_text(
        STUDY.replace(old, new.replace("rate_seeds: 5", "rate_seeds: [5]")).replace("seeds: 5-6", seeds)
    )
    with pytest.raises(UserError) as error:
        search_study(finished(read_study(file)))[0].cells()
    assert message in str(error.value)


def test_the_training_file_that_takes_the_place_of_the_tasks_is_the_one_that_is_counted(file, tmp_path):
    few = tmp_path / "few.csv"
    few.write_text("text,label\n" + "a text,no\n" * 400)
    file.write_text(STUDY + f"arguments: {{train_file: {few}}}\n")
    with pytest.raises(UserError, match="mine has 400 training examples, of which 40 would be held out"):
        search_study(finished(read_study(file)))[0].cells()


def test_a_rate_that_an_arm_has_no_parameters_for_is_refused(file):
    text = STUDY.replace("  text: text", "  text: {head: text, head.fusion: words}")
    file.write_text(text.replace("  head_learning_rate: [none", "  class_token_learning_rate: [none"))
    with pytest.raises(
        UserError, match=r"^rates: text has no parameters for the classification token alone; give"
    ):
        search_study(finished(read_study(file)))


@pytest.mark.parametrize("words", [["learning_rate"], ["learning_rate=1e-5", "learning_rate=1e-4"], ["lr=1"]])
def test_bad_words_are_refused(words):
    with pytest.raises(UserError, match=r"--rates learning_rate|--rates: 'lr' is not a learning rate"):
        parse_rate_words(words)
