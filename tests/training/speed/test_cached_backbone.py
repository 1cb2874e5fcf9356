"""A frozen backbone that runs once: the same batches, logits and training as one that runs each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sot_nlp.data.token_split import TokenSplit
from sot_nlp.training.evaluation import predict
from sot_nlp.training.loop import create_accelerator
from sot_nlp.training.speed.cached_backbone import with_cached_backbone
from tests.support.training_case import PAD, Split, run, settings, tiny_model


def token_split(count: int, seed: int = 0) -> TokenSplit:
    """The rows of the tests' `Split` as a real split."""
    plain = Split(count, seed=seed)
    return TokenSplit(
        name="train",
        input_ids=np.concatenate(plain.rows).astype(np.int32),
        token_type_ids=None,
        starts=np.cumsum(plain.lengths) - plain.lengths,
        lengths=plain.lengths,
        labels=plain.labels,
        indices=np.arange(count),
    )


def frozen_model(head: str, **fields: Any) -> Any:
    model = tiny_model(head=head, dropout=0.1, **fields).eval()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("classifier" in name)
    return model


def watched(model: Any) -> list[int]:
    calls: list[int] = []
    model.base_model.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    ("head", "fields"), [("text", {}), ("vision", {}), ("stock", {}), ("text", {"num_layers": 2})]
)
def test_logits_from_disk_are_the_models_own(
    head: str, fields: dict[str, Any], side: str, tmp_path: Path
) -> None:
    model, split = frozen_model(head, **fields), token_split(21)
    accelerator = create_accelerator(settings())
    options = {"batch_size": 8, "pad_token_id": PAD, "padding_side": side}
    whole = predict(model, split, accelerator, **options)

    splits = with_cached_backbone(model, {"a": split}, accelerator, cache=tmp_path, pad_token_id=PAD)
    calls = watched(model)
    from_disk = predict(model, splits["a"], accelerator, **options)
    assert not calls
    predict(model, split, accelerator, **options)  # other splits still run the backbone
    assert calls
    # Half precision has 11 bits.
    np.testing.assert_allclose(from_disk, whole, atol=3e-3)


def test_the_second_time_nothing_is_computed(tmp_path: Path) -> None:
    accelerator = create_accelerator(settings())
    model, split = frozen_model("text"), token_split(9)
    calls = watched(model)
    for number in range(2):
        with_cached_backbone(model, {"a": split}, accelerator, cache=tmp_path, pad_token_id=PAD)
        assert bool(calls) == (number == 0)
        calls.clear()
    with torch.no_grad():
        model.bert.embeddings.word_embeddings.weight[5] += 1
    with_cached_backbone(model, {"a": split}, accelerator, cache=tmp_path, pad_token_id=PAD)
    assert calls  # another backbone's states are of no use


def test_training_on_states_from_disk_is_training(tmp_path: Path) -> None:
    results = []
    for cached in (False, True):
        split, validation = token_split(40), token_split(30, seed=1)
        model = tiny_model(head="text", dropout=0.0)
        accelerator = create_accelerator(settings())
        splits = {"train": split, "validation": validation}
        arguments = settings(freeze_backbone=True, logging_steps=1)
        if not cached:
            results.append(
                run(tmp_path / "run", arguments, model=model, split=split, validation=validation)[1]
            )
            continue
        cache = tmp_path / "cache"
        made = with_cached_backbone(model, splits, accelerator, cache=cache, pad_token_id=PAD)
        calls = watched(model)
        ran = run(
            tmp_path / "cached",
            arguments,
            model=model,
            split=made["train"],
            validation=made["validation"],
        )
        results.append(ran[1])
        assert not calls
    losses = [[entry["loss"] for entry in result.log_history] for result in results]
    np.testing.assert_allclose(losses[1], losses[0], atol=5e-3)
