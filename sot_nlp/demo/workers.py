"""Train the demo's runs in separate processes, as many at once as there are cores.

A tiny model computes on one thread, so two runs on two cores take the time of one. A worker imports what a
run needs while the backbone is being trained. It reads the settings of one run per line of its standard
input, as JSON, and answers each with a line: null, or what was wrong.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable

PATIENCE_SECONDS = 30.0


class Workers:
    """Processes that train the runs they are given; each has a log, `logs/worker-N.log` in `folder`."""

    def __init__(self, folder: Path, count: int) -> None:
        package = str(Path(__file__).resolve().parents[2])
        paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "false"}
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        self.logs = [folder / "logs" / f"worker-{number}.log" for number in range(count)]
        self.processes = []
        for path in self.logs:
            with path.open("ab") as log:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "sot_nlp.demo.workers"],
                        stdin=subprocess.PIPE,
                        stdout=subprocess.PIPE,
                        stderr=log,
                        text=True,
                        env=environment,
                    )
                )

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
        process, log = self.processes[number], printable(self.logs[number])
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(settings) + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise UserError(f"{printable(settings['output_dir'])}: its process died; see {log}")
        if (problem := json.loads(answer)) is not None:
            raise UserError(str(problem))

    def end(self) -> None:
        """End the processes; one that is training writes a checkpoint first."""
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE_SECONDS)
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with contextlib.suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]


@contextlib.contextmanager
def started(folder: Path, count: int) -> Iterator[Workers]:
    """Start `count` workers, and end them at the end."""
    workers = Workers(folder, count)
    try:
        yield workers
    finally:
        workers.end()


def main() -> int:
    """Train the runs that standard input names, until it ends."""
    answers, sys.stdout = sys.stdout, sys.stderr
    from sot_nlp.modeling import auto  # noqa: F401 - what takes long to import, before it is needed
    from sot_nlp.runs import runner
    from sot_nlp.settings.arguments import build_arguments
    from sot_nlp.tasks import metric_modules  # noqa: F401
    from sot_nlp.training import loop  # noqa: F401
    from sot_nlp.training.signals import Interrupted

    for line in sys.stdin:
        problem = None
        try:
            runner.run(build_arguments([("demo", json.loads(line))]))
        except UserError as error:
            problem = str(error)
        except Interrupted as stop:
            return stop.exit_code
        print(json.dumps(problem), file=answers, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
