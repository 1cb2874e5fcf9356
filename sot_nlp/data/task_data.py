"""Load a task's splits as tokens, with a report of what was found in the files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sot_nlp.data.data_report import columns_report, split_report, stream_report
from sot_nlp.data.row_checks import NONE_LEFT
from sot_nlp.data.sources import held_out_splits, open_source, place
from sot_nlp.data.splitting import hold_out, subset
from sot_nlp.data.stream import StreamedSplit
from sot_nlp.data.token_split import TokenSplit
from sot_nlp.data.tokenization import Tokens, tokenize_sources
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import Arguments, named

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sot_nlp.tasks.spec import TaskSpec

# Sources of settings that the user did not give now.
NOT_GIVEN = ("recipe", "record", "demo")
LIMITS = {"train": "max_train_samples", "validation": "max_eval_samples", "test": "max_predict_samples"}


@dataclass(frozen=True, kw_only=True)
class TaskData:
    """The splits of a task. `labels` are the names in the order of their ids, None for a regression.

    `stream` is the training data where it is not among them, but read window by window. `report` (JSON
    values) says what was found in the files; it depends on them and the settings alone. `caches` says of each
    split whether its tokens were built or reused.
    """

    kind: str
    labels: tuple[str, ...] | None
    splits: dict[str, TokenSplit]
    report: dict[str, Any]
    caches: dict[str, str] = field(default_factory=dict)
    stream: StreamedSplit | None = None


def load_data(
    spec: TaskSpec,
    arguments: Arguments,
    tokenizer: PreTrainedTokenizerBase,
    *,
    splits: Sequence[str] | None = None,
    model_max_length: int | None = None,
) -> TaskData:
    """Return the tokens of `splits` (default: train and every validation split) of the task `spec`.

    `arguments` are the run's settings. A validation split at the place of the training data is a share held
    out of it: `--validation_fraction`, drawn by `--data_seed` (0 when not given, so that runs of several
    seeds share it). So is the part of the training data that `--max_train_samples` leaves; the other limits
    take the first examples, of each validation split alike. `model_max_length` is the model's number of
    positions, where the tokenizer does not know it.

    Raises:
        UserError: for whatever is wrong with files, columns, labels or lengths.
    """
    wanted = tuple(splits or ("train", *spec.validation_splits))
    max_length = sequence_length(arguments, tokenizer, len(spec.text_columns), model_max_length)
    held = held_out_splits(spec, arguments)
    streamed = "train" in wanted and is_streamed(arguments)
    if streamed:
        if held:
            raise UserError(
                "--streaming with --max_train_steps: nothing can be held out of data that is not stored; "
                "give --validation_file, or a dataset with a validation split"
            )
        wanted = tuple(split for split in wanted if split != "train")
    places = {split: place(spec, split, arguments) for split in wanted}
    first_of: dict[Any, str] = {}
    for split, where in places.items():
        first_of.setdefault(where, split)
    tokenized = tokenize_sources(
        [open_source(spec, split, arguments) for split in first_of.values()],
        tokenizer,
        max_length=max_length,
        cache=cache_folder(arguments.cache_dir),
        overwrite=arguments.overwrite_cache,
        progress=not arguments.disable_tqdm,
    )
    tokens = {split: tokenized[list(first_of).index(where)] for split, where in places.items()}
    rows = {split: np.arange(len(tokens[split].arrays["indices"])) for split in tokens}
    if sharing := [split for split in wanted if held and split in ("train", *held)]:
        out = _share(tokens[sharing[0]], arguments)
        for split in sharing:
            rows[split] = np.setdiff1d(rows[split], out) if split == "train" else out
    duplicates = _duplicates(tokens, rows, drop=arguments.drop_leaked)
    rows = {split: _limited(split, rows[split], arguments) for split in rows}
    token_splits = {split: _split(split, tokens[split], rows[split]) for split in wanted}
    reports = {
        split: split_report(spec, token_splits[split], tokens[split], rows[split], held_out=split in held)
        for split in wanted
    }
    stream = _stream(spec, arguments, tokenizer, tokens, max_length) if streamed else None
    if stream is not None:
        dropped = arguments.drop_leaked
        reports = {"train": stream_report(stream.source.table.name, {}, dropped=dropped), **reports}
    report = {
        "columns": columns_report(spec, arguments),
        "kind": spec.kind,
        "labels": None if spec.labels is None else list(spec.labels),
        "max_length": max_length,
        "max_length_asked": arguments.max_length,
        "splits": reports,
        "duplicates": duplicates,
    }
    return TaskData(
        kind=spec.kind,
        labels=spec.labels,
        splits=token_splits,
        report=report,
        caches={split: tokens[split].cache for split in tokens},
        stream=stream,
    )


def is_streamed(arguments: Arguments) -> bool:
    """Return whether the training data is read window by window: an epoch, or a part, would be stored."""
    return bool(arguments.streaming and arguments.max_train_steps and arguments.max_train_samples is None)


def _stream(
    spec: TaskSpec,
    arguments: Arguments,
    tokenizer: PreTrainedTokenizerBase,
    tokens: dict[str, Tokens],
    max_length: int,
) -> StreamedSplit:
    digests = [tokens[split].arrays["digests"] for split in tokens if split.startswith("validation")]
    return StreamedSplit(
        open_source(spec, "train", arguments),
        spec,
        tokenizer,
        max_length=max_length,
        known=np.unique(np.concatenate(digests)) if digests else np.zeros(0, dtype=np.uint64),
        drop_leaked=arguments.drop_leaked,
    )


def cache_folder(cache_dir: str | None) -> Path:
    """Return the folder for cached tokens: in `--cache_dir`, or the user's own cache folder."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser() / "tokens"
    user = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(user).expanduser() / "sot-nlp" / "tokens"


def sequence_length(
    arguments: Arguments,
    tokenizer: PreTrainedTokenizerBase,
    num_texts: int,
    model_max_length: int | None = None,
) -> int:
    """Return the tokens that an example is cut to: `max_length`, or the model's positions where it has fewer.

    A `max_length` that the user gave is refused where the model has fewer; a default or recipe's is not.
    Raises UserError unless a token of each text fits.
    """
    max_length: int = arguments.max_length
    most = min(tokenizer.model_max_length, model_max_length or tokenizer.model_max_length)
    source = arguments.sources.get("max_length")
    default = type(arguments).max_length if source is None else None
    given = max_length != default if source is None else not source.startswith(NOT_GIVEN)
    name = named("max_length", source or "flag")
    if max_length > most and given:
        raise UserError(f"{name} {max_length} is more than the model's {most} positions")
    max_length = min(max_length, most)
    least = tokenizer.num_special_tokens_to_add(pair=num_texts == 2) + num_texts
    if max_length < least:
        what = f"{name} {max_length}" if max_length < most else f"a model of {most} positions"
        raise UserError(f"{what} leaves no room for text beside the special tokens: at least {least}")
    return max_length


def _share(tokens: Tokens, arguments: Arguments) -> np.ndarray:
    """Return the rows of the training file that are held out."""
    count = len(tokens.arrays["indices"])
    if count < 2:
        raise UserError("the training data has one example, so none can be held out; give --validation_file")
    labels, seed = tokens.arrays.get("labels"), arguments.data_seed or 0
    out = hold_out(labels, count, arguments.validation_fraction, seed)
    if not len(out):
        raise UserError(
            f"{tokens.source}: no label has two examples, so none can be held out; give "
            "--validation_file, or, for numbers that are scores, --problem_type regression"
        )
    return out


def _limited(split: str, rows: np.ndarray, arguments: Arguments) -> np.ndarray:
    """Return the rows of a split that the limits on samples leave, in the file's order."""
    limit = getattr(arguments, LIMITS[split.split("_")[0]])
    if limit is None or split != "train":
        return rows[:limit]
    # Files are often sorted by source or label: their first rows are no sample.
    return rows[subset(len(rows), limit, arguments.data_seed or 0)]


def _duplicates(tokens: dict[str, Tokens], rows: dict[str, np.ndarray], *, drop: bool) -> dict[str, Any]:
    """Count training examples that occur in each validation split too; if `drop`, remove their `rows`."""
    validation = [split for split in tokens if split.startswith("validation")]
    if "train" not in tokens or not validation:
        return {}
    train = tokens["train"].arrays["digests"][rows["train"]]
    duplicates: dict[str, Any] = {}
    keep = np.ones(len(train), dtype=bool)
    for split in validation:
        other = tokens[split].arrays["digests"][rows[split]]
        in_both = np.isin(train, other)
        keep &= ~in_both
        duplicates[split] = {
            "train_examples": int(in_both.sum()),
            "validation_examples": int(np.isin(other, train).sum()),
            "dropped": drop,
        }
    if drop:
        if not keep.any():
            raise UserError(NONE_LEFT)
        rows["train"] = rows["train"][keep]
    return duplicates


def _split(name: str, tokens: Tokens, rows: np.ndarray) -> TokenSplit:
    arrays = tokens.arrays
    starts = arrays["offsets"][rows]
    labels = arrays.get("labels")
    return TokenSplit(
        name=name,
        input_ids=arrays["input_ids"],
        token_type_ids=arrays.get("token_type_ids"),
        starts=starts,
        lengths=arrays["offsets"][rows + 1] - starts,
        labels=None if labels is None else labels[rows],
        indices=arrays["indices"][rows],
    )
