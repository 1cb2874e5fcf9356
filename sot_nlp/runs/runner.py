"""Run from settings to record: task, data, model, training, scores, and the files that it leaves on disk."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, printable
from sot_nlp.files import NO_ROOM, system_error
from sot_nlp.runs import folder as run_folder
from sot_nlp.runs import lora, outputs, preparation, run_record, targets
from sot_nlp.runs import method as methods
from sot_nlp.runs.default_recipe import transforms_class_token, with_default_head, with_default_recipe
from sot_nlp.runs.own_files import check_inputs
from sot_nlp.runs.score_scale import score_scale
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks import metrics
from sot_nlp.training.run_lock import run_lock

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sot_nlp.data.task_data import TaskData
    from sot_nlp.runs.method import Method
    from sot_nlp.runs.scoring import Scorer
    from sot_nlp.tasks.spec import TaskSpec
    from sot_nlp.training.closed_form import Solution
    from sot_nlp.training.loop import TrainingResult


@dataclass(kw_only=True)
class Run:
    """What the steps of a run share.

    `solution` is that of the head in closed form, where `method` begins with it, and took `solve_seconds`.
    `rules` says in lines what the default recipe chose.
    """

    arguments: Arguments
    folder: Path
    accelerator: Accelerator
    tokenizer: PreTrainedTokenizerBase
    data: TaskData
    model: PreTrainedModel
    scorer: Scorer
    method: Method
    solution: Solution | None
    solve_seconds: float
    rules: list[str]
    started: float


def run(arguments: Arguments) -> dict[str, Any]:
    """Train by `arguments`, on every process that the launcher started; returns the record of the run.

    Leaves in `--output_dir` the model and its tokenizer, `record.json`, `predictions.json` (validation), with
    `--do_predict` the test predictions, `train.log`, `metrics.jsonl` and the checkpoints. Raises UserError.
    """
    started = time.time()
    spec = check(arguments)
    folder = Path(arguments.output_dir or run_folder.default_folder(spec.name, arguments))
    with contextlib.ExitStack() as stack:
        unfinished = None
        if os.environ.get("RANK", "0") == "0":
            if arguments.push_to_hub:  # what is only said after the training is said too late
                from sot_nlp.publishing.hub import usable_token

                usable_token(outputs.repository(arguments, folder), arguments.hub_token)
            stack.enter_context(run_lock(folder))
            stack.enter_context(out_of_space_as_user_error(folder))
            unfinished = run_folder.claim(folder, arguments)
            if arguments.overwrite_output_dir:
                check_inputs(folder, arguments, spec)
        arguments, accelerator = start_processes(arguments, folder, unfinished, stack)
        current = prepare(arguments, spec, folder, accelerator, unfinished, stack, started)
        if arguments.overwrite_output_dir and accelerator.is_main_process:
            # Only now: a mistake in the settings, the data or the model must not cost the run before it.
            run_folder.clear(folder)
        record = run_record.new_record(current)
        lines = [*methods.describe(current.method, current.solution), *current.rules]
        if arguments.test_file and not arguments.do_predict:
            lines.append("note: --test_file is not predicted without --do_predict")
        outputs.say(accelerator, [*run_record.summary(current, record), *lines])
        with run_record.recorded(current, record):
            finish(current, record, train(current, record))
        outputs.say(accelerator, run_record.outcome(folder, record))
        if arguments.push_to_hub and accelerator.is_main_process:
            outputs.say(accelerator, [f"pushed: {outputs.push(current)}"])
    return record


def check(arguments: Arguments) -> TaskSpec:
    """Refuse what can be refused without torch, whose import takes seconds; return the task."""
    spec = preparation.task_of(arguments)
    if arguments.do_predict and not spec.test_splits:
        raise UserError("--do_predict: there is no test data to predict; give --test_file")
    preparation.head_of(arguments)
    preparation.check_model_folder(arguments.model_name_or_path)
    if arguments.lora_r is not None:
        lora.check_installed()
    methods.check(arguments)
    return spec


def start_processes(
    arguments: Arguments,
    folder: Path,
    unfinished: dict[str, Any] | None,
    stack: contextlib.ExitStack,
) -> tuple[Arguments, Accelerator]:
    """Return the accelerator, with the precision that a resumed run began with, and the settings with it.

    Only the main process knows the `unfinished` run of the folder; it tells the others what to resume.
    """
    from accelerate.utils import broadcast_object_list
    from transformers.utils import logging

    from sot_nlp.training import loop
    from sot_nlp.training.checkpointing import folders
    from sot_nlp.training.distributed import is_sharded, lost_process_as_error

    logging.disable_progress_bar()  # for loading and saving: the bar that counts is the training's
    if unfinished is not None and arguments.resume_from_checkpoint is None:
        arguments = replace(arguments, resume_from_checkpoint="latest")
    precision = None
    replaced = arguments.overwrite_output_dir and arguments.resume_from_checkpoint is None
    if os.environ.get("RANK", "0") == "0" and not replaced:
        precision = folders.precision(arguments.resume_from_checkpoint, folder / folders.FOLDER)
    accelerator = loop.create_accelerator(arguments, folder, precision_before=precision)
    stack.enter_context(lost_process_as_error(accelerator, arguments))
    if arguments.lora_r is not None and is_sharded(accelerator):
        raise UserError(
            "--lora_r: adapters can't be merged into a model that accelerate's FSDP or DeepSpeed divides; "
            "launch without it (LoRA needs little memory), or train without --lora_r"
        )
    [resumed] = broadcast_object_list([arguments.resume_from_checkpoint])
    return replace(arguments, resume_from_checkpoint=resumed), accelerator


def prepare(
    arguments: Arguments,
    spec: TaskSpec,
    folder: Path,
    accelerator: Accelerator,
    unfinished: dict[str, Any] | None,
    stack: contextlib.ExitStack,
    started: float,
) -> Run:
    """Return the run before its first update: data, model, method, its recipe, and what scores the model."""
    from accelerate.utils import broadcast_object_list, set_seed

    from sot_nlp.runs.scoring import Scorer
    from sot_nlp.training.checkpointing.folders import FOLDER, step_folders
    from sot_nlp.training.speed.threads import threads_for

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
        # (without a checkpoint nothing of it is resumed, and its data may have been other data)
        unfinished=unfinished if step_folders(folder / FOLDER) else None,
    )
    [method] = broadcast_object_list([method])
    arguments = methods.with_recipe(arguments, method)
    arguments, rules = with_default_head(
        arguments,
        causal=preparation.is_causal(arguments, checkpoint),
        sot_checkpoint=preparation.is_sot(checkpoint),
    )
    set_seed(arguments.seed)
    head = preparation.head_of(arguments)
    model, alignment = preparation.load_model(arguments, checkpoint, head, data, tokenizer)
    preparation.check_saving(arguments, model)
    if alignment is not None and alignment.note:
        outputs.say(accelerator, [f"note: {alignment.note}"])
    batches: dict[str, Any] = {
        "batch_size": arguments.per_device_eval_batch_size,
        "pad_token_id": tokenizer.pad_token_id,
        "padding_side": tokenizer.padding_side,
    }
    scale = score_scale(spec, data, model) if method.tunes else None
    if scale is not None and checkpoint.has_outputs_of(model.config):
        scale.inverse().fold_into(model)
    solution, solving = None, time.perf_counter()
    if method.solves:
        from sot_nlp.training.closed_form import solve_head

        solution = solve_head(
            model,
            targets.training_split(data, alignment, scale),
            accelerator,
            kind=data.kind,
            class_weights=targets.class_weights(arguments, data, alignment),
            tuned_after=method.tunes,
            **batches,
        )
    solve_seconds = time.perf_counter() - solving
    if method.tunes:
        arguments, chosen = with_default_recipe(
            arguments,
            new_transform=transforms_class_token(model),
            hidden_size=model.config.get_text_config().hidden_size,
            num_examples=None if data.stream is not None else len(data.splits["train"]),
            num_processes=accelerator.num_processes,
        )
        rules += chosen
    if scale is not None:
        rules.append(str(scale))
    if arguments.lora_r is not None:
        model = lora.with_lora(model, arguments.lora_r, arguments)
    stack.enter_context(threads_for(model, accelerator.device))
    if arguments.freeze_backbone:
        data = with_features(data, model, arguments, accelerator, tokenizer.pad_token_id)
    scorer = Scorer(
        spec=spec,
        labels=data.labels,
        splits={name: split for name, split in data.splits.items() if name.startswith("validation")},
        accelerator=accelerator,
        alignment=alignment,
        scale=scale,
        **batches,
    )
    return Run(
        arguments=arguments,
        folder=folder,
        accelerator=accelerator,
        tokenizer=tokenizer,
        data=data,
        model=model,
        scorer=scorer,
        method=method,
        solution=solution,
        solve_seconds=solve_seconds,
        rules=rules,
        started=started,
    )


def with_features(
    data: TaskData, model: PreTrainedModel, arguments: Arguments, accelerator: Accelerator, pad_token_id: int
) -> TaskData:
    """Return `data` with the states of the frozen backbone, which then runs once, in its batches."""
    from sot_nlp.data.task_data import cache_folder
    from sot_nlp.training.speed.cached_backbone import with_cached_backbone

    cache = cache_folder(arguments.cache_dir).with_name("features")
    splits = with_cached_backbone(model, data.splits, accelerator, cache=cache, pad_token_id=pad_token_id)
    return replace(data, splits=splits)


def train(run: Run, record: dict[str, Any]) -> TrainingResult:
    """Train by the run's method: with the head already solved where it does that."""
    arguments, scorer = run.arguments, run.scorer
    evaluate = scorer if arguments.hub_strategy == "end" else outputs.pushed_scorer(run)
    main_metric = scorer.spec.main_metric
    if not run.method.tunes:
        from sot_nlp.training.closed_form import linear_probe

        assert run.solution is not None
        return linear_probe(
            run.model,
            run.solution,
            run.accelerator,
            evaluate=evaluate,
            run_folder=run.folder,
            main_metric=main_metric,
            examples=len(run.data.splits["train"]),
            seconds=run.solve_seconds,
        )
    from sot_nlp.training import loop

    return loop.train(
        run.model,
        targets.training_split(run.data, scorer.alignment, scorer.scale),
        arguments,
        run.accelerator,
        evaluate=evaluate,
        run_folder=run.folder,
        pad_token_id=run.tokenizer.pad_token_id,
        padding_side=run.tokenizer.padding_side,
        class_weights=targets.class_weights(arguments, run.data, scorer.alignment),
        vocabulary=preparation.vocabulary(arguments, run.data, run.tokenizer),
        fingerprint=run_record.fingerprint(record, run.model),
        on_log=record["log_history"].append,
        higher_is_better=metrics.higher_is_better(main_metric),
        main_metric=main_metric,
    )


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

    weights = whole_weights(run.accelerator, result.model)
    if (scale := run.scorer.scale) is not None:
        if weights is None:  # what is saved predicts, to the last digit
            scale.fold_into(run.model)
            run.scorer.scale = None
        else:
            weights = scale.folded(weights)
    splits = {name: split for name, split in run.data.splits.items() if name != "train"}
    rows = {
        name: run.scorer.rows(split, run.scorer.logits(result.model, split)) for name, split in splits.items()
    }
    run_record.add_result(record, run, result, rows)
    if run.accelerator.is_main_process:
        outputs.write_rows(run.folder, run.scorer, rows)
        if run.arguments.lora_r is not None:
            run.model = lora.save_and_merge(run.model, run.folder)
        outputs.save(run, run.model, weights)
    run.accelerator.wait_for_everyone()
