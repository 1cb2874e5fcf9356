"""Group examples into batches with little padding: an epoch's order as a function of (seed, epoch).

Shapes: n examples in a split, G examples per update (the global batch), W processes.

An epoch is a list of updates, an update a set of G examples. Which examples are in it depends on nothing but
lengths, seed, epoch and G, so it is the same however many processes and accumulation steps share the work,
and a run that stopped after update k resumes at update k + 1. No random state is read or advanced.
"""

from __future__ import annotations

import numpy as np

from sot_nlp.errors import UserError

# Sorting by length within this many updates leaves at most 5 % padding at GLUE's lengths, and still mixes:
# which examples meet in a batch is drawn again in each epoch.
GROUP_UPDATES = 50
# A small split at a large batch size would be padded by 10 to 30 %: smaller batches cost less than that.
EVALUATION_PADDING = 1.05
# A GPU computes the padding of short texts in less time than it takes to launch another batch; without a
# batch size of the user's own, long texts come in batches of no more tokens than 64 texts of BERT's 512 are.
GPU_EVALUATION_PADDING = 1.5
EVALUATION_BATCH_SIZE, GPU_EVALUATION_BATCH_SIZE = 64, 256
GPU_EVALUATION_TOKENS = 64 * 512


def num_updates(num_examples: int, update_size: int) -> int:
    """Return the number of updates per epoch; the last one may hold fewer examples."""
    return -(-num_examples // update_size)


def epoch_updates(
    lengths: np.ndarray, *, seed: int, epoch: int, update_size: int, group_by_length: bool = True
) -> list[np.ndarray]:
    """Return an epoch's updates: arrays of example indices (int64), each example in exactly one of them.

    `lengths` (n,) in tokens. With `group_by_length` the examples are drawn into groups of about 50 updates,
    sorted by length within the group, cut into updates, and the updates of all groups are shuffled; otherwise
    the examples are shuffled and cut. The last partial update comes at a random position.
    """
    # numpy promises the stream of RandomState for good, but not that of its newer generators: an order must
    # not change with numpy's version between a checkpoint and its resumption.
    source = np.random.RandomState(np.array([seed & 0xFFFFFFFF, seed >> 32, epoch, 0x50], dtype=np.uint32))
    count = num_updates(len(lengths), update_size)
    order = source.permutation(len(lengths)).astype(np.int64)
    sizes = np.full(count, update_size)
    if count:
        sizes[source.randint(count)] = len(lengths) - update_size * (count - 1)
    if not group_by_length:
        return np.split(order, np.cumsum(sizes)[:-1])
    updates: list[np.ndarray] = []
    start = 0
    for group in np.array_split(sizes, max(1, round(count / GROUP_UPDATES))):
        members = order[start : start + group.sum()]
        start += len(members)
        members = members[np.argsort(lengths[members], kind="stable")]
        updates += np.split(members, np.cumsum(group)[:-1])
    return [updates[i] for i in source.permutation(count)]


def micro_batches(
    update: np.ndarray,
    lengths: np.ndarray,
    *,
    num_processes: int,
    micro_batch_size: int,
    max_tokens: int | None = None,
    group_by_length: bool = True,
) -> list[list[np.ndarray]]:
    """Split one update over W processes: `[micro-batch][process]` -> example indices, possibly none.

    Every process gets the same number of micro-batches, none larger than `micro_batch_size` examples or,
    where `max_tokens` is given, than `max_tokens` tokens with their padding (then `micro_batch_size` does not
    bound them: the budget does). The budget changes how an update is cut, never which examples are in it.
    """
    if group_by_length:
        update = update[np.argsort(lengths[update], kind="stable")]
    if max_tokens is None:
        steps = -(-len(update) // (num_processes * micro_batch_size))
        pieces = np.array_split(update, steps * num_processes)
    else:
        pieces = _within_budget(update, lengths, max_tokens)
        steps = -(-len(pieces) // num_processes)
        _halve_until(pieces, lengths, steps * num_processes)
    return [pieces[i : i + num_processes] for i in range(0, len(pieces), num_processes)]


def padded_tokens(indices: np.ndarray, lengths: np.ndarray) -> int:
    """Return the number of tokens in a batch of these examples, padding included."""
    return int(lengths[indices].max()) * len(indices) if len(indices) else 0


def _within_budget(update: np.ndarray, lengths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Cut `update` greedily into pieces whose padded tokens stay within the budget."""
    pieces: list[np.ndarray] = []
    start = longest = 0
    for end, length in enumerate(lengths[update]):
        longest = max(longest, int(length))
        if longest * (end + 1 - start) > max_tokens:
            pieces.append(update[start:end])
            start, longest = end, int(length)
    return [*pieces, update[start:]]


def _halve_until(pieces: list[np.ndarray], lengths: np.ndarray, count: int) -> None:
    """Halve the costliest piece that can be halved until there are `count`; then fill with empty ones."""
    while len(pieces) < count:
        costs = [padded_tokens(piece, lengths) if len(piece) > 1 else 0 for piece in pieces]
        costliest = int(np.argmax(costs))
        if not costs[costliest]:
            pieces += [pieces[0][:0]] * (count - len(pieces))
            return
        pieces[costliest : costliest + 1] = np.array_split(pieces[costliest], 2)


def evaluation_batches(
    lengths: np.ndarray,
    *,
    num_processes: int,
    batch_size: int | None,
    on_gpu: bool = False,
) -> list[list[np.ndarray]]:
    """Split a dataset by length, longest first: `[batch][process]` -> example indices, possibly none.

    A batch ends before `batch_size` examples (None: 64, on a GPU 256, or 32,768 tokens) where one more would
    bring its padding above 5 % of its tokens, on a GPU 50 %. Longest first, so that what does not fit into
    memory shows in the first batch.
    """
    max_tokens = GPU_EVALUATION_TOKENS if batch_size is None and on_gpu else None
    if batch_size is None:
        batch_size = GPU_EVALUATION_BATCH_SIZE if on_gpu else EVALUATION_BATCH_SIZE
    most = GPU_EVALUATION_PADDING if on_gpu else EVALUATION_PADDING
    order = np.argsort(-lengths, kind="stable").astype(np.int64)
    pieces: list[np.ndarray] = []
    start = real = 0
    for end, length in enumerate(lengths[order].tolist()):
        padded = int(lengths[order[start]]) * (end + 1 - start)
        real += length
        full = end - start >= batch_size or (max_tokens is not None and padded > max_tokens)
        if end > start and (full or padded > most * real):
            pieces.append(order[start:end])
            start, real = end, length
    pieces.append(order[start:])
    pieces += [order[:0]] * (-len(pieces) % num_processes)
    return [pieces[i : i + num_processes] for i in range(0, len(pieces), num_processes)]


def check_token_budget(max_tokens: int | None, longest: int) -> None:
    """Raise UserError where the longest example alone exceeds the budget."""
    if max_tokens is not None and max_tokens < longest:
        raise UserError(
            f"--max_tokens_per_batch {max_tokens}: the longest example has {longest} tokens, so the budget "
            f"must be at least {longest} (or reduce --max_length)"
        )
