"""How the processes of a run agree, and what one says of another that is gone."""

from __future__ import annotations

import signal
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType, is_deepspeed_available

from sot_nlp.errors import UserError
from sot_nlp.training import distributed, signals
from sot_nlp.training.distributed import (
    count_weights,
    create_accelerator,
    lost_process_as_error,
    sharing_gpus,
)
from sot_nlp.training.signals import LostProcessError
from tests.support.training_case import settings


def raising(message: str, *, processes: int, **overrides: Any) -> None:
    accelerator: Any = SimpleNamespace(num_processes=processes)
    with lost_process_as_error(accelerator, settings(**overrides)):
        raise RuntimeError(message)


@pytest.mark.parametrize(
    "message",
    [
        "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4222",
        "[gloo/transport/tcp/pair.cc:534] Read error [127.0.0.1]:4222: Connection reset by peer",
        "writev [127.0.0.1]:4222: Broken pipe",
        "Timed out waiting 900000ms for recv operation to complete",
        "NCCL communicator was aborted on rank 1",
    ],
)
def test_a_lost_process_is_told(message: str) -> None:
    with pytest.raises(
        LostProcessError, match="another process of this run has ended; the same command"
    ) as e:
        raising(message, processes=2)
    assert e.value.first
    with pytest.raises(LostProcessError, match="the same command without --overwrite_output_dir resumes"):
        raising(message, processes=2, overwrite_output_dir=True)
    with pytest.raises(RuntimeError) as other:
        raising(message, processes=1)
    assert str(other.value) == message


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes differ$") as error:
        raising("shapes differ", processes=2)
    assert not isinstance(error.value, LostProcessError)


def test_a_model_that_is_not_sharded_as_asked_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    create_accelerator(settings(cpu=True))
    assert "FSDP: accelerate shards no model on cpu; each process has it all" in caplog.text


@pytest.mark.skipif(is_deepspeed_available(), reason="DeepSpeed is installed")
def test_deepspeed_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(UserError, match="accelerate's DeepSpeed: DeepSpeed is not installed"):
        create_accelerator(settings(cpu=True))


def test_processes_agree_on_a_signal_that_one_of_them_received(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = []
    for signum in (signal.SIGINT, signal.SIGTERM, 0, signal.SIGTERM):
        monkeypatch.setattr(signals._received, "signum", signum)
        votes.append(signals.votes())
    assert signals.elected([sum(column) for column in zip(*votes, strict=True)]) == signal.SIGTERM
    # (and not on 9, the mean of 2 and 15)
    assert signals.elected([a + b for a, b in zip(*votes[:2], strict=True)]) in (2, 15)
    assert signals.elected(votes[2]) == 0


def test_the_weights_that_zero_3_has_divided_count_in_full() -> None:
    whole, part = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(0))
    part.ds_numel = 40  # type: ignore[attr-defined]
    assert count_weights([whole, part]) == 46


def launched(monkeypatch: pytest.MonkeyPatch, processes: int, gpus: int, *, machines: int = 1) -> None:
    """Set what a launcher of so many processes per machine sets, and so many visible GPUs."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    monkeypatch.setenv("WORLD_SIZE", str(processes * machines))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)


@pytest.mark.parametrize(
    ("processes", "gpus", "expected"),
    [
        (2, 1, "2 processes share 1 GPU"),
        (5, 2, "5 processes share 2 GPUs"),
        (1, 1, None),
        (2, 2, None),
        (2, 8, None),
        (2, 0, None),
    ],
)
def test_which_processes_share_gpus(
    processes: int, gpus: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, processes, gpus)
    assert sharing_gpus(None) == expected
    if expected is None:
        launched(monkeypatch, processes, gpus, machines=2)
        assert sharing_gpus("FSDP") is None


def test_no_process_of_a_launcher_shares_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert sharing_gpus(None) is None


@pytest.mark.parametrize(
    ("sharder", "machines", "message"),
    [
        ("FSDP", 1, "accelerate's FSDP: 2 processes share 1 GPU, and NCCL wants one for each; start fewer"),
        (
            "DeepSpeed",
            1,
            r"start fewer \(`accelerate launch --num_processes 1`\), with a larger --per_device",
        ),
        (None, 2, r"several machines: 2 processes .* start fewer \(`torchrun --nproc_per_node 1`\)"),
    ],
)
def test_processes_that_share_a_gpu_and_can_not_are_refused(
    sharder: str | None, machines: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched(monkeypatch, 2, 1, machines=machines)
    with pytest.raises(UserError, match=message):
        sharing_gpus(sharder)


@pytest.mark.parametrize("gpus", [1, 2])
def test_processes_that_share_a_gpu_talk_over_gloo(
    gpus: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second of two processes; its state as accelerate would set it on a machine with GPUs."""
    launched(monkeypatch, 2, gpus)
    asked: dict[str, Any] = {}
    state = SimpleNamespace(device=torch.device("cuda", 1 % gpus), local_process_index=1)

    def started(**given: Any) -> Any:
        asked.update(given)
        return state

    accelerator = SimpleNamespace(is_main_process=True, distributed_type=DistributedType.MULTI_GPU)
    monkeypatch.setattr(distributed, "PartialState", started)
    monkeypatch.setattr(distributed, "Accelerator", lambda **given: accelerator)
    monkeypatch.setattr(distributed, "broadcast_object_list", list)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    create_accelerator(settings(cpu=False))

    assert not asked["cpu"]
    assert asked.get("backend") == ("gloo" if gpus == 1 else None)
    # DDP and barriers use the GPU of this number, which must be one that there is.
    assert state.local_process_index == state.device.index == gpus - 1
    line = "2 processes share 1 GPU, which NCCL refuses: they talk over gloo"
    assert (line in caplog.text) == (gpus == 1)
