"""Train the demo's tiny BERT: a WordPiece vocabulary and masked language modelling on the demo's corpus.

The result comes with the package, in `backbone/`; `python -m sot_nlp.demo.tiny_bert [FOLDER]` makes it again
(two minutes on one core).

Shapes: B sentences, N tokens, M masked tokens, V pieces.
"""

from __future__ import annotations

import contextlib
import string
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import BertForMaskedLM, BertTokenizer

FOLDER = Path(__file__).parent / "backbone"
# After 1,000 the difference between two heads on it changed its sign with the seed of this training.
UPDATES = 5000
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A piece that is rarer than this share of the sentences is spelt out: function words, stems and endings stay
# whole, a stem with its ending does not, so that a new word is made of known pieces.
LEAST_SHARE = 0.045
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    # BERT's own 0.02 is made for widths of 768 and more: so small a model would hardly move from it.
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
BATCH_SIZE = 32
LEARNING_RATE = 3e-3
MASKED_SHARE = 0.2


def train_vocabulary(sentences: Sequence[str]) -> BertTokenizer:
    """Train a lower-case BERT tokenizer whose WordPiece vocabulary is learned from `sentences`."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizer

    # The trainer numbers the letters inside words in no fixed order and breaks ties by number, unless they
    # are numbered beforehand.
    letters = [f"##{letter}" for letter in string.ascii_lowercase]
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        sentences,
        vocab_size=len(sentences),
        min_frequency=max(2, int(LEAST_SHARE * len(sentences))),
        special_tokens=[*SPECIAL, *letters],
        show_progress=False,
    )
    pieces = [*SPECIAL, *sorted(set(trainer.get_vocab()) - set(SPECIAL))]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocabulary, model_max_length=SIZES["max_position_embeddings"])


def train_tiny_bert(
    sentences: Sequence[str], tokenizer: BertTokenizer, *, updates: int, seed: int
) -> BertForMaskedLM:
    """Return a BERT from random weights, after `updates` of masked-language modelling on the CPU.

    A function of its arguments (and of the number of threads): torch's own random state is left alone.
    """
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from sot_nlp.training.speed.threads import threads_for

    encoded = tokenizer(list(sentences), padding=True, truncation=True, return_tensors="pt")
    all_ids, all_masks = encoded["input_ids"], encoded["attention_mask"]
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        torch.manual_seed(seed)
        model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **SIZES)).train()
        stack.enter_context(threads_for(model, model.device))
        optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.01, fused=True)
        # A tenth of the updates up, the rest down, both linearly.
        peak = max(1, updates // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda k: min((k + 1) / peak, (updates - k) / max(1, updates - peak))
        )
        for _ in range(updates):
            chosen = torch.randint(len(sentences), (BATCH_SIZE,))
            longest = int(all_masks[chosen].sum(1).max())
            whole, attention_mask = all_ids[chosen, :longest], all_masks[chosen, :longest]
            input_ids, masked = mask(whole, tokenizer.mask_token_id)
            hidden = model.bert(input_ids, attention_mask=attention_mask).last_hidden_state
            logits = model.cls(hidden[masked])  # (M, V): the other tokens' are not asked for
            loss = torch.nn.functional.cross_entropy(logits, whole[masked])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model.eval()


def mask(input_ids: torch.Tensor, mask_token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Corrupt ids (B, N) as BERT does: return which tokens to predict, and the ids with most of those hidden.

    Of the chosen tokens 80 % become `[MASK]`, 10 % another row's token at that place, 10 % stay.
    """
    import torch

    masked = (torch.rand(input_ids.shape) < MASKED_SHARE) & (input_ids >= len(SPECIAL))
    fate = torch.rand(input_ids.shape)
    corrupted = input_ids.clone()
    corrupted[masked & (fate < 0.8)] = mask_token_id
    swapped = masked & (fate >= 0.9)
    corrupted[swapped] = input_ids.roll(1, dims=0)[swapped]
    return corrupted, masked


def main(folder: Path = FOLDER) -> None:
    """Train vocabulary and model on what is acceptable in the demo's training split; write a checkpoint."""
    from sot_nlp.demo.grammar import CORPUS_SEED, TRAIN_SIZE, generate

    examples = generate("train", TRAIN_SIZE, CORPUS_SEED)
    sentences = [example.sentence for example in examples if example.label == "acceptable"]
    tokenizer = train_vocabulary(sentences)
    train_tiny_bert(sentences, tokenizer, updates=UPDATES, seed=CORPUS_SEED).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
