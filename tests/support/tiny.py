"""Tiny random backbones and their tokenizers, made on the spot from invented words.

A folder that `save_backbone` writes is what a plain pretrained checkpoint looks like: weights, config and
tokenizer, 32 wide, 2 layers, 4 heads. The words are invented, so no data set's sentences enter the tests.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

FAMILIES = ("bert", "roberta", "openai-gpt", "gpt2")

WORDS = (  # noqa: SIM905
    "the a every no some this these that zorp blick dax wug tove rath slithen quib mimble frond larp "
    "plonk grimt snarv dovet karnel pellow sipper trindle umber vask wendle yarrow zimp borro chell "
    "duff eddle fimp gorse hobble jark kell lomp morrow nettle orrin purl rask stoll thrum "
    "zorps blicks daxes wugs toves runs run sees see likes like near beside not ever herself themselves"
).split()

_SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "pad_token_id": 1,
}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
_DECODER = {**_SIZES, "num_key_value_heads": 2, "max_position_embeddings": 64, "head_dim": 8}

# Settings at test size of backbones that have no class of their own here, by transformers' model type.
OTHER_BACKBONES: dict[str, dict[str, Any]] = {
    "albert": {**_SIZES, "embedding_size": 16},
    "bloom": {"vocab_size": 64, "hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 1},
    "camembert": _SIZES,
    "deberta-v2": {**_SIZES, **_RELATIVE, "position_buckets": 16, "position_biased_input": False},
    "distilbert": {"vocab_size": 64, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {**_SIZES, "embedding_size": 16},
    "falcon": _SIZES,
    "gemma": _DECODER,
    "gemma2": {**_DECODER, "query_pre_attn_scalar": 8},
    "gpt_neox": {**_SIZES, "max_position_embeddings": 64},
    "llama": _DECODER,
    "longformer": {**_SIZES, "attention_window": 8},
    "mistral": _DECODER,
    "mixtral": {**_DECODER, "num_local_experts": 4},
    "modernbert": _SIZES,
    "mpnet": _SIZES,
    "opt": {**_SIZES, "ffn_dim": 64, "word_embed_proj_dim": 16, "max_position_embeddings": 64},
    "phi": {**_SIZES, "max_position_embeddings": 64},
    "qwen2": _DECODER,
    "qwen3": _DECODER,
    "smollm3": _DECODER,
    "xlm-roberta": _SIZES,
    "xlnet": {"vocab_size": 64, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64},
}


def sentences(count: int, *, seed: int = 0, low: int = 1, high: int = 12) -> list[str]:
    """`count` sentences of `low` to `high` invented words each, the same for the same seed."""
    source = random.Random(seed)
    return [" ".join(source.choices(WORDS, k=source.randint(low, high))) + " ." for _ in range(count)]


def tokenizer(family: str) -> PreTrainedTokenizerBase:
    """The family's own tokenizer class over a vocabulary of `WORDS` and letters."""
    if family == "bert":
        letters = "abcdefghijklmnopqrstuvwxyz"
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,?!'0123456789", *letters]
        pieces += [f"##{letter}" for letter in letters] + sorted(set(WORDS) - set(letters))
        return transformers.BertTokenizer(
            vocab={piece: i for i, piece in enumerate(pieces)}, model_max_length=512
        )
    if family == "roberta":
        vocab, merges = _bpe(byte_level=True, special=["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
        return transformers.RobertaTokenizer(vocab=vocab, merges=merges, model_max_length=512)
    if family == "gpt2":
        vocab, merges = _bpe(byte_level=True, special=["<|endoftext|>"])
        return transformers.GPT2Tokenizer(vocab=vocab, merges=merges, model_max_length=512)
    if family == "openai-gpt":
        vocab, merges = _bpe(byte_level=False, special=["<unk>"])
        return transformers.OpenAIGPTTokenizer(vocab=vocab, merges=merges, model_max_length=512)
    raise ValueError(f"no tiny tokenizer for {family!r}; there is one for {', '.join(FAMILIES)}")


def config(family: str, **overrides: Any) -> PreTrainedConfig:
    """A config of the family at test size, for its own tokenizer; 512 tokens fit."""
    vocab_size = len(tokenizer(family))
    if family in ("bert", "roberta"):
        settings: dict[str, Any] = {
            "vocab_size": vocab_size,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 64,
        }
        if family == "roberta":
            settings |= {"max_position_embeddings": 514, "type_vocab_size": 1}
            settings |= {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2}
    else:
        settings = {"vocab_size": vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}
        if family == "gpt2":
            settings |= {"bos_token_id": 0, "eos_token_id": 0}
    return transformers.AutoConfig.for_model(family, **(settings | overrides))


def save_backbone(
    family: str, folder: Path, *, auto_class: Any = transformers.AutoModel, seed: int = 0, **overrides: Any
) -> Path:
    """Write a random checkpoint of the family with its tokenizer to `folder`, and return `folder`.

    `auto_class` says which head the checkpoint carries (`AutoModelForMaskedLM`, ...), `overrides` are
    config fields. The initial weights are spread wider than usual, so that outputs differ visibly.
    """
    model = random_model(config(family, **overrides), auto_class, seed=seed)
    model.save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def random_model(
    config: PreTrainedConfig, auto_class: Any = transformers.AutoModel, seed: int = 0
) -> PreTrainedModel:
    """A model in evaluation mode with weights drawn from `seed` (the global random state is left alone)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = auto_class.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)
    return model


def _bpe(*, byte_level: bool, special: list[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A byte-pair vocabulary and its merges, trained on `WORDS`."""
    suffix = "" if byte_level else "</w>"
    trained = Tokenizer(models.BPE(end_of_word_suffix=suffix, unk_token=None))
    alphabet = pre_tokenizers.ByteLevel.alphabet() if byte_level else list("abcdefghijklmnopqrstuvwxyz.,?!'")
    if byte_level:
        trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        trained.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=alphabet,
        end_of_word_suffix=suffix,
        show_progress=False,
    )
    trained.train_from_iterator([" ".join(WORDS) + " .", *sentences(50)], trainer)
    content = json.loads(trained.to_str())["model"]
    return content["vocab"], [tuple(merge) for merge in content["merges"]]
