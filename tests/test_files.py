import hashlib
import os
import stat
import sys
from pathlib import Path

import pytest

from sot_nlp.cli import main
from sot_nlp.errors import UserError, decimal, did_you_mean, printable
from sot_nlp.files import check_output, sha256, write_atomic, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, "new")
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_not_a_number_is_never_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_files_are_readable_by_whom_the_umask_allows(tmp_path):
    old = os.umask(0o022)
    try:
        write_atomic(tmp_path / "a", b"x")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644


def test_a_device_is_written_to_and_stays(tmp_path):
    """A root user's rename would put a file in its place."""
    with pytest.raises(OSError, match="No space left"):
        write_atomic("/dev/full", "x" * 100_000)
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", [1])
    assert os.read(reader, 100) == b"[\n  1\n]\n"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("{}", "is a folder; give a file"),
        ("{}/a/b", "cannot be written: Not a directory"),
        ("{}/a", "cannot be written: Permission denied"),
        ("/proc/a", "cannot be written: No such file or directory"),
        ("/proc/no/a", "cannot be written: No such file or directory"),
    ],
)
def test_an_output_is_refused_before_the_work(path, reason, tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK)  # a root user may write all
    path = path.format(tmp_path)
    with pytest.raises(UserError) as refusal:
        check_output(path, "--html")
    assert str(refusal.value) == f"--html {path}: {reason}"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_an_output_that_can_be_written_is_left_alone(tmp_path):
    (tmp_path / "a").write_text("old")
    for path in (tmp_path / "a", tmp_path / "new", tmp_path / "new" / "b", "/dev/null"):
        check_output(path, "--html")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a", "old")]


def test_a_full_disk_behind_standard_output_is_one_line(monkeypatch, capfd):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["tasks"]) == 2
    assert capfd.readouterr().err == "sot-nlp: error: standard output: No space left on device\n"


def test_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 1_000_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


def test_printable_escapes_what_a_terminal_would_obey():
    assert printable("a\x1b[31mb\nc\u202ed") == "a\\x1b[31mb\\nc\\u202ed"
    assert printable("é 漢字 🙂") == "é 漢字 🙂"
    assert len(printable("x" * 1000)) == 200


@pytest.mark.parametrize(
    ("value", "digits", "signed", "text"),
    [
        (-0.004, 2, False, "0.00"),
        (-0.004, 2, True, "0.00"),
        (0.004, 2, True, "0.00"),
        (-0.0, 3, False, "0.000"),
        (-0.006, 2, True, "-0.01"),
        (0.006, 2, True, "+0.01"),
        (12.345, 1, False, "12.3"),
        (float("-inf"), 2, False, "-inf"),
    ],
)
def test_zero_has_no_sign(value, digits, signed, text):
    assert decimal(value, digits, signed=signed) == text


def test_near_names():
    assert did_you_mean("colla", ["cola", "rte"]) == "did you mean cola?"
    assert did_you_mean("f2", ["accuracy", "f1"]) == "did you mean f1?"
    assert did_you_mean("imagenet", ["cola", "mine"]) == "known: cola, mine"
    assert did_you_mean("zzz", ["cola", "rte"]) == "known: cola, rte"
    assert issubclass(UserError, ValueError)
