"""One side of the benchmark of threads: trains a random BERT with the SoT head as long as it is told."""

from __future__ import annotations

import sys
import time

import sot_nlp  # noqa: F401 - before torch, as every command does

SIZES = {
    "demo": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128},
    "MiniLM": {
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1536,
    },
}
BATCH, TOKENS = 32, 17  # the demo's, and nearly CoLA's


def main(size: str) -> None:
    """Answer each line of standard input, a number of seconds, with examples per second and threads."""
    import torch

    from sot_nlp import AutoSoTForSequenceClassification, SoTBertConfig
    from sot_nlp.training.speed.threads import threads_for

    torch.manual_seed(0)
    model = AutoSoTForSequenceClassification.from_config(
        SoTBertConfig(vocab_size=1000, **SIZES[size])
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    ids, labels = torch.randint(5, 1000, (BATCH, TOKENS)), torch.randint(0, 2, (BATCH,))
    with threads_for(model, model.device):
        for line in sys.stdin:
            started, count, seconds = time.perf_counter(), 0, float(line)
            while time.perf_counter() - started < seconds:
                model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                count += BATCH
            print(count / (time.perf_counter() - started), torch.get_num_threads(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
