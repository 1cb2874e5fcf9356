"""The table of all benchmarks: its rows, its aims, and the README's tables made from the same files."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys

import pytest
import torch

from benchmarks import _overview, graphs
from benchmarks.__main__ import command, main
from benchmarks._aims import AIMS, at_least, at_most, judged, under
from benchmarks._head_over_stock import over_stock

FOLDER = _overview.FOLDER
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_the_readmes_tables_are_what_the_files_say():
    assert len(_overview.MARKED.findall(README)) >= 5
    assert _overview.filled(README) == README


def test_every_number_that_is_stored_is_in_the_table(capsys):
    assert main([]) == 0
    shown = capsys.readouterr().out
    for path in FOLDER.glob("*.json"):
        for row in json.loads(path.read_text(encoding="utf-8")).get("rows", ()):
            if row["required"] != "to be known":
                assert f"{row['what']} | {row['measured']:.4g}" in shown, (path.name, row["what"])
    for what in AIMS:
        assert f"{what} | " in shown or "compiled" in what, what


def test_a_reader_that_has_gone_is_no_error(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w", encoding="utf-8") as gone:
        monkeypatch.setattr(sys, "stdout", gone)
        assert command([]) == 128 + 13
        print("what is left goes nowhere", flush=True)


def test_a_row_is_judged_by_todays_aim_and_an_absent_one_names_its_command(tmp_path, monkeypatch):
    row = {"what": "training: CUDA graphs over none", "measured": 0.96, "range": [0.9, 1.234]}
    old = row | {"required": "at least 0.9", "met": True, "task": "cola"}
    file = {"machine": {"device": "Some(R) card", "precision": "bf16"}, "date": "2026-01-02", "rows": [old]}
    (tmp_path / "speed_gpu_cola.json").write_text(json.dumps(file))
    monkeypatch.setattr(_overview, "FOLDER", tmp_path)
    lines = [line for line in _overview.overview().splitlines() if "CUDA graphs over none" in line]
    assert lines[0] == (
        "| CoLA: training: CUDA graphs over none | 0.96 (0.9 to 1.234) | at least 1.0 | no "
        "| Some card, bf16, 2026-01-02 |"
    )
    assert lines[1].endswith("| not measured | at least 1.0 | | `benchmarks/gpu.sh OUT speed` |")
    # What was rounded into the aim was judged before the rounding.
    old |= {"measured": 1.0, "required": "at least 1.0", "met": False}
    (tmp_path / "speed_gpu_cola.json").write_text(json.dumps(file))
    assert "| **1 (0.9 to 1.234)** |  | at least 1.0 |" in _overview.table("gpu")


def test_aims():
    assert [at_least(2.0).met(value) for value in (1.9, 2.0)] == [False, True]
    assert [at_most(2.0).met(value) for value in (2.0, 2.1)] == [True, False]
    assert [under(2.0).met(value) for value in (1.9, 2.0)] == [True, False]
    row = judged("training: SoT head over stock head", 0.9796, each=[0.961, 0.979])
    assert (row["measured"], row["range"], row["met"]) == (0.98, [0.96, 0.98], False)


@pytest.mark.parametrize("name", _overview.SECTIONS)
def test_the_command_that_measures_a_section_is_there(name):
    section = _overview.SECTIONS[name]
    words = shlex.split(section.command.format(task="cola"))
    if words[0] == "python":
        module = FOLDER / f"{words[3]}.py"
        for flag in (word for word in words if word.startswith("--")):
            assert f'"{flag}"' in module.read_text(encoding="utf-8"), flag
    else:
        script = (FOLDER / "gpu.sh").read_text(encoding="utf-8")
        assert re.search(rf"^    {words[-1]}\)", script, re.MULTILINE)
        suffix = next((word.removeprefix("NAME=") for word in words if word.startswith("NAME=")), "")
        written = {file.replace("${name}", suffix) for file in re.findall(r"\$out/([\w{}$]+\.json)", script)}
        assert {file for file, _ in section.columns.values()} <= written


def test_heads_over_the_stock_head():
    sizes = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 32}
    rows = over_stock({**sizes, "vocab_size": 2000}, torch.device("cpu"), rounds=2)
    assert [row["what"] for row in rows] == list(_overview.OVER_STOCK)
    for row in rows:
        ours, stock = row["ms"]
        assert stock > 0
        assert row["range"][0] <= row["measured"] * 1.001
        assert row["measured"] == pytest.approx(ours / stock, rel=0.1)


def test_graphs_are_counted_by_what_the_test_printed(tmp_path):
    (tmp_path / "out.txt").write_text(
        '____ test ____\nmpnet 3 graphs\nt5 2 graphs\nxlnet ["this can\'t be captured"]\n3 passed in 2 s\n'
    )
    result = graphs.measure([str(tmp_path / "out.txt")])
    assert result["rows"][0]["measured"] == 0.67
    assert result["families"]["xlnet"] == '["this can\'t be captured"]'
