"""A script as `run_glue.py` is one: a GLUE task's own TSV file, `Trainer`, the stock head, dynamic padding.

The speed benchmark starts it to see how long it takes from the command to the first update; then it stops.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from datasets import load_dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainingArguments,
)

FILES = {
    "cola": ("CoLA/train.tsv", ["source", "label", "mark", "sentence"], ["sentence"]),
    "rte": ("RTE/train.tsv", None, ["sentence1", "sentence2"]),
}


class StopAtFirstUpdate(TrainerCallback):
    """Leave a file behind, so that whoever waits for the first update sees it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def on_step_end(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> None:
        self.mark.touch()
        control.should_training_stop = True


def main() -> None:
    parser = argparse.ArgumentParser()
    for flag in ("--task", "--data_dir", "--model_name_or_path", "--output_dir", "--mark"):
        parser.add_argument(flag, required=True)
    options = parser.parse_args()
    file, names, texts = FILES[options.task]
    dataset = load_dataset(
        "csv",
        data_files={"train": str(Path(options.data_dir) / file)},
        delimiter="\t",
        quoting=3,
        **({"column_names": names} if names else {}),
    )["train"]
    tokenizer = AutoTokenizer.from_pretrained(options.model_name_or_path)
    labels = sorted(set(dataset["label"]))
    dataset = dataset.map(
        lambda rows: {
            **tokenizer(*(rows[name] for name in texts), truncation=True, max_length=128),
            "labels": [labels.index(label) for label in rows["label"]],
        },
        batched=True,
        remove_columns=dataset.column_names,
    )
    model = AutoModelForSequenceClassification.from_pretrained(options.model_name_or_path, num_labels=2)
    given = TrainingArguments(
        output_dir=options.output_dir, per_device_train_batch_size=32, report_to="none", save_strategy="no"
    )
    Trainer(
        model,
        given,
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[StopAtFirstUpdate(Path(options.mark))],
    ).train()


if __name__ == "__main__":
    main()
