"""Encode texts for a classifier, and attribute by changing its input, which works for every model.

Shapes: T tokens of a text, V variants of a text, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sot_nlp.data.tokenization import filler_token
from sot_nlp.errors import UserError, printable
from sot_nlp.inference.saved_model import longest_text

# Tokens that go through the model together, at most: bounds the memory whatever the length.
PASS_TOKENS = 8192


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One text, or a pair, as tokens: T ids, and token types if the tokenizer gives them.

    `offsets`: characters of each token; `parts`: its text (None: a special token); `lost`: tokens cut off.
    """

    texts: tuple[str, ...]
    ids: list[int]
    types: list[int] | None
    tokens: tuple[str, ...]
    offsets: list[tuple[int, int]]
    parts: list[int | None]
    lost: int


def encode(tokenizer: Any, texts: Sequence[Any], model: Any, max_length: int | None) -> list[Encoded]:
    """Encode each text as in training. UserError for what is no text, or a tokenizer without offsets."""
    if isinstance(texts, str):
        raise UserError("texts is a single string: give a list of texts")
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"{type(tokenizer).__name__} does not say which characters a token covers: "
            "words need a fast tokenizer"
        )
    limit = longest_text(model, tokenizer) if max_length is None else max_length
    fixed = tokenizer.num_special_tokens_to_add(pair=any(not isinstance(text, str) for text in texts))
    if limit <= fixed:
        raise UserError(f"max_length={limit} leaves no room for text beside {fixed} special tokens")
    encoded = []
    for place, text in enumerate(texts):
        pair = (text,) if isinstance(text, str) else tuple(text) if isinstance(text, (tuple, list)) else ()
        if len(pair) not in (1, 2) or not all(isinstance(part, str) for part in pair):
            raise UserError(
                f"text {place}: {printable(repr(text), 80)} is neither a string nor a pair of them"
            )
        encoded.append(_encode(tokenizer, pair, limit))
    return encoded


def _encode(tokenizer: Any, texts: tuple[str, ...], limit: int) -> Encoded:
    # Surrogates occur in no text, but a terminal's odd bytes and JSON escapes make them.
    texts = tuple(text.encode("utf-8", "replace").decode() for text in texts)
    wants_types = "token_type_ids" in tokenizer.model_input_names
    settings = {
        "truncation": "longest_first",
        "max_length": limit,
        "return_offsets_mapping": True,
        "return_attention_mask": False,
        "return_token_type_ids": wants_types,
        "return_overflowing_tokens": False,
        "verbose": False,
    }
    whole = tokenizer(*texts, **(settings | {"truncation": False, "max_length": None}))
    encoded = tokenizer(*texts, **settings) if len(whole["input_ids"]) > limit else whole
    ids, types = list(encoded["input_ids"]), encoded.get("token_type_ids")
    tokens, offsets = encoded.tokens(), encoded["offset_mapping"]
    parts = encoded.sequence_ids(0)
    lost = len(whole["input_ids"]) - len(ids)
    if not ids:
        filler = filler_token(tokenizer)
        ids, types, offsets, parts = [filler], [0] if types is not None else None, [(0, 0)], [None]
        tokens = tokenizer.convert_ids_to_tokens(ids)
    return Encoded(
        texts=texts,
        ids=ids,
        types=None if types is None else list(types),
        tokens=tuple(tokens),
        offsets=[tuple(span) for span in offsets],
        parts=list(parts),
        lost=lost,
    )


def replacement_token(tokenizer: Any) -> int:
    """Return a token without meaning: mask, unknown, padding or end of text, whichever there is."""
    for token in ("mask_token_id", "unk_token_id", "pad_token_id", "eos_token_id"):
        token_id = getattr(tokenizer, token, None)
        if token_id is not None:
            return int(token_id)
    return 0


def logits_of(model: Any, encoding: Encoded, ids: Tensor) -> Tensor:
    """Return logits (V, K) in fp32 of variants `ids` (V, T) of a text."""
    arguments = {"attention_mask": torch.ones_like(ids)}
    if encoding.types is not None:
        arguments["token_type_ids"] = torch.tensor(encoding.types, device=ids.device).expand_as(ids)
    logits: Tensor = model(input_ids=ids, **arguments).logits
    return logits.float()


def integrated_gradients(
    model: Any, tokenizer: Any, encoding: Encoded, steps: int, batch_size: int
) -> dict[str, Tensor]:
    """Return scores (T, K), logits (K,) and the baseline's logits (K,) for one text.

    Captum's layer integrated gradients on the token embeddings, Gauss-Legendre points, one path per output.
    The baseline has the replacement token in the place of each token that is not special. UserError without
    captum.
    """
    try:
        from captum.attr import LayerIntegratedGradients
    except ImportError:
        raise UserError("integrated_gradients needs captum: pip install 'sot-nlp[explain]'") from None
    ids = torch.tensor([encoding.ids], device=model.device)
    plain = torch.tensor([[part is not None for part in encoding.parts]], device=model.device)
    baseline = torch.where(plain, replacement_token(tokenizer), ids)
    with torch.no_grad():
        logits, base = logits_of(model, encoding, torch.cat([ids, baseline]))
    method = LayerIntegratedGradients(
        lambda ids: logits_of(model, encoding, ids), model.get_input_embeddings()
    )
    at_once = max(1, min(steps, batch_size, PASS_TOKENS // len(encoding.ids)))
    columns = []
    for output in range(logits.shape[-1]):
        attributions = method.attribute(
            ids, baselines=baseline, target=output, n_steps=steps, internal_batch_size=at_once
        )
        columns.append(attributions.detach().float().sum(-1)[0])  # (1, T, C) -> (T,)
    return {"scores": torch.stack(columns, -1).cpu(), "logits": logits.cpu(), "base": base.cpu()}


@torch.no_grad()
def occlusion(
    model: Any, tokenizer: Any, encoding: Encoded, words: Sequence[list[int]], batch_size: int
) -> dict[str, Tensor]:
    """Return scores (T, K) and logits (K,) of one text: the fall of the logits when a word is replaced.

    A word's change is shared equally by its tokens; special tokens have none.
    """
    whole = torch.tensor(encoding.ids, device=model.device)
    variants = whole.repeat(1 + len(words), 1)
    for row, tokens in enumerate(words, 1):
        variants[row, tokens] = replacement_token(tokenizer)
    at_once = max(1, min(batch_size, PASS_TOKENS // len(encoding.ids)))
    logits = torch.cat([logits_of(model, encoding, part) for part in variants.split(at_once)]).cpu()
    scores = torch.zeros(len(encoding.ids), logits.shape[-1])
    for change, tokens in zip(logits[0] - logits[1:], words, strict=True):
        scores[tokens] = change / len(tokens)
    return {"scores": scores, "logits": logits[0]}
