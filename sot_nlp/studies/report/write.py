"""Show results in the terminal, and write them as tables, a page and plots."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

from sot_nlp.errors import UserError, counted, printable
from sot_nlp.files import write_atomic, writing
from sot_nlp.studies.comparison import Group
from sot_nlp.studies.report import cells, figures, overview, page, tables
from sot_nlp.studies.results import NAME, Results, missing_from, read_file

Writer = Callable[[Results, Sequence[Group]], "str | bytes"]
# format -> the files that it writes, each with what makes its content
FORMATS: dict[str, dict[str, Writer]] = {
    "html": {"report.html": page.page},
    "markdown": {"report.md": tables.markdown},
    "latex": {"report.tex": tables.latex},
    "csv": {
        "arms.csv": lambda _, groups: tables.arms_csv(groups),
        "runs.csv": lambda results, _: tables.runs_csv(results),
    },
    "png": {"report.png": figures.png},
}


def show(results: Results, groups: Sequence[Group]) -> None:
    """Print the tables and their notes; `groups` are `compare(results)`."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        # Piped into a file or a pager, a table must not be cut to 80 columns.
        console = Console(highlight=False, width=200)
    console.print(f"{printable(results.title or results.name)}\n", markup=False, style="bold")
    for group in groups:
        console.print(tables.terminal_table(group, results))
    # After the groups, which may be dozens: a terminal shows the end.
    if len(groups) > 1:
        console.print(overview.terminal(results, groups))
    for note in cells.notes(results, groups):
        console.print(f"- {note}", markup=False, soft_wrap=True)


def write(results: Results, groups: Sequence[Group], folder: Path, formats: Sequence[str]) -> list[Path]:
    """Write `results` in these formats into `folder`; returns the files. UserError where it can't."""
    files: list[Path] = []
    with writing(folder):
        if "json" in formats:
            keep_earlier(results, folder)
            results.write(folder / NAME)
            files.append(folder / NAME)
        for name in (name for name in FORMATS if name in formats):
            for file, content in FORMATS[name].items():
                write_atomic(folder / file, content(results, groups))
                files.append(folder / file)
    return files


def keep_earlier(results: Results, folder: Path) -> Path | None:
    """Rename a `results.json` in `folder` whose runs are not all among `results`; returns its new path.

    It becomes `results-1.json` or the next free number, and a line says so. A file that is no results file
    of this version is kept, too.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        missing = missing_from(results, read_file(path))
        if not missing:
            return None
        what = f"with {counted(len(missing), 'run', 'runs')} that these results lack"
    except UserError:
        what = "not a results file of this version"
    numbered = (folder / f"{path.stem}-{number}.json" for number in itertools.count(1))
    kept = next(name for name in numbered if not name.exists())
    path.replace(kept)
    print(f"kept the earlier {printable(path)}, {what}, as {printable(kept)}")
    return kept
