"""Names of transformers' scripts, and that every command and flag that a message prints is one of ours."""

import ast
import contextlib
import dataclasses
import importlib
import re

import pytest
import transformers

from sot_nlp.cli import COMMANDS
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import FIELDS, TYPES, build_arguments
from sot_nlp.settings.command_line import parse_flags, read_config
from sot_nlp.settings.habits import ALIASES, NAMES, SPELLED, WITHOUT_SETTING
from tests.test_layout import FILES


def flags_of(line):
    return parse_flags(line.split(), "p", "")[0]


@pytest.mark.parametrize(
    ("line", "settings"),
    [
        ("--task_name cola --max_seq_length 64", {"task": "cola", "max_length": "64"}),
        (
            "--lr 1e-3 --epochs 2 --batch_size=8",
            {"learning_rate": "1e-3", "num_train_epochs": "2", "per_device_train_batch_size": "8"},
        ),
        (
            "--per_gpu_train_batch_size 8 --per_gpu_eval_batch_size 4",
            {"per_device_train_batch_size": "8", "per_device_eval_batch_size": "4"},
        ),
        (
            "--model m --output o --gradient_accumulation 2",
            {"model_name_or_path": "m", "output_dir": "o", "gradient_accumulation_steps": "2"},
        ),
        ("--fp16", {"mixed_precision": "fp16"}),
        ("--bf16 true --fp16 false", {"mixed_precision": "bf16"}),
        ("--fp16 no", {}),
        ("--no_cuda", {"cpu": True}),
        ("--use_cpu false", {"cpu": "false"}),
        ("--evaluation_strategy epoch", {"eval_strategy": "epoch"}),
        ("--save_steps 500", {"checkpointing_steps": "500"}),
        ("--save_strategy steps --save_steps 500", {"checkpointing_steps": "500"}),
        ("--save_strategy epoch", {"checkpointing_steps": "epoch"}),
        ("--save_strategy no", {"checkpointing_steps": "none"}),
        ("--do_train --do_eval true --load_best_model_at_end --ignore_mismatched_sizes", {}),
        ("--use_fast_tokenizer --optim adamw_torch --pad_to_max_length False", {}),
        ("--text_column_name a b", {"text_column_names": ["a", "b"]}),
        ("--max_steps 5", {"max_train_steps": "5"}),
        ("--max_steps -1 --epochs 2 --local_rank -1", {"num_train_epochs": "2"}),
        ("--resume_from_checkpoint True", {"resume_from_checkpoint": "latest"}),
        ("--do_regression --shuffle_seed 3", {"problem_type": "regression", "data_seed": "3"}),
        ("--train_sampling_strategy random", {"group_by_length": "false"}),
        ("--activation_checkpointing --warmup_proportion 0.1",
         {"gradient_checkpointing": True, "warmup_ratio": "0.1"}),
        ("--ddp_find_unused_parameters false --auto_find_batch_size no --train_split_name train", {}),
    ],
)  # fmt: skip
def test_other_names_mean_the_same(line, settings):
    flags = flags_of(line)
    assert flags == settings
    build_arguments([("flag", flags)])


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--do_train false", ["--do_train", "sot-nlp evaluate FOLDER"]),
        ("--do_eval no", ["--do_eval", "--eval_strategy no"]),
        ("--max_seq_length 5 --max_length 6", ["--max_seq_length", "--max_length", "one of them"]),
        ("--fp16 --bf16", ["--bf16", "--mixed_precision"]),
        ("--fp16 maybe", ["--fp16", "--mixed_precision"]),
        ("--mixed_precision no --fp16", ["--fp16", "--mixed_precision"]),
        ("--save_strategy steps", ["--save_strategy", "--checkpointing_steps N"]),
        ("--save_strategy best", ["--save_strategy", "--checkpointing_steps"]),
        ("--eval_steps 10", ["--eval_steps", "--eval_strategy"]),
        ("--pad_to_max_length", ["--pad_to_max_length", "longest text"]),
        ("--optim sgd", ["--optim", "AdamW"]),
        ("--metric_for_best_model f1", ["--metric_for_best_model", "main_metric"]),
        ("--preprocessing_num_workers 4", ["--preprocessing_num_workers", "omit the flag"]),
        ("--fp16_full_eval", ["--fp16_full_eval", "--mixed_precision"]),
        ("--auto_find_batch_size", ["--auto_find_batch_size", "--max_tokens_per_batch"]),
        ("--train_split_name a", ["--train_split_name", "dataset_splits"]),
        ("--label_names a b", ["--label_names", "without a counterpart"]),
        ("--log_level info", ["--log_level", "an argument of Trainer without a counterpart"]),
        ("--torch_dtype bfloat16", ["--torch_dtype", "fp32; see --mixed_precision"]),
        ("--early_stopping_threshold 0.1", ["--early_stopping_threshold", "--early_stopping_patience"]),
        ("args.json", ["stray word 'args.json'", "--config args.json"]),
        ("--warmup 10", ["--warmup", "--warmup_steps N", "--warmup_ratio X"]),
        ("--use_fast_tokenizer false", ["--use_fast_tokenizer"]),
        ("--logging_dir l --run_name r --tf32 true", ["--logging_dir", "--run_name", "--tf32"]),
    ],
)
def test_what_has_no_place_here_is_answered_in_one_line(line, parts):
    with pytest.raises(UserError) as caught:
        flags_of(line)
    assert "\n" not in str(caught.value)
    assert all(part in str(caught.value) for part in parts)


def test_a_config_file_takes_the_same_names(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("task_name: cola\nlr: 1e-3\nfp16: yes\ndo_train: true\nsave_strategy: no\n")
    values = read_config(str(path))
    assert values == {
        "task": "cola", "learning_rate": "1e-3", "mixed_precision": "fp16", "checkpointing_steps": "none"
    }  # fmt: skip
    path.write_text("seed: 1\nlr: 1e-3\nlearning_rate: 1e-4\noptim: sgd\n")
    with pytest.raises(UserError, match=r"run\.yaml:2: lr: means the same .*\n.*run\.yaml:4: optim: AdamW"):
        read_config(str(path))


def test_every_argument_of_trainer_has_an_answer():
    names = {field.name for field in dataclasses.fields(transformers.TrainingArguments)}
    assert not names - {*FIELDS, *NAMES}


# The scripts of transformers' folder of text classification, beside the arguments of Trainer.
SCRIPTS = (
    "task_name dataset_name dataset_config_name max_seq_length overwrite_cache pad_to_max_length "
    "max_train_samples max_eval_samples max_predict_samples train_file validation_file test_file "
    "model_name_or_path config_name tokenizer_name cache_dir use_fast_tokenizer model_revision token "
    "use_auth_token trust_remote_code ignore_mismatched_sizes max_length use_slow_tokenizer "
    "num_warmup_steps checkpointing_steps with_tracking hub_token hub_model_id do_regression "
    "text_column_names text_column_delimiter train_split_name validation_split_name test_split_name "
    "remove_splits remove_columns label_column_name shuffle_train_dataset shuffle_seed metric_name "
    "preprocessing_num_workers"
)


def test_every_argument_of_the_scripts_has_an_answer():
    assert not {*SCRIPTS.split()} - {*FIELDS, *NAMES}


def test_each_name_has_one_meaning():
    assert len(NAMES) == len(set(NAMES)) == len(ALIASES) + len(SPELLED) + len(WITHOUT_SETTING)
    assert not set(NAMES) & set(FIELDS)
    assert set(ALIASES.values()) <= set(TYPES)


def messages(paths=None):
    """The strings of the package that are no docstrings, with X in the place of what is filled in."""
    for path in paths or FILES.values():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        quiet = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        inner = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
        for node in ast.walk(tree):
            if id(node) in quiet | inner:
                continue
            if isinstance(node, ast.JoinedStr):
                yield "".join(v.value if isinstance(v, ast.Constant) else "X" for v in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


# Verbs that stand behind the name of the package in a sentence.
SENTENCE = {"from", "reads"}
# The commands that the messages of a module or package are about; of any other: some command.
ABOUT = {
    "sot_nlp.data": ("train",),
    "sot_nlp.explanation": ("explain",),
    "sot_nlp.inference.evaluate": ("evaluate",),
    "sot_nlp.inference.export": ("export",),
    "sot_nlp.inference.predict": ("predict",),
    "sot_nlp.publishing.hub": ("train", "push"),
    "sot_nlp.publishing.submission": ("submission", "evaluate"),
    "sot_nlp.runs": ("train", "evaluate"),
    "sot_nlp.serving": ("serve",),
    "sot_nlp.studies.ray_launcher": ("compare",),
    "sot_nlp.studies.sharding": ("compare",),
    "sot_nlp.studies.tune": ("tune",),
    "sot_nlp.tasks": ("train",),
    "sot_nlp.training": ("train",),
    **{f"sot_nlp.commands.{command}": (command,) for command in COMMANDS},
}
# Messages about a file of texts come from each of these.
READERS = ("train", "evaluate", "predict", "explain", "serve")
# They take the flags of a run beside their own.
TAKES_RUN_FLAGS = {"sot_nlp.commands.compare", "sot_nlp.commands.tune"}


def help_of(command, capsys):
    with contextlib.suppress(SystemExit):
        importlib.import_module(f"sot_nlp.commands.{command}").run(["--help"], f"sot-nlp {command}")
    return set(re.findall(r"(?<![\w-])--[a-z_.]+", capsys.readouterr().out))


def test_every_command_that_a_message_prints_is_one(capsys, monkeypatch):
    printed = [c for text in messages() for c in re.findall(r"`sot-nlp ([a-z]+)([^`]*)`", text)]
    bare = r"(?<!`)sot-nlp ([a-z]+)((?: \w+)*(?: --\w+(?: [^-\s`]\S*)?)*)"
    printed += [c for text in messages() for c in re.findall(bare, text) if not SENTENCE & {c[0]}]
    assert len(printed) > 10
    for command, words in printed:
        assert command in COMMANDS, (command, words)
        flags = set(re.findall(r"--[a-z_]+", words))
        assert not flags or flags <= help_of(command, capsys), (command, words)


def test_every_flag_that_a_message_names_is_one_of_its_command(capsys):
    flags = {command: help_of(command, capsys) for command in COMMANDS}
    flags["train"] |= {f"--{name}" for name in NAMES}
    checked, wrong = 0, []
    reading = set.intersection(*(flags[command] for command in READERS))
    assert {"--quoting", "--text_column_names"} <= reading
    for name, path in FILES.items():
        rooms = [room for room in ABOUT if f"{name}.".startswith(f"{room}.")]
        commands = list(ABOUT[rooms[0]] if rooms else COMMANDS)
        known = set().union(*(flags[c] for c in [*commands, *["train"] * (name in TAKES_RUN_FLAGS)]))
        for text in messages([path]):
            # What stands in backticks is a command of its own, ours or another program's.
            own = re.sub(r"`[^`]*`", "", text)
            if " " not in own or "sot-nlp " in own or "git" in own.split():
                continue
            known_here = reading if name == "sot_nlp.data.readers" else known
            for flag in re.findall(r"(?<![\w(-])--[a-z][a-z_.]*[a-z]", own):
                checked += 1
                if flag not in known_here:
                    wrong.append((name, flag, text))
    assert checked > 150
    assert not wrong
