"""What a run takes where nobody said anything: by width, number of examples and head."""

import pytest

from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from sot_nlp.runs.default_recipe import SOURCE, transforms_class_token, with_default_recipe
from sot_nlp.settings.arguments import build_arguments
from tests.support import tiny


def ruled(new_transform=False, width=384, examples=5000, recipe=None, processes=1, **given):
    layers = [("recipe of x", recipe)] if recipe else []
    arguments = build_arguments([*layers, ("flag", {"head": "sot", **given})])
    return with_default_recipe(
        arguments,
        new_transform=new_transform,
        hidden_size=width,
        num_examples=examples,
        num_processes=processes,
    )


@pytest.mark.parametrize(
    ("settings", "rates"),
    [
        ({}, (1e-4, 1e-3)),
        ({"width": 128}, (1e-4, 1e-3)),  # no backbone takes more
        ({"width": 768}, (5e-5, 5e-4)),
        ({"width": 1024}, (3.8e-5, 3.8e-4)),  # 1e-4 * 384 / 1024 = 3.75e-5
        ({"new_transform": True}, (1e-4, 1e-4)),  # one rate
        ({"new_transform": True, "width": 768}, (5e-5, 5e-5)),
        ({"lora_r": 8}, (5e-4, 1e-3)),
        # ... but where little of the backbone learns, the head has most to learn
        ({"new_transform": True, "lora_r": 8}, (5e-4, 1e-3)),
        ({"new_transform": True, "width": 768, "freeze_backbone": True}, (5e-5, 5e-4)),
        ({"new_transform": True, "trainable_layers": 1}, (1e-4, 1e-3)),
        ({"head_learning_rate": 2e-3}, (1e-4, 2e-3)),
        ({"learning_rate": 3e-5}, (3e-5, None)),  # one rate, as it says
    ],
)
def test_rates(settings, rates):
    arguments, _ = ruled(**settings)
    assert (arguments.learning_rate, arguments.head_learning_rate) == pytest.approx(rates)


@pytest.mark.parametrize(
    ("examples", "given", "batch", "epochs"),
    [
        (100_000, {}, 32, 3),
        (5000, {}, 32, 3),  # 157 updates an epoch, 471 in all
        (2490, {}, 32, 4),  # 78 an epoch: three would be 234
        (2490, {"processes": 2}, 32, 8),  # 39 an epoch
        (1000, {}, 32, 10),  # 32 an epoch
        (999, {}, 16, 5),  # 63 an epoch
        (108, {}, 16, 20),  # 7 an epoch, and no more than 20 epochs
        (108, {"per_device_train_batch_size": 32}, 32, 20),
        (400, {"gradient_accumulation_steps": 2}, 16, 20),  # 13 an epoch would take 24
        (108, {"num_train_epochs": 2}, 16, 2),
        (None, {"max_train_steps": 50}, 32, 3),
    ],
)
def test_batches_and_epochs(examples, given, batch, epochs):
    arguments, _ = ruled(examples=examples, **given)
    assert (arguments.per_device_train_batch_size, arguments.num_train_epochs) == (batch, epochs)


def test_what_was_chosen_is_said_and_recorded():
    arguments, [line] = ruled(examples=108, warmup_steps=5)
    assert line == (
        "default recipe (width 384, 108 training examples): learning_rate 0.0001, head_learning_rate 0.001, "
        "per_device_train_batch_size 16, num_train_epochs 20"
    )
    assert arguments.warmup_ratio == 0
    assert arguments.sources["learning_rate"] == SOURCE
    assert arguments.sources["head"] == "flag"


def test_of_a_frozen_backbone_no_rate_is_said():
    """It is the head's rate that is in effect."""
    _, [line] = ruled(examples=108, warmup_steps=5, freeze_backbone=True)
    assert line == (
        "default recipe (width 384, 108 training examples): head_learning_rate 0.001, "
        "per_device_train_batch_size 16, num_train_epochs 20"
    )
    given = {"head_learning_rate": 1e-3, "warmup_ratio": 0.2, "num_train_epochs": 1}
    assert ruled(freeze_backbone=True, **given)[1] == []


def test_a_task_s_recipe_stands_as_it_was_published():
    arguments, lines = ruled(recipe={"learning_rate": 2e-5}, num_train_epochs=1)
    assert (arguments.learning_rate, arguments.head_learning_rate, arguments.warmup_ratio) == (2e-5, None, 0)
    assert lines == []


def test_nothing_is_said_where_everything_was_given():
    everything = {
        "learning_rate": 1e-5,
        "warmup_ratio": 0.2,
        "per_device_train_batch_size": 8,
        "num_train_epochs": 1,
    }
    assert ruled(**everything)[1] == []


@pytest.mark.parametrize(
    ("family", "head", "wanted"),
    [
        ("bert", "stock", False),  # its pooler is the backbone's own
        ("roberta", "stock", True),
        ("gpt2", "stock", False),
        ("roberta", "sot", False),
        ("bert", "maxpool_layers", False),
        ("bert", "maxpool_attention", True),
        ("bert", "word_mean", False),
    ],
)
def test_which_heads_put_a_new_dense_layer_before_the_linear(family, head, wanted):
    model = AutoSoTForSequenceClassification.from_config(tiny.config(family), head=head)
    assert transforms_class_token(model) is wanted
