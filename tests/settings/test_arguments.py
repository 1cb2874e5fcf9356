import dataclasses

import pytest

from sot_nlp.cli import main
from sot_nlp.errors import UserError
from sot_nlp.settings.arguments import FIELDS, TRAITS, Arguments, build_arguments
from sot_nlp.settings.command_line import config_words, make_parser, parse_flags, read_config


def from_flags(line: str, *below):
    flags, config = parse_flags(line.split(), "sot-nlp train", "")
    assert config is None
    return build_arguments([*below, ("flag", flags)])


def test_later_layers_win_and_each_value_knows_its_layer():
    recipe = ("recipe of cola", {"learning_rate": 2e-5, "num_train_epochs": 10, "head": "text"})
    file = ("my.yaml", {"learning_rate": "3e-5"})
    arguments = from_flags("--num_train_epochs 2", recipe, file)
    assert (arguments.learning_rate, arguments.num_train_epochs, arguments.head) == (3e-5, 2.0, "text")
    assert arguments.sources == {
        "learning_rate": "my.yaml",
        "num_train_epochs": "flag",
        "head": "recipe of cola",
    }


def test_flags_override_single_fields_of_the_recipes_head():
    recipe = ("recipe", {"head": "text", "head.width_x": 112, "head.dropout": 0.7})
    assert from_flags("--head.alpha 0.7", recipe).head_overrides == {
        "width_x": 112,
        "dropout": 0.7,
        "alpha": 0.7,
    }
    assert from_flags("--head.width_x=64", recipe).head_overrides["width_x"] == 64


def test_another_head_drops_the_recipes_fields_but_not_the_flags():
    recipe = ("recipe", {"head": "text", "head.width_x": 112})
    arguments = from_flags("--head vision --head.num_heads 4", recipe)
    assert (arguments.head, arguments.head_overrides) == ("vision", {"num_heads": 4})
    for preset in ("text", "sot", "words", "moments", "mapped_moments"):  # all have these maps
        assert from_flags(f"--head {preset}", recipe).head_overrides == {"width_x": 112}


def test_a_later_layer_sets_aside_the_other_way_to_say_it():
    recipe = ("recipe", {"warmup_steps": 0, "num_train_epochs": 10})
    arguments = from_flags("--warmup_ratio 0.1 --max_train_steps 7", recipe)
    assert (arguments.warmup_steps, arguments.warmup_ratio) == (None, 0.1)
    assert arguments.max_train_steps == 7
    file = ("my.yaml", {"max_train_steps": 7})
    assert from_flags("--num_train_epochs 2", file).max_train_steps is None
    # No value says nothing, so it sets nothing aside.
    assert from_flags("--max_train_steps none", recipe).num_train_epochs == 10


@pytest.mark.parametrize(
    ("layers", "tracked"),
    [
        ([{}], False),
        ([{"with_tracking": True}], True),
        ([{"report_to": "tensorboard"}], True),
        ([{"report_to": "all"}], True),
        ([{"report_to": "none"}], False),
        ([{"report_to": "None", "with_tracking": False}], False),
        ([{"report_to": "tensorboard", "with_tracking": False}], False),
        ([{"with_tracking": True}, {"report_to": "none"}], False),
        ([{"with_tracking": False}, {"report_to": "wandb"}], True),
        ([{"report_to": "wandb"}, {"with_tracking": False}], False),
    ],
)
def test_a_tracker_that_is_named_is_used(layers, tracked):
    assert build_arguments([("flag", layer) for layer in layers]).with_tracking is tracked


def test_the_record_holds_every_setting_but_the_token():
    arguments = from_flags("--task cola --hub_token hf_secret")
    values = arguments.to_dict()
    assert "hf_secret" not in str(values)
    assert set(values) == set(FIELDS) - {"hub_token"}
    assert build_arguments([("record", values)]).to_dict() == values


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("--freeze_backbone", True),
        ("--freeze_backbone true", True),
        ("--freeze_backbone off", False),
        ("--freeze_backbone=no", False),
    ],
)
def test_switches(line, value):
    assert from_flags(line).freeze_backbone is value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"label_mapping": ["0neg", "1=pos"]}, "^label_mapping: '0neg 1=pos' is not pairs like 0=negative"),
        ({"label_mapping": {0: None}}, "^label_mapping: '0=None' is not pairs like 0=negative"),
        ({"output_dir": {"a": 1}}, "^output_dir: 'a=1' is not one text"),
        ({"seed": [1, 2]}, "^seed: '1 2' is not a whole number"),
    ],
)
def test_what_is_wrong_is_shown_in_words_not_as_python_writes_it(value, message):
    with pytest.raises(UserError, match=message):
        build_arguments([("python", value)])


def test_names_of_labels_are_texts_whatever_writes_them():
    assert build_arguments([("python", {"label_mapping": {0: 1, 2: "b"}})]).label_mapping == {
        "0": "1",
        "2": "b",
    }


def test_lists_and_mappings():
    arguments = from_flags("--text_column_names a b --label_mapping 0=bad 1=good")
    assert arguments.text_column_names == ["a", "b"]
    assert arguments.label_mapping == {"0": "bad", "1": "good"}


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("--per_device_train_batch_size 0", ["--per_device_train_batch_size", "0", "at least 1"]),
        ("--num_train_epochs -1", ["--num_train_epochs", "-1", "above 0"]),
        ("--learning_rate fast", ["--learning_rate", "'fast'", "a finite number"]),
        ("--learning_rate nan", ["--learning_rate", "a finite number"]),
        ("--seed 1.5", ["--seed", "a whole number"]),
        ("--seed none", ["--seed", "a value"]),
        ("--freeze_backbone maybe", ["--freeze_backbone", "true or false"]),
        ("--label_mapping 0", ["--label_mapping", "'0' is not pairs like 0=negative"]),
        ("--label_mapping 0neg 1=pos", ["--label_mapping: '0neg 1=pos' is not pairs like 0=negative"]),
        ("--label_mapping 0=neg 1=", ["--label_mapping: '0=neg 1=' is not pairs like"]),
        ("--label_mapping =neg 1=pos", ["--label_mapping: '=neg 1=pos' is not pairs like"]),
        (
            "--label_mapping 0=neg 0=pos",
            ["--label_mapping: '0=neg 0=pos' is not pairs with a different"],
        ),
        ("--mixed_precision half", ["--mixed_precision", "'half'", "auto, no, bf16, fp16, fp8"]),
        ("--checkpointing_steps often", ["--checkpointing_steps", "'often'", "'epoch'"]),
        ("--checkpointing_steps 0", ["--checkpointing_steps", "'0'"]),
        ("--warmup_steps 5 --warmup_ratio 0.1", ["--warmup_steps or --warmup_ratio"]),
        ("--freeze_backbone --lora_r 8", ["--freeze_backbone", "--lora_r"]),
        ("--learning_rates 1", ["unknown flag --learning_rates", "--learning_rate"]),
        ("--alpha 0.7", ["unknown flag --alpha: the head's settings are given as --head.alpha VALUE"]),
        ("cola", ["stray word 'cola'"]),
        ("--head.alpha", ["--head.alpha needs a value"]),
        ("--text_column_names a b c", ["--text_column_names"]),
        ("--eval_strategy steps", ["--eval_strategy", "epoch, no"]),
        ("--eval_strategy no --early_stopping_patience 2", ["--early_stopping_patience", "epoch"]),
        ("--hub_model_id a/b/c --push_to_hub", ["--hub_model_id", "user/name"]),
    ],
)
def test_mistakes_are_one_line_that_names_flag_value_and_what_is_right(line, parts):
    with pytest.raises(UserError) as caught:
        from_flags(line)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_all_mistakes_are_told_at_once():
    with pytest.raises(UserError) as caught:
        from_flags("--num_train_epochs 0 --max_length 0 --learning_rate x")
    for flag in ("--num_train_epochs", "--max_length", "--learning_rate"):
        assert flag in str(caught.value)


def test_a_config_file_is_a_layer(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("learning_rate: 3e-5\nhead: {preset: vision, alpha: 0.7}\ntext_column_names: [a, b]\n")
    arguments = build_arguments([(str(path), read_config(str(path)))])
    assert (arguments.learning_rate, arguments.head, arguments.head_overrides) == (
        3e-5,
        "vision",
        {"alpha": 0.7},
    )


@pytest.mark.parametrize(
    ("content", "values"),
    [
        ("label_mapping: {0: no, 1: yes, 2: null, 3: 1.0}", {"0": "no", "1": "yes", "2": "null", "3": "1.0"}),
        ("label_column_name: no", "no"),
        ("text_column_names: [on, 1]", ["on", "1"]),
        ("text_column_names: off", ["off"]),
        ("mixed_precision: no", "no"),
        ("freeze_backbone: no", False),
        ("max_train_steps: null", None),
        ("max_train_steps:", None),
        ("num_train_epochs: 1e1", 10.0),
        (
            "head: {preset: no, alpha: 7e-1, include_separators: no}",
            {"preset": "no", "alpha": 0.7, "include_separators": False},
        ),
        ("head.alpha: 7e-1", 0.7),
    ],
)
def test_texts_in_a_config_file_stay_as_they_are_written(tmp_path, content, values):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    assert read_config(str(path)) == {content.partition(":")[0]: values}


def test_a_config_file_may_be_empty(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("# nothing yet\n")
    assert read_config(str(path)) == {}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("learning_rte: 1\n", ["run.yaml:1:", "learning_rte", "learning_rate"]),
        ("seed: 1\nhaed: text\n", ["run.yaml:2:", "head"]),
        ("seed: [1\n", ["run.yaml:2:"]),
        ("- a\n- b\n", ["key: value"]),
        ("seed: !!python/object/apply:os.system ['true']\n", ["run.yaml:1:"]),
        ("seed: 1\nseed: 2\n", ["run.yaml:2:", "'seed' occurs twice"]),
        ("head:\n  alpha: 0.7\n  alpha: 0.5\n", ["run.yaml:3:", "'alpha' occurs twice"]),
        ("label_mapping: {a: b, a: c}\n", ["run.yaml:1:", "'a' occurs twice"]),
        ("seed: 1\nlearning_rate: fast\n", ["run.yaml:2: learning_rate: 'fast' is not a finite number"]),
        ("text_column_names: [[a], b]\n", ["run.yaml:1: text_column_names", "single values"]),
    ],
)
def test_mistakes_in_a_config_file_name_the_line(tmp_path, content, parts):
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_config(str(path))
    for part in ["run.yaml", *parts]:
        assert part in str(caught.value)


def test_a_missing_or_binary_config_file(tmp_path):
    with pytest.raises(UserError, match=r"--config .*no\.yaml: no such file"):
        read_config(str(tmp_path / "no.yaml"))
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"b\.yaml:1: is not UTF-8"):
        read_config(str(tmp_path / "b.yaml"))


def test_terminal_escapes_in_a_value_are_not_printed_raw():
    with pytest.raises(UserError) as caught:
        build_arguments([("flag", {"mixed_precision": "\x1b[31mred"})])
    assert "\x1b" not in str(caught.value)


def test_every_field_has_help_a_group_and_a_checked_default():
    help_text = make_parser("p", "d").format_help()
    for name in FIELDS:
        assert TRAITS[name].help
        assert (f"--{name}" in help_text) or name == "head_overrides"
    assert build_arguments([]).to_dict() == Arguments().to_dict()
    assert dataclasses.replace(Arguments(), seed=3).seed == 3


@pytest.mark.parametrize("command", ["train", "probe"])
@pytest.mark.parametrize(
    ("content", "flags", "message"),
    [
        ("task: no", "", "task (conf.yaml): unknown task 'no'; "),
        ("task: no", "--task not", "--task: unknown task 'not'; "),
        ("train_file: a.csv", "", "train_file (conf.yaml): a.csv does not exist"),
        ("train_file: a.csv", "--train_file b.csv", "--train_file: b.csv does not exist"),
        ("{train_file: a.csv, model_name_or_path: no/m}", "", "model_name_or_path (conf.yaml) no/m: "),
    ],
)
def test_a_mistake_in_a_config_file_is_named_as_it_is_there(
    command, content, flags, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    if "no/m" in content:
        (tmp_path / "a.csv").write_text("text,label\na,x\nb,y\n")
    (tmp_path / "conf.yaml").write_text(content)
    assert main([command, "--config", "conf.yaml", *flags.split()]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"sot-nlp: error: {message}")


def test_words_of_a_config_file_are_for_what_it_gave():
    def reworded(text):
        with pytest.raises(UserError) as error, config_words("a.yaml", ["lora_r", "head_overrides"]):
            raise UserError(text)
        return str(error.value)

    assert reworded("--lora_r, --seed: no; use --lora_r 4") == "lora_r (a.yaml), --seed: no; use --lora_r 4"
    assert reworded("--head.alpha 7: no") == "head.alpha (a.yaml) 7: no"
    assert reworded("two\nlines of --lora_r") == "two\nlines of --lora_r"
