"""Run a study's cells in one process: a worker reads them from stdin, one line of JSON each.

Each cell runs as `sot-nlp train` does, its output in its own log, and is answered by a line with its exit
code. Between cells everything that a run leaves in the process is restored, so that a cell's result is to the
bit that of a process of its own. The worker ends when its study does: stdin's end asks the running cell to
write its checkpoint.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import queue
import runpy
import signal
import sys
import threading
import traceback
from typing import Any

from sot_nlp.runs.kept import keep_between_runs
from sot_nlp.studies.workers import lost_device

# 128 + SIGINT and 128 + SIGTERM: the cell was asked to end, and the worker ends with it.
TOLD_TO_END = (130, 143)


def main() -> int:
    """Run cells until stdin ends; returns the exit code."""
    requests, replies = os.fdopen(os.dup(0), "r", encoding="utf-8"), os.fdopen(os.dup(1), "w")
    with open(os.devnull, "r+b") as nothing:  # noqa: PTH123 - the null device is no path of ours
        os.dup2(nothing.fileno(), 0)
        os.dup2(nothing.fileno(), 1)
    waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    at_work = threading.Event()

    def read() -> None:
        for line in requests:
            waiting.put(json.loads(line))
        # The study is gone.
        if at_work.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        waiting.put(None)

    threading.Thread(target=read, daemon=True).start()
    keep_between_runs()
    while (request := waiting.get()) is not None:
        at_work.set()
        code = run_cell(request["module"], request["words"], request["log"])
        at_work.clear()
        with contextlib.suppress(BrokenPipeError):
            replies.write(f"{code}\n")
            replies.flush()
        if code in TOLD_TO_END:
            return code
        reset()
    return 0


def run_cell(module: str, words: list[str], log: str) -> int:
    """Run `python -m module words`, its output behind what the file `log` holds; returns the exit code."""
    variables = dict(os.environ)
    with open(log, "ab") as output:  # noqa: PTH123 - the path is a word of the request
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    code: int | str | None = 0
    sys.argv = [module, *words]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    except BaseException as error:
        traceback.print_exc()
        if lost_device(str(error)):
            # What is in this process of the device can't be used again: a new worker takes the next cell.
            sys.stderr.flush()
            os._exit(1)
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os.environ.clear()
    os.environ.update(variables)
    return code if isinstance(code, int) else int(code is not None)


def reset() -> None:
    """Restore what a run changed in the process."""
    if "accelerate" in sys.modules:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
    # What lives on, imports above all, need not be gone through again: that takes most of a collection.
    gc.collect()
    gc.freeze()
    if "torch" in sys.modules:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


if __name__ == "__main__":
    sys.exit(main())
