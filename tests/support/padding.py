"""Batches of the same texts that differ in their padding alone."""

from __future__ import annotations

import torch


def batch(
    texts: list[list[int]], pad: int, *, side: str = "right", extra: int = 0
) -> dict[str, torch.Tensor]:
    """The texts' ids with `pad` on a side up to the longest and `extra` more, and their mask."""
    length = max(map(len, texts)) + extra
    ids, mask = [], []
    for text in texts:
        fill = length - len(text)
        before, after = (fill, 0) if side == "left" else (0, fill)
        ids.append([pad] * before + text + [pad] * after)
        mask.append([0] * before + [1] * len(text) + [0] * after)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def paddings(texts: list[list[int]], pad: int) -> dict[str, list[dict[str, torch.Tensor]]]:
    """The same texts in every arrangement that must not change a logit, as lists of batches."""
    return {
        "left": [batch(texts, pad, side="left")],
        "more padding": [batch(texts, pad, extra=7)],
        "more padding on the left": [batch(texts, pad, side="left", extra=7)],
        "other ids as padding": [batch(texts, pad + 2)],
        "one by one": [batch([text], pad) for text in texts],
        "other batch mates": [batch([text, texts[0][:5]], pad) for text in texts],
    }


def logits(model: torch.nn.Module, batches: list[dict[str, torch.Tensor]], rows: int) -> torch.Tensor:
    """The model's logits of `rows` texts: of one batch, or of the first text of each batch."""
    with torch.no_grad():
        if len(batches) == 1:
            return model(**batches[0]).logits
        assert len(batches) == rows
        return torch.cat([model(**single).logits[:1] for single in batches])
