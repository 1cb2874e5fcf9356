"""How long a large CSV of short texts takes to prepare, and in how much memory.

    python -m benchmarks data --rows 5000000

Writes a CSV of invented sentences, then prepares it in a process of its own as a run does: the labels are
found, every line is checked, the texts are tokenised into the cache; then once more, from the cache. Peak
memory is that process' own, with the mapped pages of the cache. On a busy machine the seconds of CPU
(of all threads) say more than those of the clock.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks._aims import judged

SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


def words(count: int = 20_000) -> list[str]:
    """Invented words, the frequent ones short: of 1 syllable, then 2, then 3."""
    source = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < count:
        size = 1 + (len(found) >= 50) + (len(found) >= 3000)
        found["".join(source.choices(SYLLABLES, k=size))] = None
    return list(found)


def write_csv(path: Path, rows: int) -> None:
    source, known = random.Random(1), words()
    # Few words make most of a text, as in a language.
    weights = [1 / (rank + 10) for rank in range(len(known))]
    pool = source.choices(known, weights, k=1_000_000)
    with path.open("w", encoding="utf-8") as file:
        file.write("text,label\n")
        for _ in range(rows):
            size = source.randint(4, 20)
            begin = source.randrange(len(pool) - size)
            file.write(f"{' '.join(pool[begin : begin + size])} .,{source.choice(('no', 'yes'))}\n")


def prepare(path: Path, cache: Path, tokenizer_name: str | None) -> dict[str, float]:
    """Prepare `path` twice; seconds of each part, and peak memory."""
    import numpy as np
    import transformers

    from sot_nlp.data.infer_task import user_task
    from sot_nlp.data.task_data import load_data
    from sot_nlp.settings.arguments import Arguments

    if tokenizer_name is None:
        letters = "abcdefghijklmnopqrstuvwxyz"
        pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", *letters, *(f"##{x}" for x in letters)]
        pieces += [f"##{syllable}" for syllable in SYLLABLES] + [w for w in words()[:8000] if len(w) > 1]
        tokenizer = transformers.BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
        tokenizer.model_max_length = 512
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(tokenizer_name)
    arguments = Arguments(train_file=str(path), cache_dir=str(cache), validation_fraction=0.01)
    found = {"libraries_mib": peak()}
    begin = time.perf_counter(), time.process_time()
    spec = user_task(arguments)
    found["find_labels_s"] = time.perf_counter() - begin[0]
    data = load_data(spec, arguments, tokenizer)
    found["prepare_s"] = time.perf_counter() - begin[0]
    found["prepare_cpu_s"] = time.process_time() - begin[1]
    begin = time.perf_counter(), time.process_time()
    data = load_data(spec, arguments, tokenizer)
    found["from_cache_s"] = time.perf_counter() - begin[0]
    found["from_cache_cpu_s"] = time.process_time() - begin[1]
    split = data.splits["train"]
    found["tokens_a_text"] = len(split.input_ids) / data.report["splits"]["train"]["examples_in_file"]
    batches = np.arange(len(split) // 32 * 32).reshape(-1, 32)[:1000]
    split.collate(batches[0], pad_token_id=0)  # the first one imports torch
    start = time.process_time()
    for batch in batches:
        split.collate(batch, pad_token_id=0)
    found["collate_cpu_us"] = (time.process_time() - start) / len(batches) * 1e6
    found["peak_mib"] = peak()
    return found


def peak() -> float:
    """Peak resident memory of this process in MiB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(arguments: list[str]) -> dict[str, Any]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks data", description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000, help="examples of the CSV (5000000)")
    parser.add_argument(
        "--tokenizer", help="its name or folder; by default a WordPiece of 8,000 invented words"
    )
    parser.add_argument("--folder", help="where to write some 2 GB; by default a temporary folder")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        path, cache = Path(name, "texts.csv"), Path(name, "cache")
        write_csv(path, options.rows)
        # A process of its own: neither the writing nor anything else is in its memory.
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            found = pool.submit(prepare, path, cache, options.tokenizer).result()
        judgement = judged("5 million short texts prepared: peak memory, MiB", found["peak_mib"])
        return {
            "benchmark": "data",
            "rows": [judgement] if options.rows == 5_000_000 else [],
            "texts": options.rows,
            "cores": os.cpu_count(),
            "csv_mib": round(path.stat().st_size / 2**20),
            "cache_mib": round(sum(f.stat().st_size for f in cache.rglob("*") if f.is_file()) / 2**20),
            **{name: round(value, 1) for name, value in found.items()},
        }
