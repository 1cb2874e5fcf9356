"""Records and results files as they are read: scores, arms, what is missing, what is refused or marked."""

from __future__ import annotations

import dataclasses
import json

import pytest

from sot_nlp import records
from sot_nlp.errors import UserError
from sot_nlp.studies import read_results
from sot_nlp.studies.comparison import compare
from sot_nlp.studies.report import cells as report_cells
from sot_nlp.studies.report import page as report_html
from sot_nlp.studies.results import read_file
from tests.support.fake_study import record, write_run, write_study


def test_runs_of_two_metrics_are_not_compared(tmp_path):
    folder = write_study(tmp_path / "s", tasks=("cola",), seeds=1)
    run = next(path for path in (folder / "runs").iterdir() if path.is_dir() and "text" in path.name)
    content = json.loads((run / "record.json").read_text())
    content["main_metric"] = "accuracy"
    content["evaluations"] = [{"epoch": 1, "accuracy": 0.9}]
    (run / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"by matthews_correlation, .* by accuracy; report them apart"):
        read_results.read_results(folder, allow_mixed=True)


def test_a_study_folder_is_read_with_what_failed_and_what_is_missing(tmp_path):
    folder = write_study(tmp_path / "s", skip=(("rte", "text", 3),), fail=(("rte", "vision", 5),))
    results = read_results.read_results(folder)
    assert len(results.cells) == 60
    cola, rte = compare(results)
    assert [len(arm.scores) for arm in cola.arms] == [10, 10, 10]
    text, vision = rte.arm("text"), rte.arm("vision")
    assert (text.missing, len(text.failed), text.difference.seeds) == (1, 0, (0, 1, 2, 4, 5, 6, 7, 8, 9))
    assert (vision.missing, len(vision.failed)) == (0, 1)
    assert report_cells.row(vision, rte, results)["seeds"] == "9 of 10, 1 failed"
    notes = "\n".join(report_cells.notes(results, compare(results)))
    assert "Missing: 1 of 60 runs." in notes
    assert "vision · seed 5: <b>boom</b> \\x1b[31m" in notes


def test_a_reason_names_no_folder_of_the_machine(tmp_path):
    folder = write_study(tmp_path / "s", tasks=("cola",), seeds=5, fail=(("cola", "text", 1),))
    reason = "--data_dir /a/b/glue/CoLA: 'train.tsv' and/or (/c/dev.tsv) not found, 1/2"
    (folder / "runs" / "cola-text-1.failed.json").write_text(json.dumps({"reason": reason}))
    cells = read_results.read_results(folder).cells
    (cell,) = [cell for cell in cells if cell.status == "failed"]
    assert cell.reason == "--data_dir CoLA: 'train.tsv' and/or (dev.tsv) not found, 1/2"


def test_seeds_that_failed_for_one_reason_share_a_line(tmp_path):
    fail = tuple(("cola", "text", seed) for seed in (1, 3))
    results = read_results.read_results(write_study(tmp_path / "s", tasks=("cola",), seeds=5, fail=fail))
    failed = [line for line in report_cells.notes(results, compare(results)) if line.startswith("Failed")]
    assert failed == ["Failed: cola · tiny-bert · text · seeds 1, 3: <b>boom</b> \\x1b[31m"]


def test_an_arm_that_was_never_run_is_missing(tmp_path):
    skip = tuple(("cola", "text", seed) for seed in range(5))
    results = read_results.read_results(write_study(tmp_path / "s", tasks=("cola",), seeds=5, skip=skip))
    (group,) = compare(results)
    row = report_cells.row(group.arm("text"), group, results)
    assert (row["score"], row["seeds"], row["difference"]) == (
        "missing",
        "0 of 5, 5 missing",
        "no paired seed",
    )
    assert "text" in report_html.page(results, [group])


def test_score_rules(tmp_path):
    content = record(score=0.5)
    content["evaluations"][1]["matthews_correlation"] = 0.9
    names = {"task": "cola", "model": "m", "setting": "", "arm": "stock", "seed": 0, "data_seed": 0}
    last = read_results.cell_of_record(content, names, "last", {})
    best = read_results.cell_of_record(content, names, "best", {})
    assert (last.score, last.epoch) == (0.5, 3)
    assert (best.score, best.epoch) == (0.9, 2)
    assert last.curve == ((1.0, 0.2), (2.0, 0.9), (3.0, 0.5))
    nameless = read_results.cell_of_record({**content, "main_metric": "f1"}, names, "last", {})
    assert (nameless.status, nameless.reason) == ("failed", "the record holds no score named f1")


def test_a_run_whose_last_evaluation_has_no_score_does_not_get_an_earlier_ones():
    content = record(score=0.5)
    content["evaluations"][2]["matthews_correlation"] = None
    names = {"task": "cola", "model": "m", "setting": "", "arm": "stock", "seed": 0, "data_seed": 0}
    last = read_results.cell_of_record(content, names, "last", {})
    content["evaluations"][2]["matthews_correlation"] = float("inf")
    assert read_results.cell_of_record(content, names, "last", {}) == last
    assert (last.status, last.score) == ("failed", None)
    assert last.reason == "matthews_correlation is not a finite number after the last epoch"
    best = read_results.cell_of_record(content, names, "best", {})
    assert (best.score, best.epoch) == (0.4, 2)


def test_of_a_metric_that_falls_the_best_epoch_is_the_lowest():
    evaluations = [{"epoch": i, "mse": error} for i, error in ((1, 0.4), (2, 0.2), (3, 0.3))]
    content = record(main_metric="mse", evaluations=evaluations)
    names = {"task": "t", "model": "m", "setting": "", "arm": "a", "seed": 0}
    cell = read_results.cell_of_record(content, names, "best", {})
    assert (cell.score, cell.epoch, cell.higher_is_better, cell.times) == (0.2, 2.0, False, 1)


def test_loose_runs_get_arms_and_settings_from_what_varies(tmp_path):
    for i, (head, dropout, epochs) in enumerate(
        [("stock", 0.5, 3), ("text", 0.5, 3), ("text", 0.7, 3), ("stock", 0.5, 6)]
    ):
        content = record(head=head)
        content["head_config"]["dropout"] = dropout
        content["arguments"]["num_train_epochs"] = epochs
        write_run(tmp_path / str(i), content)
    write_run(tmp_path / "stopped", record(head="text", status="interrupted"))
    results = read_results.read_results(tmp_path)
    assert [(cell.arm, cell.setting) for cell in results.cells] == [
        ("stock", "num_train_epochs=3"),
        ("text dropout=0.5", "num_train_epochs=3"),
        ("text dropout=0.7", "num_train_epochs=3"),
        ("stock", "num_train_epochs=6"),
    ]
    assert results.marks == ("1 of 5 runs are not finished and were skipped",)


def test_a_setting_that_an_older_record_lacks_is_its_default(tmp_path):
    old, new = record(head="stock"), record(head="text")
    old["arguments"].pop("eval_strategy", None)
    new["arguments"]["eval_strategy"] = "epoch"
    write_run(tmp_path / "old", old)
    write_run(tmp_path / "new", new)
    assert {cell.setting for cell in read_results.read_results(tmp_path).cells} == {""}


def test_two_runs_of_one_cell_are_refused(tmp_path):
    write_run(tmp_path / "one", record())
    write_run(tmp_path / "two", record())
    with pytest.raises(UserError, match=r"two: two runs|one: two runs"):
        read_results.read_results(tmp_path)


def test_runs_of_one_seed_with_other_orders_of_the_data_are_marked(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", record(seed=seed))
        write_run(tmp_path / f"b{seed}", record(seed=seed, head="text", data_seed=10_000 + 5 * seed))
    results = read_results.read_results(tmp_path)
    (mark,) = results.marks
    assert "runs of seed 1 have different data seeds, so that they are no pairs" in mark
    (group,) = compare(results)
    assert group.arm("text").difference.seeds == (0,)
    assert group.arm("text").scores.keys() == {0, 1}
    unknown = [dataclasses.replace(cell, data_seed=None) for cell in results.cells]
    (group,) = compare(dataclasses.replace(results, cells=tuple(unknown)))
    assert group.arm("text").difference.seeds == (0, 1)


def test_runs_none_of_which_is_a_pair_have_no_interval_and_no_p(tmp_path):
    for seed in range(6):
        right = [seed % 2 == 0, True, False]
        write_run(tmp_path / f"a{seed}", record(seed=seed, score=0.3 + 0.01 * seed), right)
        other = record(seed=seed, head="text", score=0.5, data_seed=7)
        write_run(tmp_path / f"b{seed}", other, right[::-1])
    results = read_results.read_results(tmp_path)
    (group,) = compare(results)
    arm = group.arm("text")
    assert (arm.difference, arm.holm_p, arm.mcnemar) == (None, None, {})
    row = report_cells.row(arm, group, results)
    assert (row["difference"], row["p"], row["needed"], row["mcnemar"]) == ("no paired seed", "", "", "")
    report_html.page(results, [group])


def test_evaluations_are_no_runs(tmp_path):
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", record(seed=seed))
        write_run(tmp_path / f"b{seed}", record(seed=seed, head="text"))
    expected = read_results.read_results(tmp_path)
    evaluation = record(kind=records.EVALUATION, evaluations=[{"split": "validation", "accuracy": 1.0}])
    evaluation["arguments"] |= {"max_length": 6}
    del evaluation["head"], evaluation["head_config"]
    write_run(tmp_path / "evaluations" / "a0", evaluation)
    assert read_results.read_results(tmp_path) == expected
    assert {cell.setting for cell in expected.cells} == {""}
    with pytest.raises(UserError, match=r"no study\.json and no record\.json of a training below it"):
        read_results.read_results(tmp_path / "evaluations")


def test_runs_on_other_data_are_refused_by_name_or_marked(tmp_path):
    write_run(tmp_path / "a", record(seed=0))
    write_run(tmp_path / "b", record(seed=7, head="text", data={"train": {"sha256": "cd" * 32}}))
    with pytest.raises(UserError, match=r"stock \(seed 0\) and text \(seed 7\) ran on different data"):
        read_results.read_results(tmp_path)
    (mark,) = read_results.read_results(tmp_path, allow_mixed=True).marks
    assert "different data" in mark


def test_a_test_split_is_not_what_runs_are_compared_on():
    splits = {"train": {"sha256": "ab" * 32}, "validation": {"sha256": "cd" * 32}}
    predicted = {**splits, "test": {"sha256": "ef" * 32}}
    plain, with_test = ({"data": {"splits": which}} for which in (splits, predicted))
    assert read_results.data_hash(with_test) == read_results.data_hash(plain)
    other = {"data": {"splits": {**splits, "validation": {"sha256": "ef" * 32}}}}
    assert read_results.data_hash(other) != read_results.data_hash(plain)


def test_runs_of_other_versions_are_marked(tmp_path):
    write_run(tmp_path / "a", record(seed=0))
    write_run(tmp_path / "b", record(seed=1, versions={"python": "3.11.0", "torch": "2.12.0"}))
    (mark,) = read_results.read_results(tmp_path).marks
    assert mark.endswith("runs of different versions or precisions: torch 2.13.0 / 2.12.0")


def test_runs_of_other_precision_are_marked(tmp_path):
    write_run(tmp_path / "a", record(seed=0, environment={"mixed_precision": "bf16"}))
    write_run(tmp_path / "b", record(seed=1, environment={"mixed_precision": "no"}))
    (mark,) = read_results.read_results(tmp_path).marks
    assert mark.endswith("precision bf16 / no")


def test_a_results_file_gives_the_same_again(tmp_path):
    folder = write_study(tmp_path / "s", fail=(("cola", "text", 1),))
    results = read_results.read_results(folder)
    results.write(tmp_path / "r.json")
    assert read_file(tmp_path / "r.json") == results
    assert compare(read_results.read_results(tmp_path / "r.json")) == compare(results)
    assert "/somewhere" not in (tmp_path / "r.json").read_text()


def test_another_baseline(tmp_path):
    folder = write_study(tmp_path / "s", tasks=("cola",))
    results = read_results.read_results(folder, baseline="vision")
    (group,) = compare(results)
    assert group.arm("vision").difference is None
    assert group.arm("stock").difference.mean == pytest.approx(
        group.arm("stock").mean - group.arm("vision").mean
    )
    assert len(group.arm("text").mcnemar) == 10
    with pytest.raises(UserError, match="there are stock, text, vision"):
        read_results.read_results(folder, baseline="txt")
    # The plan's own file means the study.
    plan = read_results.read_results(folder / read_results.STUDY_NAME, baseline="vision")
    assert plan.cells == results.cells


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("arm,seed\nstock,1\n", "not a results.json of this version, .* writes: it is not JSON$"),
        ("{}", "writes: it has no 'format_version'$"),
        ("[]", "writes: it has no 'format_version'$"),
        ('{"format_version": 1, "cells": 3}', "writes: it holds other JSON$"),
        ('{"format_version": 99}', "writes: format_version is not 1$"),
    ],
)
def test_a_bad_results_file_is_refused(tmp_path, content, message):
    (tmp_path / "r.json").write_text(content)
    with pytest.raises(UserError, match=message):
        read_results.read_results(tmp_path / "r.json")


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no study.json and no record.json"):
        read_results.read_results(tmp_path)
    with pytest.raises(UserError, match="no such file or folder"):
        read_results.read_results(tmp_path / "nowhere")
