import time

import numpy as np
import pytest
import torch

from sot_nlp.data.token_split import TokenSplit

SEQUENCES = [[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 15]]


def split(**fields) -> TokenSplit:
    """`SEQUENCES` as a split of a file that holds other tokens around them."""
    lengths = np.array([len(sequence) for sequence in SEQUENCES])
    flat = np.array([99, 98, *(token for sequence in SEQUENCES for token in sequence), 97])
    given = {
        "name": "train",
        "input_ids": flat.astype(np.int32),
        "token_type_ids": (flat % 2).astype(np.uint8),
        "starts": 2 + np.cumsum(lengths) - lengths,
        "lengths": lengths,
        "labels": np.array([0, 1, 1, 0]),
        "indices": np.arange(4),
    }
    return TokenSplit(**given | fields)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("multiple", [None, 8])
def test_batch_holds_each_sequence_and_padding_on_one_side(side, multiple):
    chosen = [2, 0, 1, 0]
    batch = split().collate(chosen, pad_token_id=3, padding_side=side, pad_to_multiple_of=multiple)
    width = multiple or 5
    for row, i in enumerate(chosen):
        sequence, padding = SEQUENCES[i], [3] * (width - len(SEQUENCES[i]))
        expected = sequence + padding if side == "right" else padding + sequence
        assert batch["input_ids"][row].tolist() == expected
        mask = [1] * len(sequence) + [0] * len(padding)
        assert batch["attention_mask"][row].tolist() == (mask if side == "right" else mask[::-1])
        types = [token % 2 for token in sequence]
        zeros = [0] * len(padding)
        assert batch["token_type_ids"][row].tolist() == (types + zeros if side == "right" else zeros + types)
    assert batch["labels"].tolist() == [1, 0, 1, 0]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


def test_batch_is_no_wider_than_its_longest():
    assert split().collate(np.array([1, 3]), pad_token_id=0)["input_ids"].tolist() == [[8, 0], [14, 15]]


def test_labels_and_token_types_only_where_there_are_any():
    batch = split(labels=None, token_type_ids=None).collate([0], pad_token_id=0)
    assert set(batch) == {"input_ids", "attention_mask"}
    several = split(labels=np.eye(4, dtype=np.float32)).collate([2], pad_token_id=0)
    assert several["labels"].tolist() == [[0, 0, 1, 0]]
    assert several["labels"].dtype == torch.float32


def test_batch_of_32_short_texts_takes_less_than_200_microseconds():
    lengths = np.random.RandomState(0).randint(4, 24, 3200)
    ends = np.cumsum(lengths)
    many = split(
        input_ids=np.arange(ends[-1], dtype=np.int32),
        token_type_ids=np.zeros(ends[-1], dtype=np.uint8),
        starts=ends - lengths,
        lengths=lengths,
        labels=np.zeros(3200, dtype=np.int64),
        indices=np.arange(3200),
    )
    batches = np.arange(3200).reshape(100, 32)
    # The fastest of several rounds: the machine may be busy with something else in any one of them.
    rounds = []
    for _ in range(10):
        begin = time.perf_counter()
        for batch in batches:
            many.collate(batch, pad_token_id=0)
        rounds.append((time.perf_counter() - begin) / len(batches))
    assert min(rounds) < 200e-6
