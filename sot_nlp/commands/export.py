"""`sot-nlp export FOLDER`: an ONNX file that was checked against torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sot_nlp.settings.flag_parser import FlagParser


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
    parser.add_trust_flag()
    given = parser.parse_args(argv)
    from sot_nlp.inference.evaluate import validation_score
    from sot_nlp.inference.export import export_onnx, output_folder, require_packages

    require_packages()
    folder = output_folder(given.model, given.output)  # before the model and its data are loaded
    score = None
    if given.quantize and Path(given.model).is_dir():
        score = validation_score(given.model, trust_remote_code=given.trust_remote_code)
    done = export_onnx(
        given.model,
        output=folder,
        quantize=given.quantize,
        score=score,
        revision=given.model_revision,
        trust_remote_code=given.trust_remote_code,
    )
    print(done.report())
    return 0
