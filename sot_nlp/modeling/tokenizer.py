"""Load tokenizers as the classifiers need them: with a pad token and token types that the model has."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    AutoTokenizer,
    BertTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

logger = logging.getLogger(__name__)


def load_tokenizer(
    name_or_path: str | os.PathLike[str],
    *,
    trust_remote_code: bool = False,
    saved: Mapping[str, Any] | None = None,
    **options: Any,
) -> PreTrainedTokenizerBase:
    """Return a checkpoint's tokenizer, with a pad token and without token types that the model lacks.

    GPT and GPT-2 have none: the end-of-text token takes its place (GPT-2), or where there is none the
    unknown one (GPT). The attention mask says what is padding, so a text may hold that token too. Where the
    tokenizer numbers more token types than the model has embeddings for (a BERT tokenizer for RoBERTa), it
    makes none. Both choices are saved with the tokenizer.

    Args:
        name_or_path: a folder, or a name on the Hub.
        trust_remote_code: whether a tokenizer that comes as code may run.
        saved: what the checkpoint's `config.json` says, where that has been read; read here when None.
        options: transformers' own (`revision`, `token`, `cache_dir`, ...).

    Raises:
        OSError: if there is no tokenizer.
        ValueError: if it cannot be read, or has no token that padding could use.
    """
    if saved is None:
        saved, _ = PreTrainedConfig.get_config_dict(name_or_path, **options)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, **options
        )
    except ValueError as error:
        # Checkpoints older than `model_type` (SpanBERT, ...) are BERT's.
        if saved.get("model_type"):
            raise ValueError(f"{name_or_path}: its tokenizer cannot be read: {error}") from error
        tokenizer = BertTokenizer.from_pretrained(name_or_path, **options)
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        # transformers makes one up where a folder holds no tokenizer at all.
        raise OSError(f"{name_or_path}: there are no tokenizer files (tokenizer.json, vocab.txt, ...)")
    if tokenizer.pad_token_id is None:
        token = tokenizer.eos_token or tokenizer.unk_token
        if token is None:
            raise ValueError(
                f"{name_or_path}: its tokenizer has no pad token, nor an end-of-text or unknown one instead"
            )
        tokenizer.pad_token = token
    _drop_unknown_types(tokenizer, saved, name_or_path)
    return tokenizer


def _drop_unknown_types(
    tokenizer: PreTrainedTokenizerBase, config_dict: Mapping[str, Any], source: object
) -> None:
    """Stop `tokenizer` from making token types where some of a pair's are beyond the model's."""
    backbone = config_dict.get("text_config") or config_dict
    # A config.json leaves out what is its class's default.
    model_type = str(backbone.get("model_type", "bert")).removeprefix("sot_")
    size = backbone.get("type_vocab_size")
    if size is None and model_type in CONFIG_MAPPING:
        size = getattr(CONFIG_MAPPING[model_type], "type_vocab_size", None)
    if not isinstance(size, int) or "token_type_ids" not in tokenizer.model_input_names:
        return
    types = tokenizer("a", "a")["token_type_ids"]
    if max(types, default=0) < size:
        return
    names = [name for name in tokenizer.model_input_names if name != "token_type_ids"]
    tokenizer.model_input_names = tokenizer.init_kwargs["model_input_names"] = names
    logger.warning(
        "%s: the tokenizer makes token types up to %d, the model has %d: none are used",
        source,
        max(types),
        size,
    )


def num_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return how many embeddings the tokenizer's ids need: its largest id and one."""
    return 1 + max(tokenizer.get_vocab().values())


def separator_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the special tokens that a tokenizer puts around and between texts."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
    ids = {getattr(tokenizer, name) for name in names}
    return sorted(ids - {None, tokenizer.unk_token_id})
