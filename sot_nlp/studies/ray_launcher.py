"""Run a study's cells on a Ray cluster (the optional extra `ray`): one task per run, where there is room.

The study's folder must be one that all machines see, and the package must be installed on them or be in a
folder that they share. Ray sets which GPU a run sees, and restarts a run whose machine is lost.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable
from sot_nlp.studies.slots import thread_limits
from sot_nlp.studies.workers import PATIENCE_SECONDS, environment

LOST_MACHINE_RETRIES = 3
CANCELLED = 143


class RayRun:
    """A run as a task of the cluster, with the methods of a process."""

    def __init__(self, ray: Any, task: Any, log: Path):
        self.ray = ray
        self.task = task
        self.log = log
        self.code: int | None = None

    def poll(self) -> int | None:
        """Return the run's exit code; None while it waits or runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the run's exit code, once it has one. Raises subprocess.TimeoutExpired."""
        if self.code is None:
            done, _ = self.ray.wait([self.task], timeout=timeout)
            if not done:
                raise subprocess.TimeoutExpired("ray", timeout or 0)
            try:
                self.code = int(self.ray.get(self.task))
            except self.ray.exceptions.TaskCancelledError:
                self.code = CANCELLED
            except self.ray.exceptions.RayError as error:
                with self.log.open("a", encoding="utf-8") as log:
                    log.write(f"error: {printable(str(error).strip().splitlines()[0])}\n")
                self.code = 1
        return self.code

    def terminate(self) -> None:
        """Ask the run to end."""
        self.ray.cancel(self.task, force=False)

    def kill(self) -> None:
        """End the run's task at once."""
        self.ray.cancel(self.task, force=True)


class RayLauncher:
    """Starts runs on the cluster at `address` (`auto`: the one that this machine is part of).

    Raises UserError without ray, or without a cluster there.
    """

    def __init__(self, address: str, threads: int):
        try:
            import ray
        except ImportError:
            raise UserError("--launcher ray needs Ray: pip install 'sot-nlp[ray]'") from None
        try:
            ray.init(address=address, log_to_driver=False, logging_level="warning")
        except ConnectionError:
            raise UserError(
                f"--ray_address {printable(address)}: no Ray cluster there; `ray start --head` starts one"
            ) from None
        self.ray = ray
        self.threads = threads
        self.gpus = int(ray.cluster_resources().get("GPU", 0))

    def slots(self, jobs: int | None) -> list[dict[str, str]]:
        """Return room for as many runs as the cluster has GPUs, or cores over threads; or for `jobs`."""
        cores = int(self.ray.cluster_resources().get("CPU", 1))
        limits = {} if self.gpus else thread_limits(self.threads)
        slot = {"TOKENIZERS_PARALLELISM": "false", **limits}
        return [dict(slot) for _ in range(jobs or self.gpus or max(1, cores // self.threads))]

    def start(self, command: Sequence[str], slot: Mapping[str, str], log: Path) -> RayRun:
        """Return a run as a task, which waits where the cluster has no room."""
        patience = PATIENCE_SECONDS

        # Inside, so that Ray sends it by value: a worker may not have this package on its path.
        def run(words: list[str], changes: dict[str, str], log_path: str) -> int:
            import contextlib
            import os
            import subprocess
            import sys
            import time

            with open(log_path, "ab") as output:  # noqa: PTH123 - as little as possible on the worker
                process = subprocess.Popen(
                    [sys.executable, *words[1:]],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **changes},
                )
            try:
                # Not one long wait: Ray's cancelling only reaches Python between two calls.
                while process.poll() is None:
                    time.sleep(0.2)
                return process.wait()
            finally:
                # Cancelled, or this worker ends: the run writes its checkpoint first.
                if process.poll() is None:
                    process.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(patience)
                    process.kill()

        resources = {"num_gpus": 1} if self.gpus else {"num_cpus": self.threads}
        remote = self.ray.remote(max_retries=LOST_MACHINE_RETRIES, **resources)(run)
        words = [*command, "--disable_tqdm"]
        return RayRun(self.ray, remote.remote(words, environment(slot), str(log.resolve())), log)
