"""Claims: one program's at a time, and free again when their owner is dead."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from sot_nlp.studies import claims


def test_a_claim_is_one_programs(tmp_path):
    first = claims.claim(tmp_path / "c.json")
    assert first is not None
    assert claims.claim(tmp_path / "c.json") is None
    assert str(os.getpid()) in claims.holder(tmp_path / "c.json")
    first.release()
    assert claims.claim(tmp_path / "c.json") is not None
    # A claim that is no longer one's own is left alone.
    first.release()
    assert (tmp_path / "c.json").exists()


def written(path, age=0.0, **changes):
    content = {"token": "t", "host": "elsewhere", "pid": 1, "worker": 0, **changes}
    path.write_text(json.dumps(content))
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def test_a_claim_from_another_machine_is_dead_by_its_age(tmp_path):
    assert claims.claim(written(tmp_path / "young.json", age=claims.STALE_SECONDS / 2)) is None
    taken = claims.claim(written(tmp_path / "old.json", age=claims.STALE_SECONDS + 30))
    assert taken is not None
    assert taken.is_held()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.json", "young.json"]


def test_a_claim_on_this_machine_is_dead_by_its_processes(tmp_path):
    host = claims.socket.gethostname()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    assert claims.claim(written(tmp_path / "a.json", host=host, pid=dead.pid)) is not None
    # The study is gone, its run is not, however old the claim is.
    path = written(tmp_path / "b.json", age=1e6, host=host, pid=dead.pid, worker=os.getpid())
    assert claims.claim(path) is None


def test_a_beat_keeps_a_claim_alive(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_SECONDS", 0.0)
    held = claims.claim(tmp_path / "c.json")
    os.utime(tmp_path / "c.json", (0, 0))
    held.beat()
    assert time.time() - (tmp_path / "c.json").stat().st_mtime < 60
