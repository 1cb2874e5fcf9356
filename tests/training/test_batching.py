"""The order of an epoch: whole, repeatable, of little padding, the same however many share the work."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import numpy as np
import pytest

from sot_nlp.errors import UserError
from sot_nlp.training.batching import (
    check_token_budget,
    epoch_updates,
    evaluation_batches,
    micro_batches,
    num_updates,
    padded_tokens,
)

LENGTHS = np.random.RandomState(7).geometric(0.1, size=1003).clip(3, 60)


def padding_ratio(batches: Sequence[np.ndarray], lengths: np.ndarray) -> float:
    """Padded over real tokens of these batches: 1.0 is no waste."""
    return sum(padded_tokens(batch, lengths) for batch in batches) / int(lengths.sum())


def shares(update: np.ndarray, lengths: np.ndarray = LENGTHS, **settings: int | None) -> list[np.ndarray]:
    return [share for step in micro_batches(update, lengths, **settings) for share in step]  # type: ignore[arg-type]


@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize(("count", "size"), [(1003, 16), (1003, 1), (16, 16), (5, 16), (33, 32), (1, 1)])
def test_an_epoch_holds_every_example_once(count: int, size: int, grouped: bool) -> None:
    updates = epoch_updates(LENGTHS[:count], seed=1, epoch=0, update_size=size, group_by_length=grouped)

    assert sorted(np.concatenate(updates).tolist()) == list(range(count))
    sizes = sorted(len(update) for update in updates)
    assert sizes[1:] == [size] * (num_updates(count, size) - 1)
    assert sizes[0] == (count - 1) % size + 1


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        np.random.rand()  # nobody else's random numbers enter
        return np.concatenate(epoch_updates(LENGTHS, seed=seed, epoch=epoch, update_size=16)).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)
    assert order(1, 2) != order(2, 1)
    assert order(2**32 - 1, 3) == order(2**32 - 1, 3)


def test_the_order_is_pinned() -> None:
    # A checkpoint of today must resume with the numpy of tomorrow.
    updates = epoch_updates(np.array([5, 3, 9, 4, 8, 2, 7]), seed=3, epoch=1, update_size=3)

    assert [update.tolist() for update in updates] == [[2], [0, 6, 4], [5, 1, 3]]


def test_the_order_reads_no_global_random_state() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].tolist()  # type: ignore[index,union-attr]
    epoch_updates(LENGTHS, seed=1, epoch=0, update_size=16)

    assert np.random.get_state()[1].tolist() == before  # type: ignore[index,union-attr]


def test_groups_are_mixed_anew_in_each_epoch() -> None:
    pairs = []
    for epoch in (0, 1):
        updates = epoch_updates(LENGTHS, seed=1, epoch=epoch, update_size=4)
        pairs.append(
            {(a, b) for update in updates for a in update.tolist() for b in update.tolist() if a < b}
        )

    assert len(pairs[0] & pairs[1]) < 0.2 * len(pairs[0])
    lengths = [LENGTHS[update].mean() for update in updates]
    assert abs(np.corrcoef(lengths[:-1], lengths[1:])[0, 1]) < 0.2  # short and long updates alternate


def test_grouped_batches_hold_little_padding() -> None:
    ratios = {}
    for grouped in (True, False):
        updates = epoch_updates(LENGTHS, seed=1, epoch=0, update_size=8, group_by_length=grouped)
        ratios[grouped] = padding_ratio(updates, LENGTHS)

    assert ratios[True] < 1.07
    assert ratios[False] > 1.5


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 2, 7, 24])
def test_an_update_is_shared_out_whole(processes: int, size: int) -> None:
    update = np.arange(100, 100 + size)
    plan = micro_batches(update, LENGTHS, num_processes=processes, micro_batch_size=4)

    assert sorted(np.concatenate([share for step in plan for share in step]).tolist()) == update.tolist()
    assert {len(step) for step in plan} == {processes}
    assert len(plan) == -(-size // (4 * processes))
    assert max(len(share) for step in plan for share in step) <= 4


def test_a_remainder_is_spread_over_the_processes() -> None:
    plan = micro_batches(np.arange(10), LENGTHS, num_processes=2, micro_batch_size=8)

    assert [len(share) for step in plan for share in step] == [5, 5]


def test_processes_get_shares_of_similar_length() -> None:
    update = np.random.RandomState(0).permutation(1003)[:64]
    whole = padded_tokens(update, LENGTHS)

    parts = shares(update, num_processes=2, micro_batch_size=8)
    assert sum(padded_tokens(part, LENGTHS) for part in parts) < 0.5 * whole
    kept = shares(update, num_processes=2, micro_batch_size=8, group_by_length=False)
    assert np.concatenate(kept).tolist() == update.tolist()


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("budget", [60, 128, 1000, 10**6])
def test_a_token_budget_bounds_every_batch(processes: int, budget: int) -> None:
    for update in epoch_updates(LENGTHS, seed=1, epoch=0, update_size=40)[:8]:
        plan = micro_batches(update, LENGTHS, num_processes=processes, micro_batch_size=4, max_tokens=budget)
        parts = [share for step in plan for share in step]

        assert sorted(np.concatenate(parts).tolist()) == sorted(update.tolist())
        assert {len(step) for step in plan} == {processes}
        assert max(padded_tokens(part, LENGTHS) for part in parts) <= budget
    if budget == 10**6:
        assert len(plan) == 1  # the budget bounds the batch, the number of examples does not


def test_a_token_budget_below_the_longest_example_is_refused() -> None:
    check_token_budget(None, 60)
    check_token_budget(60, 60)
    with pytest.raises(UserError, match=r"--max_tokens_per_batch 59: the longest example has 60 tokens"):
        check_token_budget(59, 60)


def test_more_processes_than_examples_leave_some_without() -> None:
    assert sorted(len(share) for share in shares(np.arange(2), num_processes=4, micro_batch_size=8)) == [
        0,
        0,
        1,
        1,
    ]
    budget = shares(np.arange(2), num_processes=4, micro_batch_size=8, max_tokens=200)
    assert sorted(len(share) for share in budget) == [0, 0, 1, 1]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("size", [1, 16, 300])
def test_evaluation_batches_hold_every_example_once_longest_first(processes: int, size: int) -> None:
    plan = evaluation_batches(LENGTHS, num_processes=processes, batch_size=size)
    parts = [share for step in plan for share in step]

    assert sorted(np.concatenate(parts).tolist()) == list(range(len(LENGTHS)))
    assert {len(step) for step in plan} == {processes}
    assert LENGTHS[parts[0]].max() == LENGTHS.max()
    assert padding_ratio(parts, LENGTHS) <= 1.05
    assert max(len(part) for part in parts) <= size


def test_a_gpu_evaluates_in_few_batches() -> None:
    def plan(size: int | None, *, on_gpu: bool) -> list[np.ndarray]:
        return [
            part for [part] in evaluation_batches(LENGTHS, num_processes=1, batch_size=size, on_gpu=on_gpu)
        ]

    few, many = plan(None, on_gpu=True), plan(None, on_gpu=False)
    assert 4 * len(few) < len(many)
    assert padding_ratio(few, LENGTHS) <= 1.5
    assert sorted(np.concatenate(few).tolist()) == list(range(len(LENGTHS)))
    # Long texts: no more than 32,768 tokens at a time, where the user did not choose a size.
    long = np.full(300, 8192)
    assert [
        len(part) for [part] in evaluation_batches(long, num_processes=1, batch_size=None, on_gpu=True)
    ] == ([4] * 75)
    longest = evaluation_batches(np.array([40000, 3]), num_processes=1, batch_size=None, on_gpu=True)
    assert [part.tolist() for [part] in longest] == [[0], [1]]
    for on_gpu, size in ((True, 256), (False, 64)):
        same = plan(size, on_gpu=on_gpu)
        assert [part.tolist() for part in plan(None, on_gpu=on_gpu)] == [part.tolist() for part in same]


@pytest.mark.shared
@pytest.mark.parametrize(("task", "column"), [("CoLA", 3), ("RTE", 1)])
def test_padding_of_glue_is_at_most_five_percent(glue_folder, task: str, column: int) -> None:
    with (glue_folder / task / "train.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    # About a token and a third a word, and the separators: lengths as a tokenizer gives them.
    words = [
        sum(len(cell.split()) for cell in row[column : column + (2 if task == "RTE" else 1)]) for row in rows
    ]
    lengths = np.minimum(128, (1.3 * np.array(words)).astype(int) + 2)

    for size in (16, 32, 64):
        for epoch in range(3):
            updates = epoch_updates(lengths, seed=42, epoch=epoch, update_size=size)
            batches = [
                part for u in updates for part in shares(u, lengths, num_processes=1, micro_batch_size=32)
            ]
            assert padding_ratio(batches, lengths) <= 1.05
