"""What is done quicker on a CPU: the share that dropout drops, and that the rest is what torch gives."""

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, BertConfig, BertModel

from sot_nlp.modeling.layers import keep_factors
from sot_nlp.training.speed.fast_cpu import QuickCPU, attention, dropout, pass_context, softmax
from tests.support.tiny import FAMILIES, OTHER_BACKBONES, config, random_model


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_share_dropped_is_p_and_the_factor_undoes_it(p, dtype):
    factors = keep_factors(torch.empty(401, 499, dtype=dtype), p)
    assert factors.dtype == dtype
    assert factors.shape == (401, 499)
    dropped = (factors == 0).double().mean().item()
    # five standard errors of a share of 200,000
    assert abs(dropped - p) < 5 * (p * (1 - p) / factors.numel()) ** 0.5
    kept = factors[factors != 0]
    assert kept.unique().numel() == 1
    assert kept[0].item() == pytest.approx(1 / (1 - p), rel=4e-3 if dtype == torch.bfloat16 else 1e-4)


def test_every_position_of_a_64_bit_number_decides_alike():
    factors = keep_factors(torch.empty(100_000, 4), 0.25)
    shares = (factors == 0).double().mean(0)
    assert (shares - 0.25).abs().max() < 5 * (0.25 * 0.75 / 100_000) ** 0.5
    # and independently: neighbours are dropped together in p^2 of cases
    together = ((factors[:, 0] == 0) & (factors[:, 1] == 0)).double().mean()
    assert abs(together - 0.0625) < 0.004


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3,), (5, 7)])
def test_any_shape(shape):
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_nothing_is_drawn_where_nothing_is_dropped():
    x = torch.ones(4)
    state = torch.get_rng_state()
    assert dropout(x, 0.5, training=False) is x
    assert dropout(x, 0.0) is x
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(dropout(x, 1.0), torch.zeros(4))


def test_in_place_and_gradient():
    x = torch.arange(1.0, 1001.0)
    y = x.clone()
    assert dropout(y, 0.5, inplace=True) is y
    leaf = x.clone().requires_grad_()
    out = dropout(leaf, 0.5)
    out.sum().backward()
    assert torch.equal(leaf.grad, out.detach() / x)


def _masks():
    some = torch.rand(2, 1, 5, 6) > 0.3
    some[..., 0] = True
    return {"none": None, "bool": some, "additive": torch.randn(2, 1, 5, 6)}


@pytest.mark.parametrize("mask", ["none", "bool", "additive"])
@pytest.mark.parametrize("scale", [None, 0.7])
def test_attention_without_dropout_is_torchs(mask, scale):
    query, key, value = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 8)
    given = _masks()[mask]
    expected = functional.scaled_dot_product_attention(query, key, value, given, scale=scale)
    torch.testing.assert_close(attention(query, key, value, given, scale=scale), expected)


def test_attention_in_bf16_is_as_exact_as_torchs():
    query, key, value = torch.randn(3, 2, 3, 50, 16)
    exact = functional.scaled_dot_product_attention(query, key, value)
    halves = [tensor.bfloat16() for tensor in (query, key, value)]
    error = (attention(*halves).float() - exact).abs().max()
    assert error < 2 * (functional.scaled_dot_product_attention(*halves).float() - exact).abs().max()


def test_causal_attention_is_torchs():
    query, key, value = torch.randn(3, 2, 3, 6, 4)
    expected = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(attention(query, key, value, is_causal=True), expected)


def test_a_row_that_may_attend_to_nothing_is_finite():
    query, key, value = torch.randn(3, 1, 1, 2, 4)
    mask = torch.tensor([[True, True], [False, False]])
    assert attention(query, key, value, mask, dropout_p=0.5).isfinite().all()


def test_attention_with_dropout_has_attention_as_its_mean():
    query, key, value = torch.randn(3, 1, 1, 6, 4)
    exact = attention(query, key, value)
    draws = torch.cat([attention(query, key, value, dropout_p=0.3) for _ in range(4000)])
    error = draws.std(0) / 4000**0.5
    assert ((draws.mean(0) - exact[0]).abs() < 5 * error).all()


def test_within_it_a_model_draws_from_it_and_outside_not():
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    model = BertModel(config).train()
    ids = torch.randint(30, (2, 7))

    def output(seed, mode):
        torch.manual_seed(seed)
        if mode:
            with QuickCPU():
                return model(ids).last_hidden_state
        return model(ids).last_hidden_state

    assert torch.equal(output(1, True), output(1, True))
    assert not torch.equal(output(1, True), output(2, True))
    assert not torch.equal(output(1, True), output(1, False))
    assert torch.equal(output(1, False), output(1, False))
    model.eval()
    torch.testing.assert_close(output(1, True), output(1, False))


@pytest.mark.parametrize("probability", ["hidden_dropout_prob", "attention_probs_dropout_prob"])
def test_both_dropouts_of_a_model_go_through_it(probability, monkeypatch):
    from sot_nlp.training.speed import fast_cpu as module

    calls = []
    monkeypatch.setattr(module, "keep_factors", lambda like, p: calls.append(p) or torch.ones_like(like))
    monkeypatch.setattr(module, "draw_kept", lambda like, p: calls.append(p) or (torch.ones_like(like), 1.0))
    config = BertConfig(
        vocab_size=30,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, probability: 0.25},
    )
    with QuickCPU():
        BertModel(config).train()(torch.randint(30, (2, 7)))
    # embeddings, the attention's output and the layer's output; or the attention's weights
    assert calls == [0.25] * (3 if probability == "hidden_dropout_prob" else 1)


def tiny_bert(**given):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    rates = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertModel(BertConfig(vocab_size=30, **sizes, **(rates | given))).train()


def test_under_autocast_all_layers_give_bf16_and_what_fp32_gives_but_for_rounding():
    model, ids = tiny_bert(), torch.randint(30, (4, 7))

    def passes(quick):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=quick), pass_context(torch.device("cpu"), model)():
            states = model(ids, output_hidden_states=True).hidden_states
        states[-1].float().square()[:, 0].sum().backward()
        return states, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    exact, gradients = passes(False)
    states, rounded = passes(True)
    assert {state.dtype for state in states} == {torch.bfloat16}
    assert {state.dtype for state in exact} == {torch.float32}
    for state, reference in zip(states, exact, strict=True):
        torch.testing.assert_close(state.float(), reference, atol=0.05, rtol=0.02)
    assert rounded.keys() == gradients.keys()
    whole, error = (
        torch.cat([torch.flatten(make(name)) for name in gradients]).norm()
        for make in (gradients.get, lambda name: rounded[name] - gradients[name])
    )
    assert all(gradient.dtype == torch.float32 for gradient in rounded.values())
    assert 0 < error < 0.05 * whole


def test_a_compiled_model_and_a_gpu_are_left_alone():
    model = tiny_bert()
    assert isinstance(pass_context(torch.device("cpu"), model)(), QuickCPU)
    assert not isinstance(pass_context(torch.device("cuda"), model)(), QuickCPU)
    assert not isinstance(
        pass_context(torch.device("cpu"), torch.compile(model, backend="eager"))(), QuickCPU
    )
    model.compile(backend="eager")
    around = torch.nn.Sequential(model)  # as the wrapper of several processes is
    assert not isinstance(pass_context(torch.device("cpu"), around)(), QuickCPU)


def test_the_mode_is_left_out_where_it_has_nothing_to_do():
    """Without autocast it replaces dropout alone, and the head's own is no function of torch's."""
    cpu, none, hidden, attention = (
        torch.device("cpu"),
        *(
            tiny_bert(hidden_dropout_prob=a, attention_probs_dropout_prob=b)
            for a, b in ((0.0, 0.0), (0.1, 0.0), (0.0, 0.1))
        ),
    )
    for model, autocast, training, wanted in (
        (none, False, True, False),
        (none, True, True, True),
        (hidden, False, True, True),
        (attention, False, True, True),  # (no module draws it)
        (hidden, False, False, False),
        (hidden, True, False, True),
    ):
        context = pass_context(cpu, model, autocast=autocast, training=training)()
        assert isinstance(context, QuickCPU) == wanted


def test_where_activations_are_recomputed_the_stream_is_bf16_and_dropout_torchs():
    context = pass_context(torch.device("cpu"), tiny_bert(), recomputes=True)()
    x = torch.ones(50)
    torch.manual_seed(3)
    expected = functional.dropout(x, 0.5)
    torch.manual_seed(3)
    with context, torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(functional.dropout(x, 0.5), expected)
        assert functional.embedding(torch.tensor([1]), torch.eye(2)).dtype == torch.bfloat16


@pytest.mark.parametrize("family", [*FAMILIES, *OTHER_BACKBONES])
def test_every_family_computes_what_it_does_in_fp32_but_for_rounding(family):
    other = OTHER_BACKBONES.get(family)
    model = random_model(config(family) if other is None else AutoConfig.for_model(family, **other))
    ids = torch.randint(2, 64, (4, 9))

    def passes(enabled):
        model.zero_grad()
        with (
            torch.autocast("cpu", torch.bfloat16, enabled=enabled),
            pass_context(torch.device("cpu"), model)(),
        ):
            last = model(ids, attention_mask=torch.ones_like(ids)).last_hidden_state.float()
        last.square().mean().backward()
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return last.detach(), torch.cat(gradients)

    for exact, rounded in zip(passes(False), passes(True), strict=True):
        assert 0 < (rounded - exact).norm() < 0.05 * exact.norm()


def test_backbones_that_compute_positions_in_the_streams_precision_keep_it():
    model = tiny_bert()
    model.config.model_type = "funnel"
    with pass_context(torch.device("cpu"), model)(), torch.autocast("cpu", torch.bfloat16):
        assert functional.embedding(torch.tensor([1]), torch.eye(2)).dtype == torch.float32


@pytest.mark.parametrize("length", [1, 7, 8, 9, 11, 15, 16, 17, 40])
def test_softmax_of_any_length_is_torchs(length):
    scores = (4 * torch.randn(3, 2, 5, length)).to(torch.bfloat16)
    scores[0, ..., length // 2 :] = torch.finfo(torch.bfloat16).min
    scores[0, ..., 0] = 0  # (and a text with nothing to attend to: all alike)
    scores[1, 0] = torch.finfo(torch.bfloat16).min
    given = [scores.clone().requires_grad_() for _ in range(2)]
    results = [softmax(given[0]), torch.softmax(given[1], -1)]
    assert results[0].dtype == torch.bfloat16
    torch.testing.assert_close(*results)
    weight = torch.randn_like(scores)
    for result in results:
        (result * weight).sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad, atol=4e-3, rtol=2e-2)
