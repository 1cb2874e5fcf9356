"""The head's layers against torch's own."""

import pytest
import torch
from torch import nn

from sot_nlp.modeling.layers import CastingLinear, MapLayerNorm, UniformDropout, draw_kept


def test_casting_linear_computes_in_the_inputs_precision():
    layer = CastingLinear(4, 3).to(torch.bfloat16)
    inputs = torch.randn(2, 4)
    expected = inputs @ layer.weight.float().T + layer.bias.float()
    assert layer(inputs).dtype == torch.float32
    torch.testing.assert_close(layer(inputs), expected)


def test_map_layer_norm_normalises_each_heads_channels_of_each_map():
    layer = MapLayerNorm(((2, 3), (2, 4)))
    with torch.no_grad():
        layer.weight.copy_(torch.arange(1.0, 15.0))
        layer.bias.copy_(torch.arange(14.0))
    features = torch.randn(2, 5, 14)
    parts, begin = [], 0
    for width in (3, 3, 4, 4):
        own = nn.LayerNorm(width)
        with torch.no_grad():
            own.weight.copy_(layer.weight[begin : begin + width])
            own.bias.copy_(layer.bias[begin : begin + width])
        parts.append(own(features[..., begin : begin + width]))
        begin += width
    result = layer(features, torch.ones(2, 5, dtype=torch.bool))
    torch.testing.assert_close(result, torch.cat(parts, -1))


def test_dropout_keeps_the_mean_and_its_rate():
    torch.manual_seed(0)
    layer = UniformDropout(0.7)
    result = layer(torch.ones(100_000))
    # the factor of 0.7 in steps of 1/65,536
    assert set(result.unique().tolist()) == {0.0, torch.tensor(65536 / (65536 - 45875)).item()}
    assert abs((result == 0).float().mean().item() - 0.7) < 0.01
    assert torch.equal(layer.eval()(torch.ones(5)), torch.ones(5))
    assert torch.equal(UniformDropout(0.0)(torch.ones(5)), torch.ones(5))


@pytest.mark.parametrize("p", [1e-5, 0.1, 0.5, 0.99999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_dropout_keeps_where_sixteen_bits_reach_the_rate(p, dtype):
    torch.manual_seed(3)
    kept, factor = draw_kept(torch.empty(7, 30_001, dtype=dtype), p)
    torch.manual_seed(3)
    words = torch.empty(-(-7 * 30_001 // 4), dtype=torch.int64).random_(torch.iinfo(torch.int64).min, None)
    levels = words.view(torch.int16)[: 7 * 30_001].long().view(7, 30_001) + 32768
    assert kept.dtype == dtype
    assert torch.equal(kept.bool(), levels >= round(p * 65536))
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert factor == pytest.approx(1 / (1 - round(p * 65536) / 65536))
