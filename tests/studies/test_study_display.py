"""The live table: what it counts, and that it shows the rows at work where a screen is too small for all."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from sot_nlp.studies.study_display import FRAME_LINES, LiveTable
from sot_nlp.studies.study_runner import State
from tests.support.fake_runs import small


def drawn(state: State, height: int) -> list[str]:
    screen = io.StringIO()
    console = Console(file=screen, width=120, height=height, force_terminal=True, color_system=None)
    display = LiveTable(console, small(), Path("nowhere"))
    console.print(display.table(state))
    return screen.getvalue().splitlines()


@pytest.fixture
def state() -> State:
    cells = small(3, heads=("stock", "text", "vision", "words")).cells()
    by_arm = {arm: [c.folder for c in cells if c.arm == arm] for arm in ("stock", "text", "vision", "words")}
    return State(
        cells,
        finished={*by_arm["stock"], by_arm["text"][0]},
        failed={by_arm["text"][1]: "the disk is full"},
        running={by_arm["vision"][0]: 0.0},
    )


def cells_of(lines: list[str], arm: str) -> list[str]:
    (line,) = [line for line in lines if f" {arm} " in line]
    return [cell.strip() for cell in line.split("│")[2:-1]]


def test_it_counts_what_is_done_runs_and_failed(state):
    lines = drawn(state, 40)
    assert "small: 5 of 12 runs" in lines[0]
    assert cells_of(lines, "stock") == ["stock", "3/3", "", "", ""]
    assert cells_of(lines, "text") == ["text", "1/3", "", "1", ""]
    assert cells_of(lines, "vision") == ["vision", "0/3", "1", "", ""]
    assert "more lines" not in "".join(lines)


def test_a_small_screen_shows_the_rows_at_work_first(state):
    lines = drawn(state, FRAME_LINES + 2)
    text = "\n".join(lines)
    assert "2 more lines" in text
    assert [arm for arm in ("stock", "text", "vision", "words") if f" {arm} " in text] == ["text", "vision"]
    assert len(lines) <= FRAME_LINES + 2
