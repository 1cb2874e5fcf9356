"""Write what a run leaves: its model, its predictions, a push to the Hub, and lines in the terminal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, worded
from sot_nlp.runs import folder as run_folder
from sot_nlp.runs import lora
from sot_nlp.settings.arguments import Arguments

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from transformers import PreTrainedModel

    from sot_nlp.runs.runner import Run
    from sot_nlp.runs.scoring import Scorer


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


def push(run: Run) -> str:
    """Push the run's folder; return the commit's URL. Raises UserError."""
    from sot_nlp.publishing import hub

    return hub.push(
        run.folder,
        repo_id=repository(run.arguments, run.folder),
        private=run.arguments.hub_private_repo,
        token=run.arguments.hub_token,
    )


def repository(arguments: Arguments, folder: Path) -> str:
    """Return the name of the repository to push to: the folder's where none is given."""
    return arguments.hub_model_id or folder.resolve().name


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
            current = run.accelerator.unwrap_model(model)
            if run.arguments.lora_r is not None:
                current = lora.merged_copy(current)
            if (scale := run.scorer.scale) is not None:
                weights = scale.folded(weights or current.state_dict())
            save(run, current, weights)
            try:
                push(run)
            except UserError as error:
                say(run.accelerator, [f"warning: not pushed: {error}"])
        return scores

    return evaluate
