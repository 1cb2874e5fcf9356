"""The launches of a step that is small enough to count by hand."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from torch.nn import functional

from benchmarks.launches import counted_step
from sot_nlp.modeling import head


class Tiny(torch.nn.Module):
    """Ten words of four numbers, two classes, and dropout where it is trained with."""

    def __init__(self, dropout):
        super().__init__()
        self.words = torch.nn.Embedding(10, 4)
        self.classes = torch.nn.Linear(4, 2)
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, input_ids, attention_mask, labels):
        words = self.words(input_ids)[:, 0]
        words = self.dropout(words) if self.dropout.p else words
        return SimpleNamespace(loss=functional.cross_entropy(self.classes(words), labels))


def counted(dropout):
    with torch.device("meta"):
        model = Tiny(dropout).train()
    step = counted_step(model, 2, 1)
    assert not torch.cuda.is_available() or not torch.cuda.is_current_stream_capturing()
    return step


def test_a_linear_layer_by_hand():
    step = counted(0.0)
    # Weight, bias and input to bf16 and their gradients back, and the logits to fp32 and back: 6 bytes each.
    assert step.launches["casts between fp32 and bf16"] == 8
    assert step.bytes["casts between fp32 and bf16"] == 6 * (2 * (8 + 2 + 8) + 2 * 4)
    # Forward, and the gradients of input and weight.
    assert step.launches["matrix products"] == 3
    # Of 50 numbers: each is written once, and then read, added to and written.
    assert step.launches["gradients: zeroed, accumulated"] == 2 * 3
    assert step.bytes["gradients: zeroed, accumulated"] == 50 * 4 * (1 + 3)
    assert step.launches["dropout"] == 0


def test_dropout_is_a_kernel_forward_and_one_backward():
    step = counted(0.1)
    assert step.launches["dropout"] == 2
    # Eight numbers in fp32 are read and written, both ways, beside a mask of a byte each.
    assert step.bytes["dropout"] == 2 * 8 * (4 + 4 + 1)


class InFp32(Tiny):
    """As the SoT head: its linear is where autocast is off."""

    def forward(self, *args, **kwargs):
        with head.maybe_autocast("meta", enabled=False):
            return super().forward(*args, **kwargs)


def test_what_computes_in_fp32_is_not_cast():
    with torch.device("meta"):
        step = counted_step(InFp32(0.0).train(), 2, 1)
    assert step.launches["casts between fp32 and bf16"] == 0
    assert step.launches["matrix products"] == 3
    # The bias's gradient.
    assert step.launches["sums of activations and of their gradients"] == 1
