"""`sot_nlp.load`: a trained classifier that predicts, explains and evaluates from Python.

Shapes: n texts, K labels.
"""

from __future__ import annotations

import html
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from sot_nlp.api.examples import cached_name, pair_columns, text_columns
from sot_nlp.api.wording import python_words
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.settings.arguments import Arguments, build_arguments

if TYPE_CHECKING:
    import pandas as pd
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sot_nlp.api.examples import Examples
    from sot_nlp.explanation.attribution import Explanation
    from sot_nlp.inference.saved_model import SavedModel

# A tokenizer's truncation, hooks of a head and torch's threads are set for a call: callers of several threads
# take turns.
_TURN = threading.RLock()
# What classifiers elsewhere offer by these names.
_ELSEWHERE = {
    "predict_proba": "predict(texts).probabilities has them",
    "score": "evaluate((texts, labels)) returns the metrics",
    "fit": "sot_nlp.train((texts, labels), ...) trains",
    "save_pretrained": "a run's folder is saved already: copy it, or push it with `sot-nlp push FOLDER`",
    "push_to_hub": "`sot-nlp push FOLDER --hub_model_id NAME` does it, with a model card",
}
# Rows that a notebook shows of many predictions.
SHOWN = 20


@dataclass(frozen=True)
class Prediction:
    """One text's prediction.

    Attributes:
        label: the likeliest label; with several labels per text, the list of those above 0.5; the score of a
            regression.
        probabilities: of each label by name; None for a regression.
    """

    label: Any
    probabilities: dict[str, float] | None


@dataclass(frozen=True)
class Predictions(Sequence[Prediction]):
    """The predictions of n texts, in order; a sequence of `Prediction`.

    Attributes:
        texts: one or two lists of the n texts.
        labels: n labels (lists of labels, or scores), as in `Prediction`. A label is a text, also where the
            training's labels were numbers: "1", not 1.
        probabilities: (n, K) float32 in the order of `names`; None for a regression.
        names: the K labels; None for a regression.
        cut: how many texts were cut to the model's length.
    """

    texts: list[list[str]]
    labels: list[Any]
    probabilities: np.ndarray | None
    names: tuple[str, ...] | None
    cut: int

    def __len__(self) -> int:
        return len(self.labels)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prediction]: ...
    def __getitem__(self, index: int | slice) -> Prediction | list[Prediction]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self.probabilities is None or self.names is None:
            return Prediction(self.labels[index], None)
        row = self.probabilities[index].tolist()
        return Prediction(self.labels[index], dict(zip(self.names, row, strict=True)))

    def __iter__(self) -> Iterator[Prediction]:
        return (self[i] for i in range(len(self)))

    def to_pandas(self) -> pd.DataFrame:
        """Return a DataFrame, one row per text: its texts, `label`, and `probability_<name>` per label."""
        import pandas as pd

        names = ("text",) if len(self.texts) == 1 else ("text", "text_pair")
        frame = pd.DataFrame({**dict(zip(names, self.texts, strict=True)), "label": self.labels})
        if self.probabilities is not None and self.names is not None:
            for k, name in enumerate(self.names):
                frame[f"probability_{name}"] = self.probabilities[:, k]
        return frame

    def _repr_html_(self) -> str:
        heads = [
            *(("text",) if len(self.texts) == 1 else ("text", "text_pair")),
            "label",
            *(self.names or ()),
        ]
        rows = []
        for i in range(min(len(self), SHOWN)):
            cells = [*(column[i] for column in self.texts), self.labels[i]]
            shares = [] if self.probabilities is None else [f"{share:.3f}" for share in self.probabilities[i]]
            rows.append("".join(f"<td>{html.escape(str(cell))}</td>" for cell in [*cells, *shares]))
        more = f"<p>{len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        header = "".join(f"<th>{html.escape(str(name))}</th>" for name in heads)
        return f"<table><tr>{header}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table>{more}"


class Classifier:
    """A trained SoT classifier with its tokenizer; `sot_nlp.load` makes one."""

    def __init__(
        self, name_or_path: str, saved: SavedModel, accelerator: Any, settings: Mapping[str, Any]
    ) -> None:
        self._name_or_path, self._saved, self._accelerator = name_or_path, saved, accelerator
        self._settings = dict(settings)

    def __getattr__(self, name: str) -> Any:
        hint = f": {_ELSEWHERE[name]}" if name in _ELSEWHERE else ""
        raise AttributeError(f"a Classifier has no {name!r}{hint}", name=name, obj=self)

    @property
    def model(self) -> PreTrainedModel:
        """The model of transformers, in evaluation mode."""
        return self._saved.model

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's tokenizer."""
        return self._saved.tokenizer

    @property
    def kind(self) -> str:
        """classification, multi_label or regression."""
        return self._saved.kind

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The K labels in the order of the model's outputs; None for a regression."""
        return self._saved.labels

    @property
    def max_length(self) -> int:
        """Tokens per example, special ones included; longer texts are cut, as in training."""
        return self._saved.max_length

    def __repr__(self) -> str:
        answers = "a score" if self.labels is None else ", ".join(map(printable, self.labels))
        return f"Classifier({self._name_or_path!r}: {type(self.model).__name__}, {self.kind}: {answers})"

    def predict(
        self, texts: Sequence[Any], text_pairs: Sequence[str] | None = None, *, batch_size: int | None = None
    ) -> Predictions:
        """Predict each text, in order; internally in batches of similar length.

        Args:
            texts: n strings, or n pairs of strings.
            text_pairs: the second texts, where `texts` holds only the first ones.
            batch_size: examples per forward pass; 64, or 256 on a GPU, when None.

        Raises:
            UserError: for no texts, texts that are not strings, or one text where the model takes two.
        """
        from sot_nlp.inference import predict
        from sot_nlp.runs.scoring import decisions
        from sot_nlp.training.evaluation import probabilities

        columns = text_columns(texts, text_pairs)
        self._check_number(columns)
        if batch_size is not None and not (isinstance(batch_size, Integral) and batch_size >= 1):
            raise UserError(f"batch_size={printable(repr(batch_size))}: must be a whole number, at least 1")
        summary = predict.Summary(max_length=self.max_length)
        with _TURN:
            windows = [
                predict.window_logits(
                    self._saved,
                    [column[start : start + predict.WINDOW] for column in columns],
                    self._accelerator,
                    batch_size,
                    summary,
                )
                for start in range(0, len(columns[0]), predict.WINDOW)
            ]
        logits = np.concatenate(windows)
        shares = None if self.kind == "regression" else probabilities(logits, self.kind)
        labels = [predict.named(self._saved, decision) for decision in decisions(logits, self.kind)]
        return Predictions(columns, labels, shares, self.labels, summary.cut)

    def explain(
        self,
        texts: Sequence[Any],
        text_pairs: Sequence[str] | None = None,
        *,
        method: Literal["exact", "pairs", "integrated_gradients", "occlusion"] | None = None,
        steps: int = 50,
    ) -> list[Explanation]:
        """Return what each word of each text adds to each output; a notebook shows it as coloured words.

        `method` is the head's own exact sum over tokens where it has one, else integrated gradients (or
        occlusion without captum). Further arguments as in `predict`; `steps` as in `sot_nlp.explain`.
        Raises UserError.
        """
        from sot_nlp.explanation.attribution import METHODS, default_method, explain
        from sot_nlp.training.speed.precision import computing_in

        columns = text_columns(texts, text_pairs)
        self._check_number(columns)
        if method is not None and method not in METHODS:
            raise UserError(f"method={printable(repr(method))}: {did_you_mean(str(method), METHODS)}")
        rows = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        chosen = method or default_method(self.model)
        mode, device = self._accelerator.mixed_precision, self._accelerator.device
        with _TURN, computing_in(mode, self.model, device):
            return explain(
                self.model, self.tokenizer, rows, method=chosen, max_length=self.max_length, steps=steps
            )

    def evaluate(self, data: Examples | None = None, **settings: Any) -> dict[str, float]:
        """Return the loss and metrics on labelled examples.

        Args:
            data: the examples, in any form that `sot_nlp.train` takes; None: the run's own validation data.
            settings: as in `sot-nlp evaluate` (`task`, `data_dir`, `output_dir`, column names, ...).

        Raises:
            UserError: where the labels are not the model's, or a run without a record has no data to find.
        """
        from sot_nlp.api.training import python_settings
        from sot_nlp.inference.evaluate import evaluate_saved, evaluation_arguments
        from sot_nlp.training.distributed import separate_state

        columns = pair_columns(data, len(self._saved.text_columns) or 1)
        settings = {**self._settings, **columns, **settings}
        with python_settings({"validation_file": ("data", data)}, settings) as given:
            arguments = evaluation_arguments(self._name_or_path, given, source="python")
            with python_words({}, _from_memory(arguments)), _TURN, separate_state():
                return next(iter(evaluate_saved(arguments).values()))

    def _check_number(self, columns: Sequence[Sequence[str]]) -> None:
        wanted = len(self._saved.text_columns)
        if wanted and wanted != len(columns):
            names = ", ".join(map(printable, self._saved.text_columns))
            hint = "give pairs of strings, or text_pairs" if wanted == 2 else "give one string per example"
            raise UserError(f"texts: the model was trained on {wanted} text(s) per example ({names}); {hint}")


def load(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str = "main",
    max_length: int | None = None,
    mixed_precision: str | None = None,
    cpu: bool = False,
    trust_remote_code: bool = False,
) -> Classifier:
    """Open a trained classifier.

        clf = sot_nlp.load("out")
        clf.predict(["one text", "another"]).labels

    Args:
        name_or_path: the folder of a run, or a SoT classifier's name on the Hub.
        revision: branch, tag or commit on the Hub.
        max_length: tokens per example; as in training when None.
        mixed_precision: no, bf16 or fp16; as in training when None.
        cpu: do not use a GPU.
        trust_remote_code: run the code that is saved with the model: parts of the head that its author
            registered (not needed where their file is imported), a tokenizer that comes as code.

    Raises:
        UserError: for a folder that holds no SoT classifier.
    """
    from sot_nlp.inference.saved_model import open_model
    from sot_nlp.training.distributed import separate_accelerator
    from sot_nlp.training.speed.precision import as_trained

    if not isinstance(name_or_path, (str, os.PathLike)):
        kind = type(name_or_path).__name__
        raise UserError(f"name_or_path: expected the folder of a run or a name on the Hub; got {kind}")
    name = os.fspath(name_or_path)
    settings = {
        "max_length": max_length,
        "mixed_precision": mixed_precision,
        "cpu": cpu,
        "trust_remote_code": trust_remote_code,
    }
    settings = {key: value for key, value in settings.items() if value is not None}
    with python_words({}, {}):
        arguments = build_arguments([("python", settings)])
        saved = open_model(
            name,
            revision=revision,
            max_length=arguments.max_length if max_length is not None else None,
            trust_remote_code=trust_remote_code,
        )
        accelerator = separate_accelerator(arguments, precision_before=as_trained(saved.record, cpu=cpu))
    saved.model.to(accelerator.device)
    settings |= {"cpu": accelerator.device.type == "cpu", "model_revision": revision}
    return Classifier(name, saved, accelerator, settings)


def _from_memory(arguments: Arguments) -> dict[str, str]:
    """Return the names of a run's examples from memory by their files. UserError where these are gone."""
    names = {}
    for path in (arguments.train_file, arguments.validation_file):
        if path is None or (name := cached_name(path)) is None:
            continue
        if not Path(path).is_file():
            raise UserError(
                f"the {name} of the training came from memory, and its copy in the cache is gone: "
                "give the examples to evaluate(data)"
            )
        names[printable(path)] = name
    return names
