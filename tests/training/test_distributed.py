"""How the processes of a run agree, and what one says of another that is gone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sot_nlp.training.distributed import lost_process_as_error
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
