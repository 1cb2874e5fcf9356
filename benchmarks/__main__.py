"""`python -m benchmarks NAME [options]`: run one benchmark, print its table and its result as JSON.

`--output FILE` writes the JSON there instead of printing it.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
    if not arguments or arguments[0] not in names:
        print(f"usage: python -m benchmarks {{{','.join(names)}}} [options]", file=sys.stderr)
        return 2
    module = importlib.import_module(f"{__package__}.{arguments[0]}")
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output", type=Path)
    own, rest = parser.parse_known_args(arguments[1:])
    result = module.measure(rest)
    text = json.dumps(result, indent=2)
    if hasattr(module, "table"):
        print(module.table(result))
    if own.output is None:
        print(text)
    else:
        own.output.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
