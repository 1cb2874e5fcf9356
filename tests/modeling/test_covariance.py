"""Pooling against loops over tokens and heads, and by hand."""

import pytest
import torch

from sot_nlp.modeling.covariance import (
    attention_weights,
    center,
    cross_covariance,
    from_upper_triangle,
    split_heads,
    upper_triangle,
    weighted_sum,
    word_maximum,
    word_weights,
)

GROUPS = ((2, 3), (2, 4))  # 2 heads, 3 wide in x and 4 wide in y
MASK = torch.tensor([[0, 1, 1, 1, 0], [1, 1, 0, 0, 1], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()


@pytest.fixture
def features():
    return torch.randn(4, 5, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def slow_matrix(features, mask, centering):
    """S of each text and head, one token and one number at a time."""
    batch, heads, p, q = len(features), 2, 3, 4
    result = torch.zeros(batch, heads, p, q, dtype=features.dtype)
    for b in range(batch):
        words = [t for t in range(features.shape[1]) if mask[b, t]]
        for m in range(heads):
            xs = [features[b, t, m * p : (m + 1) * p] for t in words]
            ys = [features[b, t, heads * p + m * q : heads * p + (m + 1) * q] for t in words]
            if words and centering == "channel":
                mean_x, mean_y = sum(xs) / len(words), sum(ys) / len(words)
            elif words and centering == "scalar":
                mean_x = sum(float(x.sum()) for x in xs) / (len(words) * p)
                mean_y = sum(float(y.sum()) for y in ys) / (len(words) * q)
            else:
                mean_x = mean_y = 0.0
            for x, y in zip(xs, ys, strict=True):
                for i in range(p):
                    for j in range(q):
                        result[b, m, i, j] += (x - mean_x)[i] * (y - mean_y)[j] / len(words)
    return result


@pytest.mark.parametrize("centering", ["channel", "scalar", "none"])
def test_cross_covariance_equals_loops(features, centering):
    weights = word_weights(MASK, features.dtype)
    x, y = split_heads(center(features, weights, centering, GROUPS), GROUPS)
    torch.testing.assert_close(cross_covariance(x, y, weights), slow_matrix(features, MASK, centering))


def test_cross_covariance_by_hand():
    # Two words (1, 3) and (3, 7) with means 2 and 5: ((1-2)(3-5) + (3-2)(7-5)) / 2 = 2.
    features = torch.tensor([[[1.0, 3.0], [3.0, 7.0], [100.0, -100.0]]])
    weights = word_weights(torch.tensor([[True, True, False]]), torch.float32)
    groups = ((1, 1), (1, 1))
    x, y = split_heads(center(features, weights, "channel", groups), groups)
    assert cross_covariance(x, y, weights).tolist() == [[[[2.0]]]]


def test_covariance_equals_numpy_style_covariance(features):
    weights = word_weights(torch.ones(4, 5, dtype=torch.bool), features.dtype)
    groups = ((1, 14),)
    (x,) = split_heads(center(features, weights, "channel", groups), groups)
    expected = torch.stack([torch.cov(text.T, correction=0) for text in features]).unsqueeze(1)
    torch.testing.assert_close(cross_covariance(x, x, weights), expected)


def test_one_word_and_identical_words_have_no_covariance():
    word = torch.randn(1, 1, 14)
    mask = torch.ones(1, 3, dtype=torch.bool)
    for features, words in ((word, mask[:, :1]), (word.expand(1, 3, 14), mask)):
        weights = word_weights(words, features.dtype)
        x, y = split_heads(center(features, weights, "channel", GROUPS), GROUPS)
        assert cross_covariance(x, y, weights).abs().max() < 1e-12


def test_word_weights():
    weights = word_weights(MASK, torch.float64)
    assert weights.sum(-1).tolist() == pytest.approx([1, 1, 1, 0])
    assert torch.equal(weights != 0, MASK)


def test_upper_triangle_by_hand_and_back():
    matrix = torch.arange(9.0).view(1, 1, 3, 3)
    assert upper_triangle(matrix).tolist() == [[[0, 1, 2, 4, 5, 8]]]
    assert from_upper_triangle(upper_triangle(matrix), 3).tolist() == [[[[0, 1, 2], [0, 4, 5], [0, 0, 8]]]]


def test_mean_and_maximum_equal_loops(features):
    weights = word_weights(MASK, features.dtype)
    for b in range(4):
        words = features[b][MASK[b]]
        mean = words.mean(0) if len(words) else torch.zeros(14, dtype=features.dtype)
        highest = words.amax(0) if len(words) else torch.zeros(14, dtype=features.dtype)
        torch.testing.assert_close(weighted_sum(features, weights)[b], mean)
        assert torch.equal(word_maximum(features, MASK)[b], highest)


def test_attention_weights_equal_a_softmax_over_the_words(features):
    queries = torch.randn(2, 14, dtype=features.dtype)
    weights = attention_weights(features, queries, MASK)
    for b in range(3):
        for m in range(2):
            affinity = (features[b][MASK[b]] @ queries[m]) / 14**0.5
            torch.testing.assert_close(weights[b, m][MASK[b]], affinity.softmax(0))
            assert not weights[b, m][~MASK[b]].any()
    assert not weights[3].any()
