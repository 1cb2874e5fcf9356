"""`sot-nlp evaluate FOLDER`: score a saved model on a task's splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sot_nlp import records
from sot_nlp.arguments import build_arguments
from sot_nlp.command_line import parse_flags, read_config
from sot_nlp.errors import UserError

SUMMARY = "Score a saved SoT classifier on the validation splits of a task; --task is by default its own."
# What a run's settings say about data, and so about how its model is evaluated.
KEPT = (
    "data_dir",
    "train_file",
    "validation_file",
    "test_file",
    "dataset_name",
    "dataset_config_name",
    "text_column_names",
    "label_column_name",
    "label_mapping",
    "validation_fraction",
    "data_seed",
    "max_length",
    "cache_dir",
)


def run(argv: Sequence[str], prog: str) -> int:
    """Print the scores; with --output_dir also write the predictions there."""
    if any(word in ("-h", "--help") for word in argv):
        parse_flags(["--help"], f"{prog} FOLDER", SUMMARY)
    if not argv or argv[0].startswith("-"):
        raise UserError(f"the model's folder is missing: {prog} FOLDER [--task NAME] [flags]")
    from sot_nlp.evaluate_saved import evaluate_saved

    folder, *rest = argv
    flags, config = parse_flags(rest, prog, SUMMARY)
    layers: list[tuple[str, dict[str, object]]] = [("record", _settings_of(folder))]
    if config:
        layers.append((config, read_config(config)))
    evaluate_saved(build_arguments([*layers, ("flag", {**flags, "model_name_or_path": folder})]))
    return 0


def _settings_of(folder: str) -> dict[str, object]:
    if not (Path(folder) / records.NAME).exists():
        return {}
    saved = records.read(folder).get("arguments", {})
    return {name: saved[name] for name in ("task", *KEPT) if saved.get(name) is not None}
