"""Tokenizers as the classifiers need them: with a pad token, whatever the family."""

from __future__ import annotations

import os
from typing import Any

from transformers import AutoTokenizer, BertTokenizer, PreTrainedConfig, PreTrainedTokenizerBase


def load_tokenizer(
    name_or_path: str | os.PathLike[str], *, trust_remote_code: bool = False, **options: Any
) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer, with a pad token.

    GPT and GPT-2 have none: the end-of-text token takes its place (GPT-2), or where there is none the
    unknown one (GPT). The attention mask says what is padding, so a text may hold that token too. The choice
    is saved with the tokenizer.

    Args:
        name_or_path: a folder, or a name on the Hub.
        trust_remote_code: whether a tokenizer that comes as code may run.
        options: transformers' own (`revision`, `token`, `cache_dir`, ...).

    Raises:
        OSError: if there is no tokenizer.
        ValueError: if it cannot be read, or has no token that padding could use.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name_or_path, trust_remote_code=trust_remote_code, **options
        )
    except ValueError as error:
        # Checkpoints older than `model_type` (SpanBERT, ...) are BERT's.
        config_dict, _ = PreTrainedConfig.get_config_dict(name_or_path, **options)
        if config_dict.get("model_type"):
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
    return tokenizer


def separator_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of the special tokens that a tokenizer puts around and between texts."""
    names = ("cls_token_id", "sep_token_id", "bos_token_id", "eos_token_id")
    ids = {getattr(tokenizer, name) for name in names}
    return sorted(ids - {None, tokenizer.unk_token_id})
