"""The whole head: both recipes against slow formulas, invariances, fusions, numerics, export."""

import pytest
import torch
from torch import nn

from sot_nlp.modeling import normalizers
from sot_nlp.modeling.head import SoTHead, init_head_weights
from sot_nlp.modeling.head_config import PRESETS, resolve_head
from sot_nlp.modeling.normalization import svpn_gain
from tests.support.combinations import accepted

C, K = 16, 3
MASK = torch.tensor([[0, 1, 1, 1, 1, 1], [0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 0], [0, 1, 0, 0, 0, 0]]).bool()


def rand(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_head(preset="text", dtype=torch.float64, seed=0, **overrides):
    """A small head with weights that matter everywhere, in evaluation mode."""
    small = {"num_heads": 2, "width_x": 5, "width_y": 4} if preset != "stock" else {}
    head = SoTHead(resolve_head(preset, **{**small, **overrides}), hidden_size=C, num_labels=K).to(dtype)
    with torch.no_grad():
        for index, parameter in enumerate(head.parameters()):
            parameter.copy_(rand(*parameter.shape, seed=seed + index))
    return head.eval()


ALL = {"-".join(settings.values()): settings for settings in accepted()}
WITHOUT_FUSIONS = {name: value for name, value in ALL.items() if value["fusion"] in ("sum", "class_token")}


def slow_head(head, hidden, mask, class_token, *, recipe, floor=0.0, rounding=1e-12):
    """One text at a time, by the method's text; the BatchNorm is torch's, over all real tokens at once.

    `floor` is what the published code adds to the divisor s^(1 - alpha); `rounding` what this one adds to
    squared norms.
    """
    m, p, q = head.config.num_heads, head.config.width_x, head.config.width_y
    features = hidden @ head.words.maps.weight.T
    if recipe == "text":
        norm = nn.BatchNorm1d(m * (p + q)).double()
        norm.load_state_dict(head.words.map_norm.state_dict(), strict=False)
        features = torch.zeros_like(features).masked_scatter(
            mask.unsqueeze(-1), norm.train(head.training)(features[mask]).relu()
        )
    logits = []
    for text, words, token in zip(features, mask, class_token, strict=True):
        pooled = []
        for head_index in range(m):
            x = text[words][:, head_index * p : (head_index + 1) * p]
            y = text[words][:, m * p + head_index * q : m * p + (head_index + 1) * q]
            if recipe == "text":
                x, y = x - x.mean(0), y - y.mean(0)
            else:
                x, y = x - x.mean(), y - y.mean()
            s = x.T @ y / len(x)
            v = head.words.starts[0]
            a = s.T if recipe == "text" else s
            u = a @ v / ((a @ v).square().sum() + rounding).sqrt()
            largest = ((a.T @ u).square().sum() + rounding).sqrt()
            pooled.append((s / (largest**0.5 + floor)).flatten())
        word_logits = head.word_output.weight @ torch.cat(pooled) + head.word_output.bias
        class_logits = head.class_token_output.weight @ token + head.class_token_output.bias
        logits.append(word_logits + class_logits)
    return torch.stack(logits)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["text", "vision"])
def test_recipes_equal_the_slow_formula(recipe, training):
    head = make_head(recipe, dropout=0).train(training)
    hidden, class_token = rand(4, 6, C), rand(4, C, seed=1)
    expected = slow_head(head, hidden, MASK, class_token, recipe=recipe)
    torch.testing.assert_close(head(hidden, MASK, class_token).logits, expected, rtol=0, atol=1e-12)


FULL = torch.ones(4, 6, dtype=torch.bool)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("recipe", ["text", "vision"])
def test_recipes_differ_from_the_published_code_by_its_floor_alone(recipe, training, monkeypatch):
    """Without padding, at scale 1: the published divisor is s^(1 - alpha) + 1e-5, this one s^(1 - alpha)."""
    head = SoTHead(resolve_head(recipe, dropout=0), hidden_size=C, num_labels=K).double().train(training)
    with torch.no_grad():
        for index, parameter in enumerate(head.parameters()):
            parameter.copy_(rand(*parameter.shape, seed=index))
    hidden, class_token = rand(4, 6, C), rand(4, C, seed=1)
    logits = head(hidden, FULL, class_token).logits
    published = slow_head(head, hidden, FULL, class_token, recipe=recipe, floor=1e-5, rounding=0.0)
    assert 1e-9 < (logits - published).abs().max() / published.abs().max() < 1e-5

    def with_floor(matrix, start, **options):
        return matrix / (svpn_gain(matrix, start, **options) ** -1 + 1e-5)[..., None, None]

    monkeypatch.setattr(normalizers, "svpn_leading", with_floor)
    same = head(hidden, FULL, class_token).logits
    torch.testing.assert_close(same, published, rtol=0, atol=1e-12)


@pytest.mark.parametrize("preset", ["text", "vision"])
def test_full_size_recipes_in_fp32(preset):
    head = SoTHead(resolve_head(preset, dropout=0), hidden_size=32, num_labels=2)
    torch.manual_seed(0)
    hidden, class_token = torch.randn(4, 6, 32), torch.randn(4, 32)
    double = SoTHead(head.config, hidden_size=32, num_labels=2).double()
    double.load_state_dict(head.state_dict())
    expected = slow_head(double, hidden.double(), MASK, class_token.double(), recipe=preset)
    assert head(hidden, MASK, class_token).logits.dtype == torch.float32
    torch.testing.assert_close(
        head(hidden, MASK, class_token).logits.double(), expected, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("name", ALL)
def test_padding_batch_mates_and_word_order_change_nothing(name):
    head = make_head(**ALL[name])
    hidden, class_token = rand(4, 6, C), rand(4, C, seed=1)
    expected = head(hidden, MASK, class_token).logits
    # Alone, unpadded, in another order.
    for row in range(4):
        words = hidden[row][MASK[row]].flip(0).unsqueeze(0)
        alone = head(words, torch.ones(words.shape[:2], dtype=torch.bool), class_token[row : row + 1])
        torch.testing.assert_close(alone.logits, expected[row : row + 1], rtol=1e-7, atol=1e-7)
    # Padded on the left by whatever a backbone leaves there.
    padded = torch.cat([torch.full((4, 3, C), torch.nan, dtype=hidden.dtype), hidden], 1)
    padded_mask = torch.cat([torch.zeros(4, 3, dtype=torch.bool), MASK], 1)
    torch.testing.assert_close(head(padded, padded_mask, class_token).logits, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", WITHOUT_FUSIONS)
def test_gradcheck(name):
    overrides = WITHOUT_FUSIONS[name] | {"map_activation": "none", "dropout": 0}
    head = make_head(**overrides).train()
    hidden, class_token = rand(2, 4, C, seed=5), rand(2, C, seed=1)
    hidden = hidden[..., :3].detach().requires_grad_()
    rest = rand(2, 4, C - 3, seed=6)
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]]).bool()
    assert torch.autograd.gradcheck(
        lambda h: head(torch.cat([h, rest], -1), mask, class_token).logits, hidden, atol=1e-4
    )


@pytest.mark.parametrize("name", WITHOUT_FUSIONS)
@pytest.mark.parametrize("map_norm", ["batch_norm", "none"])
def test_values_and_gradients_are_finite_for_every_text_scale_and_precision(name, map_norm):
    head = make_head(**WITHOUT_FUSIONS[name], map_norm=map_norm, dtype=torch.float32)
    head.reset_parameters()
    hidden = rand(6, 5, C, dtype=torch.float32)
    hidden[3] = hidden[3, :1]  # identical tokens
    hidden[4] = 0
    mask = torch.tensor([[0] * 5, [0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1] * 5, [1] * 5, [0, 1, 1, 1, 1]]).bool()
    scales = dict.fromkeys((torch.float32, torch.bfloat16), (1e-12, 1, 1e12))
    scales[torch.float16] = (1e-4, 1, 1e4)
    for training in (True, False):
        for dtype, factors in scales.items():
            for factor in factors:
                inputs = (hidden * factor).to(dtype).requires_grad_()
                output = head.train(training)(inputs, mask, inputs[:, 0])
                assert output.logits.dtype == torch.float32
                assert output.logits.isfinite().all()
                gradients = torch.autograd.grad(output.logits.sum(), [inputs, *head.parameters()])
                assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_text_without_words_gives_the_bias_and_the_classification_token():
    head, class_token = make_head(), rand(1, C)
    output = head(rand(1, 4, C), torch.zeros(1, 4, dtype=torch.bool), class_token)
    torch.testing.assert_close(output.word_logits, head.word_output.bias.unsqueeze(0))
    torch.testing.assert_close(output.logits, output.word_logits + head.class_token_output(class_token))


class TestFusions:
    hidden, class_token = rand(4, 6, C), rand(4, C, seed=1)

    def test_sum_and_late_add_the_branches(self):
        for fusion in ("sum", "late"):
            head = make_head(fusion=fusion)
            output = head(self.hidden, MASK, self.class_token)
            pooled = head.pool(self.hidden, MASK)
            torch.testing.assert_close(output.word_logits, head.word_output(pooled))
            torch.testing.assert_close(output.class_token_logits, head.class_token_output(self.class_token))
            torch.testing.assert_close(output.logits, output.word_logits + output.class_token_logits)

    def test_concat_is_one_linear_over_both(self):
        head = make_head(fusion="concat")
        output = head(self.hidden, MASK, self.class_token)
        both = torch.cat([self.class_token, head.pool(self.hidden, MASK)], -1)
        expected = both @ head.word_output.weight.T + head.word_output.bias
        torch.testing.assert_close(output.logits, expected)
        assert output.word_logits is None
        assert output.class_token_logits is None
        assert not any("class_token" in name for name, _ in head.named_parameters())

    @pytest.mark.parametrize("fusion", ["words", "aggregate_all"])
    def test_words_alone(self, fusion):
        head = make_head(fusion=fusion)
        output = head(self.hidden, MASK)
        torch.testing.assert_close(output.logits, head.word_output(head.pool(self.hidden, MASK)))
        torch.testing.assert_close(output.word_logits, output.logits)
        assert output.class_token_logits is None

    def test_stock_is_one_linear_on_the_classification_token(self):
        head = make_head("stock")
        output = head(self.hidden, None, self.class_token)
        linear = head.class_token_output
        torch.testing.assert_close(output.logits, self.class_token @ linear.weight.T + linear.bias)
        assert len(list(head.parameters())) == 2
        without = SoTHead(PRESETS["stock"], hidden_size=C, num_labels=K, class_token_bias=False)
        assert [name for name, _ in without.named_parameters()] == ["class_token_output.weight"]


def test_moments_are_the_mean_over_the_root_of_its_length_beside_the_covariance():
    head = make_head(pooling="moments")
    other = make_head()
    other.words.load_state_dict(head.words.state_dict())
    hidden = rand(4, 6, C)
    features = head.pool(hidden, MASK)
    torch.testing.assert_close(features[:, C:], other.pool(hidden, MASK))
    for row in range(4):
        mean = hidden[row][MASK[row]].mean(0)
        torch.testing.assert_close(features[row, :C], mean / mean.norm().sqrt())
    raw = make_head(pooling="moments", normalization="none").pool(hidden, MASK)
    torch.testing.assert_close(raw[1, :C], hidden[1, 1:4].mean(0))


def test_the_length_of_the_mean_of_maps_is_raised_to_mean_alpha():
    head = make_head(pooling="moments", mean_width=7)
    powered = make_head(pooling="moments", mean_width=7, mean_alpha=0.3)
    powered.load_state_dict(head.state_dict())
    hidden = rand(4, 6, C)
    features, expected = powered.pool(hidden, MASK), head.pool(hidden, MASK)
    torch.testing.assert_close(features[:, 7:], expected[:, 7:])
    for row, mean in zip(features, expected[:, :7], strict=True):
        torch.testing.assert_close(row[:7].norm(), mean.norm() ** 0.3)
        torch.testing.assert_close(row[:7] * mean.norm(), mean * row[:7].norm())


@pytest.mark.parametrize("map_norm", ["batch_norm", "layer_norm", "none"])
def test_moments_of_maps_are_the_mapped_mean_beside_the_covariance(map_norm):
    both = make_head(pooling="moments", mean_width=7, map_norm=map_norm)
    mean = make_head(pooling="mapped_mean", normalization="none", num_heads=1, width_x=7, map_norm=map_norm)
    covariance = make_head(map_norm=map_norm)
    # The maps' columns are those of x, of y and of the mean, and so is what is behind them.
    for name, value in both.words.state_dict().items():
        if name.startswith("map") and value.dim():
            size = len(value) - 7
            covariance.words.state_dict()[name].copy_(value[:size])
            mean.words.state_dict()[name].copy_(value[size:])
    covariance.words.starts.data = both.words.starts.data
    for training in (False, True):
        hidden = rand(4, 6, C, seed=int(training))
        features = both.train(training).pool(hidden, MASK)
        torch.testing.assert_close(features[:, :7], mean.train(training).pool(hidden, MASK))
        torch.testing.assert_close(features[:, 7:], covariance.train(training).pool(hidden, MASK))


def test_the_mapped_mean_is_the_mean_of_what_the_map_gives():
    head = make_head(pooling="mapped_mean", normalization="none", map_norm="none")
    hidden = rand(4, 6, C)
    features = head.pool(hidden, MASK)
    assert features.shape == (4, 2 * 5)
    for row in range(4):
        mapped = (hidden[row][MASK[row]] @ head.words.maps.weight.T).relu()
        torch.testing.assert_close(features[row], mapped.sum(0) / max(len(mapped), 1))


def test_the_mixture_of_layers_is_a_softmax_average():
    head = make_head(num_layers=3)
    single = make_head()
    single.load_state_dict(head.state_dict(), strict=False)
    layers = [rand(4, 6, C, seed=seed) for seed in (2, 3, 4)]
    shares = head.words.layer_mixture.softmax(0)
    mixed = sum(share * layer for share, layer in zip(shares, layers, strict=True))
    class_token = rand(4, C, seed=1)
    torch.testing.assert_close(
        head(tuple(layers), MASK, class_token).logits, single(mixed, MASK, class_token).logits
    )
    head.reset_parameters()
    assert head.words.layer_mixture.tolist() == [0, 0, 0]  # equal shares at first


def test_autocast_and_half_precision_weights_leave_the_arithmetic_in_fp32():
    head = make_head(dtype=torch.bfloat16)
    exact = make_head(dtype=torch.float32)
    exact.load_state_dict(head.state_dict())
    hidden, class_token = rand(4, 6, C).to(torch.bfloat16), rand(4, C, seed=1).to(torch.bfloat16)
    expected = exact(hidden.float(), MASK, class_token.float()).logits
    for any_head in (head, exact):
        with torch.autocast("cpu", torch.bfloat16):
            logits = any_head(hidden, MASK, class_token).logits
        assert logits.dtype == torch.float32
        torch.testing.assert_close(logits, expected)


def test_the_result_is_deterministic():
    head = make_head(dtype=torch.float32).train()
    hidden, class_token = rand(4, 6, C).float(), rand(4, C, seed=1).float()
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        inputs = hidden.clone().requires_grad_()
        logits = head(inputs, MASK, class_token).logits
        logits.sum().backward()
        results.append((logits, inputs.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def test_no_module_of_the_head_has_a_name_that_adapters_wrap_by_suffix():
    for name in ALL:
        names = [module for module, _ in make_head(**ALL[name]).named_modules()]
        assert not [module for module in names if module.endswith(("classifier", "score"))]


def test_first_values():
    head = make_head(normalization="layer_norm", num_layers=2, map_norm="batch_norm", dtype=torch.float32)
    head.words.map_norm.running_mean.fill_(9)
    for module in head.modules():
        init_head_weights(module, 0.02)
    assert head.words.map_norm.weight.eq(1).all()
    assert head.words.map_norm.bias.eq(0).all()
    assert head.words.map_norm.running_mean.eq(0).all()
    assert head.words.map_norm.running_var.eq(1).all()
    assert head.words.norm_weight.eq(1).all()
    assert head.words.norm_bias.eq(0).all()
    scaled = make_head(normalization="learned_scale", dtype=torch.float32)
    scaled.reset_parameters()
    assert scaled.words.scale.item() == pytest.approx((5 * 4) ** -0.25)
    big = SoTHead(resolve_head("text"), hidden_size=C, num_labels=K)
    assert 0.5 < big.words.starts.std() < 1.5
    assert 0.015 < big.words.maps.weight.std() < 0.025
    assert big.word_output.bias.eq(0).all()


def test_fixed_scale_of_a_square_matrix_is_the_published_one():
    assert SoTHead(
        resolve_head("vision", normalization="fixed_scale"), hidden_size=C, num_labels=K
    ).words.normalization.scale == pytest.approx(24**-0.5)


@pytest.mark.parametrize(
    ("overrides", "arguments", "message"),
    [
        ({}, (rand(4, 6, C), None, rand(4, C)), "needs word_mask"),
        ({}, (rand(4, 6, C), MASK, None), "fusion='sum' needs class_token"),
        ({}, (rand(4, 6, C), MASK[:, :5], rand(4, C)), r"\(4, 6, 16\) and word_mask \(4, 5\) do not fit"),
        ({}, (rand(4, C), MASK, rand(4, C)), "do not fit"),
        ({"num_layers": 2}, (rand(4, 6, C), MASK, rand(4, C)), "holds 1 layers, but num_layers is 2"),
    ],
)
def test_wrong_inputs_are_refused(overrides, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_head(**overrides)(*arguments)


def test_wrong_sizes_are_refused_all_at_once():
    with pytest.raises(ValueError, match=r"hidden_size=0 .*; num_labels=-1"):
        SoTHead(PRESETS["text"], hidden_size=0, num_labels=-1)


MOMENTS = {"pooling": "moments", "mean_width": 6, "mean_alpha": 0.5}
COMPILED = {
    "text": {},
    "exact": {"normalization": "svpn_exact", "map_norm": "none"},
    "moments": MOMENTS,
}
EXPORTED = {
    "moments": MOMENTS,
    "text": {},
    "vision": {"preset": "vision", "num_singular_values": 2, "num_iterations": 2},
    "covariance": {"pooling": "covariance", "normalization": "isqrt_cov", "map_norm": "layer_norm"},
    "attention": {"pooling": "attention", "normalization": "power", "fusion": "concat"},
}


def inputs_of_size(batch, tokens):
    hidden, class_token = rand(batch, tokens, C).float(), rand(batch, C, seed=1).float()
    mask = torch.arange(tokens) < torch.arange(1, batch + 1).unsqueeze(1)
    return hidden, mask, class_token


@pytest.mark.parametrize("name", COMPILED)
def test_compile_gives_one_graph_for_every_size(name):
    head = make_head(**COMPILED[name], dropout=0, dtype=torch.float32).train()
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(head, fullgraph=True, dynamic=True, backend=count)
    for batch, tokens in ((4, 6), (3, 9)):
        arguments = inputs_of_size(batch, tokens)
        result = compiled(*arguments).logits
        torch.testing.assert_close(result, head(*arguments).logits)
        result.sum().backward()
    torch._dynamo.reset()
    assert len(graphs) == 1


@pytest.mark.parametrize("name", EXPORTED)
def test_export_with_a_dynamic_batch_and_length_is_exact(name):
    head = make_head(**EXPORTED[name], dtype=torch.float32)
    batch, tokens = torch.export.Dim("batch", min=2), torch.export.Dim("tokens", min=2)
    exported = torch.export.export(
        head,
        inputs_of_size(4, 6),
        dynamic_shapes=({0: batch, 1: tokens}, {0: batch, 1: tokens}, {0: batch}),
    ).module()
    for size in ((4, 6), (2, 11), (7, 3)):
        arguments = inputs_of_size(*size)
        torch.testing.assert_close(exported(*arguments).logits, head(*arguments).logits, rtol=0, atol=1e-6)
