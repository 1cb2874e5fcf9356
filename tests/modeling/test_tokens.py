"""Which token is which: by hand, for either padding side, and for masks without a token."""

import pytest
import torch

from sot_nlp.modeling.tokens import classification_index, gather_token, position_ids, word_mask

# right-padded, left-padded, full, empty, one token
MASK = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 0, 0]])


def test_classification_index_is_the_first_real_token():
    assert classification_index(MASK, causal=False).tolist() == [0, 1, 0, 0, 1]


def test_classification_index_of_a_causal_model_is_the_last_real_token():
    assert classification_index(MASK, causal=True).tolist() == [2, 3, 3, 0, 1]


def test_words_are_the_other_real_tokens():
    words = word_mask(MASK, classification_index(MASK, causal=False))
    assert words.dtype == torch.bool
    assert words.int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0]]
    words = word_mask(MASK, classification_index(MASK, causal=True))
    assert words.int().tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_aggregate_all_keeps_the_classification_token():
    words = word_mask(MASK, classification_index(MASK, causal=True), include_class_token=True)
    assert torch.equal(words, MASK.bool())


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32, torch.int32])
def test_masks_of_any_dtype_mean_the_same(dtype):
    for causal in (False, True):
        index = classification_index(MASK, causal=causal)
        assert torch.equal(classification_index(MASK.to(dtype), causal=causal), index)
        assert torch.equal(word_mask(MASK.to(dtype), index), word_mask(MASK, index))


def test_separators_are_left_out_by_their_ids():
    ids = torch.tensor([[101, 7, 102, 8, 102], [0, 101, 7, 102, 103]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]])
    index = classification_index(mask, causal=False)
    words = word_mask(mask, index, input_ids=ids, separator_ids=(102, 103))
    assert words.int().tolist() == [[0, 1, 0, 1, 0], [0, 0, 1, 0, 0]]


def test_the_classification_token_stays_even_if_it_looks_like_a_separator():
    ids = torch.tensor([[5, 6, 2]])
    mask = torch.ones_like(ids)
    index = classification_index(mask, causal=True)
    words = word_mask(mask, index, include_class_token=True, input_ids=ids, separator_ids=(2, 6))
    assert words.int().tolist() == [[1, 0, 1]]


def test_separators_need_input_ids():
    with pytest.raises(ValueError, match="input_ids"):
        word_mask(MASK, torch.zeros(5, dtype=torch.long), separator_ids=(102,))


def test_positions_count_real_tokens_from_the_offset():
    assert position_ids(MASK[:2]).tolist() == [[0, 1, 2, 2], [0, 0, 1, 2]]
    assert position_ids(MASK[3:], offset=2).tolist() == [[2, 2, 2, 2], [2, 2, 2, 2]]


def test_gather_token():
    hidden = torch.arange(24.0).view(2, 3, 4)
    assert gather_token(hidden, torch.tensor([2, 0])).tolist() == [[8, 9, 10, 11], [12, 13, 14, 15]]


@pytest.mark.parametrize("shape", [(4,), (2, 1, 4, 4)])
def test_a_mask_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"\(batch, tokens\)"):
        classification_index(torch.ones(shape), causal=False)
