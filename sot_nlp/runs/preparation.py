"""Prepare a run from its settings: task, head, tokenizer, data, model. Each mistake names its flag."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.errors import UserError, counted, printable
from sot_nlp.modeling.head_checks import HeadSettingsError
from sot_nlp.runs import method as methods
from sot_nlp.runs import targets
from sot_nlp.runs.kept import data_key, kept, model_key, own_data
from sot_nlp.settings.arguments import HEAD_PREFIX, Arguments
from sot_nlp.tasks.labels import Alignment, align_labels

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from sot_nlp.data.task_data import TaskData
    from sot_nlp.modeling.head_config import SoTHeadConfig
    from sot_nlp.modeling.loading import Checkpoint
    from sot_nlp.tasks.spec import TaskSpec

logger = logging.getLogger(__name__)

HEADLESS = "holds the backbone of a SoT model, saved without its head; train a head on it first"
PROBLEM_TYPES = {
    "classification": "single_label_classification",
    "regression": "regression",
    "multi_label": "multi_label_classification",
}


def task_of(arguments: Arguments) -> TaskSpec:
    """Return the task that the settings name, with own files over its own, or one inferred from own files."""
    from sot_nlp.data.infer_task import user_task

    spec = user_task(arguments)
    if "train" not in spec.splits:
        first = (
            f"`sot-nlp train --task {spec.model_from}` and then"
            if spec.model_from
            else "with a trained model"
        )
        output = "" if spec.validation_splits else " --output_dir DIR"
        raise UserError(
            f"task {spec.name} has no training data; run {first} "
            f"`sot-nlp evaluate FOLDER --task {spec.name}{output}`"
        )
    return spec


def head_of(arguments: Arguments) -> SoTHeadConfig:
    """Return the head's settings: the preset with the given fields over it."""
    from sot_nlp.modeling.head_config import resolve_head

    with head_errors(arguments):
        return resolve_head(arguments.head, **arguments.head_overrides)


@contextlib.contextmanager
def head_errors(arguments: Arguments) -> Iterator[None]:
    """Turn what is wrong with the head's settings into one line that names their flags."""
    try:
        yield
    except HeadSettingsError as error:
        named = [f"--{HEAD_PREFIX}{printable(n)}" for n in arguments.head_overrides if error.names(n)]
        where = ", ".join(named) or f"--head {printable(arguments.head)}"
        raise UserError(f"{where}: {error.reason}") from None


def check_model_folder(name_or_path: str) -> None:
    """Refuse what is clearly meant as a folder and is none, or holds no model."""
    path = Path(name_or_path)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"--model_name_or_path {printable(path)}: no config.json in this folder")
    elif path.is_absolute() or name_or_path.startswith((".", "~")) or name_or_path.count("/") > 1:
        raise UserError(f"--model_name_or_path {printable(path)}: no such folder")


@contextlib.contextmanager
def user_errors(what: str, *others: type[Exception]) -> Iterator[None]:
    """Turn a library's refusal of what the user named into one line that names it.

    `what` is the name, with the flag it was given by. `others` are what the library raises besides its
    refusals: where it does nothing but read files, `Exception`, for of a damaged file anything may come.
    """
    from huggingface_hub.errors import HfHubHTTPError

    refusals: tuple[type[Exception], ...] = (OSError, ValueError, ImportError, RuntimeError, HfHubHTTPError)
    try:
        yield
    except UserError:
        raise
    except refusals + others as error:
        reason = " ".join(str(error).split())
        if not reason or not isinstance(error, refusals):
            reason = f"{type(error).__name__} {reason}".strip()
        named = what.removeprefix("--model_name_or_path ")
        raise UserError(f"{what}: {printable(reason.removeprefix(f'{named}: '), 600)}") from error


def read_checkpoint(arguments: Arguments) -> Checkpoint:
    """Read the `config.json` of `--model_name_or_path`, the only time in a run. Raises UserError."""
    with user_errors(f"--model_name_or_path {printable(arguments.model_name_or_path)}", Exception):
        from sot_nlp.modeling.loading import Checkpoint

        return Checkpoint.read(arguments.model_name_or_path, {"revision": arguments.model_revision})


def is_sot(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint is a SoT model's, not a plain backbone's."""
    return str(checkpoint.saved.get("model_type", "")).startswith("sot")


def is_causal(arguments: Arguments, checkpoint: Checkpoint) -> bool:
    """Return whether tokens of a checkpoint's backbone see only what precedes them. Raises UserError."""
    with user_errors(f"--model_name_or_path {printable(arguments.model_name_or_path)}"):
        return bool(_config(checkpoint, _loading_options(arguments)).causal)


def _config(checkpoint: Checkpoint, options: dict[str, Any]) -> Any:
    """Return the config of the model that `from_pretrained` makes of a checkpoint with these options."""
    from sot_nlp.modeling.auto import class_for
    from sot_nlp.modeling.configuration_sot import backbone_type

    config_class: Any = class_for(backbone_type(checkpoint.saved, checkpoint.name)).config_class
    unread = {"pad_token_id": 0, "separator_token_ids": [0]}  # for which the tokenizer would be read
    return checkpoint.model_config(config_class, {**unread, **options})[0]


def load_tokenizer(arguments: Arguments, checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Return the checkpoint's tokenizer, with a pad token and without token types that the model lacks.

    The length that a SoT checkpoint was trained with, which its tokenizer names, doesn't bound a new one.
    """
    with user_errors(f"--model_name_or_path {printable(arguments.model_name_or_path)}", Exception):
        from transformers.tokenization_utils_base import VERY_LARGE_INTEGER

        from sot_nlp.modeling.tokenizer import load_tokenizer as load

        read = functools.partial(
            load,
            arguments.model_name_or_path,
            trust_remote_code=arguments.trust_remote_code,
            saved=checkpoint.saved,
            revision=arguments.model_revision,
        )
        tokenizer = kept("tokenizer", lambda: model_key(arguments, checkpoint), read)
        if is_sot(checkpoint):
            tokenizer.model_max_length = VERY_LARGE_INTEGER
        return tokenizer


def model_positions(arguments: Arguments, checkpoint: Checkpoint) -> int | None:
    """Return the longest text, in tokens, that the checkpoint's backbone takes; None without a limit.

    Special tokens are included. Known before the weights are read, and whatever the tokenizer says, which
    often knows no limit.
    """
    with user_errors(f"--model_name_or_path {printable(arguments.model_name_or_path)}"):
        import torch

        from sot_nlp.modeling.auto import AutoSoTForSequenceClassification, class_for
        from sot_nlp.modeling.configuration_sot import backbone_type

        model_type = backbone_type(checkpoint.saved, checkpoint.name)
        model_class: Any = class_for(model_type)
        trust = {"trust_remote_code": arguments.trust_remote_code}
        config, _ = checkpoint.model_config(model_class.config_class, trust)
        with torch.device("meta"), unfit_backbone(model_type):
            return AutoSoTForSequenceClassification.from_config(config).max_tokens


def load_data(
    arguments: Arguments,
    checkpoint: Checkpoint,
    spec: TaskSpec,
    tokenizer: PreTrainedTokenizerBase,
    accelerator: Accelerator,
    splits: Sequence[str],
) -> TaskData:
    """Return the tokens of `splits`; the main process makes the cache, the others read it."""
    from sot_nlp.data.task_data import load_data as load

    def read() -> TaskData:
        positions = model_positions(arguments, checkpoint)
        with accelerator.main_process_first():
            return load(spec, arguments, tokenizer, splits=splits, model_max_length=positions)

    return kept("data", lambda: data_key(arguments, checkpoint, spec, splits), read, copy=own_data)


def load_model(
    arguments: Arguments,
    checkpoint: Checkpoint,
    head: SoTHeadConfig,
    data: TaskData,
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[PreTrainedModel, Alignment | None]:
    """Return the checkpoint's backbone with the head for `data`'s labels, and where those are in its outputs.

    A SoT checkpoint keeps its own head, and with the same label names its own order of them, unless a flag or
    the `--config` file asks for another head; for other labels its output layer is initialised. The alignment
    is None where the outputs are new. The weights are fp32, whatever precision they are stored in, and the
    embeddings have a row for every token of `tokenizer`.
    """
    with user_errors(f"--model_name_or_path {printable(arguments.model_name_or_path)}"):
        from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
        from sot_nlp.modeling.modeling_sot import SoTGenericForSequenceClassification
        from sot_nlp.modeling.tokenizer import separator_ids

        options = _loading_options(arguments)
        saved = checkpoint.saved
        asked = any(methods.asked(arguments, name) for name in ("head", "head_overrides"))
        alignment = None
        old_outputs = False
        if asked or not is_sot(checkpoint):
            options |= {"head": head, "head_preset": arguments.head}
        if data.labels is not None and not checkpoint.has_new_head(_config(checkpoint, options)):
            before = saved.get("id2label") or {0: "LABEL_0", 1: "LABEL_1"}  # what a config leaves out
            old_outputs = len(before) == len(data.labels)
            with contextlib.suppress(UserError):  # another task's labels: the outputs are reinitialised
                alignment = align_labels(before, data.labels)
        if data.labels is None:
            options["num_labels"] = 1
        elif not old_outputs:
            options |= targets.label_options(data.labels)
        with head_errors(arguments):
            model = AutoSoTForSequenceClassification.from_pretrained(
                checkpoint,
                problem_type=PROBLEM_TYPES[data.kind],
                pad_token_id=tokenizer.pad_token_id,
                separator_token_ids=separator_ids(tokenizer),
                **options,
            )
        if old_outputs and data.labels is not None:
            targets.take_labels(model, data.labels, alignment)
        add_embeddings(model, tokenizer)
        if isinstance(model, SoTGenericForSequenceClassification):
            with unfit_backbone(model.config.text_config.model_type):
                try_forward(model)
        return model, alignment


@contextlib.contextmanager
def unfit_backbone(model_type: str) -> Iterator[None]:
    """Turn what comes of a backbone that no head can be put on, a layout model's say, into a ValueError."""
    try:
        yield
    except (HeadSettingsError, MemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"a {model_type!r} backbone does not work under a SoT head ({reason})") from error


def try_forward(model: PreTrainedModel) -> None:
    """Run the model once on two short texts: what does not fit fails here, before any update.

    Not where weights are elsewhere: sharded loading (ZeRO-3, FSDP) leaves some empty or on no device.
    """
    import torch

    if any(weight.is_meta or not weight.numel() for weight in model.parameters()):
        return
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    was_training = model.training
    with torch.no_grad():
        model.eval()(input_ids=mask, attention_mask=mask)
    model.train(was_training)


def _loading_options(arguments: Arguments) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that every model is loaded with."""
    import torch

    options = {"trust_remote_code": arguments.trust_remote_code, "dtype": torch.float32}
    if arguments.attn_implementation:
        options["attn_implementation"] = arguments.attn_implementation
    return options


def check_saving(arguments: Arguments, model: PreTrainedModel) -> None:
    """Refuse, before any update, parts of the user's own whose code can't be saved with the model."""
    from sot_nlp.modeling.own_code import own_files
    from sot_nlp.modeling.remote_code import modeling_files

    if arguments.save_remote_code:
        with user_errors("--save_remote_code"):
            own_files(model.config.head_config.parts, {file.name for file in modeling_files()})


def add_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give the model an embedding for each token that the tokenizer has beyond them (`add_tokens`)."""
    import torch

    present, needed = _embeddings_and_tokens(model, tokenizer)
    if needed <= present:
        return
    # Drawn from the distribution of those there, and the same whatever the run's seed: a probe's heads share
    # one backbone.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.resize_token_embeddings(needed)
    logger.warning(
        "the tokenizer has %d tokens, the checkpoint %d embeddings: %d are new, drawn like the others",
        needed,
        present,
        needed - present,
    )


def check_embeddings(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    """Raise UserError where the tokenizer of the trained model `name` has tokens without an embedding."""
    present, needed = _embeddings_and_tokens(model, tokenizer)
    if needed > present:
        raise UserError(
            f"{printable(name)}: the tokenizer has {needed} tokens, the model {present} embeddings: "
            f"{counted(needed - present, 'was', 'were')} added after the training; take the tokenizer saved "
            "with the model, or train it with this one"
        )


def _embeddings_and_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    from sot_nlp.modeling.tokenizer import num_tokens

    embeddings: Any = model.get_input_embeddings()
    return embeddings.num_embeddings, num_tokens(tokenizer)


def align_weights(model: PreTrainedModel) -> PreTrainedModel:
    """Return `model` with its weights where torch allocates: those mapped from a file may start anywhere.

    Products over weights at other offsets add in another order, and differ in the last digit from those that
    the training computed.
    """
    for weight in (*model.parameters(), *model.buffers()):
        weight.data = weight.data.clone()
    return model


def load_saved(
    arguments: Arguments, checkpoint: Checkpoint, data: TaskData, tokenizer: PreTrainedTokenizerBase
) -> tuple[PreTrainedModel, Alignment | None]:
    """Load a saved SoT classifier in fp32; return it and where the labels of `data` are in its outputs."""
    named = f"--model_name_or_path {printable(arguments.model_name_or_path)}"
    with user_errors(named):
        from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
        from sot_nlp.modeling.loading import is_headless

        if not is_sot(checkpoint):
            model_type = printable(checkpoint.saved.get("model_type"))
            raise UserError(f"{named}: is not a SoT classifier (model_type {model_type}); train one first")
        if is_headless(checkpoint.saved):
            raise UserError(f"{named}: {HEADLESS}")
        model = AutoSoTForSequenceClassification.from_pretrained(checkpoint, **_loading_options(arguments))
        check_embeddings(align_weights(model), tokenizer, arguments.model_name_or_path)
        if data.labels is None:
            if (count := model.config.num_labels) != 1:
                raise UserError(f"the model has {count} labels, but the task is a regression")
            return model, None
        return model, align_labels(model.config.id2label, data.labels)


def vocabulary(arguments: Arguments, data: TaskData, tokenizer: PreTrainedTokenizerBase) -> np.ndarray | None:
    """Return the ids of all tokens that a training sees, its evaluations included; None where all are wanted.

    The test splits are not included: they are predicted after the training, and a resumed run may add them.
    """
    from sot_nlp.training.speed.embedding_rows import tokens_in_use

    if arguments.hub_strategy != "end" or data.stream is not None:
        return None  # whole models are saved on the way, or nobody knows what will come
    splits = [split for name, split in data.splits.items() if not name.startswith("test")]
    return tokens_in_use(splits, tokenizer.pad_token_id)
