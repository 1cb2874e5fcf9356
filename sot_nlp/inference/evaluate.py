"""`sot-nlp evaluate`: score a saved model on a task's splits, its labels aligned with the task's by name."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp import records
from sot_nlp.data.data_report import describe
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.sources import FILE_FLAGS
from sot_nlp.errors import UserError, counted, decimal, printable
from sot_nlp.files import writing
from sot_nlp.inference.saved_model import answers, check_finite, record_of, trained_task
from sot_nlp.publishing.training_plot import mapping
from sot_nlp.runs import folder as run_folder
from sot_nlp.runs import preparation, scoring
from sot_nlp.runs.outputs import say, write_rows
from sot_nlp.runs.own_files import check_inputs
from sot_nlp.settings.arguments import FIELDS, OWN_DATA, TRAITS, Arguments, build_arguments
from sot_nlp.settings.command_line import read_config
from sot_nlp.settings.training_and_output import TrainingSettings
from sot_nlp.tasks import metrics
from sot_nlp.training.run_lock import run_lock

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from sot_nlp.data.task_data import TaskData
    from sot_nlp.modeling.loading import Checkpoint
    from sot_nlp.runs.scoring import Scorer
    from sot_nlp.tasks.spec import TaskSpec


# The settings in a run's record that concern data in general.
DATA = tuple(name for name, traits in TRAITS.items() if traits.data == "any")
# The settings that may be relative paths, or the name of something elsewhere.
PLACES = ("task", "data_dir", *FILE_FLAGS.values(), "dataset_name", "cache_dir")
# What says which examples of a training file are held out.
DRAWN = ("validation_fraction", "data_seed")
# Settings that shape a training, and nothing of a saved model's scores.
OF_TRAINING = {
    *(field.name for field in fields(TrainingSettings) if field.name not in ("seed", *DRAWN)),
    *("head", "head_overrides", "freeze_backbone", "trainable_layers", "drop_leaked", "max_train_samples"),
    *(name for name in FIELDS if name.startswith("lora_")),
}


def evaluate_saved(arguments: Arguments) -> dict[str, Any]:
    """Score the SoT model in `--model_name_or_path` on the validation splits of a task; returns the scores.

    `{split: {loss, <metric>...}}`. With `--output_dir` the predictions are written there, those of test
    splits too where the task has no validation split or `--do_predict` is given, and with a record, so that
    `sot-nlp submission` finds them. Raises UserError where the model's labels are not the task's.
    """
    started = time.time()
    preparation.check_model_folder(arguments.model_name_or_path)
    checkpoint = preparation.read_checkpoint(arguments)
    spec = user_task(arguments, trained_task(arguments.model_name_or_path, checkpoint))
    predict = arguments.do_predict or not spec.validation_splits
    if predict and arguments.output_dir is None:
        raise UserError("--output_dir: needed for the predictions of a test split")
    folder = Path(arguments.output_dir) if arguments.output_dir is not None else None
    unused = _unused(arguments, spec, predict=predict)
    with contextlib.ExitStack() as stack:
        if folder is not None and os.environ.get("RANK", "0") == "0":
            stack.enter_context(run_lock(folder))
            run_folder.claim_for_evaluation(folder, arguments)
            if arguments.overwrite_output_dir:
                check_inputs(folder, arguments, spec)
        scorer, model, data = open_saved(arguments, checkpoint, spec, spec.test_splits if predict else ())
        accelerator = scorer.accelerator
        if unused:
            say(accelerator, unused)
        say(accelerator, describe(data))
        logits = {name: scorer.logits(model, split) for name, split in data.splits.items()}
        for outputs in logits.values():
            check_finite(outputs)
        scores = {name: scorer.score(split, logits[name]) for name, split in scorer.splits.items()}
        for name, values in scores.items():
            shown = "  ".join(f"{metric} {decimal(_number(value), 4)}" for metric, value in values.items())
            say(accelerator, [f"{name} ({counted(len(data.splits[name]), 'example', 'examples')}): {shown}"])
        if folder is not None and accelerator.is_main_process:
            rows = {name: scorer.rows(split, logits[name]) for name, split in data.splits.items()}
            used = replace(arguments, max_length=data.report["max_length"])
            with writing(folder, "--output_dir"):
                if arguments.overwrite_output_dir:
                    run_folder.clear(folder)
                write_rows(folder, scorer, rows)
                records.write(folder, _record(used, scorer, data.report, scores, started))
            say(accelerator, [f"predictions: {printable(folder)}"])
        return scores


def open_saved(
    arguments: Arguments, checkpoint: Checkpoint, spec: TaskSpec, test_splits: Sequence[str] = ()
) -> tuple[Scorer, PreTrainedModel, TaskData]:
    """Return a scorer on `spec`'s validation splits for the SoT model in `checkpoint`, and the model.

    The data holds `test_splits` too. Raises UserError.
    """
    from sot_nlp.runs.scoring import Scorer
    from sot_nlp.training import loop
    from sot_nlp.training.speed import precision

    record = record_of(arguments.model_name_or_path)
    trained = precision.as_trained(record, cpu=arguments.cpu)
    accelerator = loop.create_accelerator(arguments, precision_before=trained)
    line = precision.beside_training(record, accelerator.mixed_precision)
    if arguments.mixed_precision == "auto" and line:
        say(accelerator, [f"{line} (--mixed_precision overrides it)"])
    tokenizer = preparation.load_tokenizer(arguments, checkpoint)
    splits = [*spec.validation_splits, *test_splits]
    data = preparation.load_data(arguments, checkpoint, spec, tokenizer, accelerator, splits)
    model, alignment = preparation.load_saved(arguments, checkpoint, data, tokenizer)
    kind, _ = answers(model.config.problem_type, model.config.id2label)
    if model.config.problem_type is not None and kind != spec.kind:
        model_name = printable(arguments.model_name_or_path)
        raise UserError(f"the model {model_name} is a {kind}, but the task {spec.name} a {spec.kind}")
    if alignment is not None and alignment.note:
        say(accelerator, [f"note: {alignment.note}"])
    if changed := _changes(arguments, data.report):
        say(accelerator, changed)
    scorer = Scorer(
        spec=spec,
        labels=data.labels,
        splits={name: data.splits[name] for name in spec.validation_splits},
        accelerator=accelerator,
        batch_size=arguments.per_device_eval_batch_size,
        pad_token_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        alignment=alignment,
    )
    return scorer, model.to(accelerator.device), data


def data_settings(folder: str | Path, given: Container[str] = ()) -> dict[str, Any]:
    """Return the settings by which the run in `folder` found its data; {} where there is no record.

    Columns that it guessed are named, and paths lead where they led from the folder that it ran in. Settings
    of data whose place other settings, `given` by name, take are omitted. Raises UserError for a record that
    can't be read.
    """
    if not (record := record_of(folder)):
        return {}
    saved, spec = mapping(record, "arguments"), mapping(record, "task_spec")
    settings = {name: _placed(name, saved.get(name), record) for name in ("task", *OWN_DATA, *DATA)}
    if settings["task"] is None:
        settings |= {
            "text_column_names": spec.get("text_columns"),
            "label_column_name": spec.get("label_column"),
        }
    if "task" in given:
        dropped = {"task", *OWN_DATA}
    elif "dataset_name" in given:
        dropped = {"dataset_config_name", *FILE_FLAGS.values()}
    else:
        files = [flag for flag in FILE_FLAGS.values() if flag in given]
        dropped = {"dataset_name", "dataset_config_name"} if files else set()
    return {name: value for name, value in settings.items() if value is not None and name not in dropped}


def _placed(name: str, value: Any, record: Mapping[str, Any]) -> Any:
    """Return a setting of `record`, a relative path as seen from here.

    What is no longer where it was, but is here by the same path, has moved with the run.
    """
    base = record.get("working_directory")
    if name not in PLACES or not isinstance(value, str) or not isinstance(base, str):
        return value
    path = Path(base, value)
    if path == Path(value).absolute():
        return value
    if name == "task" and str(path.resolve()) != mapping(record, "task_spec").get("source_path"):
        return value  # a task's name
    lost = name not in ("dataset_name", "cache_dir") and not Path(value).exists()
    return str(path) if lost or path.exists() else value


def evaluation_arguments(
    folder: str, given: Mapping[str, Any], config: str | None = None, *, source: str = "flag"
) -> Arguments:
    """Return the settings to evaluate `folder` by: `given` over those of `config` over its record's data.

    `source` says where `given` comes from, as in `tasks.recipe.layered_arguments`. Raises UserError.
    """
    if given.get("model_name_or_path") not in (None, folder):
        other = printable(given["model_name_or_path"])
        raise UserError(f"--model_name_or_path {other}: the model is that of {printable(folder)}")
    in_file = read_config(config) if config else {}
    layers = [("record", data_settings(folder, {**in_file, **given})), (str(config), in_file)]
    return build_arguments([*layers, (source, {**given, "model_name_or_path": folder})])


def _unused(arguments: Arguments, spec: TaskSpec, *, predict: bool) -> list[str]:
    """Return a note on settings given by hand that shape a training alone.

    Raises UserError for a file that would not be read, though it looks as if it were scored.
    """
    given = [*arguments.given_by("flag"), *arguments.given_by("python")]
    if "test_file" in given and not predict:
        raise UserError(
            "--test_file: it is not scored, only predicted (--do_predict with --output_dir); "
            "--validation_file scores labelled examples"
        )
    if "train_file" in given and "validation_file" not in given and arguments.validation_file is not None:
        raise UserError(
            f"--train_file: nothing is held out of it, the validation data is "
            f"{printable(arguments.validation_file)}; --validation_file scores other examples"
        )
    names = [f"--{name}" for name in given if name in OF_TRAINING]
    return [f"note: {', '.join(names)}: without effect, the model is scored as it is"] if names else []


def _changes(arguments: Arguments, report: Mapping[str, Any]) -> list[str]:
    """Return warnings where the scored data is not what the run scored under the same name.

    Raises UserError where another share of the same training file is held out than in the training.
    """
    record = record_of(arguments.model_name_or_path)
    before, saved = mapping(mapping(record, "data"), "splits"), mapping(record, "arguments")
    base = str(record.get("working_directory", ""))
    trained = mapping(before, "train").get("sha256")
    lines = []
    for name, split in report["splits"].items():
        earlier, source = mapping(before, name), split["source"]
        if not split["held_out_of_train"]:
            same = source in (earlier.get("source"), str(Path(base, str(earlier.get("source")))))
            if same and split["sha256"] != earlier.get("sha256", split["sha256"]):
                lines.append(f"note: {source} has changed since the training")
        elif trained and split["sha256"] not in (trained, None):
            lines.append(
                f"warning: {source} has changed since the training: examples that are held out now may "
                "have been trained on"
            )
        elif earlier.get("chosen") not in (None, split["chosen"]):
            drawn = [f"--{n}" for n in DRAWN if (getattr(arguments, n) or 0) != (saved.get(n) or 0)]
            if drawn or arguments.max_eval_samples == saved.get("max_eval_samples"):
                what = ", ".join(drawn) or "the settings of the data"
                raise UserError(
                    f"{what}: of {source} other examples would be held out than in the training, which saw "
                    "some of them; --validation_file scores other data"
                )
    return lines


def validation_score(
    folder: str | Path, *, trust_remote_code: bool = False
) -> Callable[[torch.nn.Module], Mapping[str, float]]:
    """Return a function that scores a model on a run's validation split, in fp32 on the CPU.

    It returns the task's metrics, of the split that the best model was chosen by. Raises UserError where the
    folder has no record, or the data is no longer where the record says.
    """
    saved = records.read(folder).get("arguments")
    if not isinstance(saved, dict):
        raise UserError(f"{printable(folder)}: its record holds no settings to find the validation data by")
    known = {name: value for name, value in saved.items() if name in FIELDS and value is not None}
    here = {"model_name_or_path": str(folder), "mixed_precision": "no", "cpu": True, "with_tracking": False}
    here["trust_remote_code"] = trust_remote_code
    arguments = build_arguments([("record", {**known, **data_settings(folder), **here, "output_dir": None})])
    checkpoint = preparation.read_checkpoint(arguments)
    spec = user_task(arguments, trained_task(folder, checkpoint))
    scorer, _, _ = open_saved(arguments, checkpoint, spec)

    def score(model: torch.nn.Module) -> Mapping[str, float]:
        return {name: _number(v) for name, v in scorer(model).items() if name in scorer.spec.metrics}

    return score


def _number(score: float | None) -> float:
    """Return a score as a number: records have None for one that is not finite."""
    return math.nan if score is None else score


def _record(
    arguments: Arguments, scorer: Any, report: dict[str, Any], scores: dict[str, Any], started: float
) -> dict[str, Any]:
    """Return the record of an evaluation: a finished run without training."""
    main_metric = scorer.spec.main_metric
    first = next(iter(scores.values()), None)
    return {
        "format_version": records.FORMAT_VERSION,
        "status": records.FINISHED,
        "kind": records.EVALUATION,
        "task": scorer.spec.name,
        "model": arguments.model_name_or_path,
        "seed": arguments.seed,
        "labels": None if scorer.labels is None else list(scorer.labels),
        "main_metric": main_metric,
        "main_metric_traits": metrics.traits(main_metric).to_dict(),
        "best": {"metric": main_metric, "value": first[main_metric]} if first else None,
        "evaluations": [scoring.entry(scores)] if scores else [],
        "arguments": arguments.to_dict(),
        "data": report,
        "versions": records.versions(),
        "git": records.git_state(),
        "environment": records.environment(scorer.accelerator),
        "timings": {"total_seconds": time.time() - started},
    }
