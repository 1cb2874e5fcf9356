"""A mistake in a head's settings names the flag of the field at fault, as its source spells it."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoConfig

from sot_nlp import AutoSoTForSequenceClassification
from sot_nlp.errors import UserError
from sot_nlp.runs.preparation import head_of, try_forward, unfit_backbone
from sot_nlp.settings.arguments import build_arguments
from sot_nlp.settings.command_line import config_words


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"head.token_norm": "x"}, "--head.token_norm: token_norm='x' is not one of none, layer_norm, auto"),
        ({"head.alhpa": 0.5}, "--head.alhpa: no field 'alhpa' (did you mean alpha or mean_alpha?)"),
        ({"head.alpha": 2, "head.dropout": 0.1}, "--head.alpha: alpha=2 is not a number above 0 and below 1"),
        (
            {"head.alpha": 2, "head.width_x": 0},
            "--head.alpha, --head.width_x: width_x=0 is not an integer from 1 to 1024; alpha=2 is not a "
            "number above 0 and below 1",
        ),
        (
            {"head.fusion": "class_token"},
            "--head.fusion: fusion='class_token' leaves the words out, but pooling='moments' pools them: use "
            "pooling='none', or another fusion",
        ),
        (
            # Neither what a hint lists nor what a recipe gives is at fault.
            {"head.num_heads": 4, "head.head": 3},
            "--head.head: no field 'head' (did you mean num_heads?)",
        ),
        ({"head.part_settings": 3}, "--head.part_settings: part_settings=3 is not a mapping"),
        ({"head": "txet", "head.alpha": 0.5}, "--head txet: no preset 'txet' (did you mean text?)"),
    ],
)
def test_the_field_at_fault_is_named(given, message):
    with pytest.raises(UserError) as error:
        head_of(build_arguments([("flag", given)]))
    assert str(error.value) == message


def test_a_config_file_s_field_is_named_by_the_file():
    arguments = build_arguments([("mine.yaml", {"head": {"preset": "text", "token_norm": "x"}})])
    with (
        pytest.raises(UserError, match=r"^head.token_norm \(mine.yaml\): token_norm='x' is not one of"),
        config_words("mine.yaml", arguments.given_by("mine.yaml")),
    ):
        head_of(arguments)


def test_a_family_that_reads_more_than_text_is_refused_before_any_update():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    bros = AutoSoTForSequenceClassification.from_config(AutoConfig.for_model("bros", vocab_size=9, **sizes))
    with (
        pytest.raises(ValueError, match=r"^a 'bros' backbone does not work under a SoT head .*bbox"),
        unfit_backbone("bros"),
    ):
        try_forward(bros)
    # What sharded loading leaves for later is not run: here it would fail in the same way.
    next(bros.parameters()).data = torch.empty(0)
    try_forward(bros)
    try_forward(bros.to("meta"))
