"""The lists of settings that are derived from their declarations hold what each was written for."""

import dataclasses

import pytest

from sot_nlp.commands import probe
from sot_nlp.inference import evaluate
from sot_nlp.settings.arguments import FIELDS, TRAITS, TYPES, Arguments
from sot_nlp.settings.traits import ON_RESUME, SETTING_KINDS, Traits, setting
from sot_nlp.studies import study
from sot_nlp.training.checkpointing import fingerprint


def words(text):
    return set(text.split())


PLACES = words("data_dir cache_dir overwrite_cache output_dir overwrite_output_dir resume_from_checkpoint")
GRID = words("task model_name_or_path seed data_seed")
OUTPUT = words(
    "do_predict checkpointing_steps save_total_limit save_remote_code logging_steps disable_tqdm "
    "with_tracking report_to push_to_hub hub_model_id hub_private_repo hub_strategy"
)
SPEED = words("per_device_eval_batch_size cpu cuda_graphs")
BUDGET = words(
    "num_train_epochs max_train_steps per_device_train_batch_size gradient_accumulation_steps "
    "max_tokens_per_batch max_train_samples early_stopping_patience"
)
OPTIMISATION = words(
    "learning_rate lr_scheduler_type warmup_steps warmup_ratio weight_decay adam_beta1 adam_beta2 "
    "adam_epsilon max_grad_norm label_smoothing num_train_epochs per_device_train_batch_size max_length seed"
)
OWN_DATA = words(
    "train_file validation_file test_file dataset_name dataset_config_name text_column_names "
    "label_column_name label_mapping problem_type quoting"
)


def test_what_a_resumed_run_may_change():
    assert (
        words(
            "num_train_epochs max_train_steps early_stopping_patience per_device_train_batch_size "
            "gradient_accumulation_steps max_tokens_per_batch mixed_precision on_nan max_nan_skips data_dir "
            "train_file validation_file cache_dir overwrite_cache test_file max_predict_samples "
            "eval_strategy output_dir processes"
        )
        | SPEED
        | OUTPUT
        == fingerprint.MAY_CHANGE
    )
    assert words("resume_from_checkpoint overwrite_output_dir training_method") == fingerprint.IGNORED


def test_what_makes_an_arm_and_a_cell_of_a_study():
    same_arm = PLACES | GRID | {"head"} | OUTPUT | SPEED
    assert study.NOT_AN_ARM - {"hub_token"} == same_arm  # the token is in no record
    assert study.NO_MATTER - {"hub_token"} == PLACES | OUTPUT | SPEED
    assert set(study.GRID) == GRID | {"output_dir"}
    assert set(study.BUDGET) == BUDGET
    assert set(study.GRID_FLAGS.values()) == {"--tasks", "--models", "--heads", "--seeds"}


def test_what_a_probe_and_a_model_card_take():
    places = words("data_dir cache_dir overwrite_cache output_dir")
    assert set(probe.USED) == OPTIMISATION | OWN_DATA - {"test_file"} | places | words(
        "task validation_fraction drop_leaked max_train_samples max_eval_samples model_name_or_path "
        "model_revision trust_remote_code attn_implementation cpu disable_tqdm"
    )
    assert {name for name, traits in TRAITS.items() if traits.card} == OPTIMISATION | words(
        "head_learning_rate class_token_learning_rate layerwise_lr_decay max_train_steps "
        "gradient_accumulation_steps class_weights "
        "freeze_backbone trainable_layers lora_r lora_alpha lora_dropout data_seed"
    )


def test_how_a_saved_model_finds_its_data_again():
    assert set(evaluate.OWN_DATA) == OWN_DATA
    assert set(evaluate.DATA) == words("data_dir validation_fraction data_seed max_length cache_dir")


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_declares_all_its_traits(name):
    traits = TRAITS[name]
    assert traits.help
    assert traits.kind in SETTING_KINDS
    assert traits.on_resume in ON_RESUME
    number = TYPES[name] in (int, float, int | None, float | None)
    bounded = traits.low is not None or traits.above is not None
    assert number == bounded, "a number has a range, nothing else has"
    assert traits.low is None or traits.above is None
    for other in (traits.rival, traits.needs):
        assert other is None or other in FIELDS
    assert traits.rival is None or TRAITS[traits.rival].rival == name
    default = getattr(Arguments(), name)
    assert not traits.choices or default is None or default in traits.choices
    assert default is None or not bounded or traits.range_problem(default) is None
    assert traits.kind == "result" or not (traits.budget or traits.card or traits.grid)


@pytest.mark.parametrize(
    ("traits", "good", "bad"),
    [
        ({"low": 1}, [1, 1.5], [0.999, -1]),
        ({"above": 0, "high": 1}, [1e-9, 1], [0, 1.001]),
        ({"low": 0, "high": 0.5}, [0, 0.5], [-0.1, 0.51]),
    ],
)
def test_ranges(traits, good, bad):
    declared = Traits(help="h", kind="result", on_resume="same", **traits)
    assert [declared.range_problem(value) for value in good] == [None] * len(good)
    assert all(declared.range_problem(value) for value in bad)


def test_a_bound_is_written_as_it_is():
    assert str(TRAITS["seed"].range_problem(-1)).endswith("at least 0 and at most 4294967295")
    assert str(TRAITS["learning_rate"].range_problem(0)).endswith("must be above 0")


def test_what_changes_no_result_is_free_on_resuming():
    kinds = {kind: setting(1, "h", kind=kind).metadata["traits"].on_resume for kind in SETTING_KINDS}
    assert kinds == {"result": "same", "place": "free", "speed": "free", "output": "free", "secret": "same"}


def test_settings_cannot_be_assigned_to():
    arguments = Arguments()
    with pytest.raises(dataclasses.FrozenInstanceError):
        arguments.seed = 3
