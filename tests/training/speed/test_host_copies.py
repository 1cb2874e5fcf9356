"""What a pass copies from the host, kept for its capture: which backbones a GPU's graphs can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig
from transformers.models.deberta_v2 import modeling_deberta_v2

from sot_nlp import AutoSoTForSequenceClassification
from sot_nlp.training.speed import cuda_graphs
from sot_nlp.training.speed.cuda_graphs import HostCopies
from tests.support import tiny


def positions_on_the_host(self: Any, x: torch.Tensor, position_ids: Any = None, num_buckets: int = 32) -> Any:
    """MPNet's bias, its buckets computed on the host as in the versions of transformers that do so."""
    length = x.shape[1]
    places = torch.arange(length, dtype=torch.long)
    buckets = self.relative_position_bucket(places[None] - places[:, None], num_buckets=num_buckets)
    values = self.relative_attention_bias(buckets.to(x.device)).permute([2, 0, 1]).unsqueeze(0)
    return values.expand((x.shape[0], -1, length, length)).contiguous()


def test_positions_that_were_computed_on_the_host_are_handed_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = AutoConfig.for_model("mpnet", **tiny.OTHER_BACKBONES["mpnet"])
    model = AutoSoTForSequenceClassification.from_config(config).eval()
    batch = {"input_ids": torch.randint(5, 50, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    expected = model(**batch).logits
    encoder = type(model.model.encoder)
    monkeypatch.setattr(encoder, "compute_position_bias", positions_on_the_host)

    copies = HostCopies(torch.device("cpu"))
    with copies.noted():
        assert torch.equal(model(**batch).logits, expected)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    for _ in range(2):
        with copies.again():
            assert torch.equal(model(**batch).logits, expected)

    # It is the noted copy that is used: with another one, all that is computed from it differs.
    *_, at = [i for i, (source, _) in enumerate(copies.calls) if getattr(source, "shape", None) == (9, 9)]
    source, kept = copies.calls[at]
    copies.calls[at] = (source, torch.zeros_like(kept))
    with copies.again(), pytest.raises(RuntimeError, match="differs from batch to batch"):
        model(**batch)
    copies.calls[at] = (source, kept)
    longer = {name: torch.cat([tensor, tensor], 1) for name, tensor in batch.items()}
    with copies.again(), pytest.raises(RuntimeError, match="differs from batch to batch"):
        model(**longer)


def test_a_number_that_differs_from_pass_to_pass_is_not_handed_out_again() -> None:
    copies = HostCopies(torch.device("cpu"))

    def passes(number: float, times: int = 1) -> list[torch.Tensor]:
        return [torch.tensor([number, 2.0]).to(torch.float64) for _ in range(times)]

    with copies.noted():
        passes(1.0)
    with copies.again():
        assert passes(1.0)[0].tolist() == [1.0, 2.0]
    for given in ((3.0, 1), (1.0, 2)):
        with copies.again(), pytest.raises(RuntimeError, match="differs from batch to batch") as error:
            passes(*given)
        # The line named is the model's, not that of the class that noticed it.
        assert cuda_graphs._reason(error.value).startswith("what it copies to the GPU")
        assert f"({Path(__file__).name}, line " in cuda_graphs._reason(error.value)


# Whose forward reads a number from the device, which a capture refuses: their passes run without graphs.
WAITING = {"longformer"}
# Where torch's meta device computes otherwise than a GPU, so that a test without one says nothing.
UNKNOWN = {"mixtral", "xlnet"}
# Whose forward copies inside TorchScript, where no one can answer for it: DeBERTa's in some versions.
SCRIPTED = {
    family
    for family in ("deberta-v2",)
    if isinstance(modeling_deberta_v2.make_log_bucket_position, torch.jit.ScriptFunction)
}


class Crossings(TorchDispatchMode):
    """Note the operations that bring a tensor from the host to the meta device, which a capture refuses.

    A number (a tensor without dimensions) may be an argument of a kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self.noted: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        kinds = {x.device.type for x in (*given, *tree_leaves(result)) if isinstance(x, torch.Tensor)}
        copies = any(name in str(func) for name in ("copy", "index"))
        if kinds == {"cpu", "meta"} and (copies or any(x.dim() and x.device.type == "cpu" for x in given)):
            self.noted.append(str(func))
        return result


@pytest.mark.parametrize("family", sorted(tiny.OTHER_BACKBONES.keys() - UNKNOWN))
def test_which_families_can_be_captured(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has no numbers to read, so what waits for one fails there, as in a capture."""
    config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family])
    with torch.device("meta"):
        model = AutoSoTForSequenceClassification.from_config(config, num_labels=2).train()
        ids, labels = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, dtype=torch.long)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    copies, crossings = HostCopies(torch.device("meta")), Crossings()
    if family in WAITING:
        with copies.noted(), pytest.raises(RuntimeError, match=r"Tensor.item\(\) cannot be called on meta"):
            model(**batch)
        return
    with copies.noted():
        model(**batch).loss.backward()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with copies.again(), crossings:
        model(**batch).loss.backward()
    assert bool(crossings.noted) == (family in SCRIPTED), crossings.noted


@pytest.mark.parametrize(
    ("family", "attention"),
    [(family, "sdpa") for family in sorted(tiny.OTHER_BACKBONES.keys() - WAITING)]
    + [(family, "eager") for family in ("falcon", "llama", "mpnet")],
)
def test_a_capture_copies_what_the_plain_pass_before_it_copied(
    family: str, attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without padding, too: a capture can't look at the mask, so there a backbone does not leave it out."""
    config = AutoConfig.for_model(family, **tiny.OTHER_BACKBONES[family], attn_implementation=attention)
    model = AutoSoTForSequenceClassification.from_config(config).eval()
    batch = {"input_ids": torch.randint(5, 50, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    copies = HostCopies(torch.device("cpu"))
    with copies.noted():
        expected = model(**batch).logits

    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    with copies.again():
        assert torch.equal(model(**batch).logits, expected)
    assert copies.next == len(copies.calls)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_indexes_from_the_host_is_copied_once(device: str) -> None:
    places, numbers = torch.tensor([[0, 4], [1, 1]]), torch.arange(210.0).view(5, 6, 7)

    def passes() -> list[torch.Tensor]:
        rows = numbers.to(device)
        rows[:, [0, 2]] = -1.0
        return [rows[..., [-2], :], rows[[1, 2, 3]], rows[:, places], rows[0, None, 2:, [3]]]

    expected, copies, crossings = passes(), HostCopies(torch.device(device)), Crossings()
    with copies.noted():
        passes()
    with copies.again(), crossings:
        again = passes()
    for part, whole in zip(again, expected, strict=True):
        assert part.shape == whole.shape
        assert device == "meta" or torch.equal(part, whole)
    assert not crossings.noted
    assert [tuple(copy.shape) for _, copy in copies.calls] == [(5, 6, 7), (2,), (1,), (3,), (2, 2), (1,)]
