"""`token_norm`: the head of unnormalised layers is that of layers whose tokens are scaled beforehand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import SoTHeadConfig, resolve_head

C, L = 8, 3
MASK = torch.tensor([[0, 1, 1, 1, 1], [0, 1, 1, 0, 0]]).bool()
SMALL = {"num_heads": 2, "width_x": 4, "width_y": 3, "num_layers": L, "token_norm": "layer_norm"}
KINDS = {
    "sot": {},
    "mean": {"pooling": "mean", "normalization": "none"},
    "mixed class token": {"class_token": "mixed"},
    "maximum over layers": {"pooling": "none", "fusion": "class_token", "class_token": "maximum"},
    "attention": {"pooling": "none", "fusion": "class_token", "class_token": "attention", "num_layers": 1},
}


def inputs(num_layers: int) -> tuple[list[Tensor], Tensor]:
    """Layers whose first token and one channel outgrow the rest, and their classification tokens."""
    draw = torch.Generator().manual_seed(0)
    layers = [torch.randn(2, 5, C, generator=draw, dtype=torch.float64) for _ in range(num_layers)]
    for number, layer in enumerate(layers):
        layer[:, 0] *= 40
        layer[..., 2] += 100 * number
    return layers, torch.stack([layer[:, 3] for layer in layers], 1)


def drawn_head(config: SoTHeadConfig) -> SoTHead:
    head = SoTHead(config, hidden_size=C, num_labels=2).double().eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_()
    return head


def scaled(states: Tensor) -> Tensor:
    centred = states - states.sum(-1, keepdim=True) / C
    return centred / ((centred**2).sum(-1, keepdim=True) / C + 1e-5).sqrt()


@pytest.mark.parametrize("kind", KINDS)
def test_it_scales_every_token_of_every_layer_first(kind: str) -> None:
    config = resolve_head("sot", **{**SMALL, **KINDS[kind]})
    head = drawn_head(config)
    without = SoTHead(config.replace(token_norm="none"), hidden_size=C, num_labels=2).double().eval()
    without.load_state_dict(head.state_dict())
    layers, tokens = inputs(config.num_layers)
    of_layers = config.token_of_layers
    given = (tokens if of_layers else tokens[:, -1]), (scaled(tokens) if of_layers else tokens[:, -1])
    expected = without([scaled(layer) for layer in layers], MASK, given[1]).logits
    torch.testing.assert_close(head(layers, MASK, given[0]).logits, expected)
    assert (without(layers, MASK, given[0]).logits - expected).abs().max() > 1e-3
    longer = [(2.0 + number) * layer for number, layer in enumerate(layers)]
    if of_layers or not config.uses_class_token:
        lengthened = torch.stack([layer[:, 3] for layer in longer], 1)
        torch.testing.assert_close(head(longer, MASK, lengthened).logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sot", "mean"])
def test_contributions_still_add_up_to_the_logits(kind: str) -> None:
    torch.manual_seed(0)
    head = (
        SoTHead(resolve_head("sot", **{**SMALL, **KINDS[kind]}), hidden_size=C, num_labels=2).double().eval()
    )
    layers, tokens = inputs(L)
    words = head.word_contributions(layers, MASK).sum(1)
    class_token = head.class_token_contributions(tokens[:, -1])
    torch.testing.assert_close(
        words + class_token + head.output_bias, head(layers, MASK, tokens[:, -1]).logits
    )
