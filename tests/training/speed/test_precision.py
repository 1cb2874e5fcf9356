"""The precision that "auto" chooses, on devices that this machine need not have."""

from __future__ import annotations

import pytest
import torch

from sot_nlp.errors import UserError
from sot_nlp.training.speed import precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda", 0), torch.device("mps")


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)


@pytest.mark.parametrize(
    ("has", "speedup", "wanted"),
    [(False, 9.0, "no"), (True, 2.4, "bf16"), (True, 1.1, "no"), (True, 0.3, "no")],
)
def test_auto_on_a_cpu(has: bool, speedup: float, wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: has)
    monkeypatch.setattr(precision, "bf16_speedup", lambda: speedup)

    mode, reason = precision.choose("auto", CPU)
    assert mode == wanted
    assert (f"{speedup:.1f}" in reason) == has


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


def test_a_run_that_goes_on_keeps_its_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    for speedup, before in ((9.0, "no"), (0.3, "bf16")):
        monkeypatch.setattr(precision, "bf16_speedup", lambda speedup=speedup: speedup)
        assert precision.choose("auto", CPU, before) == (before, "the checkpoint's")
    # What the user says counts, and what is no precision does not.
    assert precision.choose("no", CPU, "bf16") == ("no", "asked for")
    assert precision.choose("auto", CPU, "x\x1b[31m")[0] == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision.choose("auto", CPU, "no") == ("bf16", "asked for")


def test_the_trial_gives_a_ratio() -> None:
    assert 0.001 < precision.bf16_speedup(rounds=1) < 1000
    assert isinstance(precision.cpu_has_bf16(), bool)
