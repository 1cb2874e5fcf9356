"""Save, rotate and restore a run's checkpoints and its best model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from sot_nlp.errors import UserError, printable
from sot_nlp.training.checkpointing import folders, tensor_files
from sot_nlp.training.checkpointing.fingerprint import changes
from sot_nlp.training.checkpointing.folders import CheckpointError, Progress
from sot_nlp.training.distributed import is_sharded, on_main

SHARDS = "shards"


class Checkpointer:
    """The checkpoints of one run, in `folder`. All processes call its methods together.

    `model` and `optimizer` are as `accelerator.prepare` gave them, `names` the parameters' names by group of
    the optimizer, `limit` how many checkpoints are kept. Where the model is sharded (FSDP, DeepSpeed) a
    checkpoint's tensors, and the best model's, are what `accelerator.save_state` writes, inside the same
    manifest; what they are read by is then accelerate's and DeepSpeed's choice, not safetensors alone.
    """

    def __init__(
        self,
        folder: Path,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: Any,
        names: list[list[str]],
        *,
        limit: int | None,
    ):
        self.folder, self.accelerator = folder, accelerator
        self.model, self.optimizer, self.names = model, optimizer, names
        self.bare = accelerator.unwrap_model(model)
        self.limit = limit
        self.sharded = is_sharded(accelerator)
        self.saved: tuple[int, bool] | None = None

    def resume(
        self, wanted: str | None, fingerprint: dict[str, Any], warn: Callable[[str], None]
    ) -> Progress | None:
        """Restore the checkpoint to resume from; return its progress, or None where there is none.

        `wanted` is `--resume_from_checkpoint`. Raises UserError: settings that differ (`fingerprint`) and may
        not, no whole checkpoint, one of another model.
        """

        def find() -> tuple[Path, Progress] | None:
            folders.recover(self.folder)
            checkpoint = folders.find(wanted, self.folder, warn)
            if checkpoint is None and wanted is not None:
                warn(
                    f"--resume_from_checkpoint {printable(wanted)}: no checkpoint yet; starting from scratch"
                )
            return checkpoint

        checkpoint = on_main(self.accelerator, find)
        if checkpoint is None:
            return None
        folder, progress = checkpoint
        changed = changes(progress.fingerprint, fingerprint)
        for name, (there, here) in changed.items():
            warn(f"resumed with another {name}: {there} in the checkpoint, {here} here")
        self._restore(folder, progress)
        progress.resumed_from.append({"checkpoint": folder.name, "step": progress.step, "changed": changed})
        if progress.best and progress.best["step"] == progress.step:
            self.save_best(progress.step)
        elif progress.best and folder.parent != self.folder:
            self._copy_best(folder.parent, progress.best["step"])
        return progress

    def save(self, progress: Progress) -> None:
        """Write a checkpoint of this very point, then delete those that are no longer wanted."""
        if self.saved == (progress.step, progress.evaluated):
            return
        scaler = self.accelerator.scaler
        progress.scaler = None if scaler is None else scaler.state_dict()
        target = folders.step_folder(self.folder, progress.step)

        def fill(folder: Path) -> None:
            tensor_files.save_model(folder / folders.MODEL, self.bare)
            tensor_files.save_optimizer(folder / folders.OPTIMIZER, self.optimizer.optimizer, self.names)
            progress.write(folder)

        if self.sharded:
            self._save_shards(target, progress)
        else:
            on_main(self.accelerator, lambda: folders.save_folder(target, fill))
        self.saved = (progress.step, progress.evaluated)
        on_main(self.accelerator, lambda: folders.rotate(self.folder, progress.step, self.limit))

    def save_best(self, step: int) -> None:
        """Keep the weights of this point as the best so far."""
        target = folders.best_folder(self.folder, step)

        def save() -> None:
            folders.save_folder(
                target, lambda folder: tensor_files.save_model(folder / folders.MODEL, self.bare)
            )

        if self.sharded:
            self._save_shards(target)
        else:
            on_main(self.accelerator, save)
        on_main(self.accelerator, lambda: folders.remove_old_best(self.folder, step))

    def load_best(self, step: int) -> None:
        """Give the model the weights that `save_best` kept. Raises UserError where they are damaged."""
        folder = folders.best_folder(self.folder, step)
        try:
            folders.verify(folder)
            if self.sharded:
                self.accelerator.load_state(str(folder / SHARDS))
            else:
                tensor_files.load_model(folder / folders.MODEL, self.bare)
        except CheckpointError as error:
            raise UserError(f"the best model {printable(folder)}: {error}") from None

    def last(self) -> str:
        """Return a clause that names the newest checkpoint."""
        whole = folders.step_folders(self.folder)
        return f"last good checkpoint: {printable(whole[-1])}" if whole else "no checkpoint was written yet"

    def _restore(self, folder: Path, progress: Progress) -> None:
        if self.sharded:
            self.accelerator.load_state(str(folder / SHARDS))
            return
        try:
            tensor_files.load_model(folder / folders.MODEL, self.bare)
            tensor_files.load_optimizer(folder / folders.OPTIMIZER, self.optimizer.optimizer, self.names)
        except CheckpointError as error:
            raise UserError(f"checkpoint {printable(folder)}: {error}") from None
        if self.accelerator.scaler is not None and progress.scaler is not None:
            self.accelerator.scaler.load_state_dict(progress.scaler)

    def _copy_best(self, source: Path, step: int) -> None:
        """Take over the best model from the other run's folder that the checkpoint came from."""
        old, target = (folders.best_folder(folder, step) for folder in (source, self.folder))

        def copy(folder: Path) -> None:
            shutil.copytree(old, folder, ignore=shutil.ignore_patterns(folders.MANIFEST), dirs_exist_ok=True)

        on_main(self.accelerator, lambda: folders.save_folder(target, copy))

    def _save_shards(self, target: Path, progress: Progress | None = None) -> None:
        """Write each process's part through accelerate; the main process seals the checkpoint."""
        from torch.distributed.checkpoint.api import CheckpointException  # a second that only this pays

        folder = on_main(self.accelerator, lambda: folders.unfinished(target))
        try:
            self.accelerator.save_state(str(folder / SHARDS))
        except (OSError, CheckpointException) as error:
            # (torch gathers the errors of all processes, and raises them on each)
            cause = error if isinstance(error, OSError) else next(iter(error.failures.values()))[0]
            if self.accelerator.is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
            raise UserError(folders.not_written(target, cause)) from None
        self.accelerator.wait_for_everyone()

        def seal() -> None:
            if progress is not None:
                progress.write(folder)
            folders.seal(folder, target)

        on_main(self.accelerator, seal)
