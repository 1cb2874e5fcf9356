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
    "torch_dtype": (("float32", "auto"), "weights are trained in fp32; see --mixed_precision"),
    "dtype": (("float32", "auto"), "weights are trained in fp32; see --mixed_precision"),
    "early_stopping_threshold": (("0.0", "0"), "any better score counts; see --early_stopping_patience"),
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
_SPLITS = "splits are found by their names; a task's YAML file names others (`dataset_splits`)"
_COMPILER = "pass it to the launcher: `accelerate launch --dynamo_backend`"
WITHOUT_SETTING |= {
    "activation_checkpointing_kwargs": ((), "see --gradient_checkpointing"),
    "auto_find_batch_size": (("false",), "see --max_tokens_per_batch"),
    "bf16_full_eval": (("false",), "evaluations have the training's precision; see --mixed_precision"),
    "do_lower_case": ((), "the tokenizer knows whether it lowers letters; omit the flag"),
    "evaluate_during_training": (("true",), "every epoch is evaluated; see --eval_strategy"),
    "fp16_full_eval": (("false",), "evaluations have the training's precision; see --mixed_precision"),
    "fsdp_config": ((), "pass it to the launcher: `accelerate launch --use_fsdp`"),
    "gradient_checkpointing_kwargs": ((), "see --gradient_checkpointing"),
    "hub_revision": ((), "use `sot-nlp push FOLDER --revision NAME`"),
    "length_column_name": ((), "lengths are counted in tokens; omit the flag"),
    "preprocessing_num_workers": ((), "tokens are made once and read from a cache; omit the flag"),
    "remove_columns": ((), "only the columns of texts and labels are read; omit the flag"),
    "remove_splits": ((), _SPLITS),
    "text_column_delimiter": ((), "two --text_column_names make a pair; join others before"),
    "torch_compile_backend": (("inductor",), _COMPILER),
    "torch_compile_mode": (("default",), _COMPILER),
    "train_split_name": (("train",), _SPLITS),
    "test_split_name": (("test",), _SPLITS),
    "validation_split_name": (("validation",), _SPLITS),
}
# Arguments of Trainer, now or formerly, that nothing here corresponds to.
NO_COUNTERPART = """
    accelerator_config average_tokens_across_devices batch_eval_metrics dataloader_in_order
    dataloader_multiprocessing_context dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph ddp_timeout debug dispatch_batches enable_jit_checkpoint
    eval_accumulation_steps eval_do_concat_batches eval_on_start eval_use_gather_object fp16_backend
    full_determinism half_precision_backend hub_always_push ignore_data_skip include_for_metrics
    include_inputs_for_metrics include_num_input_tokens_seen include_tokens_per_second jit_mode_eval
    label_names liger_kernel_config log_level log_level_replica log_on_each_node logging_nan_inf_filter
    low_cpu_mem_usage lr_scheduler_kwargs mp_parameters neftune_noise_alpha optim_args
    optim_target_modules parallelism_config past_index prediction_loss_only project
    push_to_hub_organization ray_scope restore_callback_states_from_checkpoint save_on_each_node
    sharded_ddp skip_memory_metrics split_batches torch_empty_cache_steps torchdynamo tpu_metrics_debug
    tpu_num_cores trackio_bucket_id trackio_space_id trackio_static_space_id use_cache use_ipex
    use_liger_kernel use_mps_device xpu_backend
""".split()  # noqa: SIM905
_NOTHING = "an argument of Trainer without a counterpart here; omit it"
WITHOUT_SETTING |= dict.fromkeys(NO_COUNTERPART, (("false",), _NOTHING))
# What `TrainingArguments` call otherwise: "not set", "the last checkpoint".
NOT_SET = {"max_steps": "-1"}
LATEST = "latest"
NAMES = (*ALIASES, *SPELLED, *WITHOUT_SETTING)


def translate(layer: Mapping[str, Any]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Return the settings of `layer` by our names, and `(name, problem)` for each that has none.

    Two names of one setting in the same layer are a problem.
    """
    ours: dict[str, Any] = {name: value for name, value in layer.items() if name not in NAMES}
    if str(ours.get("resume_from_checkpoint")).lower() == "true":
        ours["resume_from_checkpoint"] = LATEST
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
    if isinstance(value, list):  # the words of a flag; none where it stands alone
        value = " ".join(map(str, value)) if value else True
    word = str(value).lower()
    truth = "true" if word in TRUE_WORDS else "false" if word in FALSE_WORDS else word
    return word if word in known else truth
