"""From records to comparison to tables, page and plots: the values, what is missing, and hostile names."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re

import pytest
from matplotlib.figure import Figure

from sot_nlp.commands import report as report_command
from sot_nlp.errors import UserError
from sot_nlp.studies import read_results, statistics
from sot_nlp.studies.comparison import compare
from sot_nlp.studies.report import cells as report_cells
from sot_nlp.studies.report import overview, plots, tables
from sot_nlp.studies.report import page as report_html
from sot_nlp.studies.results import read_file
from tests.support.fake_study import by_hand, record, write_run, write_study
from tests.support.html_page import Page


def test_a_comparison_by_hand():
    results = by_hand({"t": {"a": [0.5, 0.6, 0.7, 0.6, 0.5], "b": [0.6, 0.8, 0.7, 0.7, 0.5]}})
    (group,) = compare(results)
    baseline, arm = group.arms
    assert baseline.difference is None
    assert arm.mean == pytest.approx(0.66)
    assert arm.difference.differences == pytest.approx((0.1, 0.2, 0.0, 0.1, 0.0))
    # Of the 32 swaps 4 reach the mean seen (the two zeros are free): one-sided 4/32.
    assert arm.difference.p_value == pytest.approx(2 * 4 / 32)
    assert arm.holm_p == arm.difference.p_value
    assert report_cells.row(arm, group, results)["p"] == "0.250 (0.250)"


def test_a_difference_that_rounds_to_zero_has_no_sign():
    scores = [0.5, 0.52, 0.54, 0.5, 0.52, 0.53]
    results = by_hand({"t": {"a": scores, "b": [x - 4e-5 for x in scores]}})
    _, _, lines = overview.rows(results, compare(results))
    assert lines[1][1].endswith("0.00 [0.00, 0.00]")
    assert "−0.00" not in tables.markdown(results, compare(results))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (15.8428, "15.843"),
        (0.5, "0.500"),
        (0.01234, "0.0123"),
        (-0.00012345, "−0.000123"),
        (3.21e-7, "3.21e−7"),
        (9.999e-3, "0.0100"),
        (0.0, "0.000"),
    ],
)
def test_an_error_has_three_digits_however_small(value, text):
    assert report_cells.shown(value, 1) == text
    assert report_cells.shown(value, 1, signed=True) == ("+" if value > 0 else "") + text


def test_runs_of_two_metrics_are_not_compared(tmp_path):
    folder = write_study(tmp_path / "s", tasks=("cola",), seeds=1)
    run = next(path for path in (folder / "runs").iterdir() if path.is_dir() and "text" in path.name)
    content = json.loads((run / "record.json").read_text())
    content["main_metric"] = "accuracy"
    content["evaluations"] = [{"epoch": 1, "accuracy": 0.9}]
    (run / "record.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"by matthews_correlation, .* by accuracy; report them apart"):
        read_results.read_results(folder, allow_mixed=True)


def test_holm_is_over_tasks_or_over_all():
    up, down = [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [0.6, 0.61, 0.62, 0.63, 0.64, 0.65]
    scores = {"t": {"a": up, "b": down, "c": down}, "u": {"a": up, "b": down, "c": down}}
    for family, factor in (("tasks", 2), ("all", 4)):
        for group in compare(by_hand(scores, holm=family)):
            for arm in group.arms[1:]:
                assert arm.difference.p_value == pytest.approx(2 / 64)
                assert arm.holm_p == pytest.approx(factor * 2 / 64)


def test_too_few_seeds_are_said_instead_of_a_p_value():
    results = by_hand({"t": {"a": [0.5, 0.6, 0.7], "b": [0.6, 0.8, 0.7]}})
    (group,) = compare(results)
    row = report_cells.row(group.arms[1], group, results)
    assert row["p"] == "too few seeds (3 < 5)"
    assert row["difference"] == "+10.00"


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


def test_disagreements_are_counted_and_tested(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", record(head="stock"), [True] * 6 + [False] * 14)
    write_run(runs / "b", record(head="text"), [True] * 4 + [False] * 2 + [True] * 9 + [False] * 5)
    results = read_results.read_results(runs)
    (group,) = compare(results)
    cell = group.arm("text").cells[0]
    assert (cell.only_here, cell.only_baseline) == (9, 2)
    assert group.arm("text").mcnemar == {0: statistics.mcnemar_p(9, 2)}


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


def test_collapsed_runs_are_counted(tmp_path):
    for seed in range(4):
        score, collapsed = (0.0, False) if seed == 0 else (0.4, seed == 1)
        write_run(tmp_path / str(seed), record(seed=seed, score=score, collapsed=collapsed))
    results = read_results.read_results(tmp_path)
    (group,) = compare(results)
    assert report_cells.row(group.arms[0], group, results)["collapsed"] == "2/4"


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
    (mark,) = read_results.read_results(tmp_path).marks
    assert "runs of seed 1 have different data seeds, so that they are no pairs" in mark


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


def test_the_page_shows_every_seed_and_loads_nothing(tmp_path):
    published = {"stock": {"tiny-bert": {"cola": 49.8}}, "text": {"tiny-bert": {"cola": 52.1}}}
    folder = write_study(tmp_path / "s", published=published, published_source="Someone, 2021")
    results = read_results.read_results(folder)
    text = report_html.page(results, compare(results))
    page = Page(text)
    assert "(paper +2.30)" in page.text
    assert page.text.count("a diamond the paper's score") == 1
    # 2 tasks x 3 arms x 10 seeds as dots, and 2 x 2 x 10 as differences: each has its tip.
    tips = re.findall(r"<title>([^<]*), seed \d+: [^<]*</title>", text)
    assert len(tips) == 60 + 40
    assert tips.count("text") == 40
    assert text.count(": mean</title>") == 6
    assert "52.10 (+2.30)" in page.text
    # Nothing is loaded: addresses are names of formats, and what is used lies in the page.
    assert not re.search(r"<script|@import|url\((?!#)| href=\"(?!#)| src=", text)
    # Colours are the page's, which differ by light and dark.
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 6
    assert not re.search(r"#[0-9a-f]{6}\b", "".join(drawings))


def test_hostile_names_stay_text(tmp_path):
    evil = '"><script>alert(1)</script>\x1b[2J|`$x$\\input{y}'
    folder = write_study(
        tmp_path / "s", tasks=("cola",), seeds=5, effects={"stock": 0.0, evil: 0.01}, title=evil
    )
    results = dataclasses.replace(read_results.read_results(folder), command=f"x {evil}")
    groups = compare(results)
    page = report_html.page(results, groups)
    assert "<script" not in page
    assert "\x1b" not in page
    Page(page)
    markdown = tables.markdown(results, groups)
    assert "\x1b" not in markdown
    assert not re.search(r"(?<!\\)<script", re.sub(r"`[^`]*`", "", markdown))
    latex = tables.latex(results, groups)
    assert "\\input{" not in latex
    assert "\x1b" not in latex


def test_the_tables_hold_the_same_numbers(tmp_path):
    results = read_results.read_results(write_study(tmp_path / "s"))
    groups = compare(results)
    arms = list(csv.DictReader(io.StringIO(tables.arms_csv(groups))))
    assert len(arms) == 6
    text = next(row for row in arms if (row["task"], row["arm"]) == ("rte", "text"))
    arm = groups[1].arm("text")
    assert float(text["difference"]) == arm.difference.mean
    assert float(text["p_holm"]) == arm.holm_p
    shown = f"{100 * arm.difference.mean:+.2f}"
    assert shown in tables.markdown(results, groups)
    assert shown in tables.latex(results, groups).replace("$-$", "-")
    runs = list(csv.DictReader(io.StringIO(tables.runs_csv(results))))
    assert len(runs) == 60
    assert {row["seed"] for row in runs} == {str(seed) for seed in range(10)}


def test_the_command_writes_its_files(tmp_path, capsys):
    folder = write_study(tmp_path / "s")
    assert report_command.run([str(folder), "--output_dir", str(tmp_path / "o")], "sot-nlp report") == 0
    names = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert names == ["arms.csv", "report.html", "report.md", "report.tex", "results.json", "runs.csv"]
    printed = capsys.readouterr().out
    assert "▲" in printed
    # Everything can be made again from the numbers alone.
    args = [str(tmp_path / "o" / "results.json"), "--output_dir", str(tmp_path / "again")]
    assert report_command.run(args, "sot-nlp report") == 0
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "o" / name).read_bytes()


def test_a_folder_of_results_files_is_reported_file_by_file(tmp_path, capsys):
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("b", "a"):
        results = read_results.read_results(write_study(tmp_path / name))
        dataclasses.replace(results, title=f"study {name}").write(kept / f"{name}.json")
    args = [str(kept), "--output_dir", str(tmp_path / "o"), "--formats", "markdown"]
    assert report_command.run(args, "sot-nlp report") == 0
    printed = capsys.readouterr().out
    assert printed.index("study a") < printed.index("study b")
    for name in ("a", "b"):
        assert f"study {name}" in (tmp_path / "o" / name / "report.md").read_text()


def test_a_folder_with_a_results_file_is_reported_in_its_place(tmp_path):
    read_results.read_results(write_study(tmp_path / "s")).write(tmp_path / "o" / "results.json")
    assert report_command.run([str(tmp_path / "o"), "--formats", "markdown"], "sot-nlp report") == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["report.md", "results.json"]


def test_results_that_others_would_replace_are_kept_beside_them(tmp_path, capsys):
    out = ["--output_dir", str(tmp_path / "o"), "--formats", "json"]
    target, kept = tmp_path / "o" / "results.json", tmp_path / "o" / "results-1.json"
    cola = write_study(tmp_path / "cola", tasks=("cola",), seeds=5)
    both = write_study(tmp_path / "s", tasks=("rte", "wnli"), seeds=5)
    for folder in (cola, cola):
        assert report_command.run([str(folder), *out], "sot-nlp report") == 0
    first = target.read_bytes()
    assert not kept.exists()
    assert report_command.run([str(both), *out], "sot-nlp report") == 0
    assert kept.read_bytes() == first
    assert f"with 15 runs that these results lack, as {kept}" in capsys.readouterr().out
    # The same runs against another baseline are all there.
    assert report_command.run([str(both), "--baseline", "text", *out], "sot-nlp report") == 0
    assert not (tmp_path / "o" / "results-2.json").exists()
    # Other times are no other results.
    timed = read_file(target)
    cells = tuple(dataclasses.replace(cell, seconds=9.0) for cell in timed.cells)
    dataclasses.replace(timed, cells=cells).write(target)
    assert report_command.run([str(both), "--baseline", "text", *out], "sot-nlp report") == 0
    assert not (tmp_path / "o" / "results-2.json").exists()
    # From the numbers alone the counts against another baseline can't be made again: the old ones are kept.
    before = target.read_bytes()
    assert report_command.run([str(target), "--baseline", "stock", *out], "sot-nlp report") == 0
    assert (tmp_path / "o" / "results-2.json").read_bytes() == before


def test_unknown_formats_are_refused(tmp_path):
    with pytest.raises(UserError, match="did you mean html"):
        report_command.run([str(tmp_path), "--formats", "htm"], "sot-nlp report")


def test_png(tmp_path):
    folder = write_study(tmp_path / "s", tasks=("cola",), seeds=5)
    assert report_command.run([str(folder), "--formats", "png"], "sot-nlp report") == 0
    assert (folder / "report.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_equal_scores_do_not_hide_each_other():
    assert plots.lanes([0.5, 0.1 + 0.2, 0.5, 0.3, 0.5]) == [0, 0, 1, 1, -1]
    results = by_hand({"t": {"a": [0.5] * 5, "b": [0.6, 0.5, 0.5, 0.5, 0.5]}})
    (group,) = compare(results)
    for draw, dots in ((plots.scores, 10), (plots.differences, 5)):
        axes = Figure().subplots()
        assert draw(axes, group, results)
        places = [
            (line.get_xdata()[0], line.get_ydata()[0])
            for line in axes.lines
            if "seed" in (line.get_gid() or "")
        ]
        assert len(places) == len(set(places)) == dots


def test_one_run_alone_is_drawn(tmp_path):
    write_run(tmp_path / "a", record())
    results = read_results.read_results(tmp_path)
    page = report_html.page(results, compare(results))
    assert "nan" not in page.lower()
    assert json.loads(json.dumps(results.to_dict()))["cells"][0]["arm"] == "stock"
