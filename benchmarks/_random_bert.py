"""`python -m benchmarks._random_bert FOLDER GLUE`: save BERT-base with random weights and words of GLUE."""

from __future__ import annotations

import sys
from pathlib import Path


def save(folder: Path, glue: Path) -> None:
    """Write model and tokenizer to `folder`; speed depends on sizes and lengths alone."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    texts = [line for file in sorted(glue.glob("*/train.tsv")) for line in file.open(encoding="utf-8")]
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(texts, vocab_size=30_522, show_progress=False)
    tokenizer = BertTokenizer(vocab=trainer.get_vocab(), model_max_length=512)
    BertModel(BertConfig(vocab_size=30_522)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    save(Path(sys.argv[1]), Path(sys.argv[2]))
