"""The precision that "auto" chooses, on devices that this machine need not have."""

from __future__ import annotations

import time

import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.training.speed import precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.mark.parametrize(
    ("reports", "runs", "wanted"), [(False, True, "no"), (True, True, "bf16"), (True, False, "no")]
)
def test_auto_on_a_cpu(reports: bool, runs: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: reports)
    monkeypatch.setattr(precision, "bf16_problem", lambda: None if runs else "no such kernel")

    mode, reason = precision.choose("auto", CPU)
    assert mode == wanted
    assert ("no such kernel" in reason) == (reports and not runs)


def test_auto_reads_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work on the machine can't change the answer."""
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    for clock in ("time", "perf_counter", "process_time", "monotonic", "thread_time"):
        monkeypatch.setattr(time, clock, lambda: pytest.fail("timed"))
    assert precision.choose("auto", CPU) == precision.choose("auto", CPU)


@pytest.mark.parametrize(("has", "wanted"), [(True, "bf16"), (False, "no")])
def test_on_a_gpu(has: bool, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: has)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Some GPU")

    assert precision.choose("auto", CUDA)[0] == wanted
    assert precision.choose("fp16", CUDA)[0] == "fp16"
    if has:
        assert precision.choose("bf16", CUDA)[0] == "bf16"
    else:
        with pytest.raises(UserError, match="--mixed_precision bf16: Some GPU has no bf16"):
            precision.choose("bf16", CUDA)


def test_what_was_asked_for_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)

    assert precision.choose("no", CPU) == ("no", "asked for")
    mode, reason = precision.choose("bf16", CPU)
    assert mode == "bf16"
    assert "slower than fp32" in reason
    assert precision.choose("auto", MPS)[0] == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision.choose("auto", CPU)[0] == "bf16"
    assert precision.choose("no", CPU)[0] == "no"


@pytest.mark.parametrize("reports", [True, False])
def test_a_run_that_goes_on_keeps_its_precision(reports: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: reports)
    for before in ("no", "bf16"):
        mode, reason = precision.choose("auto", CPU, before)
        assert mode == before
        assert reason.startswith("the checkpoint's")
    # What the user says counts; what is no precision, or one that this device lacks, does not.
    assert precision.choose("no", CPU, "bf16") == ("no", "asked for")
    for before in ("x\x1b[31m", "auto", "fp16"):
        assert precision.choose("auto", CPU, before) == precision.choose("auto", CPU)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision.choose("auto", CPU, "no")[0] == "bf16"


def test_bf16_is_tried_and_its_refusal_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert precision.bf16_problem() is None  # (emulated where there are no units)
    assert isinstance(precision.cpu_has_bf16(), bool)

    def refused(*args: object) -> None:
        raise RuntimeError("could not create a primitive\n(advice)")

    monkeypatch.setattr(torch.nn.functional, "linear", refused)
    assert precision.bf16_problem() == "could not create a primitive"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert "oneDNN" in str(precision.bf16_problem())
