"""A model sharded over two processes (gloo, CPU) learns what the whole one does, and is saved as a whole."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from sot_nlp.errors import UserError
from sot_nlp.modeling.auto import AutoSoTForSequenceClassification
from tests.support.training_case import PAD, Split, run, settings, tiny_model
from tests.system.test_distributed import curve_settings, spread, trained
from tests.system.test_resume import DeadlySplit, Killed

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo in this torch")


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_step(folder: Path) -> dict[str, torch.Tensor]:
    """Two updates of the tiny model, sharded by torch's own FSDP where there are processes to shard over."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    from sot_nlp.training.optimization import create_optimizer, parameter_groups

    world = int(os.environ.get("WORLD_SIZE", "1"))
    model = tiny_model(head="vision", dropout=0.0).train()
    if world > 1:
        dist.init_process_group("gloo")
        for layer in model.bert.encoder.layer:
            fully_shard(layer)
        fully_shard(model)
    optimizer = create_optimizer(parameter_groups(model, settings()), settings(), fused=False)
    split = Split(16)
    for update in (np.arange(8), np.arange(8, 16)):
        share = update[int(os.environ.get("RANK", "0")) :: world]
        model(**split.collate(share, pad_token_id=PAD)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: whole(tensor) for name, tensor in model.state_dict().items()}


def test_a_sharded_model_learns_the_same(tmp_path: Path) -> None:
    alone = sharded_step(tmp_path)
    for found in spread(sharded_step, tmp_path, 2):
        for name, tensor in alone.items():
            torch.testing.assert_close(found[name], tensor, atol=2e-6, rtol=0)


def shard_by_accelerate() -> None:
    """Have accelerate shard what this process trains, by what `accelerate config` says for FSDP."""
    from accelerate.utils import DistributedType

    from sot_nlp.training import distributed

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"] = "true"
    os.environ |= {
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
    }
    real = distributed.PartialState

    def of_gpus(**options: Any) -> Any:
        # On CPUs accelerate would shard nothing: it only looks for FSDP's settings where there are GPUs.
        state = real(**options)
        state._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        return state

    distributed.PartialState = of_gpus  # type: ignore[assignment, misc]


def sharded_by_accelerate(folder: Path, *, precision: str) -> dict[str, Any]:
    """A sharded training that is killed once and resumed; its model is saved."""
    from sot_nlp.training import distributed

    shard_by_accelerate()
    split = DeadlySplit(37)
    split.deadly_call = 5
    arguments = curve_settings(batch=3, precision=precision, epochs=1)
    with pytest.raises(Killed):
        run(folder / "run", arguments, model=tiny_model(head="text", dropout=0.0), split=split)
    model = tiny_model(head="text", dropout=0.0, seed=99)
    _, result = run(folder / "run", arguments, model=model, split=Split(37))
    assert isinstance(model.classifier.word_output.weight, DTensor)
    weights = distributed.whole_weights(distributed.create_accelerator(arguments), result.model)
    if os.environ["RANK"] == "0":
        model.save_pretrained(folder / "saved", state_dict=weights)
    return {
        "log": result.log_history,
        "evaluations": result.evaluations,
        "resumed": result.resumed_from,
        "trained": result.num_trainable_parameters,
    }


@pytest.mark.parametrize(("precision", "rounding", "weights"), [("no", 2e-5, 5e-6), ("bf16", 1e-3, 3e-3)])
def test_accelerates_sharding_trains_resumes_and_saves_the_same(
    precision: str, rounding: float, weights: float, tmp_path: Path
) -> None:
    # In bf16 the head, the logits and the loss stay in fp32, sharded or not.
    alone = trained(tmp_path / "one", batch=6, precision=precision, epochs=1)
    for found in spread(sharded_by_accelerate, tmp_path / "two", 2, precision=precision):
        assert [entry["step"] for entry in found["resumed"]] == [4]
        assert found["trained"] == tiny_model(head="text").num_parameters()
        for key, tolerance in (("loss", rounding), ("grad_norm", 20 * rounding), ("learning_rate", 1e-9)):
            np.testing.assert_allclose(
                [e[key] for e in found["log"]], [e[key] for e in alone["log"]], rtol=tolerance
            )
        for a, b in zip(found["evaluations"], alone["evaluations"], strict=True):
            assert a == pytest.approx(b, abs=rounding)
    saved = AutoSoTForSequenceClassification.from_pretrained(tmp_path / "two" / "saved").state_dict()
    assert saved.keys() == alone["weights"].keys()
    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(saved[name], tensor, atol=weights, rtol=0)


def sharded_with_a_quota(folder: Path) -> str:
    """What is said where a sharded training may write no file of more than 20 kB."""
    shard_by_accelerate()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    with pytest.raises(UserError) as error:
        run(folder / "run", curve_settings(batch=3), model=tiny_model(head="text"), split=Split(37))
    return str(error.value)


def test_a_quota_at_a_sharded_save_is_one_message_on_all(tmp_path: Path) -> None:
    for said in spread(sharded_with_a_quota, tmp_path, 2):
        assert said.startswith(
            f"checkpoint {tmp_path / 'run' / 'checkpoints' / 'step-00000004'} could not be"
        )
        assert said.endswith("; there is none before it")
        assert "\n" not in said
    assert not list((tmp_path / "run" / "checkpoints").iterdir())


def asked_for_on_cpus(folder: Path) -> tuple[int, str]:
    from sot_nlp.training.distributed import create_accelerator

    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_CPU_RAM_EFFICIENT_LOADING": "true"}
    return create_accelerator(settings()).num_processes, os.environ["FSDP_CPU_RAM_EFFICIENT_LOADING"]


def test_where_nothing_is_sharded_each_process_loads_its_weights(tmp_path: Path) -> None:
    """Told otherwise, transformers leaves all but the main one without."""
    assert spread(asked_for_on_cpus, tmp_path, 2) == [(2, "false"), (2, "false")]
