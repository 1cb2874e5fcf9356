"""Training the used rows of the word embedding alone gives the model that training all of them gives."""

from __future__ import annotations

import contextlib
import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from sot_nlp.data.token_split import TokenSplit
from sot_nlp.errors import UserError
from sot_nlp.training.checkpointing.folders import Progress, step_folders
from sot_nlp.training.model_setup import freeze
from sot_nlp.training.speed.embedding_rows import RowGradients, rows_in_use, tokens_in_use
from tests.support.training_case import PAD, Split, run, settings, tiny_model

EMBEDDING = "bert.embeddings.word_embeddings.weight"


def used(*splits: Split) -> np.ndarray:
    return np.unique(np.concatenate([[PAD], *(row for split in splits for row in split.rows)]))


def some_words(split: Split) -> Split:
    """The split with every token brought down to one of 30."""
    split.rows = [3 + row % 30 for row in split.rows]
    return split


@pytest.fixture
def splits() -> tuple[Split, Split]:
    return some_words(Split()), some_words(Split(30, seed=1))


@pytest.mark.parametrize("head", [None, "text"])
def test_the_trained_model_is_that_of_the_whole_vocabulary(tmp_path: Path, splits: Any, head: Any) -> None:
    train, validation = splits
    given = {"split": train, "validation": validation}
    ids = used(*splits)
    whole, expected = run(tmp_path / "whole", model=tiny_model(head=head), **given)
    model, reduced = run(tmp_path / "used", model=tiny_model(head=head), vocabulary=ids, **given)
    assert [e["accuracy"] for e in reduced.evaluations] == [e["accuracy"] for e in expected.evaluations]
    losses = [[line["loss"] for line in result.log_history] for result in (reduced, expected)]
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert reduced.num_trainable_parameters == sum(p.numel() for p in whole.parameters())
    weights, reference = model.state_dict(), whole.state_dict()
    assert list(weights) == list(reference)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, reference[name], atol=2e-5, rtol=0, msg=name)
    rest = np.setdiff1d(np.arange(64), ids)
    assert len(rest) > 20
    name = next(name for name in weights if name.endswith("word_embeddings.weight"))
    assert torch.equal(weights[name][rest], tiny_model(head=head).state_dict()[name][rest])
    assert not torch.equal(weights[name][ids], tiny_model(head=head).state_dict()[name][ids])


def test_optimizer_and_checkpoints_hold_the_used_rows_alone(tmp_path: Path, splits: Any) -> None:
    from safetensors.torch import load_file

    train, validation = splits
    ids = used(*splits)
    run(tmp_path, split=train, validation=validation, vocabulary=ids)
    folder = step_folders(tmp_path / "checkpoints")[-1]
    shapes = {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}
    assert shapes[EMBEDDING] == (len(ids), 32)
    assert "vocabulary" in Progress.read(folder).fingerprint


def test_a_resumed_run_is_the_same_and_one_of_other_rows_is_refused(tmp_path: Path, splits: Any) -> None:
    train, ids = splits[0], used(*splits)
    rising = itertools.count()  # so that the last weights are the best
    given = {"split": train, "vocabulary": ids, "evaluate": lambda model: {"accuracy": next(rising)}}
    constant = settings(lr_scheduler_type="constant")
    whole, _ = run(tmp_path / "a", constant, **given)
    run(tmp_path / "b", replace(constant, max_train_steps=7), **given)
    model, _ = run(tmp_path / "b", replace(constant, resume_from_checkpoint="latest"), **given)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, whole.state_dict()[name]), name
    given["vocabulary"] = np.append(ids, 63)
    with pytest.raises(UserError, match="vocabulary"):
        run(tmp_path / "b", replace(constant, resume_from_checkpoint="latest"), **given)


@pytest.mark.parametrize(
    "overrides", [{"weight_decay": 0.1}, {"freeze_backbone": True}, {"trainable_layers": 1}]
)
def test_all_rows_stay_where_less_would_not_be_the_same(splits: Any, overrides: dict[str, Any]) -> None:
    model, arguments = tiny_model(head="text"), settings(**overrides)
    freeze(model, freeze_backbone=arguments.freeze_backbone, trainable_layers=arguments.trainable_layers)
    before = model.get_input_embeddings().weight
    with rows_in_use(model, used(*splits), arguments, Accelerator(cpu=True)) as shared:
        assert shared == {}
        assert model.get_input_embeddings().weight is before


def test_all_rows_stay_where_most_are_used_or_the_weights_are_shared() -> None:
    model, accelerator = tiny_model(), Accelerator(cpu=True)
    with rows_in_use(model, np.arange(60), settings(), accelerator) as shared:
        assert shared == {}
    model.tied = torch.nn.Linear(32, 64, bias=False)
    model.tied.weight = model.get_input_embeddings().weight
    with rows_in_use(model, np.arange(10), settings(), accelerator) as shared:
        assert shared == {}


def test_the_model_is_whole_again_after_an_error() -> None:
    model = tiny_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ids = torch.tensor([[5, 0, 9]])
    with (
        contextlib.suppress(KeyError),
        rows_in_use(model, np.array([0, 5, 9]), settings(), Accelerator(cpu=True)),
    ):
        assert model.get_input_embeddings().weight.shape == (3, 32)
        assert torch.equal(model.get_input_embeddings()(ids), before[EMBEDDING][ids])
        with pytest.raises(IndexError):
            model.get_input_embeddings()(torch.tensor([[4]]))
        raise KeyError
    assert model.get_input_embeddings().padding_idx == 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_tokens_in_use_are_those_of_the_files() -> None:
    def split(ids: list[int]) -> TokenSplit:
        numbers = np.array([0, 1])
        return TokenSplit(
            name="train",
            input_ids=np.array(ids, dtype=np.int32),
            token_type_ids=None,
            starts=numbers,
            lengths=numbers,
            labels=None,
            indices=numbers,
        )

    assert tokens_in_use([split([7, 3, 3]), split([900, 2])], 0).tolist() == [0, 2, 3, 7, 900]
    assert tokens_in_use([split([2])], 11).tolist() == [2, 11]


@pytest.mark.parametrize("finite", [True, False])
def test_gradients_of_rows_add_up_to_whole_ones_and_are_cleared_for_the_next(finite: bool) -> None:
    torch.manual_seed(0)
    sparse, dense = (torch.nn.Embedding(9, 4, padding_idx=2, sparse=sparse) for sparse in (True, False))
    dense.load_state_dict(sparse.state_dict())
    gradients = RowGradients(sparse.parameters())
    for ids in ([[1, 1, 2], [8, 1, 0]], [[3, 2, 2], [0, 0, 0]]):
        for part in torch.tensor(ids):  # two passes an update
            weights = torch.randn(3, 4)
            for embedding in (sparse, dense):
                (embedding(part) * weights).sum().backward()
            gradients.take()
            assert sparse.weight.grad is None  # nothing is held of a pass but its rows' numbers
        gradients.give()
        assert sparse.weight.grad.layout == torch.strided
        torch.testing.assert_close(sparse.weight.grad, dense.weight.grad)
        if not finite:
            sparse.weight.grad.mul_(math.nan)  # by clipping
        sparse.zero_grad(set_to_none=True)
        dense.zero_grad(set_to_none=True)
        gradients.clear(finite=finite)


@pytest.mark.parametrize("steps", [1, 3])
def test_accumulated_and_skipped_updates_are_those_of_all_rows(tmp_path: Path, steps: int) -> None:
    models, losses = [], []
    for name, ids in (("whole", None), ("used", used(some_words(Split())))):
        model, calls = tiny_model(head="text"), itertools.count()
        model.classifier.word_output.register_forward_hook(
            lambda module, inputs, output, calls=calls: output * math.nan if next(calls) == 4 else output
        )
        arguments = settings(gradient_accumulation_steps=steps, on_nan="skip", max_train_steps=5)
        given = {"vocabulary": ids, "evaluate": lambda model: {"accuracy": 0.0}}
        _, result = run(tmp_path / name, arguments, model=model, split=some_words(Split()), **given)
        assert len(result.skipped_updates) == 1
        models.append(model.state_dict())
        losses.append([line["loss"] for line in result.log_history])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    for name, tensor in models[0].items():
        assert torch.isfinite(tensor).all()
        torch.testing.assert_close(models[1][name], tensor, atol=2e-5, rtol=0, msg=name)


@pytest.mark.parametrize("compiled", [False, True])
def test_a_batchs_rows_alone_get_a_gradient_unless_a_compiler_counts_them(compiled: bool) -> None:
    model, accelerator = tiny_model(), Accelerator(cpu=True)
    with rows_in_use(model, np.arange(10), settings(torch_compile=compiled), accelerator):
        model.get_input_embeddings()(torch.tensor([[4, 9]])).sum().backward()
        assert model.get_input_embeddings().weight.grad.is_sparse is not compiled
    assert not model.get_input_embeddings().sparse
