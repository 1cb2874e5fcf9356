"""Settings of data and model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sot_nlp.modeling.head_config import DEFAULT_PRESET, PRESETS, choices
from sot_nlp.settings.traits import setting


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """Which task or data a run trains on, and how the data is read."""

    task: str | None = setting(
        None,
        "a task of `sot-nlp tasks` (cola, rte, ..., demo) or the path of a task's YAML file",
        grid="--tasks",
        probe=True,
        aliases=("task_name",),
    )
    data_dir: str | None = setting(
        None,
        "folder with GLUE's own files (CoLA/train.tsv, ...); without it the data comes from the Hub",
        kind="place",
        data="any",
        probe=True,
    )
    train_file: str | None = setting(
        None, "your training data: CSV, TSV, JSON, JSONL or Parquet", on_resume="free", data="own", probe=True
    )
    validation_file: str | None = setting(
        None,
        "your validation data; without it, --validation_fraction of the training data is held out",
        on_resume="free",
        data="own",
        probe=True,
    )
    test_file: str | None = setting(
        None, "your data without labels, for --do_predict", on_resume="free", data="own"
    )
    dataset_name: str | None = setting(
        None, "a dataset on the Hub", data="own", probe=True, aliases=("dataset",)
    )
    dataset_config_name: str | None = setting(None, "its configuration", data="own", probe=True)
    streaming: bool = setting(
        False,
        "read a dataset of the Hub without storing it: only its tokens are on disk, for this run alone; "
        "with --max_train_steps the training data, also --train_file, is read window by window and not even "
        "its tokens are stored (an epoch of the record is then a window)",
    )
    text_column_names: list[str] | None = setting(
        None,
        "the one or two columns that hold text; guessed and printed when not given",
        data="own",
        probe=True,
        aliases=("text_column_name",),
    )
    label_column_name: str | None = setting(
        None, "the column that holds labels; guessed and printed when not given", data="own", probe=True
    )
    label_mapping: dict[str, str] | None = setting(
        None, "what the labels in the files mean, as pairs like 0=negative 1=positive", data="own", probe=True
    )
    problem_type: str | None = setting(
        None,
        "type of your data's labels: classification, regression or multi_label; inferred when not "
        "given (whole numbers and texts are classes, decimals scores, lists several labels at once)",
        choices=("classification", "regression", "multi_label"),
        data="own",
        probe=True,
        spelled={"do_regression": {"true": "regression", "false": "classification"}},
    )
    quoting: bool | None = setting(
        None,
        'whether a " in your CSV and TSV files quotes a field; when not given: in CSV it does, in TSV where '
        "the whole file reads so",
        data="own",
        probe=True,
    )
    validation_fraction: float = setting(
        0.1,
        "share of the training data held out (stratified) where no validation data is given",
        above=0,
        high=0.9,
        data="any",
        probe=True,
    )
    drop_leaked: bool = setting(
        False, "drop training examples that also occur in the validation data", probe=True
    )
    max_length: int = setting(
        128,
        "longest sequence in tokens, at most the model's positions; texts that are cut are counted",
        low=1,
        data="any",
        probe=True,
        card=True,
        aliases=("max_seq_length", "max_seq_len"),
    )
    max_train_samples: int | None = setting(
        None,
        "use only N training examples, drawn at random by --data_seed (by 0 when not given, so that runs of "
        "different seeds share them); from a stream the first N",
        low=1,
        budget=True,
        probe=True,
    )
    max_eval_samples: int | None = setting(
        None,
        "use only the first N examples of every validation split, in the file's order",
        low=1,
        probe=True,
        aliases=("max_val_samples",),
    )
    max_predict_samples: int | None = setting(
        None,
        "use only the first N examples of every test split, in the file's order",
        on_resume="free",
        low=1,
    )
    cache_dir: str | None = setting(
        None, "where tokenised data is cached", kind="place", data="any", probe=True
    )
    overwrite_cache: bool = setting(False, "tokenise again even if a cache exists", kind="place", probe=True)


@dataclass(frozen=True, kw_only=True)
class ModelSettings:
    """Choose the backbone, the head and which of their weights are trained."""

    model_name_or_path: str = setting(
        "google-bert/bert-base-cased",
        "backbone or SoT checkpoint: a folder or a name on the Hub",
        grid="--models",
        probe=True,
        aliases=("model", "model_name"),
    )
    model_revision: str = setting("main", "branch, tag or commit of the model on the Hub", probe=True)
    trust_remote_code: bool = setting(False, "run model code that comes with a checkpoint", probe=True)
    head: str = setting(
        DEFAULT_PRESET,
        f"preset of the head: {', '.join(PRESETS)}; unless it is given, few texts of your own take "
        "word_mean, and a causal model that learns as a whole stock",
        grid="--heads",
    )
    head_overrides: dict[str, Any] = setting(
        {},
        "single fields of the head, as --head.FIELD VALUE (e.g. --head.alpha 0.7); those with named values: "
        + "; ".join(f"{name} ({', '.join(values)})" for name, values in choices().items()),
    )
    freeze_backbone: bool = setting(False, "train the head alone", card=True)
    trainable_layers: int | None = setting(
        None, "train the head and only the top N backbone layers", low=0, card=True
    )
    lora_r: int | None = setting(None, "rank of LoRA on the backbone (needs peft)", low=1, card=True)
    lora_alpha: int = setting(
        16, "LoRA's scale: its update is multiplied by lora_alpha / lora_r", low=1, needs="lora_r", card=True
    )
    lora_dropout: float = setting(0.05, "dropout of LoRA", low=0, high=0.999999, needs="lora_r", card=True)
    lora_target_modules: list[str] | None = setting(
        None, "modules that LoRA wraps; chosen by model family when not given", needs="lora_r"
    )
