"""Contributions: they sum to the word logits, equal loops, and are refused where no exact sum exists."""

import itertools

import pytest
import torch

from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.head_config import resolve_head

C, K = 16, 3
MASK = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()


def make_head(**overrides):
    config = resolve_head("text", **{"num_heads": 2, "width_x": 5, "width_y": 4, **overrides})
    head = SoTHead(config, hidden_size=C, num_labels=K).double().eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return head


@pytest.fixture
def hidden():
    return torch.randn(4, 5, C, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


EXACT = [
    {"normalization": normalization, "centering": centering, "pooling": pooling, "fusion": fusion}
    for normalization, centering, pooling, fusion in itertools.product(
        ("svpn", "none", "fixed_scale", "learned_scale"),
        ("channel", "scalar", "none"),
        ("cross_covariance", "covariance", "moments"),
        ("sum", "concat"),
    )
] + [
    {"normalization": normalization, "pooling": pooling}
    for normalization, pooling in itertools.product(
        ("none", "fixed_scale", "learned_scale"), ("mean", "mapped_mean", "attention")
    )
]
EXACT += [
    {**head, "mean_width": 6, "mean_alpha": alpha}
    for head in EXACT
    for alpha in (1, 0.5)
    if head["pooling"] == "moments"
]


def word_logits(head, hidden):
    """The words' part of the logits, without its bias."""
    return head.pool(hidden, MASK) @ head.word_output.weight[:, -head.words.output_size :].T


@pytest.mark.parametrize("overrides", EXACT, ids=lambda value: "-".join(map(str, value.values())))
def test_they_sum_to_the_word_logits(overrides, hidden):
    head = make_head(**overrides)
    shares = head.word_contributions(hidden, MASK)
    assert not shares[~MASK].any()
    torch.testing.assert_close(shares.sum(1), word_logits(head, hidden))
    if overrides["pooling"] in ("cross_covariance", "covariance", "moments"):
        pairs = head.pair_contributions(hidden, MASK)
        assert not pairs[~MASK].any()
        assert not pairs.transpose(1, 2)[~MASK].any()
        torch.testing.assert_close(pairs.sum((1, 2)), word_logits(head, hidden))


def test_with_the_bias_they_are_the_heads_word_logits(hidden):
    head = make_head()
    output = head(hidden, MASK, hidden[:, 0])
    shares = head.word_contributions(hidden, MASK)
    torch.testing.assert_close(shares.sum(1) + head.word_output.bias, output.word_logits)


def test_a_words_share_equals_its_own_product(hidden):
    head = make_head(normalization="none", num_heads=1)
    shares = head.word_contributions(hidden, MASK)
    mapped = head.words.mapped(hidden, MASK)
    for b in range(3):
        x, y = mapped[b][MASK[b]].split([5, 4], -1)
        x, y = x - x.mean(0), y - y.mean(0)
        weight = head.word_output.weight.view(K, 5, 4)
        expected = torch.stack([torch.stack([x[t] @ w @ y[t] for w in weight]) for t in range(len(x))]) / len(
            x
        )
        torch.testing.assert_close(shares[b][MASK[b]], expected)


def test_pairs_by_hand():
    # One head of 1x1 and two words: h(s, t) = x_s y_t w. With n = 2: [s = t] h / 2 - h / 4.
    head = make_head(normalization="none", num_heads=1, width_x=1, width_y=1, map_norm="none")
    head.config = head.words.config = head.config.replace(map_activation="none")
    with torch.no_grad():
        head.words.maps.weight.zero_()
        head.words.maps.weight[0, 0] = head.words.maps.weight[1, 1] = 1
        head.word_output.weight.copy_(torch.tensor([[1.0], [2.0], [0.0]]))
    hidden = torch.zeros(1, 2, C, dtype=torch.float64)
    hidden[0, :, 0], hidden[0, :, 1] = torch.tensor([1.0, 3.0]), torch.tensor([5.0, 9.0])
    pairs = head.pair_contributions(hidden, torch.ones(1, 2, dtype=torch.bool))
    assert pairs[0, :, :, 0].tolist() == [[5 / 4, -9 / 4], [-15 / 4, 27 / 4]]
    assert pairs[0, :, :, 1].tolist() == [[10 / 4, -18 / 4], [-30 / 4, 54 / 4]]
    assert head.word_contributions(hidden, torch.ones(1, 2, dtype=torch.bool))[0, :, 0].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"normalization": "svpn_exact"}, "normalization=svpn_exact does not"),
        ({"normalization": "power"}, "normalization=power does not"),
        ({"normalization": "layer_norm"}, "normalization=layer_norm does not"),
        ({"pooling": "covariance", "normalization": "isqrt_cov"}, "normalization=isqrt_cov does not"),
        ({"num_singular_values": 2}, "num_singular_values=2 does not"),
        ({"pooling": "max", "normalization": "none"}, "pooling='max' is not a sum"),
        ({"pooling": "none", "fusion": "class_token"}, "pooling='none' is not a sum"),
    ],
)
def test_no_exact_sum_is_refused_by_the_settings_name(overrides, message, hidden):
    with pytest.raises(ValueError, match=message):
        make_head(**overrides).word_contributions(hidden, MASK)


def test_pairs_need_a_matrix(hidden):
    with pytest.raises(ValueError, match="pooling='mean' has no pairs of words"):
        make_head(pooling="mean", normalization="none").pair_contributions(hidden, MASK)


def test_training_mode_is_refused(hidden):
    with pytest.raises(ValueError, match="call eval"):
        make_head().train().word_contributions(hidden, MASK)
