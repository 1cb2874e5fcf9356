"""Train the demo's runs in separate processes, as many at once as there are cores.

A tiny model computes on one thread, so two runs on two cores take the time of one. Where the system can fork,
one process imports what a run needs, and the workers are its copies: it is imported once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable

IDLE_SECONDS = 2.0
PATIENCE_SECONDS = 30.0
# What takes long to import, before it is needed.
PRELOADED = [
    "sot_nlp.demo.workers",
    "sot_nlp.modeling.auto",
    "sot_nlp.runs.runner",
    "sot_nlp.runs.scoring",
    "sot_nlp.tasks.metric_modules",
    "sot_nlp.training.loop",
]


def preload() -> Any:
    """Begin to import what the workers need, in a process beside this one; return how they are started."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    # A process of the context waits for the imports; this does not.
    forkserver.ensure_running()
    return context


class Workers:
    """Processes that train the runs they are given; each has a log, `logs/worker-N.log` in `folder`."""

    def __init__(self, folder: Path, count: int) -> None:
        context = preload()
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self.logs = [folder / "logs" / f"worker-{number}.log" for number in range(count)]
        self.processes, self.pipes = [], []
        for log in self.logs:
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(theirs, str(log.absolute())))
            process.start()
            theirs.close()  # so that a worker's end closes the pipe
            self.processes.append(process)
            self.pipes.append(ours)

    def train(self, runs: Mapping[Any, dict[str, Any]], finished: Callable[[Any], None]) -> None:
        """Train every run (a name and its settings), in that order; call `finished` after each, by name.

        Raises UserError for the first that fails; those that are being trained then write a checkpoint.
        """
        waiting, lock = deque(runs.items()), threading.Lock()

        def serve(number: int) -> None:
            while True:
                with lock:
                    if not waiting:
                        return
                    name, settings = waiting.popleft()
                try:
                    self._train_one(number, settings)
                except UserError:
                    with lock:
                        waiting.clear()
                    raise
                with lock:
                    finished(name)

        with ThreadPoolExecutor(len(self.processes)) as pool:
            for served in [pool.submit(serve, number) for number in range(len(self.processes))]:
                served.result()

    def _train_one(self, number: int, settings: dict[str, Any]) -> None:
        try:
            self.pipes[number].send(settings)
            problem = self.pipes[number].recv()
        except (EOFError, OSError):
            log = printable(self.logs[number])
            raise UserError(f"{printable(settings['output_dir'])}: its process died; see {log}") from None
        if problem is not None:
            raise UserError(problem)

    def end(self) -> None:
        """End the processes; one that is training writes a checkpoint first."""
        for pipe in self.pipes:
            pipe.close()  # ends the idle ones
        for process in self.processes:
            process.join(IDLE_SECONDS)
            process.terminate()
        for process in self.processes:
            process.join(PATIENCE_SECONDS)
            process.kill()
            process.join()


@contextlib.contextmanager
def started(folder: Path, count: int) -> Iterator[Workers]:
    """Start `count` workers, and end them at the end."""
    workers = Workers(folder, count)
    try:
        yield workers
    finally:
        workers.end()


def work(pipe: Connection, log: str) -> None:
    """Train each run whose settings come through `pipe`; answer None, or what was wrong, until it closes."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (1, 2):
        os.dup2(file, stream)
    from sot_nlp.runs import runner
    from sot_nlp.settings.arguments import build_arguments
    from sot_nlp.training.signals import Interrupted

    with contextlib.suppress(EOFError):
        while True:
            settings, problem = pipe.recv(), None
            try:
                runner.run(build_arguments([("demo", settings)]))
            except UserError as error:
                problem = str(error)
            except Interrupted as stop:
                sys.exit(stop.exit_code)
            pipe.send(problem)
