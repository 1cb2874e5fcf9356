"""Export a saved classifier to ONNX, checked against torch before it is called done; int8 as an option.

Shapes: B batch, N tokens, K labels; B and N are free in the exported graph.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sot_nlp.errors import UserError, decimal, printable
from sot_nlp.files import check_folder, sync_folder, writing
from sot_nlp.inference.saved_model import SavedModel, open_model
from sot_nlp.runs.own_files import check_export

MODEL_NAME = "model.onnx"
INT8_NAME = "model_int8.onnx"
# The largest difference between torch's logits and onnxruntime's that is taken for rounding, in units of the
# largest logit where that is above 1 (the scores of a regression may be thousands).
TOLERANCE = 1e-4
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What the check reads: of one word to more than most models take, with characters beyond ASCII.
CHECK_TEXTS = (
    "Yes.",
    "Nobody had told the ferryman that the river was closed.",
    "The letters that she wrote, but never sent, lay in a drawer under the window.",
    "¿Qué dirían los vecinos? — Nothing, naïvely enough; 42 % of them were away!",
    "",
    "Before the rain had stopped the children were out again, and the dog with them. " * 4,
    "A report of this length was read by no one, and so it grew a page longer each year. " * 40,
)

Score = Callable[[nn.Module], Mapping[str, float]]


@dataclass(kw_only=True)
class OnnxExport:
    """What was written and how it compares: `files` by name, `difference` of logits by file, `scores`.

    `scores`: for "torch" and each file, what `score` gave; empty without it.
    """

    folder: Path
    files: list[str] = field(default_factory=list)
    megabytes: dict[str, float] = field(default_factory=dict)
    difference: dict[str, float] = field(default_factory=dict)
    scores: dict[str, Mapping[str, float]] = field(default_factory=dict)
    num_checked: int = 0

    def report(self) -> str:
        """Return the export's summary in a few lines."""
        lines = []
        for name, difference in self.difference.items():
            lines.append(
                f"{printable(self.folder / name)}: {self.megabytes[name]:.1f} MB, logits of "
                f"{self.num_checked} batches differ from torch's by at most {difference:.1e}"
            )
        if "torch" in self.scores:
            for metric, before in self.scores["torch"].items():
                parts = [f"torch {decimal(before, 4)}"]
                for name in self.difference:
                    after = self.scores[name][metric]
                    parts.append(f"{name} {decimal(after, 4)} ({decimal(after - before, 4, signed=True)})")
                lines.append(f"{metric} on the validation split: {', '.join(parts)}")
        return "\n".join(lines)


def export_onnx(
    name_or_path: str | Path,
    *,
    output: str | Path | None = None,
    quantize: str | None = None,
    score: Score | None = None,
    revision: str = "main",
    trust_remote_code: bool = False,
) -> OnnxExport:
    """Write `model.onnx`, tokenizer and `config.json` of a classifier into a folder, once they are checked.

    The graph takes int64 `input_ids`, `attention_mask` and, where the model has them, `token_type_ids`, each
    (B, N), padded on any side, and gives float32 `logits` (B, K). It is run in onnxruntime on batches of
    texts of several lengths; nothing is written if its logits differ from torch's by more than 1e-4, or that
    part of the largest one.

    Args:
        name_or_path: the run's folder, or a name on the Hub.
        output: the folder to write to; `onnx` inside the run's folder when None.
        quantize: "int8" also writes `model_int8.onnx`, whose backbone's weights are int8 (dynamic
            quantisation; the head stays in fp32).
        score: model -> scores on the validation split; called with torch's model and with each ONNX file's
            `OnnxClassifier`, for the report.
        revision: branch, tag or commit on the Hub.
        trust_remote_code: run the code that is saved with the model.

    Raises:
        UserError: for a missing package, a model that can't be exported, a check that fails, or a folder that
            can't be written.
    """
    if quantize not in (None, "int8"):
        raise UserError(f"--quantize {printable(quantize)!r}: the only format is int8")
    require_packages()
    folder = output_folder(name_or_path, output)
    saved = open_model(name_or_path, revision=revision, trust_remote_code=trust_remote_code)
    result = OnnxExport(folder=folder)
    if score is not None:
        result.scores["torch"] = dict(score(saved.model))
        saved.model.cpu().eval()
    with writing(folder, "--output"):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as beside:
            _write(saved, Path(beside) / MODEL_NAME)
            _check(saved, Path(beside) / MODEL_NAME, result, tolerance=TOLERANCE)
            if quantize is not None:
                _quantize(Path(beside) / MODEL_NAME, Path(beside) / INT8_NAME)
                _check(saved, Path(beside) / INT8_NAME, result, tolerance=None)
            if score is not None:
                for name in result.difference:
                    result.scores[name] = dict(score(OnnxClassifier(Path(beside) / name)))
            _write_companions(saved, Path(beside))
            _move(Path(beside), folder, result)
    return result


def require_packages() -> None:
    """Raise UserError naming the packages of the extra `onnx` that are not installed."""
    import importlib.util

    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"ONNX needs {', '.join(missing)}, not installed: pip install 'sot-nlp[onnx]'")


class OnnxClassifier(nn.Module):
    """An exported classifier on the CPU, called as the torch one is: `model(**batch).logits` is (B, K)."""

    def __init__(self, path: str | Path, *, num_threads: int | None = None):
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about what its optimiser did not find
        options.intra_op_num_threads = num_threads or torch.get_num_threads()
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.names = [argument.name for argument in self.session.get_inputs()]

    def forward(self, **batch: Tensor) -> SimpleNamespace:
        """Return the logits of a batch; inputs that the graph does not have are ignored."""
        inputs = {name: batch[name].cpu().numpy().astype(np.int64) for name in self.names}
        (logits,) = self.session.run(["logits"], inputs)
        return SimpleNamespace(logits=torch.from_numpy(logits))


def output_folder(name_or_path: str | Path, output: str | Path | None) -> Path:
    """Return the folder that an export is written to. UserError where it can't be, or holds another thing."""
    if output is not None:
        folder = Path(output)
    elif Path(name_or_path).is_dir():
        folder = Path(name_or_path) / "onnx"
    else:
        raise UserError(
            f"{printable(name_or_path)}: there is no folder of this name here; for a model of the Hub give "
            "--output, the folder to write to"
        )
    check_folder(folder, "--output")
    check_export(folder, "--output")
    return folder


class _LogitsOnly(nn.Module):
    """The classifier with its inputs in a row and logits alone as output, as an ONNX graph has them."""

    def __init__(self, model: nn.Module, names: list[str]):
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return logits (B, K) float32 for inputs (B, N) int64 in the order of `names`."""
        return self.model(**dict(zip(self.names, tensors, strict=True))).logits


def _input_names(saved: SavedModel) -> list[str]:
    takes_types = "token_type_ids" in getattr(saved.model, "backbone_arguments", ())
    makes_types = "token_type_ids" in saved.tokenizer.model_input_names
    return [*INPUTS[:2], *(INPUTS[2:] if takes_types and makes_types else ())]


def _write(saved: SavedModel, path: Path) -> None:
    """Export to `path`."""
    names = _input_names(saved)
    example = _encode(saved, CHECK_TEXTS[1:4], padding_side="right")
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    shapes = (tuple({0: batch, 1: sequence} for _ in names),)
    exported = _LogitsOnly(saved.model, names).eval()
    try:
        with _quiet():
            program = torch.onnx.export(
                exported,
                tuple(example[name] for name in names),
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=names,
                output_names=["logits"],
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise UserError(
            f"{type(saved.model).__name__} can't be exported to ONNX by torch {torch.__version__}: "
            f"{printable(reason, 300)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence remarks on packages that are not installed and on the exporter's own deprecations."""
    # onnxruntime's quantisation logs to the root.
    loggers = [logging.getLogger(name) for name in (None, "torch.onnx._internal.exporter", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _encode(saved: SavedModel, texts: tuple[str, ...], *, padding_side: str) -> dict[str, Tensor]:
    """Encode texts as a padded batch (B, N); for a model of pairs each text with the next one."""
    from sot_nlp.data.tokenization import encode_split

    columns = [list(texts)]
    if len(saved.text_columns) == 2:
        columns.append([*texts[1:], texts[0]])
    split, _ = encode_split(columns, saved.tokenizer, saved.max_length)
    return split.collate(split.indices, pad_token_id=saved.tokenizer.pad_token_id, padding_side=padding_side)


def _check(saved: SavedModel, path: Path, result: OnnxExport, *, tolerance: float | None) -> None:
    """Compare with torch's logits: single texts, all in one padded batch, both padding sides."""
    onnx_model = OnnxClassifier(path)
    groups = [(text,) for text in CHECK_TEXTS] + [CHECK_TEXTS[:2], CHECK_TEXTS]
    worst, largest = 0.0, 1.0
    for texts, side in itertools.product(groups, ("right", "left")):
        batch = _encode(saved, texts, padding_side=side)
        with torch.inference_mode():
            expected = saved.model(**{name: batch[name] for name in _input_names(saved)}).logits
        logits = onnx_model(**batch).logits
        if logits.shape != expected.shape or not torch.isfinite(logits).all():
            worst = float("inf")
        else:
            worst = max(worst, (logits - expected).abs().max().item())
            largest = max(largest, expected.abs().max().item())
    result.num_checked = 2 * len(groups)
    result.difference[path.name] = worst
    if tolerance is not None and not worst <= tolerance * largest:
        raise UserError(
            f"the exported model's logits differ from torch's by {worst:.1e}, more than "
            f"{tolerance * largest:.0e}: nothing was written"
        )


def _quantize(source: Path, target: Path) -> None:
    """Quantise the backbone's matrices and embeddings to dynamic int8; the head is unchanged."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(source, load_external_data=False)
    head = [node.name for node in model.graph.node if _belongs_to_head(node)]
    # The exporter notes shapes before it folds constants, and onnxruntime 1.23 (Python 3.10) trusts them.
    del model.graph.value_info[:]
    bare = source.with_name("without-shapes.onnx")
    onnx.save(model, bare)
    with _quiet():
        quantize_dynamic(bare, target, weight_type=QuantType.QInt8, nodes_to_exclude=head)
    bare.unlink()


def _belongs_to_head(node: Any) -> bool:
    """Return whether a node came from the module `classifier`, by the scopes that the exporter notes."""
    return any(
        entry.key.endswith("name_scopes") and "'model.classifier'" in entry.value
        for entry in node.metadata_props
    )


def _write_companions(saved: SavedModel, folder: Path) -> None:
    """Write tokenizer and config beside the graph; the config without the modelling code."""
    saved.tokenizer.save_pretrained(folder)
    config = json.loads(saved.model.config.to_json_string(use_diff=True))
    config.pop("auto_map", None)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _move(beside: Path, folder: Path, result: OnnxExport) -> None:
    """Rename the checked files into `folder`, the graphs last."""
    folder.mkdir(exist_ok=True)
    files = sorted(beside.iterdir(), key=lambda path: (path.name in result.difference, path.name))
    for file in files:
        if file.name in result.difference:
            size = sum(
                part.stat().st_size for part in (file, file.with_name(f"{file.name}.data")) if part.exists()
            )
            result.megabytes[file.name] = size / 1e6
    for file in files:
        file.replace(folder / file.name)
    result.files = [file.name for file in files]
    sync_folder(folder)
