"""`sot-nlp predict FOLDER`: labels and probabilities of texts, in their order."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from sot_nlp.settings.flag_parser import FlagParser


def run(argv: Sequence[str], prog: str) -> int:
    """Write one row per text to --output or standard output, and a summary to standard error."""
    parser = FlagParser(
        prog=prog, description="Predict the texts of a file or of standard input, in their order."
    )
    parser.add_argument("model", metavar="FOLDER", help="the folder of a run, or a name on the Hub")
    parser.add_argument(
        "--file", metavar="PATH", help="CSV, TSV, JSON, JSONL, Parquet, or .txt; default: stdin"
    )
    parser.add_argument("--output", "-o", metavar="PATH", help="default: standard output")
    parser.add_argument(
        "--format", choices=("csv", "jsonl"), help="default: by the output's ending, else csv"
    )
    parser.add_reading_flags()
    parser.add_argument(
        "--per_device_eval_batch_size", type=int, metavar="N", help="default: 64, on a GPU 256"
    )
    parser.add_argument("--max_length", type=int, metavar="N", help="tokens; default: as in training")
    parser.add_precision_flag()
    parser.add_argument(
        "--model_revision", default="main", metavar="NAME", help="branch or commit on the Hub"
    )
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    parser.add_trust_flag()
    given = parser.parse_args(argv)
    from sot_nlp.inference.predict import predict_file

    summary = predict_file(
        given.model,
        file=given.file,
        output=given.output,
        format=given.format,
        text_columns=given.text_column_names,
        batch_size=given.per_device_eval_batch_size,
        max_length=given.max_length,
        mixed_precision=given.mixed_precision,
        cpu=given.cpu,
        revision=given.model_revision,
        quoting=given.quoting,
        trust_remote_code=given.trust_remote_code,
    )
    for note in summary.notes:
        print(note, file=sys.stderr)
    print(summary.report(), file=sys.stderr)
    return 0
