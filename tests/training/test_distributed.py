"""How the processes of a run agree, and what one says of another that is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from accelerate.utils import is_deepspeed_available

from sot_nlp.errors import UserError
from sot_nlp.training.distributed import create_accelerator, lost_process_as_error
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
