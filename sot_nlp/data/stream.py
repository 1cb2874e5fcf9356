"""Stream a training split without storing it: windows tokenised in memory, one ahead of the training.

Shapes: n examples in a window.

After its end the stream starts again, so a window always has the requested size. Which examples are
in window k depends on k, the size and the data alone: a resumed run reads past the windows that it has had.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sot_nlp.data.data_report import label_summary
from sot_nlp.data.row_checks import NONE_LEFT, Source, check_rows, check_unreadable
from sot_nlp.data.token_split import TokenSplit
from sot_nlp.data.tokenization import encode_split
from sot_nlp.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sot_nlp.tasks.spec import TaskSpec

# Examples of a window, at least: enough to group them by length and mix them, little to hold in memory.
WINDOW = 16_384


@dataclass(frozen=True, kw_only=True)
class Window:
    """Some consecutive examples, and what was found in them (JSON values, added up by `add_found`)."""

    split: TokenSplit
    found: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Examples as they are read. What concerns the whole chunk is with its first part."""

    texts: list[list[str]]  # one list per column
    labels: np.ndarray
    indices: np.ndarray
    digests: np.ndarray
    empty: np.ndarray
    nul_texts: np.ndarray
    leaked: np.ndarray  # (n,) int64: 1 for one in the validation data; those dropped, after them
    unreadable: list[tuple[int, str]]

    def __len__(self) -> int:
        return len(self.indices)

    def where(self, kept: np.ndarray | slice) -> _Chunk:
        """Return the examples at `kept` (a mask or a slice)."""
        rows = np.arange(len(self))[kept].tolist()
        arrays = ("labels", "indices", "digests", "empty", "nul_texts", "leaked")
        return replace(
            self,
            texts=[[column[i] for i in rows] for column in self.texts],
            **{name: getattr(self, name)[kept] for name in arrays},
        )

    def split(self, count: int) -> tuple[_Chunk, _Chunk]:
        """Return the first `count` examples, and the rest."""
        return self.where(slice(count)), replace(self.where(slice(count, None)), unreadable=[])


class StreamedSplit:
    """The training data of `source` as windows; one thread reads ahead. Each process reads all of it itself.

    Args:
        source: where the examples are, with labels.
        spec: the task.
        tokenizer, max_length: as in `tokenization.tokenize_sources`.
        known: (m,) uint64 digests of the validation texts; examples that occur there are counted.
        drop_leaked: leave them out.
        relabel: gives the labels of a window as the model numbers them.
    """

    def __init__(
        self,
        source: Source,
        spec: TaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        known: np.ndarray,
        drop_leaked: bool,
        relabel: Callable[[np.ndarray], np.ndarray] | None = None,
    ):
        self.source, self.spec, self.max_length = source, spec, max_length
        # Two threads must not use one tokenizer.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.known, self.drop_leaked = known, drop_leaked
        self.relabel = relabel or (lambda labels: labels)
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="stream")
        self._ahead: tuple[tuple[int, int], Future[Window]] | None = None
        self._chunks: Iterator[_Chunk] = iter(())
        self._rest: _Chunk | None = None

    def relabelled(self, relabel: Callable[[np.ndarray], np.ndarray]) -> StreamedSplit:
        """Return the same data, whose windows have the labels that `relabel` makes of them."""
        return StreamedSplit(
            self.source,
            self.spec,
            self.tokenizer,
            max_length=self.max_length,
            known=self.known,
            drop_leaked=self.drop_leaked,
            relabel=relabel,
        )

    @property
    def labels(self) -> np.ndarray:
        """No label, in the type of all of them."""
        return self._encode([], [])

    def window_size(self, update_size: int) -> int:
        """Return the number of examples per window: whole updates."""
        return -(-WINDOW // update_size) * update_size

    def window(self, number: int, size: int) -> Window:
        """Return the stream's examples from `number * size` on, `size` of them; UserError for bad ones."""
        if self._ahead is None or self._ahead[0] != (number, size):
            self._ahead = (number, size), self._pool.submit(self._read_from, number, size)
        window = self._ahead[1].result()
        self._ahead = (number + 1, size), self._pool.submit(self._read, size)
        return window

    def close(self) -> None:
        """End the reading ahead."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    # --- in the thread ---

    def _read_from(self, number: int, size: int) -> Window:
        self._chunks, self._rest = self._all_chunks(), None
        for _ in range(number):
            for _ in self._take(size):
                pass
        return self._read(size)

    def _read(self, size: int) -> Window:
        parts = list(self._take(size))
        columns = [
            list(itertools.chain(*column)) for column in zip(*(part.texts for part in parts), strict=True)
        ]
        tokens, lost = encode_split(columns, self.tokenizer, self.max_length)
        labels = np.concatenate([part.labels for part in parts])
        split = replace(
            tokens,
            name="train",
            labels=self.relabel(labels),
            indices=np.concatenate([part.indices for part in parts]),
        )
        digest = hashlib.sha256(labels.tobytes())
        for part in parts:
            digest.update(part.digests.tobytes())
        return Window(
            split=split,
            found={
                "digest": digest.hexdigest(),
                "examples": size,
                "tokens": int(split.lengths.sum()),
                "max_length": int(split.lengths.max()),
                "lost": {
                    str(tokens): count for tokens, count in sorted(Counter(lost[lost > 0].tolist()).items())
                },
                "empty_texts": int(sum(part.empty.sum() for part in parts)),
                "nul_texts": int(sum(part.nul_texts.sum() for part in parts)),
                "leaked": int(sum(part.leaked.sum() for part in parts)),
                "unreadable": [list(pair) for part in parts for pair in part.unreadable],
                "labels": label_summary(self.spec, labels),
            },
        )

    def _take(self, count: int) -> Iterator[_Chunk]:
        """Return the next `count` examples of the stream, in parts."""
        while count:
            chunk = self._rest if self._rest is not None and len(self._rest) else next(self._chunks)
            part, self._rest = chunk.split(count)
            count -= len(part)
            yield part

    def _all_chunks(self) -> Iterator[_Chunk]:
        """Yield every chunk, again and again."""
        source = self.source
        assert source.label_column is not None
        left_out = 0
        for passes in itertools.count():
            read = kept = 0
            unreadable: list[tuple[int, str]] = []
            for rows in source.table.rows([*source.text_columns, source.label_column]):
                if self._stop.is_set():
                    raise CancelledError  # nobody waits for the window any more
                unreadable += rows.unreadable
                checked = check_rows(source, rows)
                known = np.isin(checked.digests, self.known)
                chunk = _Chunk(
                    texts=rows.columns[:-1],
                    labels=self._encode(rows.columns[-1], rows.lines),
                    indices=np.array(rows.indices, dtype=np.int64),
                    digests=checked.digests,
                    empty=checked.empty,
                    nul_texts=checked.nul_texts,
                    leaked=known.astype(np.int64),
                    unreadable=rows.unreadable if passes == 0 else [],
                )
                if self.drop_leaked:
                    chunk, left_out = _without(chunk, known, left_out)
                read, kept = read + len(known), kept + len(chunk)
                if len(chunk):
                    yield chunk
            check_unreadable(source, read, unreadable)
            if not kept:
                raise UserError(NONE_LEFT)

    def _encode(self, values: list[Any], lines: list[int]) -> np.ndarray:
        table = self.source.table
        return self.source.encoder.encode(values, lines, table.where, table.typed)


def _without(chunk: _Chunk, known: np.ndarray, before: int) -> tuple[_Chunk, int]:
    """Return the examples that are not `known`, and how many are dropped after the last of them.

    Each counts those that are dropped between it and the one before; the first, `before` more.
    """
    so_far = before + np.cumsum(known)
    left_out = np.diff(so_far[~known], prepend=0)
    return replace(chunk.where(~known), leaked=left_out), before + int(known.sum() - left_out.sum())


def add_found(total: dict[str, Any], window: dict[str, Any]) -> dict[str, Any]:
    """Add what was found in one more window to what was found before."""
    if not total:
        return {"windows": 1, **window}
    lost = Counter(total["lost"])
    lost.update(window["lost"])
    sums = ("examples", "tokens", "empty_texts", "nul_texts", "leaked")
    return {
        "windows": total["windows"] + 1,
        "digest": window["digest"],
        **{name: total[name] + window[name] for name in sums},
        "max_length": max(total["max_length"], window["max_length"]),
        "lost": dict(sorted(lost.items(), key=lambda item: int(item[0]))),
        "unreadable": total["unreadable"] + window["unreadable"],
        "labels": _labels_of_both(total, window),
    }


def _labels_of_both(total: dict[str, Any], window: dict[str, Any]) -> dict[str, Any]:
    a, b = total["labels"], window["labels"]
    if "mean" not in a:
        return {name: a[name] + b[name] for name in a}
    mean = (a["mean"] * total["examples"] + b["mean"] * window["examples"]) / (
        total["examples"] + window["examples"]
    )
    return {"lowest": min(a["lowest"], b["lowest"]), "highest": max(a["highest"], b["highest"]), "mean": mean}
