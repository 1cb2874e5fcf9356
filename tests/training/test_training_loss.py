"""The loss of an update: the model's own, or with weights of classes and smoothed labels."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.training.training_loss import training_loss
from tests.support.training_case import PAD, Split, tiny_model


@pytest.mark.parametrize("fusion", ["sum", "late"])
def test_class_weights_and_label_smoothing(fusion: str) -> None:
    model = tiny_model(head="vision", fusion=fusion).eval()
    batch = Split().collate(np.arange(6), pad_token_id=PAD)
    output = model(**batch)

    own = training_loss(model, batch["labels"], label_smoothing=0.0, class_weights=None)
    assert torch.equal(own(model, batch), output.loss)
    # All weights equal and no smoothing to speak of: the model's own loss, by the other way.
    plain = training_loss(model, batch["labels"], label_smoothing=0.0, class_weights=[3.0, 3.0])
    torch.testing.assert_close(plain(model, batch), output.loss)

    # Weights 1 and 5 have the mean 2 over these labels: 0.5 and 2.5.
    loss = training_loss(model, np.array([0, 0, 0, 1]), label_smoothing=0.2, class_weights=[1.0, 5.0])
    expected = 0.0
    branches = (output.word_logits, output.class_token_logits) if fusion == "late" else (output.logits,)
    for logits in branches:
        for row, label in zip(logits.log_softmax(-1).tolist(), batch["labels"].tolist(), strict=True):
            # Smoothing: 0.9 on the label, 0.1 on the other; the example has its label's weight.
            shares = [0.9, 0.1] if label == 0 else [0.1, 0.9]
            expected -= [0.5, 2.5][label] * (shares[0] * row[0] + shares[1] * row[1]) / 6
    assert loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


class Logits(torch.nn.Module):
    """A "model" whose logits are its parameters, one row per label."""

    config = None

    def __init__(self) -> None:
        super().__init__()
        self.rows = torch.nn.Parameter(torch.zeros(2, 2))

    def forward(self, input_ids: torch.Tensor) -> Any:
        return SimpleNamespace(logits=self.rows[input_ids])


def test_a_rare_class_does_not_take_the_others_smoothed_labels() -> None:
    labels = torch.tensor([0] * 100 + [1])
    model = Logits()
    # balanced weights, 101 / (2 * 100) and 101 / 2
    loss = training_loss(model, labels, label_smoothing=0.1, class_weights=[0.505, 50.5])
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(200):
        optimizer.zero_grad()
        loss(model, {"input_ids": labels, "labels": labels}).backward()
        optimizer.step()
    # The best answer is the smoothed label itself, whatever the weights.
    expected = torch.tensor([[0.95, 0.05], [0.05, 0.95]])
    torch.testing.assert_close(model.rows.softmax(-1).detach(), expected, atol=1e-3, rtol=0)


def test_class_weights_are_refused_where_there_are_no_classes() -> None:
    for options, flag in (
        ({"class_weights": [1, 2], "label_smoothing": 0}, "--class_weights"),
        ({"class_weights": None, "label_smoothing": 0.1}, "--label_smoothing"),
    ):
        with pytest.raises(UserError, match=f"{flag}: only where each example has one label of several"):
            training_loss(tiny_model(), np.array([0.5, 1.5]), **options)
