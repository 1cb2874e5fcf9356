"""Run from settings to record: task, data, model, training, scores, and the files that it leaves on disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp import records
from sot_nlp.data.data_report import describe, describe_stream, stream_report
from sot_nlp.errors import UserError, printable, worded
from sot_nlp.files import NO_ROOM, system_error
from sot_nlp.runs import folder as run_folder
from sot_nlp.runs import lora, preparation
from sot_nlp.runs import method as methods
from sot_nlp.runs.collapse import collapse_warnings
from sot_nlp.runs.default_recipe import with_default_recipe
from sot_nlp.settings import launcher
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks import metrics
from sot_nlp.training.run_lock import run_lock
from sot_nlp.training.signals import Interrupted

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sot_nlp.data.task_data import TaskData
    from sot_nlp.runs.method import Method
    from sot_nlp.runs.scoring import Scorer
    from sot_nlp.tasks.labels import Alignment
    from sot_nlp.training.closed_form import Solution
    from sot_nlp.training.loop import TrainingResult


@dataclass(kw_only=True)
class Run:
    """What the steps of a run share."""

    arguments: Arguments
    folder: Path
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    model: PreTrainedModel
    scorer: Scorer
    started: float


def run(arguments: Arguments) -> dict[str, Any]:
    """Train by `arguments`, on every process that the launcher started; returns the record of the run.

    Leaves in `--output_dir` the model and its tokenizer, `record.json`, `predictions.json` (validation), with
    `--do_predict` the test predictions, `train.log`, `metrics.jsonl` and the checkpoints. Raises UserError.
    """
    started = time.time()
    # What can be refused without torch is refused before torch is imported: that alone takes seconds.
    spec = preparation.task_of(arguments)
    preparation.head_of(arguments)
    preparation.check_model_folder(arguments.model_name_or_path)
    preparation.check_extras(arguments)
    methods.check(arguments)
    folder = Path(arguments.output_dir or run_folder.default_folder(spec.name, arguments))
    main_process = os.environ.get("RANK", "0") == "0"
    with contextlib.ExitStack() as stack:
        if main_process:
            stack.enter_context(run_lock(folder))
            stack.enter_context(out_of_space_as_user_error(folder))
        unfinished = run_folder.claim(folder, arguments) if main_process else None
        from accelerate.utils import broadcast_object_list, set_seed
        from transformers.utils import logging

        from sot_nlp.runs.scoring import Scorer
        from sot_nlp.training import loop
        from sot_nlp.training.checkpointing import folders
        from sot_nlp.training.distributed import lost_process_as_error
        from sot_nlp.training.speed.threads import threads_for

        logging.disable_progress_bar()  # for loading and saving: the bar that counts is the training's
        if unfinished is not None and arguments.resume_from_checkpoint is None:
            arguments = replace(arguments, resume_from_checkpoint="latest")
        precision = (
            folders.precision(arguments.resume_from_checkpoint, folder / folders.FOLDER)
            if main_process
            else None
        )
        accelerator = loop.create_accelerator(arguments, folder, precision_before=precision)
        stack.enter_context(lost_process_as_error(accelerator, arguments))
        [resumed] = broadcast_object_list([arguments.resume_from_checkpoint])
        arguments = replace(arguments, resume_from_checkpoint=resumed)
        checkpoint = preparation.read_checkpoint(arguments)
        tokenizer = preparation.load_tokenizer(arguments, checkpoint)
        splits = ["train", *spec.validation_splits, *(spec.test_splits if arguments.do_predict else ())]
        data = preparation.load_data(arguments, checkpoint, spec, tokenizer, accelerator, splits)
        # The length in use, which the model's positions may bound. Saved with the tokenizer, so that a
        # pipeline or CrossEncoder cuts texts where the training did.
        arguments = replace(arguments, max_length=data.report["max_length"])
        tokenizer.model_max_length = arguments.max_length
        method = methods.choose(
            arguments,
            data,
            pairs=len(spec.text_columns) > 1,
            sot_checkpoint=preparation.is_sot(checkpoint),
            unfinished=unfinished,
        )
        [method] = broadcast_object_list([method])
        arguments = methods.with_recipe(arguments, method)
        set_seed(arguments.seed)
        model, alignment = preparation.load_model(
            arguments, checkpoint, preparation.head_of(arguments), data, tokenizer
        )
        if alignment is not None and alignment.note:
            say(accelerator, [f"note: {alignment.note}"])
        solved = None
        if method.solves:
            solved = solve(arguments, model, data, tokenizer, accelerator, alignment)
        arguments, rules = with_default_recipe(
            arguments,
            model.config.head_config,
            hidden_size=model.config.get_text_config().hidden_size,
            num_examples=None if data.stream is not None else len(data.splits["train"]),
        )
        if arguments.lora_r is not None:
            model = lora.with_lora(model, arguments.lora_r, arguments)
        stack.enter_context(threads_for(model, accelerator.device))
        if arguments.freeze_backbone:
            from sot_nlp.data.task_data import cache_folder
            from sot_nlp.training.speed.cached_backbone import with_cached_backbone

            cache = cache_folder(arguments.cache_dir).with_name("features")
            pad_token_id = tokenizer.pad_token_id
            splits_with_states = with_cached_backbone(
                model, data.splits, accelerator, cache=cache, pad_token_id=pad_token_id
            )
            data = replace(data, splits=splits_with_states)
        scorer = Scorer(
            spec=spec,
            labels=data.labels,
            splits={name: split for name, split in data.splits.items() if name.startswith("validation")},
            accelerator=accelerator,
            batch_size=arguments.per_device_eval_batch_size,
            pad_token_id=tokenizer.pad_token_id,
            padding_side=tokenizer.padding_side,
            alignment=alignment,
        )
        current = Run(
            arguments=arguments,
            folder=folder,
            accelerator=accelerator,
            tokenizer=tokenizer,
            data=data,
            model=model,
            scorer=scorer,
            started=started,
        )
        record = new_record(current)
        record["method"] = {"name": method.name, "reason": method.reason}
        if solved is not None:
            record["method"] |= solved[0].to_dict()
        lines = [*methods.describe(method, solved and solved[0]), *rules]
        say(accelerator, [*summary(record, data), *lines])
        with recorded(current, record):
            result = train(current, record, method, solved)
            finish(current, record, result)
        say(accelerator, outcome(folder, record))
        if arguments.push_to_hub and accelerator.is_main_process:
            say(accelerator, [f"pushed: {push(current)}"])
    return record


def solve(
    arguments: Arguments,
    model: PreTrainedModel,
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    alignment: Alignment | None,
) -> tuple[Solution, float]:
    """Solve the head in closed form; returns the solution and the seconds that it took."""
    from sot_nlp.training.closed_form import solve_head

    started = time.perf_counter()
    solution = solve_head(
        model,
        preparation.training_split(data, alignment),
        accelerator,
        kind=data.kind,
        batch_size=arguments.per_device_eval_batch_size,
        pad_token_id=tokenizer.pad_token_id,
        padding_side=tokenizer.padding_side,
        class_weights=preparation.class_weights(arguments, data, alignment),
    )
    return solution, time.perf_counter() - started


def train(
    run: Run, record: dict[str, Any], method: Method, solved: tuple[Solution, float] | None
) -> TrainingResult:
    """Train by `method`, with the head already solved where the method does that."""
    arguments, scorer = run.arguments, run.scorer
    evaluate = scorer if arguments.hub_strategy == "end" else pushed_scorer(run)
    if not method.tunes:
        from sot_nlp.training.closed_form import linear_probe

        assert solved is not None
        solution, seconds = solved
        return linear_probe(
            run.model,
            solution,
            run.accelerator,
            evaluate=evaluate,
            run_folder=run.folder,
            main_metric=scorer.spec.main_metric,
            examples=len(run.data.splits["train"]),
            seconds=seconds,
        )
    from sot_nlp.training import loop

    return loop.train(
        run.model,
        preparation.training_split(run.data, scorer.alignment),
        arguments,
        run.accelerator,
        evaluate=evaluate,
        run_folder=run.folder,
        pad_token_id=run.tokenizer.pad_token_id,
        padding_side=run.tokenizer.padding_side,
        class_weights=preparation.class_weights(arguments, run.data, scorer.alignment),
        vocabulary=preparation.vocabulary(arguments, run.data, run.tokenizer),
        fingerprint=fingerprint(record),
        on_log=record["log_history"].append,
        higher_is_better=metrics.higher_is_better(scorer.spec.main_metric),
        main_metric=scorer.spec.main_metric,
    )


def push(run: Run) -> str:
    """Push the run's folder; return the commit's URL. Raises UserError."""
    from sot_nlp.publishing import hub

    return hub.push(
        run.folder,
        repo_id=run.arguments.hub_model_id or run.folder.resolve().name,
        private=run.arguments.hub_private_repo,
        token=run.arguments.hub_token,
    )


def pushed_scorer(run: Run) -> Callable[[torch.nn.Module], dict[str, Any]]:
    """Return `run.scorer` that also saves and pushes the model after each evaluation.

    A push that fails during training is reported and does not end the run; the one at the end counts.
    """
    from sot_nlp.training.distributed import whole_weights

    def evaluate(model: torch.nn.Module) -> dict[str, Any]:
        scores = run.scorer(model)
        if not run.arguments.push_to_hub:
            return scores
        weights = whole_weights(run.accelerator, model)
        if run.accelerator.is_main_process:
            save(run, run.accelerator.unwrap_model(model), weights)
            try:
                push(run)
            except UserError as error:
                say(run.accelerator, [f"warning: not pushed: {error}"])
        return scores

    return evaluate


def new_record(run: Run) -> dict[str, Any]:
    """Return the record of a run that has not begun: all but scores and timings."""
    arguments, data, model, spec = run.arguments, run.data, run.model, run.scorer.spec
    return {
        "format_version": records.FORMAT_VERSION,
        "status": records.RUNNING,
        "task": spec.name,
        "model": arguments.model_name_or_path,
        "model_class": type(model).__name__,
        "head": model.config.head_preset or "custom",
        "head_config": model.config.head,
        "seed": arguments.seed,
        "data_seed": arguments.seed if arguments.data_seed is None else arguments.data_seed,
        "labels": None if data.labels is None else list(data.labels),
        "main_metric": spec.main_metric,
        "main_metric_traits": metrics.traits(spec.main_metric).to_dict(),
        "best": None,
        "evaluations": [],
        "train_examples_per_second": None,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "num_trainable_parameters": None,
        "warnings": [],
        "collapsed": False,
        "arguments": arguments.to_dict(),
        "sources": arguments.sources,
        "task_spec": spec.to_dict(),
        "data": data.report,
        "versions": records.versions(),
        "git": records.git_state(),
        "environment": records.environment(run.accelerator),
        "timings": {},
        "log_history": [],
    }


# Of a split. Notes say how a file is read where that was guessed; an older version read it otherwise.
FINGERPRINTED = ("sha256", "examples", "chosen", "notes")


def fingerprint(record: dict[str, Any]) -> dict[str, Any]:
    """Return the settings and data that a checkpoint must match before a run may resume from it."""
    shaping = ("task", "head_config", "labels", "num_parameters", "arguments")
    # What the files hold counts, and what of it is used; not where they are.
    files = {
        name: {key: split[key] for key in FINGERPRINTED if split.get(key, []) != []}
        for name, split in record["data"]["splits"].items()
        if name == "train" or name.startswith("validation")
    }
    return {**{name: record[name] for name in shaping}, "data": files}


@contextlib.contextmanager
def recorded(run: Run, record: dict[str, Any]) -> Iterator[None]:
    """Keep `record.json` true whatever happens inside: running, then finished, interrupted or failed."""

    def save(status: str) -> None:
        record["status"] = status
        if run.accelerator.is_main_process:
            records.write(run.folder, record)

    save(records.RUNNING)
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        with contextlib.suppress(OSError):  # report what ended the run, not that its record could not say so
            save(records.INTERRUPTED)
        raise
    except UserError as error:
        record["failure"] = str(error)
        with contextlib.suppress(OSError):
            save(records.FAILED)
        raise
    save(records.FINISHED)


@contextlib.contextmanager
def out_of_space_as_user_error(folder: Path) -> Iterator[None]:
    """Convert out-of-space errors raised in the block into a one-line UserError."""
    try:
        yield
    except Exception as error:
        number = system_error(error)
        if number is None or number not in NO_ROOM:
            raise
        raise UserError(
            f"--output_dir {printable(folder)}: {os.strerror(number)}; "
            "free some space, then the same command resumes the run"
        ) from None


def finish(run: Run, record: dict[str, Any], result: TrainingResult) -> None:
    """Predict with the kept model, save it, and fill the record."""
    from sot_nlp.training.distributed import whole_weights

    splits = {name: split for name, split in run.data.splits.items() if name != "train"}
    rows = {
        name: run.scorer.rows(split, run.scorer.logits(result.model, split)) for name, split in splits.items()
    }
    first = next(iter(run.scorer.splits))
    kept = next(e for e in result.evaluations if result.best is None or e["step"] == result.best["step"])
    losses = [entry["loss"] for entry in record["log_history"] if "learning_rate" in entry]
    predicted = [run.scorer.named(row["prediction"]) for row in rows[first]]
    signs = collapse_warnings(predicted, losses, kept, run.data.kind, updates=result.steps > 0)
    record |= {
        "num_trainable_parameters": sum(p.numel() for p in run.model.parameters() if p.requires_grad),
        "best": result.best,
        "evaluations": result.evaluations,
        "train_examples_per_second": result.train_examples_per_second,
        "resumed_from": result.resumed_from,
        "skipped_updates": result.skipped_updates,
        "collapsed": bool(signs),
        "warnings": [*result.warnings, *signs],
        "timings": {
            "train_seconds": result.train_seconds,
            "total_seconds": time.time() - run.started,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    if run.data.stream is not None:
        dropped = run.arguments.drop_leaked
        source = run.data.stream.source.table.name
        record["data"]["splits"]["train"] = stream_report(source, result.stream, dropped=dropped)
    weights = whole_weights(run.accelerator, result.model)
    if run.accelerator.is_main_process:
        write_rows(run.folder, run.scorer, rows)
        if run.arguments.lora_r is not None:
            run.model = lora.save_and_merge(run.model, run.folder)
        save(run, run.model, weights)
    run.accelerator.wait_for_everyone()


def save(run: Run, model: PreTrainedModel, weights: dict[str, torch.Tensor] | None) -> None:
    """Save `model` into the run's folder, with `weights` in place of its own where they are given."""
    run_folder.save_model(
        run.folder, model, run.tokenizer, remote_code=run.arguments.save_remote_code, weights=weights
    )


def write_rows(folder: Path, scorer: Scorer, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Write each split's predictions; of a test split also the file that GLUE's server takes."""
    from sot_nlp.publishing.submission import write_task_file

    for name, predictions in rows.items():
        if name.startswith("test"):
            chosen = [scorer.named(row["prediction"]) for row in predictions]
            write_task_file(folder, scorer.spec, name, chosen, [row["index"] for row in predictions])
        else:
            file = f"predictions{name.removeprefix('validation')}.json"
            if name == next(iter(scorer.splits)):
                file = "predictions.json"
            run_folder.write_predictions(folder / file, predictions)


def say(accelerator: Accelerator, lines: list[str]) -> None:
    """Print lines once, whatever the number of processes."""
    if accelerator.is_main_process:
        print("\n".join(map(worded, lines)), flush=True)


def summary(record: dict[str, Any], data: TaskData) -> list[str]:
    """Return a few lines on what is about to be trained, on what and by what."""
    environment = record["environment"]
    return [
        *describe(data),
        f"{record['task']}: {record['model_class']} from {printable(record['model'])}, "
        f"head {record['head']}, {record['num_parameters'] / 1e6:.1f} M parameters, "
        f"on {environment['processes']} x {environment['device']} ({environment['mixed_precision']})",
        *launcher.describe(
            {
                name: record["arguments"][name]
                for name, source in record["sources"].items()
                if source == launcher.SOURCE
            }
        ),
    ]


def outcome(folder: Path, record: dict[str, Any]) -> list[str]:
    """Return lines on the result and where it is."""
    best = record["best"]
    lines = [*describe_stream(record["data"]), *(f"warning: {warning}" for warning in record["warnings"])]
    if best and best["value"] is not None:
        lines.append(f"best {best['metric']} {best['value']:.4f} at epoch {best['epoch']:g}")
    return [*lines, f"model, record and predictions: {printable(folder)}"]
