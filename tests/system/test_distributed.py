"""Two processes (gloo, CPU) give what one gives, and end together."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.faults import CONTEXT, Case, Run, left_by, whole_checkpoints
from sot_nlp.settings.arguments import Arguments
from tests.support.training_case import PAD, Split, run, settings, tiny_model

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="no gloo in this torch")
ROOT = Path(__file__).resolve().parents[2]


def environments(world: int) -> list[dict[str, str]]:
    """What a launcher sets for each of `world` processes on this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    return [
        {**common, "MASTER_PORT": port, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)
    ]


def enter(environment: dict[str, str], work: Any, folder: str, options: dict[str, Any]) -> None:
    os.environ.update(environment)
    rank = int(environment["RANK"])
    torch.save(work(Path(folder), **options), Path(folder) / f"result-{rank}.pt")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def spread(work: Any, folder: Path, world: int, **options: Any) -> list[Any]:
    """Do `work(folder, **options)` on `world` processes at once; their results."""
    folder.mkdir(exist_ok=True)
    processes = [
        CONTEXT.Process(target=enter, args=(environment, work, str(folder), options))
        for environment in environments(world)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0] * world
    return [torch.load(folder / f"result-{rank}.pt", weights_only=False) for rank in range(world)]


# --- training ---


def curve_settings(*, batch: int, steps: int = 1, precision: str = "no", epochs: int = 2) -> Arguments:
    return settings(
        num_train_epochs=float(epochs),
        mixed_precision=precision,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=steps,
        logging_steps=1,
        warmup_steps=3,
        lr_scheduler_type="cosine",
    )


def trained(
    folder: Path, *, batch: int, head: str = "text", count: int = 37, **options: Any
) -> dict[str, Any]:
    """Scores and weights of a training at `batch` a process; 37 = 6 x 6 + 1 leaves one example over."""
    split, model = Split(count), tiny_model(head=head, dropout=0.0)
    arguments = curve_settings(batch=batch, **options)
    _, result = run(folder, arguments, model=model, split=split)
    return {
        "weights": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "log": result.log_history,
        "evaluations": result.evaluations,
        "best": result.best,
        "seen": split.collated,
    }


def test_two_processes_train_as_one(tmp_path: Path) -> None:
    # The text head has BatchNorm: its statistics, too, are those of the whole batch.
    alone = trained(tmp_path / "one", batch=6)
    pair = spread(trained, tmp_path / "two", 2, batch=3)

    for found in pair:
        assert [e["learning_rate"] for e in found["log"]] == [e["learning_rate"] for e in alone["log"]]
        for key in ("loss", "grad_norm"):
            np.testing.assert_allclose(
                [e[key] for e in found["log"]], [e[key] for e in alone["log"]], rtol=2e-5
            )
        assert [e["step"] for e in found["evaluations"]] == [7, 14]
        for a, b in zip(found["evaluations"], alone["evaluations"], strict=True):
            assert a == pytest.approx(b, abs=2e-6)
        for name, tensor in alone["weights"].items():
            torch.testing.assert_close(found["weights"][name], tensor, atol=5e-6, rtol=0)
            assert torch.equal(found["weights"][name], pair[0]["weights"][name])
    # Of the 37 examples each was trained on once an epoch by one of the two, which a dummy does not change.
    real = [i for found in pair for batch in found["seen"] for i in batch]
    assert set(real) == set(range(37))
    assert 2 * 37 <= len(real) <= 2 * 37 + 2
    lines = (tmp_path / "two" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 14 + 2  # one process writes


def test_two_processes_that_accumulate_train_as_one(tmp_path: Path) -> None:
    alone = trained(tmp_path / "one", batch=8, head="vision", count=43)
    pair = spread(trained, tmp_path / "two", 2, batch=2, steps=2, head="vision", count=43)

    for name, tensor in alone["weights"].items():
        torch.testing.assert_close(pair[0]["weights"][name], tensor, atol=5e-6, rtol=0)


def world_size(folder: Path) -> int:
    from sot_nlp.training.loop import create_accelerator

    return create_accelerator(settings(cpu=False)).num_processes


@pytest.mark.skipif(torch.accelerator.is_available(), reason="two processes would share a GPU")
def test_processes_on_a_machine_of_cpus_find_each_other_untold(tmp_path: Path) -> None:
    assert spread(world_size, tmp_path, 2) == [2, 2]


# --- evaluation ---


def predicted(folder: Path, *, count: int) -> np.ndarray:
    from sot_nlp.training.evaluation import predict
    from sot_nlp.training.loop import create_accelerator

    accelerator = create_accelerator(settings())
    return predict(tiny_model(head="text"), Split(count), accelerator, batch_size=4, pad_token_id=PAD)


@pytest.mark.parametrize(("world", "count"), [(2, 29), (3, 17), (3, 1)])
def test_evaluation_counts_every_example_once(world: int, count: int, tmp_path: Path) -> None:
    alone = predicted(tmp_path, count=count)

    for found in spread(predicted, tmp_path, world, count=count):
        np.testing.assert_allclose(found, alone, atol=1e-6)


# --- faults ---


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    # (what `auto` comes to where there are bf16 units; the trainings above are in fp32)
    return Case(tmp_path_factory.mktemp("pair"), epochs=2, precision="bf16")


def pair_of(case: Case, name: str) -> list[Run]:
    words = [*case.words, "--output_dir", str(case.folder / name), "--per_device_train_batch_size", "2"]
    return [Run(case.folder / name, words, environment) for environment in environments(2)]


def kill(pair: list[Run]) -> None:
    for each in pair:
        each.send(signal.SIGKILL)
        each.process.join()


def test_a_pair_goes_on_bit_for_bit(case: Case) -> None:
    whole = pair_of(case, "whole")
    assert [each.wait() for each in whole] == [0, 0], whole[0].output()
    assert whole[0].output().count("new, to be trained") == 1

    killed = pair_of(case, "stopped")
    killed[0].wait_for(8)
    kill(killed)
    # A signal to one of them is a signal to both.
    signalled = pair_of(case, "stopped")
    signalled[0].wait_for(16)
    signalled[1].send(signal.SIGTERM)
    assert [each.wait() for each in signalled] == [143, 143], signalled[0].output()
    assert signalled[0].output().count("SIGTERM: stopped after update") == 1
    last = pair_of(case, "stopped")

    assert [each.wait() for each in last] == [0, 0], last[0].output()
    assert left_by(last[0].folder) == left_by(whole[0].folder)


def test_settings_that_differ_end_both_with_one_message(case: Case) -> None:
    first = pair_of(case, "differing")
    first[0].wait_for(8)
    kill(first)
    log = first[0].log
    log.unlink()
    case.words += ["--learning_rate", "2e-3"]
    try:
        assert [each.wait() for each in pair_of(case, "differing")] == [2, 2]
    finally:
        del case.words[-2:]
    assert log.read_text().count("error:") == 1
    assert "arguments.learning_rate 0.001 there, 0.002 here" in log.read_text()


def torchrun(words: list[str], log: str) -> None:
    """The launcher itself, whose ranks are forks of this process: they need not import all again."""
    from torch.distributed import run as launcher

    with Path(log).open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    launcher.main(["--standalone", "--run-path", "--start-method", "fork", *words])


def launched(case: Case, name: str, processes: int) -> tuple[Any, Path, list[int]]:
    """A long run under torchrun, at its fifth update: the launcher, its log, the processes of its ranks."""
    folder, log = case.folder / name, case.folder / f"{name}.log"
    words = ["--nproc_per_node", str(processes), str(ROOT / "run_glue_sot.py"), *case.words[1:]]
    words += ["--output_dir", str(folder), "--num_train_epochs", "1000"]
    process = CONTEXT.Process(target=torchrun, args=(words, str(log)))
    process.start()
    deadline = time.monotonic() + 600
    metrics = folder / "metrics.jsonl"
    while not metrics.exists() or metrics.read_text().count("\n") < 5:
        assert process.is_alive(), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == processes
    return process, log, [int(child) for child in children]


def test_a_process_that_dies_ends_all(case: Case) -> None:
    """Two are left to notice, and one of them says it."""
    process, log, children = launched(case, "torchrun", 3)
    os.kill(children[1], signal.SIGKILL)
    started = time.monotonic()
    process.join(60)

    assert time.monotonic() - started < 30
    assert process.exitcode
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    assert log.read_text().count("another process of this run has ended; the same command resumes") == 1
    assert whole_checkpoints(case.folder / "torchrun")


def test_a_launcher_that_is_told_to_end_lets_a_checkpoint_be_written(case: Case) -> None:
    process, log, children = launched(case, "told", 2)
    process.terminate()
    process.join(60)

    assert process.exitcode == 1
    assert not any(Path(f"/proc/{child}").exists() for child in children)
    output = log.read_text()
    assert output.count("SIGTERM: stopped after update") == 1
    assert whole_checkpoints(case.folder / "told")[-1] in output


def test_json_of_a_checkpoint_names_its_processes(case: Case) -> None:
    newest = whole_checkpoints(case.folder / "whole")[-1]
    progress = json.loads((case.folder / "whole" / "checkpoints" / newest / "progress.json").read_text())
    assert progress["fingerprint"]["training"]["processes"] == 2
    assert progress["fingerprint"]["training"]["examples_per_update"] == 8
