"""`sot-nlp evaluate FOLDER`: score a saved model on a task's splits."""

from __future__ import annotations

from collections.abc import Sequence

from sot_nlp.errors import UserError
from sot_nlp.settings.command_line import config_words, parse_flags

SUMMARY = "Score a saved SoT classifier on the validation splits of a task (default: its own)."


def run(argv: Sequence[str], prog: str) -> int:
    """Print the scores; with --output_dir also write the predictions there."""
    if any(word in ("-h", "--help") for word in argv):
        parse_flags(["--help"], f"{prog} FOLDER", SUMMARY)
    if not argv or argv[0].startswith("-"):
        raise UserError(f"the model's folder is missing: {prog} FOLDER [--task NAME] [flags]")
    from sot_nlp.inference.evaluate import evaluate_saved, evaluation_arguments

    folder, *rest = argv
    flags, config = parse_flags(rest, prog, SUMMARY)
    arguments = evaluation_arguments(folder, flags, config)
    with config_words(config, arguments.given_by(config)):
        evaluate_saved(arguments)
    return 0
