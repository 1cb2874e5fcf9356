"""`python -m benchmarks NAME [options]`: run one benchmark, print its table and its result as JSON.

`--output FILE` writes the JSON there instead of printing it. Without a name the table of everything that is
stored in this folder is printed, and `--readme` makes the README's tables from it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import _machine, _overview


def main(arguments: list[str]) -> int:
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    if not arguments:
        print(_overview.overview())
        return 0
    if arguments == ["--readme"]:
        readme = _overview.FOLDER / "README.md"
        readme.write_text(_overview.filled(readme.read_text(encoding="utf-8")), encoding="utf-8")
        return 0
    if arguments[0] not in names:
        print(f"usage: python -m benchmarks [{{{','.join(names)}}} [options]]", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{__package__}.{arguments[0]}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", type=Path)
    own, rest = parser.parse_known_args(arguments[1:])
    result = {"machine": _machine.described(), **module.measure(rest), "date": time.strftime("%Y-%m-%d")}
    text = json.dumps(result, indent=2)
    print(module.table(result) if hasattr(module, "table") else table(result.get("rows", ())))
    if own.output is None:
        print(text)
    else:
        own.output.write_text(text + "\n")
    return 0


def table(rows: Any) -> str:
    """Return a result's rows as Markdown, measured beside required."""
    lines = ["| what | measured | aim | reached |", "|---|---|---|---|"]
    for row in rows:
        spread = " ({} to {})".format(*row["range"]) if "range" in row else ""
        task = f"{row['task']}: " if row.get("task") else ""
        reached = "yes" if row["met"] else "no"
        lines.append(f"| {task}{row['what']} | {row['measured']}{spread} | {row['required']} | {reached} |")
    return "\n".join(lines)


def command(arguments: list[str]) -> int:
    """Run `main`; where whoever reads the output has gone (`| head -3`), end as a closed pipe ends others."""
    try:
        status = main(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python's own flush at the end would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    return status


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
