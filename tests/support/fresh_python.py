"""Run programs in processes that have not imported this package or transformers, for the price of a fork.

What a fresh interpreter costs is its imports. One process imports torch and scikit-learn once; every program
is a fork of it, with an environment, a folder and modules of its own.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

SERVER = """
import gc, json, os, sys, traceback
import sklearn.metrics, torch, torch._dynamo
gc.freeze()  # no fork need go through what lives on

def run(program, words, path, folder, environment, log):
    for stream, name in ((1, log), (2, log + ".err")):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[:0] = path
    sys.argv[1:] = words
    exec(compile(program, "<program>", "exec"), {"__name__": "__main__"})

for line in sys.stdin:
    request = json.loads(line)
    if "wait_for" in request:
        child, status = os.waitpid(request["wait_for"], os.WNOHANG)
        answer = os.waitstatus_to_exitcode(status) if child else None
    else:
        answer = os.fork()
        if not answer:
            code = 0
            try:
                run(**request)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(json.dumps(answer), flush=True)
"""


@cache
def _server() -> subprocess.Popen[str]:
    # (isolated: neither the working directory nor PYTHONPATH is on its path)
    words = [sys.executable, "-I", "-c", SERVER]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(process.kill)
    return process


def _ask(**request: Any) -> Any:
    server = _server()
    assert server.stdin is not None
    assert server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    return json.loads(server.stdout.readline())


@dataclass
class Program:
    """A program at work: its process, and the file that it prints to (errors go to `<log>.err`)."""

    pid: int
    log: Path
    code: int | None = None

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""
        if self.code is None:
            self.code = _ask(wait_for=self.pid)
        return self.code

    def terminate(self) -> None:
        """Ask it to end."""
        os.kill(self.pid, signal.SIGTERM)

    def errors(self) -> str:
        """What it printed to stderr."""
        return Path(f"{self.log}.err").read_text()

    def wait(self, seconds: float = 300) -> int:
        """Its exit code, once there is one; killed after `seconds`."""
        deadline = time.monotonic() + seconds
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
            time.sleep(0.01)
        return code


def start(
    program: str,
    *words: object,
    log: Path,
    folder: Path | None = None,
    path: tuple[str | Path, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Program:
    """Start Python code with `words` behind sys.argv[0], and with `path` in front of sys.path."""
    pid = _ask(
        program=program,
        words=list(map(str, words)),
        path=list(map(str, path)),
        folder=str(folder or log.parent),
        environment=dict(os.environ if environment is None else environment),
        log=str(log),
    )
    return Program(pid, log)


def printed(program: str, *words: object, log: Path, **options: Any) -> str:
    """What a program prints that must end well."""
    done = start(program, *words, log=log, **options)
    assert done.wait() == 0, done.errors()
    return log.read_text()
