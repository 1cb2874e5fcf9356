"""The training loop: update after update to a trained model, the same one however often it was interrupted.

Shapes: n examples in the training split, G examples per update.

An update is a pure function of model, optimizer, (seed, update's number) and the plan in `batching`: the
random numbers of dropout are seeded from (seed, update, process), and the learning rate is a function of
the update's number. So a checkpoint needs no random states, and a resumed run is bit for bit the run that was
never stopped (on a CPU; a GPU's kernels may add in no fixed order, and graphs are captured again).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from sot_nlp.data.stream import StreamedSplit, add_found
from sot_nlp.data.token_split import Split
from sot_nlp.errors import UserError, printable
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training import signals
from sot_nlp.training.batching import check_token_budget, epoch_updates, num_updates
from sot_nlp.training.checkpointing import folders
from sot_nlp.training.checkpointing.checkpointer import Checkpointer
from sot_nlp.training.distributed import (
    agreed_signal,
    count_weights,
    create_accelerator,
    is_sharded,
    on_main,
    peak_memory,
)
from sot_nlp.training.evaluation import EvaluationStopped, attention_of_any_shape
from sot_nlp.training.logs import PROJECT, RunLog, tracker_config
from sot_nlp.training.model_setup import freeze, prepare, train_mode
from sot_nlp.training.optimization import (
    check_warmup,
    create_optimizer,
    learning_rate_schedule,
    parameter_groups,
)
from sot_nlp.training.progress import ProgressTracker
from sot_nlp.training.result import TrainingResult
from sot_nlp.training.run_lock import run_lock
from sot_nlp.training.signals import Interrupted
from sot_nlp.training.speed.embedding_rows import rows_in_use
from sot_nlp.training.speed.malloc import keep_freed_memory
from sot_nlp.training.training_loss import BatchLoss, training_loss
from sot_nlp.training.updates import Outcome, Updater

__all__ = ["Interrupted", "TrainingResult", "create_accelerator", "train"]


def train(
    model: torch.nn.Module,
    train_split: Split | StreamedSplit,
    arguments: Arguments,
    accelerator: Accelerator,
    *,
    evaluate: Callable[[torch.nn.Module], dict[str, Any]],
    run_folder: Path,
    pad_token_id: int,
    padding_side: str,
    class_weights: Any = None,
    vocabulary: np.ndarray | None = None,
    fingerprint: dict[str, Any],
    on_log: Callable[[dict[str, Any]], None],
    higher_is_better: bool,
    main_metric: str,
) -> TrainingResult:
    """Train `model` in place and leave it with the weights that evaluated best.

    Resumes from the newest whole checkpoint in `run_folder`, or from `--resume_from_checkpoint`. All
    processes call it together.

    Args:
        model: anything whose `forward(labels=...)` returns the mean loss of its batch.
        train_split: `data.TokenSplit`, or what has its `lengths`, `indices`, `labels` and `collate`; or a
            `data.StreamedSplit`, whose windows are the epochs.
        arguments: `arguments.Arguments`.
        accelerator: from `create_accelerator`.
        evaluate: called at each epoch's end (and at the end) on all processes; its `main_metric` decides.
        run_folder: gets `checkpoints/`, `train.log` and `metrics.jsonl`.
        pad_token_id, padding_side: for the batches.
        class_weights: (K,) weights of the classes in the cross-entropy, scaled so that the mean over the
            training examples is 1.
        vocabulary: (U,) ids of all tokens that the training and `evaluate` give the model, where only their
            embeddings are to be trained (`vocabulary.rows_in_use`).
        fingerprint: JSON-able; what else must be the same where a checkpoint is resumed.
        on_log: called on the main process with each log line of the training, on resuming also with those
            that the checkpoint holds.
        higher_is_better: whether a larger `main_metric` is better.
        main_metric: key of what `evaluate` returns.

    Raises:
        UserError: settings that differ from the checkpoint's, no whole checkpoint, a run folder in use, a
            full disk, a loss that is not finite.
        Interrupted: a signal came; a checkpoint is written.
    """
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    with contextlib.ExitStack() as stack:
        on_main(accelerator, lambda: stack.enter_context(run_lock(run_folder)))
        stack.enter_context(signals.caught_signals(distributed=accelerator.num_processes > 1))
        stack.enter_context(attention_of_any_shape())
        freeze(model, freeze_backbone=arguments.freeze_backbone, trainable_layers=arguments.trainable_layers)
        trained = count_weights(p for p in model.parameters() if p.requires_grad)
        reduced = stack.enter_context(rows_in_use(model, vocabulary, arguments, accelerator))
        loop = _Loop(
            model,
            train_split,
            arguments,
            accelerator,
            evaluate=evaluate,
            run_folder=run_folder,
            collation={"pad_token_id": pad_token_id, "padding_side": padding_side},
            fingerprint={**fingerprint, **reduced},
            on_log=on_log,
            higher_is_better=higher_is_better,
            main_metric=main_metric,
            loss=training_loss(
                model,
                train_split.labels,
                label_smoothing=arguments.label_smoothing,
                class_weights=class_weights,
            ),
            num_trainable_parameters=trained,
        )
        stack.callback(loop.close)
        if isinstance(train_split, StreamedSplit):
            stack.callback(train_split.close)
        stack.enter_context(loop.log)
        return loop.run()


class _Loop:
    """The state of one call of `train`."""

    def __init__(
        self,
        model: torch.nn.Module,
        split: Split | StreamedSplit,
        arguments: Arguments,
        accelerator: Accelerator,
        *,
        evaluate: Callable[[torch.nn.Module], dict[str, Any]],
        run_folder: Path,
        collation: dict[str, Any],
        fingerprint: dict[str, Any],
        on_log: Callable[[dict[str, Any]], None],
        higher_is_better: bool,
        main_metric: str,
        loss: BatchLoss,
        num_trainable_parameters: int,
    ):
        self.split, self.arguments, self.accelerator = split, arguments, accelerator
        self.num_trainable_parameters = num_trainable_parameters
        self.evaluate_model = evaluate
        self.main_metric, self.sign = main_metric, 1.0 if higher_is_better else -1.0
        self.update_size = (
            arguments.per_device_train_batch_size
            * arguments.gradient_accumulation_steps
            * accelerator.num_processes
        )
        self.examples = (
            split.window_size(self.update_size) if isinstance(split, StreamedSplit) else len(split.lengths)
        )
        if not self.examples:
            raise UserError("the training split is empty: nothing to train on")
        self.per_epoch = num_updates(self.examples, self.update_size)
        # (rounded, so that 0.1 + 0.2 epochs are no update more than 0.3)
        epochs = round(self.per_epoch * arguments.num_train_epochs, 6)
        self.total = arguments.max_train_steps or math.ceil(epochs)
        self.fingerprint = {
            **fingerprint,
            "training": {
                "examples": self.examples,
                "examples_per_update": self.update_size,
                "precision": accelerator.mixed_precision,
                "device": accelerator.device.type,
                "processes": accelerator.num_processes,
            },
        }
        self.log = RunLog(
            run_folder,
            active=accelerator.is_main_process,
            total_steps=self.total,
            show_progress=not arguments.disable_tqdm,
        )
        self.tracker = ProgressTracker(
            accelerator,
            arguments,
            self.log,
            on_log=on_log,
            updates_per_epoch=self.per_epoch,
        )
        self.raw = model
        self.own_forward = {"forward": model.forward} if "forward" in vars(model) else {}
        prepare(model, arguments, self.tracker.warn)
        check_warmup(arguments, self.total, self.tracker.warn)
        groups = parameter_groups(model, arguments)
        self.model, self.optimizer = accelerator.prepare(
            model, create_optimizer(groups, arguments, fused=not is_sharded(accelerator))
        )
        self.checkpointer = Checkpointer(
            run_folder / folders.FOLDER,
            accelerator,
            self.model,
            self.optimizer,
            [group["names"] for group in groups],
            limit=arguments.save_total_limit,
        )
        self.updater = Updater(
            self.model,
            self.optimizer,
            accelerator,
            arguments=arguments,
            schedule=learning_rate_schedule(arguments, self.total),
            loss=loss,
            warn=self.tracker.warn,
            **collation,
        )
        if not isinstance(split, StreamedSplit):
            self._use(split)

    # --- the run ---

    def run(self) -> TrainingResult:
        """Train to the end, from the start or from a checkpoint."""
        accelerator, arguments = self.accelerator, self.arguments
        if arguments.with_tracking:
            accelerator.init_trackers(PROJECT, config=tracker_config(arguments))
        resumed = self.checkpointer.resume(
            arguments.resume_from_checkpoint, self.fingerprint, self.tracker.warn
        )
        if resumed:
            self.tracker.resume(resumed)
        progress = self.tracker.progress
        progress.fingerprint = self.fingerprint
        self.log.rewind(progress.step)
        while not (progress.evaluated and (progress.step >= self.total or self._out_of_patience())):
            if progress.evaluated or self._passes_evaluation_by():
                progress.evaluated = False
                if progress.updates == self.per_epoch:
                    progress.epoch += 1
                    progress.updates = 0
            self._train_epoch()
            if self._passes_evaluation_by():
                self._end_epoch(goes_on=True)
            else:
                self._evaluate()
        if progress.best and progress.best["step"] != progress.step:
            self.checkpointer.load_best(progress.best["step"])
        if arguments.with_tracking:
            accelerator.end_training()
        return self._result()

    def _train_epoch(self) -> None:
        progress, arguments = self.tracker.progress, self.arguments
        seed = arguments.seed if arguments.data_seed is None else arguments.data_seed
        if isinstance(self.split, StreamedSplit):
            self._next_window(self.split)
        updates = epoch_updates(
            self.updater.split.lengths,
            seed=seed,
            epoch=progress.epoch,
            update_size=self.update_size,
            group_by_length=arguments.group_by_length,
        )
        interval = arguments.checkpointing_steps
        every = None if interval in (None, "epoch") else int(interval)
        train_mode(self.model)
        self.tracker.start_clock()
        for examples in updates[progress.updates :]:
            if progress.step >= self.total:
                break
            outcomes = self.updater.run(examples, progress.step)
            progress.updates += 1
            progress.step += 1
            progress.examples += len(examples)
            self.log.advance()
            self._take(outcomes)
            at_end = progress.updates == self.per_epoch or progress.step >= self.total
            if every and progress.step % every == 0 and not at_end:
                self._save()
        self._drain()
        self.tracker.stop_clock()

    def _use(self, split: Split) -> None:
        """Train on the examples of `split` from here on."""
        check_token_budget(self.arguments.max_tokens_per_batch, int(np.max(split.lengths)))
        self.updater.split, self.tracker.positions = split, np.asarray(split.indices)

    def _next_window(self, stream: StreamedSplit) -> None:
        """Train on the window of this epoch, and account for what was found in it."""
        progress = self.tracker.progress
        window = stream.window(progress.epoch, self.examples)
        if progress.stream.get("windows", 0) <= progress.epoch:
            progress.stream = add_found(progress.stream, window.found)
        elif progress.stream["digest"] != window.found["digest"]:
            raise UserError(
                "the training data has changed since the checkpoint was written; start from scratch"
            )
        self._use(window.split)

    def _take(self, outcomes: Sequence[Outcome]) -> None:
        """Record updates; end the run where one of them, or a signal, says so."""
        for outcome in outcomes:
            self.tracker.record_update(outcome, last_good=self.checkpointer.last)
        # Only then: a checkpoint counts all of them as done.
        for outcome in outcomes:
            if outcome.signum:
                self._interrupt(outcome.signum)

    # --- evaluation ---

    def _evaluate(self) -> None:
        progress = self.tracker.progress
        try:
            scores = self.evaluate_model(self.model)
        except EvaluationStopped:
            self._interrupt(agreed_signal(self.accelerator))
        self.tracker.record_scores(scores, self.main_metric, self.sign)
        goes_on = progress.step < self.total and not self._out_of_patience()
        if goes_on and progress.best and progress.best["step"] == progress.step:
            self.checkpointer.save_best(progress.step)
        self._end_epoch(goes_on)

    def _passes_evaluation_by(self) -> bool:
        return self.arguments.eval_strategy == "no" and self.tracker.progress.step < self.total

    def _end_epoch(self, goes_on: bool) -> None:
        every, step = self.arguments.checkpointing_steps, self.tracker.progress.step
        if every is not None and (every == "epoch" or step % int(every) == 0 or not goes_on):
            self._save()
        if signum := agreed_signal(self.accelerator):
            self._interrupt(signum)

    def _out_of_patience(self) -> bool:
        patience = self.arguments.early_stopping_patience
        return patience is not None and self.tracker.progress.evaluations_without_gain >= patience

    # --- small ---

    def _save(self) -> None:
        self._drain()
        self.tracker.stop_clock()
        self.checkpointer.save(self.tracker.progress)
        self.tracker.start_clock()

    def _interrupt(self, signum: int) -> None:
        self._save()
        step = self.tracker.progress.step
        where = printable(folders.step_folder(self.checkpointer.folder, step))
        message = (
            f"{Signals(signum).name}: stopped after update {step} of {self.total}; checkpoint "
            f"{where} is written, and {signals.same_command(self.arguments)} resumes from it"
        )
        self.log.line(message)
        raise Interrupted(signum, message)

    def _drain(self) -> None:
        self._take(self.updater.drain())

    def _result(self) -> TrainingResult:
        progress = self.tracker.progress
        return TrainingResult(
            model=self.model if is_sharded(self.accelerator) else self.raw,
            best=progress.best,
            evaluations=progress.evaluations,
            log_history=progress.log_history,
            train_examples_per_second=progress.examples / max(progress.train_seconds, 1e-9),
            train_seconds=progress.train_seconds,
            steps=progress.step,
            skipped_updates=progress.skipped,
            resumed_from=progress.resumed_from,
            warnings=self.tracker.warnings,
            peak_memory_bytes=peak_memory(self.accelerator.device),
            stream=progress.stream,
            num_trainable_parameters=self.num_trainable_parameters,
        )

    def close(self) -> None:
        """Give the model back as it came: without accelerate's wrapper, gradients and optimizer."""
        if is_sharded(self.accelerator):
            return
        for name in ("forward", "_original_forward", "_is_accelerate_prepared", "_compiled_call_impl"):
            vars(self.raw).pop(name, None)
        vars(self.raw).update(self.own_forward)
        self.raw.zero_grad(set_to_none=True)
        del self.updater, self.checkpointer, self.optimizer, self.model
        self.accelerator.free_memory()
        self.raw.eval()
