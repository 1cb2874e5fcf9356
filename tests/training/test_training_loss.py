"""The loss of an update: the model's own, or with weights of classes and smoothed labels."""

from __future__ import annotations

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
            # Smoothing: 0.9 on the label, 0.1 on the other, each class's part with that class's weight.
            shares = [0.9, 0.1] if label == 0 else [0.1, 0.9]
            expected -= (shares[0] * 0.5 * row[0] + shares[1] * 2.5 * row[1]) / 6
    assert loss(model, batch).item() == pytest.approx(expected, rel=1e-5)


def test_class_weights_are_refused_where_there_are_no_classes() -> None:
    for options, flag in (
        ({"class_weights": [1, 2], "label_smoothing": 0}, "--class_weights"),
        ({"class_weights": None, "label_smoothing": 0.1}, "--label_smoothing"),
    ):
        with pytest.raises(UserError, match=f"{flag}: only where each example has one label of several"):
            training_loss(tiny_model(), np.array([0.5, 1.5]), **options)
