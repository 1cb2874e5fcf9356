"""`sot-nlp train`, and `run_glue_sot.py`: fine-tune, evaluate each epoch, save."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments
from sot_nlp.settings.command_line import config_words, parse_flags
from sot_nlp.tasks.recipe import layered_arguments

SUMMARY = (
    "Fine-tune a text classifier with the SoT head. --task NAME trains by that task's recipe, which flags "
    "override. Without --task, --train_file or --dataset_name names the data."
)


def run(argv: Sequence[str], prog: str) -> int:
    """Train by the flags; `--task demo` without a model compares the heads on the demo's own model."""
    flags, config = parse_flags(argv, prog, SUMMARY)
    arguments = layered_arguments(flags, config)
    with config_words(config, arguments.given_by(config)):
        return _train(arguments)


def _train(arguments: Arguments) -> int:
    if arguments.task is None and arguments.train_file is None and arguments.dataset_name is None:
        raise UserError(
            "nothing to train on: give --task (see `sot-nlp tasks`), --train_file or --dataset_name"
        )
    if arguments.task == "demo" and "model_name_or_path" not in arguments.sources:
        from sot_nlp.demo.comparison import run_demo

        run_demo(arguments)
        return 0
    from sot_nlp.runs import runner

    if arguments.task == "demo" and arguments.data_dir is None:
        from sot_nlp.demo.comparison import ensure_demo_data

        arguments = dataclasses.replace(arguments, data_dir=str(ensure_demo_data()))
    runner.run(arguments)
    return 0
