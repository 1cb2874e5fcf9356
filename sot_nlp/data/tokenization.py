"""Tokenize tables into flat arrays, all checked before the first, cached by content and settings.

Shapes: n examples, T their tokens together, K labels.

    input_ids (T,) int32 | token_type_ids (T,) uint8, if the tokenizer makes them | offsets (n + 1,) int64
    labels, if there are any: (n,) int64 | (n,) float32 | (n, K) float32
    indices (n,) int64, positions in the file | digests (n,) uint64, of the texts | lost (n,) int32, tokens
    cut off | empty (n,) uint8, whether a text is empty
"""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np

from sot_nlp.data.row_checks import Checked, Source, check_source, progress_bar
from sot_nlp.data.token_cache import FORMAT_VERSION, ArrayWriter, DamagedCacheError, read_arrays
from sot_nlp.data.token_split import TokenSplit
from sot_nlp.errors import printable
from sot_nlp.files import sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REUSED = "reused"


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A source's arrays (see the top of this file) and what was found while making them.

    `source` names the table, `notes` say how it is read. `facts`: `unreadable` [[line, why], ...], and the
    counts of `Checked`. `sha256` of the files, None without any. `cache`: "built", "reused", or why it was
    rebuilt.
    """

    source: str
    notes: tuple[str, ...] = ()
    arrays: dict[str, np.ndarray]
    facts: dict[str, Any]
    sha256: str | None
    cache: str


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash everything in a tokenizer that ids depend on; its padding and truncation are set by calls."""
    digest = hashlib.sha256()
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # (Left out of the text itself: reading it back, with its vocabulary, would take a tenth of a second.)
        padding, truncation = backend.padding, backend.truncation
        backend.no_padding()
        backend.no_truncation()
        digest.update(backend.to_str().encode())
        if padding is not None:
            backend.enable_padding(**padding)
        if truncation is not None:
            backend.enable_truncation(**truncation)
    else:
        with tempfile.TemporaryDirectory() as folder:
            tokenizer.save_pretrained(folder)
            for file in sorted(Path(folder).iterdir()):
                digest.update(file.name.encode() + b"\0" + file.read_bytes())
    settings = (
        type(tokenizer).__name__,
        tokenizer.truncation_side,
        tokenizer.split_special_tokens,
        list(tokenizer.model_input_names),
        filler_token(tokenizer),
    )
    digest.update(json.dumps(settings).encode())
    return digest.hexdigest()


def tokenize_sources(
    sources: Sequence[Source],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    cache: Path,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Tokens]:
    """Return the tokens of each source, from `cache` where the same content and settings were tokenised.

    Everything is read and checked before anything is tokenised, so a mistake in the last file shows at
    once. `max_length` counts special tokens; longer examples are cut, of a pair the longer text first.
    Raises UserError.
    """
    fingerprint = tokenizer_fingerprint(tokenizer)
    hashes = [_content(source) for source in sources]
    folders = [
        cache / (_key(source, content, fingerprint, max_length) if content else f"streamed-{uuid4().hex}")
        for source, content in zip(sources, hashes, strict=True)
    ]
    cached = [_cached(folder, overwrite) for folder in folders]
    checked = [
        check_source(source, progress) if isinstance(known, str) else None
        for source, known in zip(sources, cached, strict=True)
    ]
    tokens = []
    for source, content, folder, known, kept in zip(sources, hashes, folders, cached, checked, strict=True):
        if kept is not None:
            with ArrayWriter(folder) as writer:
                _tokenize(source, kept, tokenizer, max_length, writer, progress)
        state = known if isinstance(known, str) else REUSED
        arrays, facts = read_arrays(folder) if isinstance(known, str) else known
        if content is None:
            # Nothing can find it again, and what is mapped outlives its name.
            shutil.rmtree(folder, ignore_errors=True)
        tokens.append(
            Tokens(
                source=source.table.name,
                notes=source.table.notes,
                arrays=arrays,
                facts=facts,
                sha256=content,
                cache=state,
            )
        )
    return tokens


def _content(source: Source) -> str | None:
    """Return the SHA-256 of the source's file; of several files, that of their hashes."""
    hashes = [sha256(file) for file in source.files]
    if len(hashes) <= 1:
        return hashes[0] if hashes else None
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _key(source: Source, content: str, fingerprint: str, max_length: int) -> str:
    ingredients = {
        "version": FORMAT_VERSION,
        "content": content,
        "tokenizer": fingerprint,
        "max_length": max_length,
        "columns": [*source.text_columns, source.label_column, source.labels_optional],
        "labels": source.encoder.settings(),
        "reading": source.table.reading(),
    }
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:40]


def _cached(folder: Path, overwrite: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]] | str:
    """Return (arrays, facts) of an intact cache; else why one is to be built, and remove what is there."""
    try:
        if not overwrite:
            return read_arrays(folder)
        state = "rebuilt, as requested" if folder.exists() else "built"
    except FileNotFoundError:
        return "built"
    except DamagedCacheError as error:
        state = f"rebuilt, because the old one was damaged ({printable(error)})"
    shutil.rmtree(folder, ignore_errors=True)
    return state


def _tokenize(
    source: Source,
    checked: Checked,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    writer: ArrayWriter,
    progress: bool,
) -> None:
    """Write the arrays of `source`, chunk by chunk, with `writer`: the second pass."""
    offset = 0
    writer.append("offsets", np.zeros(1, dtype=np.int64))
    with progress_bar(source, "tokenising", progress, total=len(checked)) as bar:
        for rows, texts in source.texts():
            ids, types, lost = encode_texts(texts, tokenizer, max_length)
            ends = offset + np.cumsum([len(sequence) for sequence in ids], dtype=np.int64)
            if len(ids):
                offset = int(ends[-1])
            writer.append("offsets", ends)
            writer.append("input_ids", flat(ids, np.int32))
            if types is not None:
                writer.append("token_type_ids", flat(types, np.uint8))
            writer.append("lost", lost)
            bar.update(len(rows.lines))
    writer.append("indices", checked.indices)
    writer.append("digests", checked.digests)
    writer.append("empty", checked.empty)
    if checked.labels is not None:
        writer.append("labels", checked.labels)
    names = ("unreadable", "nul_texts", "padded_labels", "decimal_labels")
    writer.finish({name: getattr(checked, name) for name in names})


def encode_texts(
    texts: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[list[int]], list[list[int]] | None, np.ndarray]:
    """Return (ids, token types or None, tokens lost) of each example; `texts` are one or two columns.

    An example without any token (an empty text, for a tokenizer that adds none) gets a single filler.
    """
    settings: dict[str, Any] = {
        "padding": False,
        "return_attention_mask": False,
        "return_token_type_ids": "token_type_ids" in tokenizer.model_input_names,
        # It warns of what is longer than the model; here that is cut and counted.
        "verbose": False,
    }
    if not texts[0]:
        return [], [] if settings["return_token_type_ids"] else None, np.zeros(0, dtype=np.int32)
    encoded = tokenizer(*texts, truncation=False, **settings)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    lost = np.zeros(len(ids), dtype=np.int32)
    if long := [i for i, sequence in enumerate(ids) if len(sequence) > max_length]:
        # Whole lengths are known only from whole texts; the few long ones are encoded again, cut.
        parts = [[column[i] for i in long] for column in texts]
        cut = tokenizer(*parts, truncation="longest_first", max_length=max_length, **settings)
        for place, i in enumerate(long):
            lost[i] = len(ids[i]) - len(cut["input_ids"][place])
            ids[i] = cut["input_ids"][place]
            if types is not None:
                types[i] = cut["token_type_ids"][place]
    for i in [i for i, sequence in enumerate(ids) if not sequence]:
        ids[i] = [filler_token(tokenizer)]
        if types is not None:
            types[i] = [0]
    return ids, types, lost


def encode_split(
    texts: Sequence[list[str]], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[TokenSplit, np.ndarray]:
    """Return the examples of `texts` (one or two columns) as a split without labels, and the tokens lost."""
    ids, types, lost = encode_texts(texts, tokenizer, max_length)
    lengths = np.array([len(sequence) for sequence in ids], dtype=np.int64)
    split = TokenSplit(
        name="texts",
        input_ids=flat(ids, np.int32),
        token_type_ids=None if types is None else flat(types, np.uint8),
        starts=np.cumsum(lengths) - lengths,
        lengths=lengths,
        labels=None,
        indices=np.arange(len(ids)),
    )
    return split, lost


def filler_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that replaces an empty text."""
    for candidate in (tokenizer.eos_token_id, tokenizer.unk_token_id, tokenizer.pad_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def flat(sequences: list[list[int]], dtype: type[np.generic]) -> np.ndarray:
    """Concatenate all sequences."""
    return np.fromiter(itertools.chain.from_iterable(sequences), dtype, sum(map(len, sequences)))
