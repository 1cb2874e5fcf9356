"""Predictions: each example exactly once, in the split's order, whatever the batches."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sot_nlp.training import evaluation
from sot_nlp.training.evaluation import loss, predict, probabilities
from sot_nlp.training.loop import create_accelerator
from tests.support.training_case import PAD, Split, run, settings, tiny_model


def logits_of(model: Any, split: Split, **options: Any) -> np.ndarray:
    return predict(model, split, create_accelerator(settings()), pad_token_id=PAD, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 1},
        {"batch_size": 7},
        {"batch_size": 100},
        {"batch_size": 7, "padding_side": "left"},
    ],
)
@pytest.mark.parametrize("head", ["text", "vision"])
def test_predictions_are_those_of_one_example_at_a_time(head: str, options: dict[str, Any]) -> None:
    model, split = tiny_model(head=head), Split(29)
    logits = logits_of(model, split, **options)

    model.eval()
    for i in range(29):
        batch = split.collate(np.array([i]), pad_token_id=PAD)
        batch.pop("labels")
        with torch.no_grad():
            np.testing.assert_allclose(logits[i], model(**batch).logits[0], atol=1e-5)
    assert logits.shape == (29, 2)
    assert logits.dtype == np.float32


def test_every_example_is_collated_once_with_little_padding() -> None:
    split = Split(200, longest=40)
    logits_of(tiny_model(), split, batch_size=64)

    assert sorted(i for batch in split.collated for i in batch) == list(range(200))
    padded = sum(len(batch) * split.lengths[batch].max() for batch in split.collated)
    assert padded / split.lengths.sum() <= 1.05


def test_the_mode_of_every_part_comes_back() -> None:
    model = tiny_model().train()
    model.bert.eval()
    before = [module.training for module in model.modules()]
    logits_of(model, Split(5), batch_size=2)

    assert [module.training for module in model.modules()] == before
    assert True in before
    assert False in before


def test_predictions_need_no_gradient_and_take_no_labels() -> None:
    class Watched(torch.nn.Module):
        def forward(self, **batch: torch.Tensor) -> Any:
            assert "labels" not in batch
            assert torch.is_inference_mode_enabled()
            return type("Output", (), {"logits": batch["input_ids"][:, :1].to(torch.bfloat16)})

    split = Split(9)
    logits = logits_of(Watched(), split, batch_size=4)
    assert logits[:, 0].tolist() == [float(row[0]) for row in split.rows]


def test_in_bf16_layers_give_bf16_as_they_do_in_training_and_logits_are_close(tmp_path: Path) -> None:
    model, split, seen = tiny_model(), Split(9), set()
    exact = logits_of(model, split, batch_size=4)
    layer = model.bert.encoder.layer[0]
    layer.register_forward_hook(
        lambda module, inputs, output: seen.add((output[0] if isinstance(output, tuple) else output).dtype)
    )
    in_bf16 = settings(mixed_precision="bf16", max_train_steps=1)
    rounded = predict(model, split, create_accelerator(in_bf16), pad_token_id=PAD, batch_size=4)
    assert seen == {torch.bfloat16}
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.02
    run(tmp_path, in_bf16, model=model, evaluate=lambda model: {"accuracy": 0.5})
    assert seen == {torch.bfloat16}


@pytest.mark.parametrize("before", [True, False])
def test_cudnn_attention_is_off_meanwhile(before: bool, tmp_path: Path) -> None:
    """In predicting and in training; afterwards it is as it was."""
    seen: list[bool] = []
    model = tiny_model()
    model.register_forward_pre_hook(lambda *_: seen.append(torch.backends.cuda.cudnn_sdp_enabled()))
    kept = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(before)
    try:
        logits_of(model, Split(5), batch_size=4)
        run(tmp_path, settings(max_train_steps=1), model=model, evaluate=lambda model: {"accuracy": 0.5})
        assert torch.backends.cuda.cudnn_sdp_enabled() == before
    finally:
        torch.backends.cuda.enable_cudnn_sdp(kept)
    assert len(seen) > 2
    assert not any(seen)


def test_an_empty_split_has_no_logits() -> None:
    assert logits_of(tiny_model(), Split(0), batch_size=2).shape == (0, 0)


def test_an_example_predicted_twice_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        evaluation, "evaluation_batches", lambda *a, **k: [[np.array([0, 1])], [np.array([1, 2])]]
    )
    with pytest.raises(RuntimeError, match="1 of 3 examples were not predicted exactly once"):
        logits_of(tiny_model(), Split(3), batch_size=2)


def test_losses() -> None:
    logits = np.array([[0.0, math.log(3.0)], [0.0, 0.0]], dtype=np.float32)

    assert loss(logits, np.array([1, 0]), "classification") == pytest.approx(
        (math.log(4 / 3) + math.log(2)) / 2
    )
    assert loss(logits[:, 1:], np.array([0.0, 2.0], np.float32), "regression") == pytest.approx(
        (math.log(3) ** 2 + 4) / 2
    )
    # sigmoid(log 3) = 3/4
    assert loss(logits, np.array([[0.0, 1.0], [1.0, 0.0]], np.float32), "multi_label") == pytest.approx(
        (3 * math.log(2) + math.log(4 / 3)) / 4
    )
    with pytest.raises(ValueError, match="2 rows of logits, 3 labels"):
        loss(logits, np.array([0, 0, 0]), "classification")


def test_probabilities() -> None:
    logits = np.array([[0.0, math.log(3.0)], [1000.0, -1000.0]], dtype=np.float32)

    np.testing.assert_allclose(probabilities(logits, "classification"), [[0.25, 0.75], [1, 0]], atol=1e-7)
    np.testing.assert_allclose(probabilities(logits, "multi_label"), [[0.5, 0.75], [1, 0]], atol=1e-7)
    np.testing.assert_array_equal(probabilities(logits, "regression"), logits)
    assert probabilities(logits, "classification").dtype == np.float32


def test_a_signal_stops_it(tmp_path: Path) -> None:
    import os
    import signal

    from sot_nlp.training import signals
    from sot_nlp.training.signals import caught_signals

    with caught_signals(distributed=False):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(evaluation.EvaluationStopped):
            logits_of(tiny_model(), Split(5), batch_size=2)
        signals._received.signum = 0  # (else it is sent again, as one that nobody answered)
