"""Open a saved SoT classifier for use: the model, its tokenizer, and what its record says of its texts."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sot_nlp import records
from sot_nlp.data.infer_task import Trained
from sot_nlp.errors import UserError, printable
from sot_nlp.tasks.labels import GENERIC, align_labels, label_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sot_nlp.modeling.loading import Checkpoint

KIND_OF_PROBLEM_TYPE = {
    "single_label_classification": "classification",
    "multi_label_classification": "multi_label",
    "regression": "regression",
}
# Where neither the record nor the model bounds the length of a text.
DEFAULT_LENGTH = 512


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """A classifier in evaluation mode with its tokenizer.

    `kind`: classification, multi_label or regression. `labels`: names in the order of their ids, None for a
    regression. `text_columns`: of the data it was trained on, () where no record tells. `max_length`: tokens
    of an example, special ones included, as in training where a record tells, and no more than fit.
    `record`: of the run that trained it, {} where there is none.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    kind: str
    labels: tuple[str, ...] | None
    text_columns: tuple[str, ...]
    max_length: int
    record: dict[str, Any] = field(default_factory=dict)


def open_model(
    name_or_path: str | Path,
    *,
    revision: str = "main",
    max_length: int | None = None,
    any_classifier: bool = False,
    trust_remote_code: bool = False,
) -> SavedModel:
    """Open the SoT classifier in a folder, or of that name on the Hub, in fp32.

    `max_length` overrides the record's; with `any_classifier` other trained text classifiers are opened too.
    Code that comes with it (its tokenizer's, a user's own parts of the head) runs only with
    `trust_remote_code`. Raises UserError for what is none or can't be loaded.
    """
    name = str(name_or_path)
    shown = printable(name)
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            hint = "give the folder of a finished run"
            if (path / "record.json").is_file():
                hint = "its run is unfinished, and the command that began it resumes it"
            raise UserError(f"{shown}: no config.json in this folder; {hint}")
    elif path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"{shown}: no such folder")

    from sot_nlp.runs import preparation

    with preparation.user_errors(shown):
        import torch
        from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

        from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
        from sot_nlp.modeling.loading import Checkpoint, is_headless
        from sot_nlp.modeling.tokenizer import load_tokenizer

        checkpoint = Checkpoint.read(name, {"revision": revision})
        saved = checkpoint.saved
        check_labels(checkpoint)
        is_sot = preparation.is_sot(checkpoint)
        if not is_sot and not any_classifier:
            raise UserError(
                f"{shown}: not a SoT classifier (model_type {printable(saved.get('model_type'))}); "
                "train one with `sot-nlp train`"
            )
        if is_headless(saved):
            raise UserError(f"{shown}: {preparation.HEADLESS}")
        with preparation.user_errors(shown, Exception):
            tokenizer = load_tokenizer(
                name, trust_remote_code=trust_remote_code, saved=saved, revision=revision
            )
        if is_sot:
            model = AutoSoTForSequenceClassification.from_pretrained(
                checkpoint, dtype=torch.float32, trust_remote_code=trust_remote_code
            )
        else:
            model = _other_classifier(name, revision, trust_remote_code)
    preparation.check_embeddings(model, tokenizer, name)
    record = record_of(path)
    trained = longest_text(model, tokenizer)
    longest = trained
    if is_sot:  # its tokenizer names the length that it was trained with, which is no bound
        longest = model.max_tokens or VERY_LARGE_INTEGER
    config = model.config
    wanted = (
        max_length
        or _of_record(record, "data", "max_length")
        or _of_record(record, "arguments", "max_length")
        or min(trained, DEFAULT_LENGTH)
    )
    if max_length is not None and max_length > longest:
        raise UserError(f"--max_length {max_length}: the model takes at most {longest} tokens")
    kind, labels = answers(config.problem_type, config.id2label)
    columns = _of_record(record, "task_spec", "text_columns") or ()
    texts = max(1, len(columns))
    least = tokenizer.num_special_tokens_to_add(pair=texts == 2) + texts
    if max_length is not None and max_length < least:
        raise UserError(
            f"--max_length {max_length} leaves no room for text beside the special tokens: at least {least}"
        )
    return SavedModel(
        model=preparation.align_weights(model.eval()),
        tokenizer=tokenizer,
        kind=kind,
        labels=labels,
        text_columns=tuple(str(column) for column in columns),
        max_length=min(int(wanted), longest),
        record=record,
    )


def check_finite(logits: np.ndarray, before: int = 0) -> None:
    """Raise UserError where one of the outputs (n, K) is no finite number: there is no likeliest among them.

    `before`: how many examples came before these.
    """
    broken = ~np.isfinite(logits).all(axis=-1)
    if broken.any():
        raise UserError(
            f"the model's output for example {before + int(broken.argmax()) + 1} is not a finite number: its "
            "weights are damaged, or too large for fp16 (--mixed_precision no computes in fp32)"
        )


def check_labels(checkpoint: Checkpoint) -> None:
    """Raise UserError where a model's label ids are no numbers: transformers trips over them."""
    if checkpoint.saved.get("id2label") is not None:
        label_names(checkpoint.saved["id2label"])


def answers(problem_type: Any, id2label: Any) -> tuple[str, tuple[str, ...] | None]:
    """Return (kind, label names in the order of their ids; None for a regression) by a model's config."""
    names = label_names(id2label)
    kind = KIND_OF_PROBLEM_TYPE.get(str(problem_type)) or (
        "regression" if len(names) == 1 else "classification"
    )
    return kind, None if kind == "regression" else names


def trained_task(name_or_path: str | Path, checkpoint: Checkpoint) -> Trained | None:
    """Return what the classifier in a folder, or of that name on the Hub, answers; None without label names.

    The labels are in the order that they had in training, which its record tells, else in the model's own.
    Raises UserError where the model's label ids are no numbers.
    """
    from sot_nlp.runs.preparation import user_errors

    with user_errors(printable(name_or_path)):
        check_labels(checkpoint)
    saved = checkpoint.saved
    if saved.get("id2label") is None:
        return None
    kind, labels = answers(saved.get("problem_type"), saved["id2label"])
    if labels is None:
        return Trained(kind=kind, labels=None)
    if all(map(GENERIC.fullmatch, labels)):
        return None
    if isinstance(before := record_of(name_or_path).get("labels"), list):
        with contextlib.suppress(UserError):  # a record of another model
            align_labels(dict(enumerate(labels)), list(map(str, before)))
            labels = tuple(map(str, before))
    return Trained(kind=kind, labels=labels)


def _other_classifier(name: str, revision: str, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForSequenceClassification

    model, info = AutoModelForSequenceClassification.from_pretrained(
        name,
        revision=revision,
        dtype=torch.float32,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"{printable(name)}: not a trained classifier (no weights for {', '.join(missing[:3])}); "
            "train one with `sot-nlp train`"
        )
    return model


def record_of(folder: str | Path) -> dict[str, Any]:
    """Return the record of the run in `folder`; {} where it has none, or for a name on the Hub."""
    return records.read(folder) if (Path(folder) / records.NAME).is_file() else {}


def _of_record(record: dict[str, Any], outer: str, inner: str) -> Any:
    values = record.get(outer)
    return values.get(inner) if isinstance(values, dict) else None


def longest_text(model: Any, tokenizer: Any) -> int:
    """Return the tokens of the longest text that fits the model, special ones included."""
    from sot_nlp.modeling.backbone import first_position

    if hasattr(model, "max_tokens"):
        positions = model.max_tokens
    else:
        positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        positions = positions - first_position(model) if positions and positions > 0 else None
    return min(int(tokenizer.model_max_length), positions or int(tokenizer.model_max_length))
