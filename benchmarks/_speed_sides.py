"""The two sides of the speed benchmark, each in a process of its own that waits for its turn.

A side is built once (data, model, a first run to warm up) and then answers every request with how long one
more run of the same work took. So the sides can be timed in turn, and each has its own peak of memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZES = (8, 32, 128)  # of which Trainer.predict and pipeline take their best
Run = Callable[[], dict[str, float]]


class Side:
    """A process that times one kind of work again and again.

    `kind` is a key of `KINDS`; `settings` its keyword arguments, and `work` what all sides share.
    """

    def __init__(self, kind: str, work: dict[str, Any], **settings: Any) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.connection, theirs = get_context("spawn").Pipe()
        self.process = get_context("spawn").Process(
            target=_serve, args=(theirs, self.folder.name, kind, {**work, **settings}), daemon=True
        )
        self.process.start()
        theirs.close()

    def wait(self) -> None:
        """Wait until it is built and warmed up."""
        self._answer()

    def run(self) -> dict[str, float]:
        """`examples_per_second` and `peak_mib` of one more run."""
        self.connection.send("run")
        return self._answer()

    def close(self) -> None:
        """End the process, whatever it is at."""
        self.process.kill()
        self.process.join()
        self.folder.cleanup()

    def _answer(self) -> dict[str, float]:
        try:
            answer: dict[str, float] = self.connection.recv()
        except EOFError:
            raise RuntimeError("a side of the benchmark has ended: its traceback is above") from None
        return answer


def _serve(connection: Connection, folder: str, kind: str, settings: dict[str, Any]) -> None:
    import torch

    os.setsid()  # of a Ctrl-C the parent alone is told
    os.chdir(folder)
    torch.set_num_threads(settings.pop("threads"))
    torch.manual_seed(0)
    run = KINDS[kind](**settings)
    run()
    connection.send({})
    while True:
        connection.recv()
        answer = run()
        connection.send({**answer, "peak_mib": _peak_bytes() / 2**20})


def _peak_bytes() -> int:
    """Peak memory: what torch held of the GPU, or without one what the process had."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_reserved()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _arguments(task: str, data_dir: str, model: str, **given: Any) -> Any:
    from sot_nlp.settings.arguments import build_arguments

    return build_arguments(
        [
            (
                "benchmark",
                {
                    "task": task,
                    "data_dir": data_dir,
                    "model_name_or_path": model,
                    "disable_tqdm": True,
                    "num_train_epochs": 1,
                    "cache_dir": "cache",
                    **given,
                },
            )
        ]
    )


def _data(arguments: Any, split: str, examples: int | None) -> tuple[Any, Any, Any]:
    """(task, tokenizer, `examples` of its split drawn at random): the same for every side."""
    import dataclasses

    from sot_nlp.data.task_data import load_data
    from sot_nlp.runs import preparation

    spec = preparation.task_of(arguments)
    tokenizer = preparation.load_tokenizer(arguments, preparation.read_checkpoint(arguments))
    data = load_data(spec, arguments, tokenizer, splits=("train", split))
    found: Any = data.splits[split]
    if examples is not None and examples < len(found):
        rows = np.sort(np.random.RandomState(0).permutation(len(found))[:examples])
        kept = {name: getattr(found, name)[rows] for name in ("starts", "lengths", "labels", "indices")}
        found = dataclasses.replace(found, **kept)
    return dataclasses.replace(data, splits={split: found}), tokenizer, found


def _sot_model(arguments: Any, data: Any, tokenizer: Any) -> Any:
    """The checkpoint's backbone with the SoT head that the settings name."""
    from sot_nlp.runs import preparation

    head, checkpoint = preparation.head_of(arguments), preparation.read_checkpoint(arguments)
    return preparation.load_model(arguments, checkpoint, head, data, tokenizer)[0]


def _dataset(split: Any) -> Any:
    """The same tokens as a `datasets.Dataset`, as `run_glue.py` makes it."""
    from datasets import Dataset

    ends = split.starts + split.lengths
    spans = list(zip(split.starts, ends, strict=True))
    columns = {"input_ids": [split.input_ids[start:end].tolist() for start, end in spans]}
    if split.token_type_ids is not None:
        columns["token_type_ids"] = [split.token_type_ids[start:end].tolist() for start, end in spans]
    columns["attention_mask"] = [[1] * len(row) for row in columns["input_ids"]]
    columns["labels"] = split.labels.tolist()
    return Dataset.from_dict(columns)


def our_training(task: str, data_dir: str, model: str, examples: int, epochs: int, **given: Any) -> Run:
    """Epochs of sot-nlp's loop."""
    from sot_nlp.runs import preparation
    from sot_nlp.training.loop import create_accelerator, train

    arguments = _arguments(task, data_dir, model, num_train_epochs=epochs, eval_strategy="no", **given)
    data, tokenizer, split = _data(arguments, "train", examples)
    network = _sot_model(arguments, data, tokenizer)
    accelerator = create_accelerator(arguments)
    network.to(accelerator.device)
    vocabulary = preparation.vocabulary(arguments, data, tokenizer)
    operations = _operations(network, split.lengths)

    def run() -> dict[str, float]:
        result = train(
            network,
            split,
            arguments,
            accelerator,
            evaluate=lambda model: {"score": 0.0},
            run_folder=Path(tempfile.mkdtemp(dir=".")),
            pad_token_id=tokenizer.pad_token_id,
            padding_side=tokenizer.padding_side,
            vocabulary=vocabulary,
            fingerprint={},
            on_log=lambda entry: None,
            higher_is_better=True,
            main_metric="score",
        )
        seconds = result.train_seconds
        return {
            "examples_per_second": epochs * len(split) / seconds,
            "flops_per_second": epochs * operations / seconds,
        }

    return run


def our_two_heads(task: str, data_dir: str, model: str, examples: int, epochs: int) -> Run:
    """sot-nlp's loop with the SoT head and with the stock head, one after the other in one process."""
    sides = {
        head: our_training(task, data_dir, model, examples, epochs, **given)
        for head, given in (("default", {}), ("stock", {"head": "stock"}))
    }
    order = list(sides)

    def run() -> dict[str, float]:
        order.reverse()  # who is second finds the processor warm, or slowed down
        speeds = {head: sides[head]()["examples_per_second"] for head in order}
        return {
            "examples_per_second": speeds["default"],
            "over_stock": speeds["default"] / speeds["stock"],
        }

    return run


def _operations(network: Any, lengths: np.ndarray) -> float:
    """Of the backbone's matrix products, forward and backward, for these texts without padding.

    Two a weight and token and, for attention, 4 N C a token and layer; the backward pass takes twice that.
    """
    from torch import nn

    backbone = network.base_model
    weights = sum(m.weight.numel() for m in backbone.modules() if isinstance(m, nn.Linear))
    config = backbone.config
    attention = 4 * config.num_hidden_layers * config.hidden_size * float((lengths**2).sum())
    return 3 * (2 * weights * float(lengths.sum()) + attention)


def our_frozen_training(task: str, data_dir: str, model: str, examples: int, **given: Any) -> Run:
    """Epochs of the whole task with the backbone run once and cached, as a run of the command."""
    from sot_nlp.runs.runner import run as run_command

    del examples  # all of them
    settings = {"freeze_backbone": True, "num_train_epochs": 3, "head_learning_rate": 1e-3, **given}
    arguments = _arguments(task, data_dir, model, **settings)

    def run() -> dict[str, float]:
        fresh = dataclasses.replace(arguments, output_dir=tempfile.mkdtemp(dir="."))
        with contextlib.redirect_stdout(io.StringIO()):
            record = run_command(fresh)
        return {
            "epoch_seconds": record["timings"]["train_seconds"] / arguments.num_train_epochs,
            "examples_per_second": record["train_examples_per_second"],
        }

    return run


def trainer_training(
    task: str, data_dir: str, model: str, examples: int, epochs: int, *, bf16: bool, grouped: bool
) -> Run:
    """Epochs of `transformers.Trainer` with the stock head; random order and fp32 are its defaults."""
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    _, tokenizer, split = _data(_arguments(task, data_dir, model), "train", examples)
    dataset, network = _dataset(split), _stock_model(model)

    class Clock(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.started = time.perf_counter()

        def on_train_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = time.perf_counter() - self.started

    def run() -> dict[str, float]:
        clock = Clock()
        given = TrainingArguments(
            output_dir="trainer",
            per_device_train_batch_size=32,
            num_train_epochs=epochs,
            learning_rate=2e-5,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="group_by_length" if grouped else "random",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(network, given, train_dataset=dataset, processing_class=tokenizer, callbacks=[clock]).train()
        return {"examples_per_second": epochs * len(split) / clock.seconds}

    return run


def our_evaluation(task: str, data_dir: str, model: str, examples: int) -> Run:
    """Logits of the validation split by sot-nlp with the SoT head."""
    from sot_nlp.training.evaluation import predict
    from sot_nlp.training.loop import create_accelerator

    arguments = _arguments(task, data_dir, model)
    data, tokenizer, split = _data(arguments, "validation", examples)
    network = _sot_model(arguments, data, tokenizer)
    accelerator = create_accelerator(arguments)
    network.to(accelerator.device)
    padding = {"pad_token_id": tokenizer.pad_token_id, "padding_side": tokenizer.padding_side}
    batch_size = arguments.per_device_eval_batch_size
    return _timed(len(split), lambda: predict(network, split, accelerator, batch_size=batch_size, **padding))


def trainer_evaluation(task: str, data_dir: str, model: str, examples: int, *, bf16: bool) -> Run:
    """Logits of the validation split by `Trainer.predict` with the stock head, at its best batch size."""
    import torch
    from transformers import Trainer, TrainingArguments

    _, tokenizer, split = _data(_arguments(task, data_dir, model), "validation", examples)
    dataset, network = _dataset(split), _stock_model(model)

    def predict(batch_size: int) -> None:
        given = TrainingArguments(
            output_dir="trainer",
            per_device_eval_batch_size=batch_size,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            report_to="none",
            disable_tqdm=True,
        )
        Trainer(network, given, processing_class=tokenizer).predict(dataset)

    return _at_best_size(len(split), predict)


def our_prediction(task: str, data_dir: str, model: str, examples: int) -> Run:
    """`sot-nlp predict` from a file of texts to a file of labels, with the SoT head."""
    import csv

    from sot_nlp.inference.predict import predict_file
    from sot_nlp.runs import preparation

    arguments = _arguments(task, data_dir, model)
    data, tokenizer, split = _data(arguments, "validation", examples)
    network = _sot_model(arguments, data, tokenizer)
    network.save_pretrained("saved")
    tokenizer.save_pretrained("saved")
    columns = list(preparation.task_of(arguments).text_columns)
    with Path("texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *_texts(split, tokenizer)])

    def run() -> dict[str, float]:
        summary = predict_file("saved", file="texts.csv", output="labels.csv", text_columns=columns)
        return {"examples_per_second": summary.count / summary.seconds}

    return run


def pipeline_prediction(task: str, data_dir: str, model: str, examples: int) -> Run:
    """`pipeline("text-classification")` on the same texts with the stock head, at its best batch size."""
    from transformers import pipeline

    arguments = _arguments(task, data_dir, model)
    _, tokenizer, split = _data(arguments, "validation", examples)
    classify = pipeline("text-classification", model=_stock_model(model), tokenizer=tokenizer)
    texts: list[Any] = [
        row[0] if len(row) == 1 else {"text": row[0], "text_pair": row[1]} for row in _texts(split, tokenizer)
    ]
    settings = {"truncation": True, "max_length": arguments.max_length}
    return _at_best_size(len(texts), lambda size: classify(texts, batch_size=size, **settings))


def _texts(split: Any, tokenizer: Any) -> list[list[str]]:
    """The one or two texts of every example, as its tokens give them back."""
    rows = []
    for start, length in zip(split.starts, split.lengths, strict=True):
        ids = split.input_ids[start : start + length]
        types = (
            np.zeros(length) if split.token_type_ids is None else split.token_type_ids[start : start + length]
        )
        parts = [ids[types == part] for part in range(int(types.max()) + 1)]
        rows.append([tokenizer.decode(part.tolist(), skip_special_tokens=True) for part in parts])
    return rows


def _stock_model(model: str) -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)


def _timed(count: int, work: Callable[[], Any]) -> Run:
    def run() -> dict[str, float]:
        started = time.perf_counter()
        work()
        return {"examples_per_second": count / (time.perf_counter() - started)}

    return run


def _at_best_size(count: int, work: Callable[[int], Any]) -> Run:
    runs = {size: _timed(count, lambda size=size: work(size)) for size in BATCH_SIZES}
    speeds = {size: run()["examples_per_second"] for size, run in runs.items()}
    return runs[max(speeds, key=lambda size: speeds[size])]


KINDS: dict[str, Callable[..., Run]] = {
    "our training": our_training,
    "our two heads": our_two_heads,
    "our frozen training": our_frozen_training,
    "Trainer": trainer_training,
    "our evaluation": our_evaluation,
    "Trainer.predict": trainer_evaluation,
    "our prediction": our_prediction,
    "pipeline": pipeline_prediction,
}
