"""From a comparison to cells, tables, page and plots: the values, and hostile names."""

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


def test_disagreements_are_counted_and_tested(tmp_path):
    runs = tmp_path / "runs"
    write_run(runs / "a", record(head="stock"), [True] * 6 + [False] * 14)
    write_run(runs / "b", record(head="text"), [True] * 4 + [False] * 2 + [True] * 9 + [False] * 5)
    results = read_results.read_results(runs)
    (group,) = compare(results)
    cell = group.arm("text").cells[0]
    assert (cell.only_here, cell.only_baseline) == (9, 2)
    assert group.arm("text").mcnemar == {0: statistics.mcnemar_p(9, 2)}


def test_collapsed_runs_are_counted(tmp_path):
    for seed in range(4):
        score, collapsed = (0.0, False) if seed == 0 else (0.4, seed == 1)
        write_run(tmp_path / str(seed), record(seed=seed, score=score, collapsed=collapsed))
    results = read_results.read_results(tmp_path)
    (group,) = compare(results)
    assert report_cells.row(group.arms[0], group, results)["collapsed"] == "2/4"


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
