"""`sot_nlp.train`: fine-tune from Python by the same settings as `sot-nlp train`."""

from __future__ import annotations

import contextlib
import html
import inspect
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol

from sot_nlp.api.wording import python_words
from sot_nlp.errors import UserError, decimal, printable
from sot_nlp.settings.arguments import FIELDS, TRAITS, TYPES, Arguments
from sot_nlp.settings.habits import translate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sot_nlp.api.classifier import Classifier
    from sot_nlp.api.examples import Examples

P = ParamSpec("P")
_TRAINING = threading.Lock()


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: where its model, tokenizer, record and predictions are; `sot_nlp.load(run.folder)` opens it.
        record: what `record.json` holds: settings, versions, the scores of every evaluation, timings.
    """

    folder: Path
    record: dict[str, Any] = field(repr=False)

    @property
    def scores(self) -> dict[str, float]:
        """The loss and metrics of the kept model on the validation data."""
        best, evaluations = self.record["best"], self.record["evaluations"]
        kept = next((e for e in evaluations if best and e.get("step") == best.get("step")), evaluations[-1])
        return {name: kept[name] for name in ("loss", *self.record["task_spec"]["metrics"]) if name in kept}

    @property
    def classifier(self) -> Classifier:
        """The trained classifier, loaded at each access: `predict`, `explain`, `evaluate`."""
        from sot_nlp.api.classifier import load

        return load(self.folder)

    @property
    def model(self) -> PreTrainedModel:
        """The trained model of transformers, in evaluation mode, loaded at each access."""
        return self.classifier.model

    def _repr_html_(self) -> str:
        names = "".join(f"<th>{html.escape(name)}</th>" for name in self.scores)
        values = "".join(f"<td>{decimal(value, 4)}</td>" for value in self.scores.values())
        return (
            f"<table><caption>{html.escape(self.record['task'])}, head {html.escape(self.record['head'])}: "
            f"{html.escape(str(self.folder))}</caption><tr>{names}</tr><tr>{values}</tr></table>"
        )


class _Train(Protocol[P]):
    def __call__(
        self,
        train_data: Examples | None = None,
        validation_data: Examples | None = None,
        test_data: Examples | None = None,
        *settings: P.args,
        **named: P.kwargs,
    ) -> Run: ...


def _typed_like(settings: Callable[P, Arguments]) -> Callable[[Callable[..., Run]], _Train[P]]:
    """Give a function the keyword arguments of `settings`, for type checkers, help() and completion."""

    def decorate(function: Callable[..., Run]) -> Any:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        defaults = Arguments()
        named = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=getattr(defaults, name), annotation=TYPES[name]
            )
            for name in FIELDS
        ]
        function.__signature__ = inspect.Signature([*own, *named], return_annotation="Run")  # type: ignore[attr-defined]
        listed = "\n".join(f"    {name}: {TRAITS[name].help}." for name in FIELDS)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nSettings:\n{listed}\n"
        return function

    return decorate


@_typed_like(Arguments)
def train(
    train_data: Examples | None = None,
    validation_data: Examples | None = None,
    test_data: Examples | None = None,
    **settings: Any,
) -> Run:
    """Fine-tune a classifier and return its run: scores, folder, model.

        run = sot_nlp.train("mine.csv", model_name_or_path="bert-folder", num_train_epochs=5)
        run.scores, run.classifier.predict(["a new text"])

    The settings are those of `sot-nlp train` and mean the same; so do the files that a run leaves in
    `output_dir`. They override a task's recipe (`task="cola"`) and the file of `config=`.

    Args:
        train_data: the examples: a file's path (CSV, TSV, JSON, JSONL, Parquet), a pandas DataFrame, a
            datasets.Dataset, a dict of columns, a list of dicts, or a pair (texts, labels).
        validation_data: examples to choose the best epoch by; without them a share of the training data is
            held out (`validation_fraction`).
        test_data: examples to predict, with `do_predict=True`.
        settings: any setting, by name; `config` names a YAML file of them.

    Raises:
        UserError: for whatever is wrong with settings or examples, in one line.
    """
    from sot_nlp.data.infer_task import task_name
    from sot_nlp.runs.folder import default_folder
    from sot_nlp.runs.runner import run
    from sot_nlp.tasks.recipe import layered_arguments
    from sot_nlp.training.distributed import separate_state

    examples = {
        "train_file": ("train_data", train_data),
        "validation_file": ("validation_data", validation_data),
        "test_file": ("test_data", test_data),
    }
    with python_settings(examples, settings) as given:
        arguments = layered_arguments(given, given.pop("config", None), source="python")
        if arguments.task is None and arguments.train_file is None and arguments.dataset_name is None:
            raise UserError("nothing to train on: give train_data, task, train_file or dataset_name")
        if arguments.task == "demo" and arguments.data_dir is None:
            from sot_nlp.demo.comparison import ensure_demo_data

            arguments = replace(arguments, data_dir=str(ensure_demo_data()))
        if arguments.output_dir is None:
            arguments = replace(arguments, output_dir=str(default_folder(task_name(arguments), arguments)))
        if not _TRAINING.acquire(blocking=False):
            raise UserError(
                "another training is running in this process; they would share random numbers and the log: "
                "call train when it has ended, or in a process of its own"
            )
        try:
            with separate_state():
                return Run(Path(str(arguments.output_dir)), run(arguments))
        finally:
            _TRAINING.release()


@contextlib.contextmanager
def python_settings(
    examples: Mapping[str, tuple[str, Examples | None]], settings: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Give `settings` as the command line would, with the files that hold `examples`.

    Names that settings have in transformers' scripts are translated. `examples` are, by the setting whose
    file they replace, the argument's name and its value. What goes wrong inside is worded for Python. Raises
    UserError where both an argument and its setting are given, and for a name that has no setting here.
    """
    from sot_nlp.api.examples import as_file
    from sot_nlp.data.task_data import cache_folder

    plain = {name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in settings.items()}
    given, problems = translate(plain)
    cache = cache_folder(given.get("cache_dir")).with_name("examples")
    names = {setting: name for setting, (name, _) in examples.items() if given.get(setting) is None}
    files: dict[str, str] = {}
    with python_words(names, files):
        if problems:
            raise UserError("; ".join(f"{name}: {problem}" for name, problem in problems))
        for setting, (name, data) in examples.items():
            if data is None:
                continue
            if given.get(setting) is not None:
                raise UserError(f"{name} and {setting}: give one of them")
            given[setting] = as_file(data, name, cache)
            if not isinstance(data, (str, os.PathLike)):
                files[printable(given[setting])] = name
        yield given
