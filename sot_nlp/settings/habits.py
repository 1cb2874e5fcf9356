"""Translate names that settings have in transformers' scripts and elsewhere into those of `Arguments`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sot_nlp.settings.arguments import FALSE_WORDS, TRAITS, TRUE_WORDS

ALIASES = {alias: name for name, traits in TRAITS.items() for alias in traits.aliases}
SPELLED = {other: (name, words) for name, traits in TRAITS.items() for other, words in traits.spelled.items()}
# name -> (the values that ask for what is done anyway, what to say to any other)
WITHOUT_SETTING: dict[str, tuple[tuple[str, ...], str]] = {
    "do_train": (("true",), "a run always trains; `sot-nlp evaluate FOLDER` scores a saved model"),
    "do_eval": (("true",), "a run always evaluates; --eval_strategy no does it only at the end"),
    "eval_steps": ((), "evaluations come at the end of each epoch; see --eval_strategy"),
    "eval_delay": (("0",), "every epoch is evaluated, or with --eval_strategy no only the last"),
    "warmup": ((), "use --warmup_steps N or --warmup_ratio X"),
    "pad_to_max_length": (("false",), "a batch is padded to its longest text; omit the flag"),
    "ignore_mismatched_sizes": (("true",), "an output layer for other labels is always reinitialised"),
    "load_best_model_at_end": (("true",), "a run always keeps the model of its best epoch"),
    "metric_for_best_model": ((), "the task's main metric decides: `main_metric` in the task's YAML file"),
    "greater_is_better": ((), "the metric itself says so; omit the flag"),
    "use_fast_tokenizer": (("true",), "fast tokenizers are used where a model has one"),
    "use_slow_tokenizer": (("false",), "fast tokenizers are used where a model has one"),
    "tokenizer_name": ((), "the tokenizer is that of --model_name_or_path"),
    "config_name": ((), "the configuration is that of --model_name_or_path"),
    "logging_dir": ((), "logs are in `logs` of --output_dir"),
    "logging_strategy": (("steps",), "use --logging_steps N"),
    "logging_first_step": (("false",), "use --logging_steps 1"),
    "run_name": ((), "a run is identified by its --output_dir"),
    "tf32": ((), "there is no such switch; see --mixed_precision"),
    "optim": (("adamw_torch", "adamw_torch_fused", "adamw"), "AdamW is the only optimizer"),
    "fp16_opt_level": ((), "use --mixed_precision fp16"),
    "save_safetensors": (("true",), "weights are saved as safetensors"),
    "save_only_model": (("false",), "a checkpoint always holds what a run needs to resume"),
    "remove_unused_columns": ((), "only the columns of texts and labels are read; omit the flag"),
    "dataloader_num_workers": (("0",), "tokens are read from a cache, which needs no workers"),
    "dataloader_drop_last": (("false",), "no example is dropped"),
    "shuffle_train_dataset": (("true",), "training data is always shuffled, by --data_seed"),
    "metric_name": ((), "metrics are the task's: `metrics` in the task's YAML file"),
    "token": ((), "log in with `hf auth login`; --hub_token is for pushing"),
    "use_auth_token": ((), "log in with `hf auth login`; --hub_token is for pushing"),
    "deepspeed": ((), "pass it to the launcher: `accelerate launch --use_deepspeed`"),
    "fsdp": ((), "pass it to the launcher: `accelerate launch --use_fsdp`"),
    "local_rank": (("-1",), "start the processes with `accelerate launch`"),
}
# What says "not set" in `TrainingArguments`.
NOT_SET = {"max_steps": "-1"}
NAMES = (*ALIASES, *SPELLED, *WITHOUT_SETTING)


def translate(layer: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the settings of `layer` by our names, and `(name, problem)` for each that has none.

    Two names of one setting in the same layer are a problem.
    """
    ours: dict[str, Any] = {name: value for name, value in layer.items() if name not in NAMES}
    problems: list[tuple[str, str]] = []
    for name, value in layer.items():
        if name in WITHOUT_SETTING:
            accepted, line = WITHOUT_SETTING[name]
            if _word(value, accepted) not in accepted:
                problems.append((name, line))
            continue
        if name in NOT_SET and str(value) == NOT_SET[name]:
            continue
        if name in ALIASES:
            setting, said = ALIASES[name], value
        elif name in SPELLED:
            setting, words = SPELLED[name]
            if _word(value, words) not in words:
                problems.append((name, f"use --{setting} instead"))
                continue
            said = words[_word(value, words)]
            if said is None:
                continue
        else:
            continue
        if setting in ours:
            problems.append((name, f"means the same as --{setting}; give one of them"))
        ours[setting] = said
    if str(layer.get("save_strategy")).lower() == "steps" and "checkpointing_steps" not in ours:
        problems.append(("save_strategy", "use --checkpointing_steps N"))
    return ours, problems


def _word(value: Any, known: Iterable[str]) -> str:
    """Return `value` as one of `known`, as it is or by its truth; as it is where it is none of them."""
    word = str(value).lower()
    truth = "true" if word in TRUE_WORDS else "false" if word in FALSE_WORDS else word
    return word if word in known else truth
