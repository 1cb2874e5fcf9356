"""Faults, each tried for real: the command runs in a process of its own, and what ends it is what would."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.faults import CONTEXT, Case, Run, left_by, whole_checkpoints

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="uses signals, quotas and mounts of Linux")
KILLS = 4


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("faults"), epochs=2)


@pytest.fixture(scope="module")
def reference(case: Case) -> dict[str, Any]:
    return case.reference()


def test_killed_and_killed_again_it_is_the_same_run(case: Case, reference: dict[str, Any]) -> None:
    """One run, killed at random moments and in the middle of saves, each time gone on with."""
    moments = random.Random(3)
    inside = 0
    for number in range(KILLS):
        run = case.start("killed")
        # One at most in the first updates, before there is a checkpoint; the others wherever it has come to.
        at = number and min(case.updates - 2, number * case.updates // KILLS + moments.randint(0, 3))
        inside += run.kill(at, inside_save=number % 2 == 1, delay=moments.random() * 0.05)
        assert set(run.seen) <= set(whole_checkpoints(run.folder))
    run = case.start("killed")

    assert run.wait() == 0, run.output()
    assert inside >= 1
    assert left_by(run.folder) == reference


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_answered_by_a_checkpoint(
    signum: signal.Signals, case: Case, reference: dict[str, Any]
) -> None:
    run = case.start(f"signal-{signum.name}")
    run.wait_for(10)
    run.send(signum)

    assert run.wait() == 128 + signum
    last = run.output().splitlines()[-1]
    assert f"{signum.name}: stopped after update" in last
    assert "and the same command resumes from it" in last
    newest = whole_checkpoints(run.folder)[-1]
    assert newest in last
    # Within the update that ran, or the next one where the signal came just before its end was logged.
    assert int(newest.split("-")[1]) - run.updates() in (0, 1)
    run = case.start(f"signal-{signum.name}")
    assert run.wait() == 0, run.output()
    assert left_by(run.folder) == reference


def test_what_would_throw_the_checkpoint_away_is_not_said_to_go_on(case: Case) -> None:
    run = case.start("overwriting", "--overwrite_output_dir")
    run.wait_for(2)
    run.send(signal.SIGTERM)

    assert run.wait() == 128 + signal.SIGTERM
    assert run.output().endswith("the same command without --overwrite_output_dir resumes from it\n")


def limited(words: list[str], log: str, size: int) -> None:
    """The command, in a process whose files may not grow beyond `size` bytes (a quota, as it were)."""
    from benchmarks._faults_child import child

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    child(words, log, {})


def test_a_quota_at_a_save(case: Case) -> None:
    folder = case.folder / "quota"
    run = case.start("quota")
    run.wait_for(10)
    run.kill(10)
    whole = whole_checkpoints(folder)
    size = (folder / "checkpoints" / whole[-1] / "optimizer.safetensors").stat().st_size

    words = [*case.words, "--output_dir", str(folder)]
    process = CONTEXT.Process(target=limited, args=(words, str(run.log), size - 1000))
    process.start()
    process.join()

    assert process.exitcode == 2
    assert "could not be written: " in run.output()
    assert "too large" in run.output()
    assert f"the checkpoint before it is whole: {folder / 'checkpoints' / whole[-1]}" in run.output()
    assert whole_checkpoints(folder) == whole
    assert not list((folder / "checkpoints").glob(".unfinished*"))


@pytest.mark.parametrize(("what", "size"), [("record.json", 2_000), ("model.safetensors", 60_000)])
def test_a_quota_outside_a_save(what: str, size: int, case: Case, reference: dict[str, Any]) -> None:
    folder = case.folder / f"quota-{size}"
    log = case.folder / f"quota-{size}.log"
    words = [*case.words, "--output_dir", str(folder), "--num_train_epochs", "1"]
    words += ["--checkpointing_steps", "none"]
    process = CONTEXT.Process(target=limited, args=(words, str(log), size))
    process.start()
    process.join()

    output = log.read_text()
    assert process.exitcode == 2, output
    assert f"error: --output_dir {folder}: File too large; free some space" in output.splitlines()[-1]
    assert "Traceback" not in output
    assert not (folder / what).exists()
    second = Run(folder, words)
    assert second.wait() == 0, second.output()
    assert (folder / what).stat().st_size > size


NO_NAMESPACE = 99


def on_a_small_disk(words: list[str], log: str, disk: str) -> None:
    """The command, with a file system of 3 MB at `disk` that only this process sees."""
    from benchmarks._faults_child import child

    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    new_user, new_mounts = 0x10000000, 0x00020000
    if libc.unshare(new_user | new_mounts):
        sys.exit(NO_NAMESPACE)
    for name, content in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        Path(f"/proc/self/{name}").write_text(content)
    if libc.mount(b"tmpfs", disk.encode(), b"tmpfs", 0, b"size=3m"):
        sys.exit(NO_NAMESPACE)
    try:
        child(words, log, {})
    finally:
        with Path(log).open("a") as file:
            print(sorted(path.name for path in Path(disk).glob("run/checkpoints/*")), file=file)


def test_a_full_disk_at_a_save(case: Case, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    words = [*case.words, "--output_dir", f"{tmp_path}/disk/run", "--save_total_limit", "none"]
    log = tmp_path / "log"
    process = CONTEXT.Process(target=on_a_small_disk, args=(words, str(log), f"{tmp_path}/disk"))
    process.start()
    process.join()
    if process.exitcode == NO_NAMESPACE:
        pytest.skip("this system gives no mount namespace to its users")

    output = log.read_text()
    assert process.exitcode == 2, output
    assert "could not be written: No space left on device; the checkpoint before it is whole: " in output
    left = output.splitlines()[-1]
    assert "'step-00000003'" in left
    assert "unfinished" not in left


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_damaged_checkpoints_are_named_and_the_one_before_taken(
    case: Case, reference: dict[str, Any]
) -> None:
    damages: list[tuple[str, Callable[[Path], None], str]] = [
        ("model.safetensors", halve, "bytes instead of"),
        ("optimizer.safetensors", flip, "its content has changed"),
        ("progress.json", Path.unlink, "missing"),
    ]
    for number, (name, damage, message) in enumerate(damages, start=1):
        run = case.start("damaged")
        run.kill(7 * number)
        newest, before = run.seen[-1], run.seen[-2]
        damage(run.folder / "checkpoints" / newest / name)

        run = case.start("damaged")
        run.wait_for_line(f"resumed from update {int(before.split('-')[1])}")
        run.kill(0)
        assert f"checkpoint skipped: {run.folder / 'checkpoints' / newest}: {name}: " in run.output()
        assert message in run.output()
    run = case.start("damaged")

    assert run.wait() == 0, run.output()
    assert left_by(run.folder) == reference


def test_a_second_run_in_the_folder_is_refused(case: Case) -> None:
    first = case.start("shared")
    first.wait_for(2)
    first.send(signal.SIGSTOP)
    second = Run(case.folder / "shared", [*case.words, "--output_dir", str(case.folder / "shared")])

    assert second.wait() == 2
    assert f"another run is running in it (process {first.process.pid} on " in second.output()
    # What is left of a killed run's lock keeps nobody out.
    first.kill(0)
    third = case.start("shared")
    third.wait_for(1)
    third.kill(0)


def without_privileges(words: list[str], log: str) -> None:
    """The command; root, too, may then only do what the files' modes say."""
    from benchmarks._faults_child import child

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # Linux' capabilities, version 3, of this process
    if os.geteuid() == 0 and ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
        sys.exit(NO_NAMESPACE)
    child(words, log, {})


@pytest.mark.parametrize("there", [True, False])
def test_a_run_folder_without_rights(there: bool, case: Case) -> None:
    parent = case.folder / f"read-only-{there}"
    parent.mkdir(mode=0o555)
    folder = parent if there else parent / "run"
    log = case.folder / f"read-only-{there}.log"
    words = [*case.words, "--output_dir", str(folder)]
    process = CONTEXT.Process(target=without_privileges, args=(words, str(log)))
    process.start()
    process.join()

    assert process.exitcode == 2, log.read_text()
    assert f"--output_dir {folder}: cannot be written: Permission denied" in log.read_text()
