"""Load a checkpoint's weights: what is new, what does not fit, reported in one line."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import pickle
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import PreTrainedConfig
from transformers.utils import find_adapter_config_file, is_peft_available

from .backbone import backbone_class
from .configuration_sot import backbone_type
from .own_code import register_saved_parts
from .tokenizer import load_tokenizer, separator_ids

logger = logging.getLogger(__name__)

HEAD = "classifier."
CLASSIFIER = "ForSequenceClassification"
GENERIC_LABEL = re.compile(r"LABEL_\d+")
# The arguments of `from_pretrained` that say where files come from.
HUB_ARGUMENTS = (
    "cache_dir",
    "force_download",
    "local_files_only",
    "proxies",
    "revision",
    "subfolder",
    "token",
)
# What the Hub says of a model that it has.
HUB_REFUSALS: tuple[tuple[type[Exception], str], ...] = (
    (GatedRepoError, "accept its conditions on its page of the Hub, then log in: `hf auth login`"),
    (RevisionNotFoundError, "this model of the Hub has no such revision (branch, tag or commit)"),
)


def _why_unread(source: str, error: OSError) -> str:
    """Return in one line why the `config.json` of `source` could not be had, and what would be right.

    The client's own messages run over several lines and name web pages instead of the cause.
    """
    if Path(source).is_dir():
        return str(error)
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    for kind, reason in HUB_REFUSALS:
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    statuses = [cause.response.status_code for cause in causes if isinstance(cause, HfHubHTTPError)]
    if 404 in statuses or any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        reason = "nor such a model on the Hub (is it private? `hf auth login`)"
    elif any(isinstance(cause, HFValidationError) for cause in causes):
        reason = "and no model of the Hub is named so"
    elif statuses:
        reason = f"and {constants.ENDPOINT} answered {statuses[0]}"
    elif any(isinstance(cause, LocalEntryNotFoundError | HTTPError) for cause in causes):
        reason = "nor in the Hub's cache"
        if constants.HF_HUB_OFFLINE:
            reason += ", and offline mode is on (HF_HUB_OFFLINE)"
        elif any(isinstance(cause, HTTPError) for cause in causes):
            reason += f", and {constants.ENDPOINT} cannot be reached"
    else:
        return str(error)
    right = "give a model's folder, or its name on the Hub (OWNER/NAME)"
    return f"there is no folder of this name here, {reason}; {right}"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk or on the Hub: where it is, and what its `config.json` says.

    `adapter` is the folder or name of a PEFT adapter for it, if one was asked for.
    """

    source: str
    saved: dict[str, Any]
    hub_arguments: dict[str, Any]
    adapter: str | None = None

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.source if self.adapter is None else f"{self.adapter}, an adapter for {self.source}"

    @classmethod
    def read(cls, source: str | os.PathLike[str] | Checkpoint, arguments: dict[str, Any]) -> Checkpoint:
        """Return the checkpoint at `source`; `arguments` are those of `from_pretrained` (left unchanged).

        One that has been read is returned as it is, with where its files come from. Where `source` is a PEFT
        adapter, it is the checkpoint that the adapter names as its base.

        Raises:
            OSError: without a readable `config.json`.
            ValueError: if that isn't a JSON object.
        """
        if isinstance(source, Checkpoint):
            return source
        hub_arguments = {name: arguments[name] for name in HUB_ARGUMENTS if name in arguments}
        # AutoModel has found the adapter's base by itself.
        adapter = (arguments.get("adapter_kwargs") or {}).get("_adapter_model_path")
        try:
            saved, _ = PreTrainedConfig.get_config_dict(source, **hub_arguments)
        except OSError as error:  # which may be of the network alone
            raise OSError(f"{source}: {_why_unread(str(source), error)}") from error
        except TypeError as error:  # older transformers look into a list as if it were an object
            raise ValueError(f"{source}: its config.json holds no object of settings") from error
        if not isinstance(saved, dict):
            raise ValueError(f"{source}: its config.json holds no object of settings")
        if (
            not saved
            and (adapter_config := find_adapter_config_file(str(source), **hub_arguments)) is not None
        ):
            if not is_peft_available():
                raise ValueError(f"{source} is an adapter: it needs peft (pip install peft)")
            adapter = str(source)
            source = str(
                json.loads(Path(adapter_config).read_text(encoding="utf-8"))["base_model_name_or_path"]
            )
            try:
                saved, _ = PreTrainedConfig.get_config_dict(source, **hub_arguments)
            except OSError as error:
                raise OSError(
                    f"{adapter} is an adapter for {source}, which cannot be read: "
                    f"{_why_unread(source, error)}"
                ) from error
        if not saved:
            raise OSError(f"{source}: there is no config.json, or nothing in it")
        return cls(str(source), saved, hub_arguments, adapter)

    def model_config(self, config_class: Any, arguments: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the model's config, and those of `from_pretrained`'s arguments that are not for it."""
        arguments = {name: value for name, value in arguments.items() if name not in HUB_ARGUMENTS}
        # These classes are here already, but not a user's own parts that are saved with the checkpoint.
        if arguments.pop("trust_remote_code", False):
            register_saved_parts(self.source, self.saved.get("head"), self.hub_arguments)
        config = arguments.pop("config", None)
        # A config takes only the names of torch's types; what "auto" means, the model's loading knows.
        precision = {name: arguments.pop(name) for name in ("dtype", "torch_dtype") if name in arguments}
        if config is None:
            settings = config_class.own_settings(copy.deepcopy(self.saved), self.source)
            config, arguments = config_class.from_dict(settings, return_unused_kwargs=True, **arguments)
        elif not isinstance(config, PreTrainedConfig):
            config, arguments = config_class.from_pretrained(
                config, return_unused_kwargs=True, **self.hub_arguments, **arguments
            )
        # By name: as remote code, transformers loads the config's file twice, so there are two such classes.
        elif config.model_type != config_class.model_type:
            raise ValueError(
                f"config is a {type(config).__name__}, but {self.source} needs a {config_class.__name__}"
            )
        if self.adapter is not None and self.has_new_head(config):
            raise ValueError(
                f"{self.name}: that base has no such SoT head; load the adapter with peft on the model that "
                "it was trained on, or use the merged model"
            )
        if hasattr(config, "text_config"):
            backbone_class(config.text_config)  # refuses what no head can be put on before any weight is read
        self._complete_from_tokenizer(config)
        return config, arguments | precision | self.hub_arguments

    def _complete_from_tokenizer(self, config: Any) -> None:
        """Fill in the special tokens' ids that only the tokenizer knows (GPT has no pad token, ...)."""
        lacks_separators = not config.head_config.include_separators and not config.separator_token_ids
        if config.pad_token_id is not None and not lacks_separators:
            return
        try:
            tokenizer = load_tokenizer(self.source, saved=self.saved, **self.hub_arguments)
        except (OSError, ValueError):
            return  # a checkpoint may come without one; the model says so where it cannot do without
        if config.pad_token_id is None:
            config.pad_token_id = tokenizer.pad_token_id
        if lacks_separators:
            config.separator_token_ids = separator_ids(tokenizer)

    def is_plain(self, config: Any) -> bool:
        """Return whether this is a backbone without a SoT head."""
        return backbone_type(self.saved, self.source) != config.model_type

    def has_new_head(self, config: Any) -> bool:
        """Return whether `config` asks for another head than the checkpoint has."""
        if self.is_plain(config) or is_headless(self.saved):
            return True
        saved = copy.deepcopy(config)
        saved.set_head(self.saved.get("head"))
        return bool(saved.head != config.head)

    def has_outputs_of(self, config: Any) -> bool:
        """Return whether the checkpoint has the trained output layers of a model of `config`."""
        return not self.has_new_head(config) and config.num_labels == self._saved_num_labels()

    def key_mapping(self, config: Any) -> dict[str, str]:
        """Return how the checkpoint names the backbone, where the model names it otherwise."""
        if not self.is_plain(config) or not hasattr(config, "text_config"):
            return {}
        prefix = backbone_class(config.text_config).base_model_prefix
        return {} if prefix in ("", "model") else {rf"^{prefix}\.": "model."}

    def check(self, model: Any, info: dict[str, Any], *, allow_mismatch: bool) -> None:
        """Refuse weights that are missing or do not fit; renew a head that is to be new; say what is new.

        Args:
            model: the model just loaded.
            info: transformers' loading info.
            allow_mismatch: reinitialise mismatched weights instead of refusing them.

        Raises:
            ValueError: naming the weights at fault.
        """
        config = model.config
        missing = set(info["missing_keys"])
        mismatched = {
            name: (tuple(actual), tuple(wanted)) for name, actual, wanted in info["mismatched_keys"]
        }
        # Only a stock BERT has a pooler, and checkpoints of language models come without.
        new = {name for name in missing if name.startswith(f"{model.base_model_prefix}.pooler.")}
        if self.has_new_head(config):
            new |= {name for name in model.state_dict() if name.startswith(HEAD)}
            if not new <= missing:
                model.renew_head()
        elif config.num_labels != self._saved_num_labels():
            new |= {name for name in mismatched if name.startswith(HEAD)}
        if allow_mismatch:
            new |= set(mismatched)
        problems = [f"{name} is missing" for name in sorted(missing - new)]
        problems += [
            f"{name} is {_shape(actual)} in the file, {_shape(wanted)} by the config"
            for name, (actual, wanted) in sorted(mismatched.items())
            if name not in new
        ]
        if not self.has_new_head(config):
            problems += [
                f"{name} is not part of the model"
                for name in sorted(info["unexpected_keys"])
                if name.startswith(HEAD)
            ]
        if problems:
            shown = "; ".join(problems[:4]) + (f"; and {len(problems) - 4} more" if len(problems) > 4 else "")
            raise ValueError(f"{self.name}: its weights do not fit its config: {shown}")
        if new:
            self._announce(model, new)
        elif config.num_labels == self._saved_num_labels():
            self._announce_renamed_labels(config)
        if info["unexpected_keys"]:
            unused = ", ".join(sorted(info["unexpected_keys"]))
            logger.info("%s: not used: %s", _shown(self.source), _shown(unused))

    def _saved_num_labels(self) -> int:
        names = self.saved.get("id2label")
        return len(names) if names else 2

    def _announce(self, model: Any, new: set[str]) -> None:
        config = model.config
        if self.has_new_head(config):
            what = f"the SoT head ({config.head_preset or 'own settings'}, {_labels(config.num_labels)})"
            if any(not name.startswith(HEAD) for name in new):
                what += " and the pooler"
            if is_headless(self.saved):
                what += "; the checkpoint is the backbone of a SoT model, saved without its head"
        else:
            what = ", ".join(sorted(new))
            if config.num_labels != self._saved_num_labels():
                what += f" (for {_labels(config.num_labels)} instead of {self._saved_num_labels()})"
        logger.warning("%s: new, to be trained: %s", _shown(self.source), what)

    def _announce_renamed_labels(self, config: Any) -> None:
        """Warn where a trained output layer gets other names: transformers takes them by position."""
        before = {int(index): str(name) for index, name in (self.saved.get("id2label") or {}).items()}
        renamed = [
            f"{name} is now {config.id2label[index]}"
            for index, name in sorted(before.items())
            if not GENERIC_LABEL.fullmatch(name) and config.id2label[index] != name
        ]
        if renamed:
            shown = ", ".join(renamed[:4]) + (f", and {len(renamed) - 4} more" if len(renamed) > 4 else "")
            logger.warning(
                "%s: the trained output layer is kept and its labels are renamed by position: %s",
                _shown(self.source),
                _shown(shown),
            )

    @contextlib.contextmanager
    def clear_errors(self) -> Iterator[None]:
        """Report damaged weight files as an OSError that names them, an unfit adapter as a ValueError."""
        try:
            yield
        except (RuntimeError, ValueError) as error:
            if self.adapter is None:
                raise
            raise ValueError(f"{self.name}, does not fit it: {error}") from error
        except (SafetensorError, pickle.UnpicklingError, EOFError) as error:
            raise OSError(
                f"{self.source}: its weights cannot be read, the file is damaged: {error}"
            ) from error


def is_headless(saved: Mapping[str, Any]) -> bool:
    """Return whether a `config.json` is of a SoT model's backbone, saved alone, without the head."""
    names = saved.get("architectures") or ()
    is_sot = str(saved.get("model_type", "")).startswith("sot")
    return is_sot and bool(names) and not any(str(name).endswith(CLASSIFIER) for name in names)


def _labels(count: int) -> str:
    return f"{count} label" + "s" * (count != 1)


def _shown(text: str) -> str:
    """Return `text` with control and bidi characters escaped: a terminal would obey them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def quiet_report() -> Iterator[None]:
    """Keep transformers' table of missing and unexpected weights back: `Checkpoint.check` judges them."""

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    source = logging.getLogger("transformers.modeling_utils")
    source.addFilter(other)
    try:
        yield
    finally:
        source.removeFilter(other)


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a scalar"
