"""Groups of parameters, and the learning rate as a function of the update's number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from sot_nlp.errors import UserError
from sot_nlp.training.optimization import (
    backbone_layers,
    check_warmup,
    create_optimizer,
    depth,
    learning_rate_schedule,
    parameter_groups,
)
from tests.support.training_case import settings, tiny_model


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt"])
@pytest.mark.parametrize("warmup", [{"warmup_steps": 0}, {"warmup_steps": 5}, {"warmup_ratio": 0.25}])
def test_the_schedule_is_that_of_transformers(kind: str, warmup: dict[str, Any]) -> None:
    factor = learning_rate_schedule(settings(lr_scheduler_type=kind, **warmup), 30)

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    steps = warmup.get("warmup_steps", 8)  # 0.25 of 30, rounded up
    theirs = transformers.get_scheduler(kind, optimizer, num_warmup_steps=steps, num_training_steps=30)
    for step in range(30):
        assert factor(step) == pytest.approx(theirs.get_last_lr()[0], abs=1e-12), step
        optimizer.step()
        theirs.step()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"warmup_steps": 8}, []),
        ({"warmup_steps": 500}, ["--warmup_steps 500: the run has 8 updates"]),
        ({"warmup_steps": 500, "lr_scheduler_type": "constant"}, []),  # which has no warm-up
        ({"warmup_ratio": 1.0}, []),
    ],
)
def test_a_warm_up_longer_than_the_run_is_said(given: dict[str, Any], wanted: list[str]) -> None:
    lines: list[str] = []
    check_warmup(settings(**given), 8, lines.append)
    assert [line.split(", so")[0] for line in lines] == wanted


def test_depth_of_parameters() -> None:
    model = tiny_model(layers=3)
    stack, layers = backbone_layers(model)

    assert (stack, layers) == ("bert.encoder.layer", 3)
    assert depth("bert.embeddings.word_embeddings.weight", stack, layers) == 0
    assert depth("bert.encoder.layer.0.output.dense.bias", stack, layers) == 1
    assert depth("bert.encoder.layer.2.output.dense.bias", stack, layers) == 3
    assert depth("bert.pooler.dense.weight", stack, layers) == 3
    assert depth("classifier.weight", stack, layers) == 4


def test_parameter_groups() -> None:
    model = tiny_model(layers=3)
    model.bert.encoder.layer[1].output.dense.weight.requires_grad_(False)
    arguments = settings(learning_rate=0.1, head_learning_rate=0.5, layerwise_lr_decay=0.5, weight_decay=0.01)
    groups = parameter_groups(model, arguments)

    of = {name: group for group in groups for name in group["names"]}
    parameters = dict(model.named_parameters())
    assert all(parameters[n] is p for g in groups for n, p in zip(g["names"], g["params"], strict=True))
    assert parameters.keys() - of.keys() == {"bert.encoder.layer.1.output.dense.weight"}
    expected = {
        "classifier.weight": (0.5, 0.01),
        "classifier.bias": (0.5, 0.0),
        "bert.pooler.dense.weight": (0.1, 0.01),
        "bert.encoder.layer.2.output.dense.weight": (0.1, 0.01),
        "bert.encoder.layer.2.output.LayerNorm.weight": (0.1, 0.0),
        "bert.encoder.layer.1.output.dense.bias": (0.05, 0.0),
        "bert.encoder.layer.0.output.dense.weight": (0.025, 0.01),
        "bert.embeddings.word_embeddings.weight": (0.0125, 0.01),
    }
    assert {name: (of[name]["lr"], of[name]["weight_decay"]) for name in expected} == expected


def test_the_class_tokens_branch_has_a_rate_of_its_own() -> None:
    model = tiny_model(head="text")
    rates = {"learning_rate": 0.1, "head_learning_rate": 0.5, "class_token_learning_rate": 0.2}
    groups = parameter_groups(model, settings(**rates))
    of = {name: group["lr"] for group in groups for name in group["names"]}
    assert of["classifier.class_token_output.weight"] == of["classifier.class_token_output.bias"] == 0.2
    assert of["classifier.word_output.weight"] == of["classifier.words.maps.weight"] == 0.5
    assert of["bert.embeddings.word_embeddings.weight"] == 0.1
    without = parameter_groups(model, settings(learning_rate=0.1, head_learning_rate=0.5))
    assert {group["lr"] for group in without} == {0.1, 0.5}
    for head, fields in (("words", {}), ("text", {"fusion": "concat"})):  # the second: one linear for both
        with pytest.raises(UserError, match="--class_token_learning_rate: this head has no parameters"):
            parameter_groups(tiny_model(head=head, **fields), settings(**rates))


def test_the_optimizer_is_fused_and_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = parameter_groups(tiny_model(), settings())
    assert create_optimizer(groups, settings()).defaults["fused"] is True
    assert not create_optimizer(groups, settings(), fused=False).defaults["fused"]

    original = torch.optim.AdamW.__init__

    def without_fused(self: Any, *args: Any, fused: bool = False, **rest: Any) -> None:
        if fused:
            raise RuntimeError("no fused kernel on this device")
        original(self, *args, **rest)

    monkeypatch.setattr(torch.optim.AdamW, "__init__", without_fused)
    assert not create_optimizer(groups, settings()).defaults["fused"]


def test_settings_of_adam() -> None:
    arguments = settings(adam_beta1=0.8, adam_beta2=0.98, adam_epsilon=1e-6)
    defaults = create_optimizer(parameter_groups(tiny_model(), arguments), arguments).defaults

    assert defaults["betas"] == (0.8, 0.98)
    assert defaults["eps"] == 1e-6
