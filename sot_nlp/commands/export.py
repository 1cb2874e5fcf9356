"""`sot-nlp export FOLDER`: an ONNX file that was checked against torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sot_nlp import records
from sot_nlp.flag_parser import FlagParser

if TYPE_CHECKING:
    from torch import nn


def run(argv: Sequence[str], prog: str) -> int:
    """Export, check, and print what was written and how it compares."""
    parser = FlagParser(prog=prog, description="Export a SoT classifier with its tokenizer, and check it.")
    parser.add_argument("model", metavar="FOLDER", help="the folder of a run, or a name on the Hub")
    parser.add_argument("--format", choices=("onnx",), default="onnx")
    parser.add_argument("--output", "-o", metavar="DIR", help="default: FOLDER/onnx")
    parser.add_argument("--quantize", choices=("int8",), help="also write a dynamically quantised graph")
    parser.add_argument(
        "--model_revision", default="main", metavar="NAME", help="branch or commit on the Hub"
    )
    given = parser.parse_args(argv)
    from sot_nlp.export import export_onnx

    done = export_onnx(
        given.model,
        output=given.output,
        quantize=given.quantize,
        score=_validation_score(given.model) if given.quantize else None,
        revision=given.model_revision,
    )
    print(done.report())
    return 0


def _validation_score(folder: str) -> Callable[[nn.Module], Mapping[str, float]] | None:
    """Scores on the validation split of the run in `folder`; None where there is no run."""
    if not (Path(folder) / records.NAME).exists():
        return None
    from sot_nlp import preparation
    from sot_nlp.arguments import build_arguments
    from sot_nlp.evaluate_saved import open_saved

    saved = records.read(folder)["arguments"]
    settings = {**saved, "model_name_or_path": folder, "cpu": True, "mixed_precision": "no"}
    arguments = build_arguments([("record", settings)])
    scorer, _, _ = open_saved(arguments, preparation.task_of(arguments))
    return lambda model: {name: value for name, value in scorer(model).items() if name != "splits"}
