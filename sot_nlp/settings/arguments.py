"""One dataclass is the command line, its `--help`, the YAML of `--config` and the saved record.

Four layers, the later over the earlier: the defaults below, the task's recipe, the `--config` file, flags.
Names are those of transformers' `run_glue.py` and `run_glue_no_trainer.py` wherever they mean the same.
This module imports neither torch nor transformers, so that `--help` answers at once.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin

from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.modeling.head_config import DEFAULT_PRESET, TEXT_FAMILY
from sot_nlp.settings.checks import check

HEAD_PREFIX = "head."


def setting(default: Any, description: str, group: str) -> Any:
    """A field of `Arguments`: its default, the text of its `--help`, and the group it is shown in."""
    metadata = {"help": description, "group": group}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


TASK = "task and data"
MODEL = "model and head"
TRAINING = "training"
SPEED = "batches, precision and speed"
OUTPUT = "output, checkpoints and evaluation"
LOGS = "logging"
HUB = "Hugging Face Hub"


@dataclass(kw_only=True)
class Arguments:
    """Every setting of a run. `build_arguments` makes one from the layers and checks it as a whole."""

    task: str | None = setting(
        None, "a task of `sot-nlp tasks` (cola, rte, ..., demo) or the path of a task's YAML file", TASK
    )
    data_dir: str | None = setting(
        None,
        "folder with GLUE's own files (CoLA/train.tsv, ...); without it the data comes from the Hub",
        TASK,
    )
    train_file: str | None = setting(None, "own training data: CSV, TSV, JSON, JSONL or Parquet", TASK)
    validation_file: str | None = setting(
        None, "own validation data; without it, --validation_fraction of the training data is held out", TASK
    )
    test_file: str | None = setting(None, "own data without labels, for --do_predict", TASK)
    dataset_name: str | None = setting(None, "a data set of the Hub", TASK)
    dataset_config_name: str | None = setting(None, "its configuration", TASK)
    streaming: bool = setting(
        False,
        "read a data set of the Hub without storing it: only its tokens lie on disk, and for this run alone; "
        "with --max_train_steps the training data, also --train_file, is read window by window and not even "
        "its tokens are stored (an epoch of the record is then a window)",
        TASK,
    )
    text_column_names: list[str] | None = setting(
        None, "the one or two columns that hold text; guessed and printed when not given", TASK
    )
    label_column_name: str | None = setting(
        None, "the column that holds labels; guessed and printed when not given", TASK
    )
    label_mapping: dict[str, str] | None = setting(
        None, "what the labels in the files mean, as pairs like 0=negative 1=positive", TASK
    )
    problem_type: str | None = setting(
        None,
        "what the labels of own data are: classification, regression or multi_label; by their looks when not "
        "given (whole numbers and texts are classes, decimals scores, lists several labels at once)",
        TASK,
    )
    quoting: bool | None = setting(
        None,
        'whether a " in own CSV and TSV files quotes a field; when not given: in CSV it does, in TSV where '
        "the whole file reads so",
        TASK,
    )
    validation_fraction: float = setting(
        0.1, "share of the training data held out (stratified) where no validation data is given", TASK
    )
    drop_leaked: bool = setting(False, "drop training examples that also stand in the validation data", TASK)
    max_length: int = setting(
        128, "longest sequence in tokens, no more than the model's positions; what is cut is counted", TASK
    )
    max_train_samples: int | None = setting(
        None,
        "use only N training examples, drawn at random by --data_seed (by 0 when not given, so that runs of "
        "several seeds share them); of a stream the first N",
        TASK,
    )
    max_eval_samples: int | None = setting(
        None, "use only the first N examples of every validation split, in the file's order", TASK
    )
    max_predict_samples: int | None = setting(
        None, "use only the first N examples of every test split, in the file's order", TASK
    )
    cache_dir: str | None = setting(None, "where tokenised data is cached", TASK)
    overwrite_cache: bool = setting(False, "tokenise again even if a cache exists", TASK)

    model_name_or_path: str = setting(
        "google-bert/bert-base-cased", "backbone or SoT checkpoint: a folder or a name on the Hub", MODEL
    )
    model_revision: str = setting("main", "branch, tag or commit of the model on the Hub", MODEL)
    trust_remote_code: bool = setting(False, "run model code that a checkpoint brings along", MODEL)
    head: str = setting(DEFAULT_PRESET, "preset of the head: sot, text, vision, words or stock", MODEL)
    head_overrides: dict[str, Any] = setting(
        {}, "single fields of the head, as --head.FIELD VALUE (e.g. --head.alpha 0.7)", MODEL
    )
    freeze_backbone: bool = setting(False, "train the head alone", MODEL)
    trainable_layers: int | None = setting(None, "train the head and only the top N backbone layers", MODEL)
    lora_r: int | None = setting(None, "rank of LoRA on the backbone (needs peft)", MODEL)
    lora_alpha: int = setting(16, "LoRA's scale: its update counts lora_alpha / lora_r", MODEL)
    lora_dropout: float = setting(0.05, "dropout of LoRA", MODEL)
    lora_target_modules: list[str] | None = setting(
        None, "modules that LoRA wraps; by model family when not given", MODEL
    )

    per_device_train_batch_size: int = setting(32, "examples a device and step", TRAINING)
    learning_rate: float = setting(2e-5, "AdamW's peak learning rate", TRAINING)
    head_learning_rate: float | None = setting(
        None, "peak rate of the head; --learning_rate when not given", TRAINING
    )
    layerwise_lr_decay: float = setting(1.0, "factor on the rate for each layer further down", TRAINING)
    num_train_epochs: float = setting(3.0, "passes over the training data", TRAINING)
    max_train_steps: int | None = setting(None, "updates; overrides --num_train_epochs", TRAINING)
    gradient_accumulation_steps: int = setting(1, "steps an update", TRAINING)
    lr_scheduler_type: str = setting(
        "linear", "linear, cosine, constant, constant_with_warmup or inverse_sqrt", TRAINING
    )
    warmup_steps: int | None = setting(None, "updates of linear warm-up", TRAINING)
    warmup_ratio: float = setting(0.0, "share of all updates spent on warm-up", TRAINING)
    weight_decay: float = setting(0.0, "decoupled weight decay (not on biases and norms)", TRAINING)
    adam_beta1: float = setting(0.9, "AdamW's beta 1", TRAINING)
    adam_beta2: float = setting(0.999, "AdamW's beta 2", TRAINING)
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon", TRAINING)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", TRAINING)
    label_smoothing: float = setting(0.0, "label smoothing of the cross-entropy", TRAINING)
    class_weights: str | None = setting(
        None, "'balanced', or one number a class in the order of the labels: 1.0,2.5", TRAINING
    )
    early_stopping_patience: int | None = setting(
        None, "stop after N evaluations without a better main metric", TRAINING
    )
    seed: int = setting(42, "seed of the new weights and of dropout", TRAINING)
    data_seed: int | None = setting(
        None,
        "seed of the order of the data, --seed when not given; and of what --validation_fraction and "
        "--max_train_samples draw, 0 when not given",
        TRAINING,
    )
    on_nan: str = setting("stop", "at a loss or gradient that is not finite: stop or skip", TRAINING)
    max_nan_skips: int = setting(10, "with --on_nan skip: how many updates may be skipped", TRAINING)

    group_by_length: bool = setting(True, "batches of similar length (hardly any padding)", SPEED)
    max_tokens_per_batch: int | None = setting(
        None, "bound a batch by its padded tokens instead of by examples", SPEED
    )
    mixed_precision: str = setting(
        "auto", "auto (bf16 where this device is faster with it), no, bf16, fp16 or fp8", SPEED
    )
    torch_compile: bool = setting(False, "compile the model", SPEED)
    cuda_graphs: bool = setting(
        True, "on one GPU: launch the passes of a shape met before as one CUDA graph", SPEED
    )
    gradient_checkpointing: bool = setting(False, "trade time for memory in the backbone", SPEED)
    attn_implementation: str | None = setting(
        None, "the backbone's attention: sdpa, eager, flash_attention_2, ...", SPEED
    )
    cpu: bool = setting(False, "do not use a GPU", SPEED)

    output_dir: str | None = setting(
        None, "folder of this run; runs/<task>-<model>-<head>-seed<seed> when not given", OUTPUT
    )
    overwrite_output_dir: bool = setting(
        False, "start anew: replace the run in the output folder, finished or not", OUTPUT
    )
    eval_strategy: str = setting(
        "epoch", "when to evaluate: at each epoch's end, or no: only after the last", OUTPUT
    )
    per_device_eval_batch_size: int | None = setting(
        None, "examples a device and step in evaluation; 64, or 256 on a GPU, when not given", OUTPUT
    )
    do_predict: bool = setting(False, "predict the test split too", OUTPUT)
    checkpointing_steps: str | None = setting(
        None, "write a checkpoint every N updates, or at each 'epoch'", OUTPUT
    )
    save_total_limit: int | None = setting(2, "keep only the newest N checkpoints", OUTPUT)
    resume_from_checkpoint: str | None = setting(
        None, "'latest' or the folder of a checkpoint; an unfinished run resumes by itself", OUTPUT
    )
    save_remote_code: bool = setting(
        True, "save the model's code beside it, so that it loads without sot-nlp", OUTPUT
    )

    logging_steps: int = setting(10, "updates between two log lines", LOGS)
    disable_tqdm: bool = setting(False, "no progress bar", LOGS)
    with_tracking: bool = setting(False, "report to experiment trackers", LOGS)
    report_to: str = setting("all", "the tracker: tensorboard, trackio, wandb, ... or all", LOGS)

    push_to_hub: bool = setting(False, "push model, tokenizer and model card at the end", HUB)
    hub_model_id: str | None = setting(None, "the repository, e.g. me/cola-sot", HUB)
    hub_private_repo: bool = setting(False, "make the repository private", HUB)
    hub_strategy: str = setting("end", "push at the end, or at every_save", HUB)
    hub_token: str | None = setting(None, "the token; by default the one of `hf auth login`", HUB)

    sources: dict[str, str] = field(default_factory=dict, metadata={"hidden": True})

    def to_dict(self) -> dict[str, Any]:
        """All settings as JSON-able values, without the token and without where each came from."""
        values = dataclasses.asdict(self)
        for secret in ("sources", "hub_token"):
            values.pop(secret)
        return values


FIELDS = {f.name: f for f in dataclasses.fields(Arguments) if not f.metadata.get("hidden")}
TYPES = typing.get_type_hints(Arguments)
# Two ways to say the same thing: the one that a later layer gives sets aside the other of the layers below.
RIVALS = {
    "warmup_steps": "warmup_ratio",
    "warmup_ratio": "warmup_steps",
    "num_train_epochs": "max_train_steps",
    "max_train_steps": "num_train_epochs",
}
TRUE_WORDS = {"true", "yes", "1", "on"}
FALSE_WORDS = {"false", "no", "0", "off"}


def convert(name: str, value: Any) -> Any:
    """`value` (a flag's text, or what a YAML holds) as the type of the field `name`.

    Raises ValueError with what was expected, to be put behind "... is not".
    """
    kind = TYPES[name]
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "null")):
        if type(None) in options:
            return None
        raise ValueError("a value")
    kind = next(option for option in options if option is not type(None))
    base = get_origin(kind) or kind
    if base is bool:
        word = str(value).lower()
        if word in TRUE_WORDS | FALSE_WORDS:
            return word in TRUE_WORDS
        raise ValueError("true or false")
    if base is int:
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if number != number or number in (math.inf, -math.inf) or number != int(number):
            raise ValueError("a whole number")
        return int(number)
    if base is float:
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise ValueError("a finite number")
        return number
    if base is list:
        values = [value] if isinstance(value, (str, int, float)) else value
        if not isinstance(values, (list, tuple)) or not values:
            raise ValueError("one or more names")
        return [str(item) for item in values]
    if base is dict:
        return _convert_mapping(value)
    if isinstance(value, (Mapping, list, tuple)):
        raise ValueError("one text")
    if "\0" in str(value):
        raise ValueError("a text without NUL characters")
    return str(value)


def _convert_mapping(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    pairs = [str(item).partition("=") for item in ([value] if isinstance(value, str) else value)]
    if not all(separator for _, separator, _ in pairs):
        raise ValueError("pairs like 0=negative 1=positive")
    return {key: item for key, _, item in pairs}


def _fold_head(layer: Mapping[str, Any]) -> dict[str, Any]:
    """`head: {preset: text, alpha: 0.7}` and `head.alpha: 0.7` -> `head` and `head_overrides`."""
    folded: dict[str, Any] = {}
    overrides: dict[str, Any] = {}
    for key, value in layer.items():
        if key == "head" and isinstance(value, Mapping):
            fields = dict(value)
            if "preset" in fields:
                folded["head"] = fields.pop("preset")
            overrides |= fields
        elif key == "head_overrides":
            overrides |= value
        elif key.startswith(HEAD_PREFIX):
            overrides[key[len(HEAD_PREFIX) :]] = value
        else:
            folded[key] = value
    return folded | ({"head_overrides": overrides} if overrides else {})


def _kind(head: Any) -> Any:
    return TEXT_FAMILY if head in TEXT_FAMILY else head


def build_arguments(layers: Sequence[tuple[str, Mapping[str, Any]]]) -> Arguments:
    """One checked `Arguments` from `(where it came from, settings)` layers, the later over the earlier.

    A layer that names another head drops the single head fields of the layers below it: they belonged to
    that layer's head. (`sot`, `text` and `words` have the same parts, and share them.) Raises UserError with
    every problem at once.
    """
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    problems: list[str] = []
    for source, layer in layers:
        folded = _fold_head(layer)
        if "head" in folded and _kind(folded["head"]) != _kind(values.get("head")):
            values.pop("head_overrides", None)
        for name, rival in RIVALS.items():
            if name in folded and rival not in folded:
                values.pop(rival, None)
                sources.pop(rival, None)
        for name, value in folded.items():
            where = f"--{name}" if source == "flag" else f"{name} ({source})"
            if name not in FIELDS:
                problems.append(
                    f"{source}: unknown setting {printable(name)!r}: {did_you_mean(name, FIELDS)}"
                )
                continue
            try:
                converted = convert(name, value)
            except ValueError as error:
                problems.append(f"{where}: {printable(value)!r} is not {error}")
                continue
            if name == "head_overrides":
                converted = values.get(name, {}) | converted
            values[name] = converted
            sources[name] = source
    arguments = Arguments(**values, sources=sources)
    problems += [f"{_flag(arguments, name)}: {problem}" for name, problem in check(arguments)]
    if problems:
        raise UserError("; ".join(problems))
    return arguments


def _flag(arguments: Arguments, name: str) -> str:
    source = arguments.sources.get(name, "default")
    return f"--{name}" if source in ("flag", "default") else f"{name} ({source})"
