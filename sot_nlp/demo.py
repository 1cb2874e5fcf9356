"""`--task demo`: a corpus, a vocabulary and a tiny BERT made on the spot, and both heads trained on them.

Nothing is downloaded. The stock head and the SoT head get the same backbone weights, order of data, updates
and learning rates; what the table shows is what came out.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sot_nlp import records
from sot_nlp.arguments import Arguments, build_arguments
from sot_nlp.errors import printable
from sot_nlp.grammar import PHENOMENA, generate, phenomenon, write_corpus

HEADS = ("stock", "text")
SEEDS = (1, 2)
TRAIN_SIZE, VALIDATION_SIZE = 8000, 1000
VOCABULARY_SIZE = 1000
# A piece that is rarer than this share of the sentences is spelt out: endings stay whole, stems do not.
LEAST_SHARE = 0.045
MODEL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# One policy for both arms.
TRAINING: dict[str, Any] = {
    "num_train_epochs": 4,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 32,
    "warmup_ratio": 0.1,
    "max_length": 64,
}
FOLDER = Path("runs") / "demo"
EXAMPLE = "The zigelles near the blipard are bledish."


def ensure_demo_data(folder: str | Path = FOLDER) -> Path:
    """The folder that `--data_dir` takes, with the demo's corpus in it; written unless it is there."""
    data = Path(folder) / "data"
    if not (data / "Demo" / "validation.tsv").is_file():
        write_corpus(data, seed=0, train_size=TRAIN_SIZE, validation_size=VALIDATION_SIZE)
    return data


def save_tiny_bert(folder: Path, seed: int) -> Path:
    """A BERT of random weights with a WordPiece vocabulary of the training sentences, as a checkpoint."""
    import torch
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertConfig, BertModel, BertTokenizer

    sentences = [example.sentence for example in generate("train", TRAIN_SIZE, seed=0)]
    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        sentences, VOCABULARY_SIZE, min_frequency=int(LEAST_SHARE * len(sentences)), show_progress=False
    )
    # Sorted, since the trainer numbers pieces in no fixed order.
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *sorted(set(trainer.get_vocab()) - set(special))]
    tokenizer = BertTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        model_max_length=MODEL["max_position_embeddings"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(BertConfig(vocab_size=len(pieces), **MODEL))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def run_demo(arguments: Arguments) -> dict[str, list[dict[str, Any]]]:
    """Train both heads with each seed, print the scores side by side; returns the records by head.

    Flags that were given hold for both arms; `--output_dir` (default `runs/demo`) holds data, backbones and
    runs. Runs that are finished there are shown, not run again, unless `--overwrite_output_dir` says so.
    """
    from sot_nlp import runner

    started = time.time()
    folder = Path(arguments.output_dir or FOLDER)
    given = {
        name: getattr(arguments, name)
        for name, source in arguments.sources.items()
        if not source.startswith("recipe") and name not in ("task", "head", "seed", "output_dir")
    }
    data = ensure_demo_data(folder)
    print(f"corpus, vocabulary and tiny BERT: {printable(folder)}", flush=True)
    found: dict[str, list[dict[str, Any]]] = {head: [] for head in HEADS}
    for seed in SEEDS:
        for head in HEADS:
            out = folder / f"{head}-seed{seed}"
            if (out / records.NAME).exists() and not arguments.overwrite_output_dir:
                record = records.read(out)
                if record["status"] == records.FINISHED:
                    found[head].append(record)
                    continue
            backbone = save_tiny_bert(folder / f"backbone-seed{seed}", seed)
            settings = {
                "task": "demo",
                "data_dir": str(data),
                "model_name_or_path": str(backbone),
                "head": head,
                "seed": seed,
                "output_dir": str(out),
                "cache_dir": str(folder / "cache"),
                **TRAINING,
                **given,
            }
            found[head].append(runner.run(build_arguments([("demo", settings)])))
    print(table(folder, found))
    print(f"{time.time() - started:.0f} s in all")
    return found


def table(folder: Path, found: Mapping[str, list[dict[str, Any]]]) -> str:
    """The scores side by side: Matthews for each seed and on average, accuracy for each phenomenon."""
    head_line = f"{'head':8}" + "".join(f"{f'seed {seed}':>9}" for seed in SEEDS) + f"{'mean':>9}   accuracy:"
    lines = ["", "Matthews correlation on held-out words and constructions:", ""]
    lines.append(head_line + "".join(f"{name:>13}" for name in PHENOMENA))
    constructions = [e.construction for e in generate("validation", VALIDATION_SIZE, seed=0)]
    for head, runs in found.items():
        values = [record["best"]["value"] for record in runs]
        right: dict[str, list[bool]] = {name: [] for name in PHENOMENA}
        for seed in SEEDS:
            rows = json.loads(
                (folder / f"{head}-seed{seed}" / "predictions.json").read_text(encoding="utf-8")
            )
            for row in rows:
                right[phenomenon(constructions[row["index"]])].append(row["prediction"] == row["label"])
        lines.append(
            f"{head:8}"
            + "".join(f"{value:9.3f}" for value in values)
            + f"{sum(values) / len(values):9.3f}            "
            + "".join(f"{sum(hits) / max(1, len(hits)):13.3f}" for hits in right.values())
        )
    model = printable(folder / f"{HEADS[-1]}-seed{SEEDS[0]}")
    return "\n".join(
        [
            *lines,
            "",
            f"{len(SEEDS)} seeds; the same weights, data, order and budget for both heads. To load a model:",
            "",
            "    import sot_nlp",
            "    from transformers import pipeline",
            f'    classify = pipeline("text-classification", model="{model}")',
            f'    print(classify("{EXAMPLE}"))',
            "",
        ]
    )
