"""Attribute a classifier's outputs to tokens, words and pairs of tokens, as arrays.

Shapes: B texts, T tokens of a text without padding, W words of a text, K outputs.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.explanation.inputs import PASS_TOKENS, Encoded, encode, integrated_gradients, occlusion
from sot_nlp.explanation.words import Word, words_of
from sot_nlp.inference.saved_model import answers, check_finite
from sot_nlp.modeling.tokens import classification_index
from sot_nlp.runs.scoring import shortest
from sot_nlp.training.speed.threads import threads_for

METHODS = {
    "exact": "the head's own sum over tokens",
    "pairs": "the head's own sum over pairs of tokens",
    "integrated_gradients": "integrated gradients on the embeddings",
    "occlusion": "the change when a word is masked",
}
# A text or a pair of texts.
Text = str | tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """What each token of one text adds to each output.

    For all methods but occlusion, `scores.sum(0) + class_token + base` are the logits, to rounding for the
    exact ones and to `delta` for integrated gradients.

    Attributes:
        method: one of `METHODS`.
        texts: the text, or its pair.
        kind: classification, multi_label or regression.
        labels: names of the K outputs; None for a regression.
        logits: (K,) float32.
        tokens: T token strings, special ones included.
        special: (T,) bool, tokens that the tokenizer put around and between the texts.
        scores: (T, K) float32. `pairs` gives each token half of every pair that it is in.
        class_token: (K,) float32, what the head takes from the classification token beside the words; zero
            for methods that go back to the input, and for heads that do not.
        base: (K,) float32: the head's bias; for integrated gradients the logits of the baseline, the text
            with every token replaced; None for occlusion, which has no sum.
        delta: (K,) float32, what the sum lacks to the logits; None for occlusion.
        pairs: (T, T, K) float32, [s, t]: token s on the x side with t on the y side; only of `pairs`.
        words: the W words, each with its tokens.
        lost: tokens cut off by the length limit.
    """

    method: str
    texts: tuple[str, ...]
    kind: str
    labels: tuple[str, ...] | None
    logits: np.ndarray
    tokens: tuple[str, ...]
    special: np.ndarray
    scores: np.ndarray
    class_token: np.ndarray
    base: np.ndarray | None
    delta: np.ndarray | None
    pairs: np.ndarray | None
    words: tuple[Word, ...]
    lost: int

    @property
    def predicted(self) -> int:
        """The output that is explained by default: the likeliest label; 0 for a regression."""
        return int(self.logits.argmax())

    @cached_property
    def probabilities(self) -> np.ndarray | None:
        """(K,) float32, or None for a regression."""
        from sot_nlp.training.evaluation import probabilities

        if self.kind == "regression":
            return None
        return probabilities(self.logits[None], self.kind)[0]

    @property
    def word_scores(self) -> np.ndarray:
        """(W, K): each word's tokens together."""
        return self._gather(self.scores)

    @property
    def word_pairs(self) -> np.ndarray | None:
        """(W, W, K): the same of `pairs`."""
        if self.pairs is None:
            return None
        rows = self._gather(self.pairs)  # (W, T, K)
        return self._gather(rows.swapaxes(0, 1)).swapaxes(0, 1)

    def _gather(self, values: np.ndarray) -> np.ndarray:
        if not self.words:
            return np.zeros((0, *values.shape[1:]), values.dtype)
        return np.stack([values[list(word.tokens)].sum(0) for word in self.words])

    def toward(self, values: np.ndarray, output: int) -> np.ndarray:
        """Reduce (..., K) to (...): what `values` add in favour of one output.

        For one label of several, its logit minus the mean of the others, since what is added to all logits
        alike changes no decision. Otherwise the output's own logit.
        """
        own = values[..., output]
        if self.kind != "classification" or values.shape[-1] == 1:
            return own
        return own - (values.sum(-1) - own) / (values.shape[-1] - 1)

    def _repr_html_(self) -> str:
        return Explanations([self])._repr_html_()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; arrays as nested lists, float32 in as few digits as identify it."""
        return {
            "method": self.method,
            "texts": list(self.texts),
            "kind": self.kind,
            "labels": None if self.labels is None else list(self.labels),
            "logits": shortest(self.logits),
            "predicted": None if self.kind == "regression" else self.predicted,
            "tokens": list(self.tokens),
            "special": self.special.tolist(),
            "scores": shortest(self.scores),
            "class_token": shortest(self.class_token),
            "base": None if self.base is None else shortest(self.base),
            "delta": None if self.delta is None else shortest(self.delta),
            "words": [
                {"text": word.text, "part": word.part, "start": word.start, "end": word.end}
                | {"tokens": list(word.tokens), "scores": shortest(scores)}
                for word, scores in zip(self.words, self.word_scores, strict=True)
            ],
            "word_pairs": None if self.word_pairs is None else shortest(self.word_pairs),
            "lost": self.lost,
        }


class Explanations(list[Explanation]):
    """The explanations of several texts; in a notebook they show themselves."""

    def _repr_html_(self) -> str:
        from sot_nlp.explanation.page import card
        from sot_nlp.explanation.view import View

        return card([View(name="", explanation=explanation) for explanation in self])


def explain(
    model: Any,
    tokenizer: Any,
    texts: Sequence[Text],
    *,
    method: str = "exact",
    max_length: int | None = None,
    batch_size: int = 16,
    steps: int = 50,
) -> Explanations:
    """Attribute each of a classifier's outputs to the tokens of each text.

    Args:
        model: a SoT classifier, on any device; or any other sequence classifier of transformers, for which
            `integrated_gradients` and `occlusion` work.
        tokenizer: its tokenizer, one that knows offsets (a "fast" one).
        texts: strings, or pairs of strings.
        method: `exact`, the head's own sum over tokens, from one forward pass
            (`SoTHead.word_contributions`); `pairs`, its sum over pairs of tokens
            (`SoTHead.pair_contributions`); `integrated_gradients` (Sundararajan et al., arXiv 1703.01365) by
            captum on the token embeddings, from a text of mask tokens; `occlusion`, how the logits fall when
            all tokens of a word are replaced by the mask token. (Without a mask token the unknown one is
            used, or the one for padding.)
        max_length: most tokens of a text, special ones included; default: the model's limit.
        batch_size: texts, or variants of a text, that go through the model at once.
        steps: points on the path of `integrated_gradients`.

    Returns:
        One `Explanation` per text, in order: a list that shows itself in a notebook.

    Raises:
        UserError: for a method that the model's head has no exact sum for, naming the setting, without
            captum, for a tokenizer without offsets, for `texts` that are not texts, or for logits that are
            not finite.
    """
    if method not in METHODS:
        raise UserError(f"method {printable(method)!r}: {did_you_mean(str(method), METHODS)}")
    if steps < 1 or batch_size < 1:
        raise UserError(f"steps={steps} and batch_size={batch_size} must be at least 1")
    with _evaluating(model), threads_for(model, model.device):
        encoded = encode(tokenizer, texts, model, max_length)
        if method in ("exact", "pairs"):
            parts = _by_head(model, encoded, method, batch_size)
        elif method == "integrated_gradients":
            parts = [
                integrated_gradients(model, tokenizer, encoding, steps, batch_size) for encoding in encoded
            ]
        else:
            parts = []
            for encoding in encoded:
                words = words_of(encoding.texts, encoding.offsets, encoding.parts)
                parts.append(
                    occlusion(model, tokenizer, encoding, [list(w.tokens) for w in words], batch_size)
                )
    for place, shares in enumerate(parts):
        check_finite(np.asarray(shares["logits"])[None], place)
    kind, labels = answers(model.config.problem_type, model.config.id2label)
    return Explanations(
        Explanation(
            method=method,
            texts=encoding.texts,
            kind=kind,
            labels=labels,
            tokens=encoding.tokens,
            special=np.array([part is None for part in encoding.parts], dtype=bool),
            words=words_of(encoding.texts, encoding.offsets, encoding.parts),
            lost=encoding.lost,
            **_completed(shares),
        )
        for encoding, shares in zip(encoded, parts, strict=True)
    )


def default_method(model: Any) -> str:
    """Return the default method: exact where possible, else gradients, without captum occlusion."""
    head = getattr(model.config, "head_config", None)
    if head is not None and head.has_exact_contributions:
        return "exact"
    return "integrated_gradients" if importlib.util.find_spec("captum") else "occlusion"


@contextlib.contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _completed(shares: dict[str, Any]) -> dict[str, Any]:
    """Return one text's arrays in numpy, with those that the method lacks, and what the sum lacks."""
    arrays = {name: np.asarray(value, dtype=np.float32) for name, value in shares.items()}
    arrays.setdefault("class_token", np.zeros_like(arrays["logits"]))
    delta = None
    if "base" in arrays:
        parts = arrays["scores"].sum(0, dtype=np.float64), arrays["class_token"], arrays["base"]
        delta = (arrays["logits"] - sum(part.astype(np.float64) for part in parts)).astype(np.float32)
    return {"base": None, "pairs": None, "delta": delta, **arrays}


def _by_head(model: Any, encoded: Sequence[Encoded], method: str, batch_size: int) -> list[dict[str, Any]]:
    """Return each text's exact shares, from one forward pass per batch of texts of similar length."""
    heads = [module for module in model.modules() if hasattr(module, "word_contributions")]
    if not heads:
        raise UserError(
            f"{method}: {type(model).__name__} has no SoT head; use integrated_gradients or occlusion"
        )
    order = sorted(range(len(encoded)), key=lambda i: -len(encoded[i].ids))
    by_text: dict[int, dict[str, Any]] = {}
    while order:
        # A pair of tokens is a number of its own; a batch of long texts would not fit.
        at_once = max(1, min(batch_size, PASS_TOKENS // len(encoded[order[0]].ids)))
        chosen, order = order[:at_once], order[at_once:]
        for i, parts in zip(chosen, _shares(model, heads, [encoded[i] for i in chosen], method), strict=True):
            by_text[i] = parts
    return [by_text[i] for i in range(len(encoded))]


@torch.no_grad()
def _shares(model: Any, heads: Sequence[Any], batch: Sequence[Encoded], method: str) -> list[dict[str, Any]]:
    inputs = _padded(batch, model.device)
    calls: list[tuple[Any, tuple[Any, ...]]] = []
    # The head is asked what it saw in the model's own forward pass: nothing is computed twice. (Of several
    # heads, as in a model with adapters, only one is called.)
    hooks = [head.register_forward_pre_hook(lambda head, args: calls.append((head, args))) for head in heads]
    try:
        logits = model(**inputs).logits
    finally:
        for hook in hooks:
            hook.remove()
    ((head, (hidden_states, mask, class_token)),) = calls
    pairs = None
    try:
        if method == "pairs":
            pairs = head.pair_contributions(hidden_states, mask)  # (B, N, N, K)
            scores = (pairs.sum(2) + pairs.sum(1)) / 2
        else:
            scores = head.word_contributions(hidden_states, mask)  # (B, N, K)
    except ValueError as error:
        raise UserError(
            f"{method}: {error}; integrated_gradients and occlusion work for every head"
        ) from None
    if head.config.uses_class_token:
        own = head.class_token_contributions(class_token)  # (B, K)
    else:
        # With `aggregate_all` it is pooled with the words; its share is shown separately all the same.
        rows = torch.arange(len(batch), device=scores.device)
        index = classification_index(inputs["attention_mask"], causal=model.config.causal)
        own = scores[rows, index]
        scores[rows, index] = 0
    base = head.output_bias.cpu()
    shares = []
    for b, encoding in enumerate(batch):
        length = len(encoding.ids)
        parts = {"logits": logits[b], "scores": scores[b, :length], "class_token": own[b], "base": base}
        if pairs is not None:
            parts["pairs"] = pairs[b, :length, :length]
        shares.append({name: value.cpu() for name, value in parts.items()})
    return shares


def _padded(batch: Sequence[Encoded], device: torch.device) -> dict[str, Tensor]:
    """Return right-padded ids (B, N), the mask, and token types where the tokenizer gives them."""
    columns = {"input_ids": [encoding.ids for encoding in batch]}
    columns["attention_mask"] = [[1] * len(encoding.ids) for encoding in batch]
    if batch[0].types is not None:
        columns["token_type_ids"] = [encoding.types or [] for encoding in batch]
    longest = max(len(encoding.ids) for encoding in batch)
    return {
        name: torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=device)
        for name, rows in columns.items()
    }
