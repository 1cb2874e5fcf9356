"""A small case for the tests of the loop: an invented split, a tiny model, settings, a call of train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.evaluation import loss, predict
from sot_nlp.training.loop import TrainingResult, create_accelerator, train

PAD = 0


class Split:
    """A `TokenSplit` of random tokens whose label is whether more of them are even than odd."""

    name = "train"

    def __init__(self, count: int = 40, *, seed: int = 0, longest: int = 12, labels: int = 2):
        source = np.random.RandomState(seed)
        self.lengths = source.randint(3, longest + 1, size=count).astype(np.int64)
        self.rows = [source.randint(3, 60, size=length) for length in self.lengths]
        self.labels: Any = np.array([int((row % labels).mean() + 0.5) for row in self.rows], dtype=np.int64)
        self.indices = np.arange(count) + 100
        self.collated: list[list[int]] = []

    def __len__(self) -> int:
        return len(self.rows)

    def collate(
        self,
        indices: np.ndarray,
        *,
        pad_token_id: int,
        padding_side: str = "right",
        pad_to_multiple_of: int | None = None,
    ) -> dict[str, torch.Tensor]:
        self.collated.append(indices.tolist())
        width = int(self.lengths[indices].max())
        if pad_to_multiple_of:
            width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        ids = torch.full((len(indices), width), pad_token_id)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(self.rows[j] for j in indices):
            where = slice(0, len(row)) if padding_side == "right" else slice(width - len(row), width)
            ids[i, where] = torch.from_numpy(row)
            mask[i, where] = 1
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.from_numpy(self.labels[indices])}


def tiny_model(
    *, head: str | None = None, dropout: float = 0.1, seed: int = 0, layers: int = 2, **overrides: Any
) -> Any:
    """A BERT of 2 layers, 32 wide; with `head` our model of that preset (`overrides`
    are fields of it), else transformers' own."""
    import transformers

    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "hidden_dropout_prob": dropout,
        "attention_probs_dropout_prob": dropout,
        "num_labels": 2,
    }
    torch.manual_seed(seed)
    if head is None:
        return transformers.BertForSequenceClassification(transformers.BertConfig(**settings))
    from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
    from sot_nlp.modeling.head_config import resolve_head

    settings.pop("num_labels")
    config = resolve_head(head).replace(dropout=dropout, width_x=8, width_y=4, **overrides)
    return AutoSoTForSequenceClassification.from_config(
        transformers.BertConfig(**settings), num_labels=2, head=config
    )


def settings(**overrides: Any) -> Arguments:
    """Small and quiet: batch 4, two epochs of 10 updates over the 40 examples, on the CPU in fp32."""
    values: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 16,
        "num_train_epochs": 2.0,
        "learning_rate": 1e-3,
        "mixed_precision": "no",
        "disable_tqdm": True,
        "logging_steps": 3,
        "cpu": True,
        "checkpointing_steps": "4",
    }
    return Arguments(**(values | overrides))


def run(
    folder: Path,
    arguments: Arguments | None = None,
    *,
    model: Any = None,
    split: Any = None,
    validation: Any = None,
    evaluate: Any = None,
    fingerprint: dict[str, Any] | None = None,
    class_weights: Any = None,
    vocabulary: Any = None,
    on_log: Any = lambda entry: None,
    higher_is_better: bool = True,
) -> tuple[Any, TrainingResult]:
    """Train; returns the model and what came out. The main metric is the validation accuracy."""
    arguments = settings() if arguments is None else arguments
    model = tiny_model() if model is None else model
    split = Split() if split is None else split
    validation = Split(30, seed=1) if validation is None else validation
    accelerator = create_accelerator(arguments)

    def accuracy(current: Any) -> dict[str, Any]:
        logits = predict(
            current,
            validation,
            accelerator,
            batch_size=arguments.per_device_eval_batch_size,
            pad_token_id=PAD,
        )
        right = float((logits.argmax(-1) == validation.labels).mean())
        return {"loss": loss(logits, validation.labels, "classification"), "accuracy": right}

    result = train(
        model,
        split,
        arguments,
        accelerator,
        evaluate=evaluate or accuracy,
        run_folder=folder,
        pad_token_id=PAD,
        padding_side="right",
        class_weights=class_weights,
        vocabulary=vocabulary,
        fingerprint=fingerprint or {"arguments": arguments.to_dict()},
        on_log=on_log,
        higher_is_better=higher_is_better,
        main_metric="accuracy",
    )
    return model, result
