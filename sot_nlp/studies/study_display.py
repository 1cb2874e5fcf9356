"""Show a running study: a live table in a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sot_nlp import records
from sot_nlp.errors import UserError, printable
from sot_nlp.studies import read_results
from sot_nlp.studies.report.cells import mean_and_sd as mean_and_sd_text
from sot_nlp.studies.results import FINISHED, Cell
from sot_nlp.studies.statistics import mean_and_sd
from sot_nlp.studies.study import Study, StudyCell
from sot_nlp.studies.study_runner import State

# Title, heading, borders and caption.
FRAME_LINES = 8


class Lines:
    """A line for each cell that ended, where there is no terminal."""

    def __init__(self, console: Console, total: int):
        self.console = console
        self.total = total
        self.state: State | None = None

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def update(self, state: State) -> None:
        """Say once how many cells were finished before."""
        if self.state is None and state.finished:
            self.console.print(
                f"{len(state.finished)} of {self.total} runs are already finished", markup=False
            )
        self.state = state

    def event(self, text: str) -> None:
        """Print it."""
        done = 0 if self.state is None else self.total - self.state.open
        self.console.print(f"[{done}/{self.total}] {text}", markup=False, soft_wrap=True)


class LiveTable:
    """A table that follows the study: for each arm what is done, runs and failed, and the scores so far."""

    def __init__(self, console: Console, study: Study, folder: Path):
        self.study = study
        self.folder = folder
        self.scored: dict[str, Cell | None] = {}
        self.started = time.monotonic()
        self.live = Live(console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> LiveTable:
        self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()

    def event(self, text: str) -> None:
        """Print failures above the table, so that they stay on the screen."""
        if ": failed: " in text:
            self.live.console.print(text, markup=False)

    def update(self, state: State) -> None:
        """Redraw the table."""
        for cell in state.cells:
            if cell.folder in state.finished and cell.folder not in self.scored:
                self.scored[cell.folder] = self._scored(cell)
        self.live.update(self.table(state))

    def _scored(self, cell: StudyCell) -> Cell | None:
        try:
            record = records.read(self.folder / "runs" / cell.folder)
        except UserError:
            return None
        scored = read_results.cell_of_record(record, cell.names(), self.study.score, {})
        return scored if scored.status == FINISHED else None

    def table(self, state: State) -> Table:
        """Return the table of `state`."""
        rows: dict[tuple[str, str], list[StudyCell]] = defaultdict(list)
        for cell in state.cells:
            group = " · ".join(part for part in (cell.task, cell.model, cell.setting) if part)
            rows[group, cell.arm].append(cell)
        shown = _most_telling(rows, state, max(1, self.live.console.height - FRAME_LINES))
        done = len(state.finished) + len(state.failed)
        title = f"{self.study.title or self.study.name}: {done} of {len(state.cells)} runs"
        hidden = f"{len(rows) - len(shown)} more lines, " if len(shown) < len(rows) else ""
        caption = Text(hidden + self._caption(state))
        table = Table(title=Text(printable(title)), title_justify="left", caption=caption)
        for column in ("task · model · setting", "arm", "done", "runs", "failed", "score so far"):
            table.add_column(
                column, justify="left" if column in ("arm", "task · model · setting") else "right"
            )
        for group, arm in shown:
            cells = rows[group, arm]
            folders = {cell.folder for cell in cells}
            scored = [ended for name in folders if (ended := self.scored.get(name)) is not None]
            scores = [ended.score for ended in scored if ended.score is not None]
            score = mean_and_sd_text(*mean_and_sd(scores), scored[0].times) if scores else ""
            running = len(folders & (state.running.keys() | state.elsewhere.keys()))
            failed = len(folders & state.failed.keys())
            table.add_row(
                Text(printable(group)),
                Text(printable(arm)),
                f"{len(folders & state.finished)}/{len(cells)}",
                str(running or ""),
                Text(str(failed or ""), style="bold red"),
                score,
            )
        return table

    def _caption(self, state: State) -> str:
        minutes = (time.monotonic() - self.started) / 60
        parts = [f"{minutes:.0f} min"]
        if state.seconds and state.running:
            seconds_per_run = sum(state.seconds) / len(state.seconds)
            left = seconds_per_run * state.open / len(state.running) / 60
            parts.append(f"about {left:.0f} min left")
        if state.elsewhere:
            parts.append(
                f"{len(state.elsewhere)} run elsewhere ({printable(next(iter(state.elsewhere.values())))})"
            )
        return ", ".join(parts)


def _most_telling(
    rows: Mapping[tuple[str, str], Sequence[StudyCell]], state: State, room: int
) -> list[tuple[str, str]]:
    """Return the rows that a screen has room for: first those at work, then what failed or has begun."""

    def rank(row: tuple[str, str]) -> int:
        folders = {cell.folder for cell in rows[row]}
        if folders & (state.running.keys() | state.elsewhere.keys()):
            return 0
        if folders & state.failed.keys():
            return 1
        finished = len(folders & state.finished)
        return 2 if 0 < finished < len(folders) else 3 if finished else 4

    kept = set(sorted(rows, key=rank)[:room])
    return [row for row in rows if row in kept]
