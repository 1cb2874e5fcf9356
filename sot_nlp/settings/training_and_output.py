"""Settings of training, speed and output."""

from __future__ import annotations

from dataclasses import dataclass

from sot_nlp.settings.traits import setting


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Set the optimisation: length, learning rates, regularisation, seeds."""

    training_method: str = setting(
        "auto",
        "fine_tune (updates of all weights), linear_probe (the head alone, in closed form: for few texts), "
        "probe_then_tune (one after the other), or auto: the best one for your own data with few labelled "
        "texts, if no other setting of the training or the head is given",
        on_resume="unseen",  # what it comes to is compared itself
        choices=("auto", "fine_tune", "linear_probe", "probe_then_tune"),
    )
    per_device_train_batch_size: int = setting(
        32,
        "training batch size per device",
        on_resume="free",
        low=1,
        budget=True,
        probe=True,
        card=True,
        aliases=("per_gpu_train_batch_size", "train_batch_size", "batch_size"),
    )
    learning_rate: float = setting(
        2e-5, "AdamW's peak learning rate", above=0, probe=True, card=True, aliases=("lr",)
    )
    head_learning_rate: float | None = setting(
        None, "peak learning rate of the head; --learning_rate when not given", above=0, card=True
    )
    class_token_learning_rate: float | None = setting(
        None,
        "peak rate of the head's branch of the classification token; --head_learning_rate when not given",
        above=0,
        card=True,
    )
    layerwise_lr_decay: float = setting(
        1.0, "factor on the learning rate per layer, from the top down", above=0, high=1, card=True
    )
    num_train_epochs: float = setting(
        3.0,
        "number of passes over the training data",
        on_resume="free",
        above=0,
        rival="max_train_steps",
        budget=True,
        probe=True,
        card=True,
        aliases=("num_epochs", "epochs"),
    )
    max_train_steps: int | None = setting(
        None,
        "number of updates; overrides --num_train_epochs",
        on_resume="free",
        low=1,
        rival="num_train_epochs",
        budget=True,
        card=True,
        aliases=("max_steps",),
    )
    gradient_accumulation_steps: int = setting(
        1,
        "batches per device and update",
        on_resume="free",
        low=1,
        budget=True,
        card=True,
        aliases=("gradient_accumulation",),
    )
    lr_scheduler_type: str = setting(
        "linear",
        "linear, cosine, constant, constant_with_warmup or inverse_sqrt",
        choices=("linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"),
        probe=True,
        card=True,
        aliases=("lr_scheduler",),
    )
    warmup_steps: int | None = setting(
        None,
        "number of updates of linear warm-up",
        low=0,
        rival="warmup_ratio",
        probe=True,
        card=True,
        aliases=("num_warmup_steps",),
    )
    warmup_ratio: float = setting(
        0.0,
        "share of all updates used for warm-up",
        low=0,
        high=1,
        rival="warmup_steps",
        probe=True,
        card=True,
        aliases=("warmup_proportion",),
    )
    weight_decay: float = setting(
        0.0, "decoupled weight decay (not on biases and norms)", low=0, probe=True, card=True
    )
    adam_beta1: float = setting(0.9, "AdamW's beta 1", low=0, high=0.999999, probe=True, card=True)
    adam_beta2: float = setting(0.999, "AdamW's beta 2", low=0, high=0.999999, probe=True, card=True)
    adam_epsilon: float = setting(1e-8, "AdamW's epsilon", above=0, probe=True, card=True)
    max_grad_norm: float = setting(1.0, "gradients are clipped to this norm", above=0, probe=True, card=True)
    label_smoothing: float = setting(
        0.0,
        "label smoothing of the cross-entropy",
        low=0,
        high=0.999999,
        probe=True,
        card=True,
        aliases=("label_smoothing_factor",),
    )
    class_weights: str | None = setting(
        None, "'balanced', or one number per class in the order of the labels: 1.0,2.5", card=True
    )
    early_stopping_patience: int | None = setting(
        None, "stop after N evaluations without a better main metric", on_resume="free", low=1, budget=True
    )
    seed: int = setting(
        42,
        "seed of the new weights and of dropout",
        low=0,
        high=2**32 - 1,
        grid="--seeds",
        probe=True,
        card=True,
    )
    data_seed: int | None = setting(
        None,
        "seed of the data's order, --seed when not given; and of what --validation_fraction and "
        "--max_train_samples draw, 0 when not given",
        low=0,
        high=2**32 - 1,
        grid="--seeds",
        data="any",
        card=True,
        aliases=("shuffle_seed",),
    )
    on_nan: str = setting(
        "stop",
        "on a loss or gradient that is not finite: stop or skip the update",
        on_resume="free",
        choices=("stop", "skip"),
    )
    max_nan_skips: int = setting(
        10, "with --on_nan skip: how many updates may be skipped", on_resume="free", low=0
    )


@dataclass(frozen=True, kw_only=True)
class SpeedSettings:
    """Set how batches are made, in which precision and how fast they are computed."""

    group_by_length: bool = setting(
        True,
        "batch examples of similar length (hardly any padding)",
        spelled={"train_sampling_strategy": {"group_by_length": "true", "random": "false"}},
    )
    max_tokens_per_batch: int | None = setting(
        None,
        "limit a batch by its padded tokens instead of by examples",
        on_resume="free",
        low=1,
        budget=True,
    )
    mixed_precision: str = setting(
        "auto",
        "auto (bf16 where this device is faster with it), no, bf16, fp16 or fp8",
        on_resume="free",
        choices=("auto", "no", "bf16", "fp16", "fp8"),
        spelled={"fp16": {"true": "fp16", "false": None}, "bf16": {"true": "bf16", "false": None}},
    )
    torch_compile: bool = setting(False, "compile the model")
    cuda_graphs: bool = setting(
        True, "on one GPU: replay the passes of a known batch shape as one CUDA graph", kind="speed"
    )
    gradient_checkpointing: bool = setting(
        False, "trade time for memory in the backbone", aliases=("activation_checkpointing",)
    )
    attn_implementation: str | None = setting(
        None, "the backbone's attention: sdpa, eager, flash_attention_2, ...", probe=True
    )
    cpu: bool = setting(False, "do not use a GPU", kind="speed", probe=True, aliases=("no_cuda", "use_cpu"))


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """Where a run writes, and when it evaluates and saves."""

    output_dir: str | None = setting(
        None,
        "the run's folder; runs/<task>-<model>-<head>-seed<seed> when not given",
        kind="place",
        probe=True,
        aliases=("output",),
    )
    overwrite_output_dir: bool = setting(
        False,
        "start from scratch: replace the run in the output folder, finished or not",
        kind="place",
        on_resume="unseen",
    )
    eval_strategy: str = setting(
        "epoch",
        "when to evaluate: at each epoch's end (epoch), or only after the last (no)",
        on_resume="free",
        choices=("epoch", "no"),
        aliases=("evaluation_strategy",),
    )
    per_device_eval_batch_size: int | None = setting(
        None,
        "evaluation batch size per device; 64, or 256 on a GPU, when not given",
        kind="speed",
        low=1,
        aliases=("per_gpu_eval_batch_size", "eval_batch_size"),
    )
    do_predict: bool = setting(False, "predict the test split too", kind="output")
    checkpointing_steps: str | None = setting(
        None,
        "write a checkpoint every N updates, or at each 'epoch'",
        kind="output",
        aliases=("save_steps",),
        spelled={"save_strategy": {"epoch": "epoch", "no": "none", "steps": None}},
    )
    save_total_limit: int | None = setting(2, "keep only the newest N checkpoints", kind="output", low=1)
    resume_from_checkpoint: str | None = setting(
        None,
        "'latest' or a checkpoint's folder; an unfinished run resumes by itself",
        kind="place",
        on_resume="unseen",
    )
    save_remote_code: bool = setting(
        True, "save the model's code with it, so that it loads without sot-nlp", kind="output"
    )


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """Say what is logged, and where."""

    logging_steps: int = setting(10, "number of updates between two log lines", kind="output", low=1)
    disable_tqdm: bool = setting(False, "no progress bar", kind="output", probe=True)
    with_tracking: bool = setting(
        False,
        "report to experiment trackers: train/loss, train/learning_rate, ..., and each validation split's "
        "loss and metrics (validation/loss, validation/accuracy)",
        kind="output",
    )
    report_to: str | None = setting(
        "all",
        "the tracker: tensorboard, trackio, wandb, ..., all or none; given, it decides on --with_tracking",
        kind="output",
    )


@dataclass(frozen=True, kw_only=True)
class HubSettings:
    """Whether and where a model is pushed."""

    push_to_hub: bool = setting(False, "push model, tokenizer and model card at the end", kind="output")
    hub_model_id: str | None = setting(
        None, "the Hub repository, e.g. me/cola-sot", kind="output", aliases=("push_to_hub_model_id",)
    )
    hub_private_repo: bool = setting(
        False, "make the Hub repository private", kind="output", aliases=("hub_private",)
    )
    hub_strategy: str = setting(
        "end", "push at the end, or at every_save", kind="output", choices=("end", "every_save")
    )
    hub_token: str | None = setting(
        None,
        "Hub token; by default the one of `hf auth login`",
        kind="secret",
        aliases=("push_to_hub_token",),
    )
