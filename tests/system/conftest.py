"""The trainings in processes of their own, too, do not wait for the disk: `tests.conftest` is imported there."""

from __future__ import annotations

from benchmarks.faults import CONTEXT

CONTEXT.set_forkserver_preload(["benchmarks._faults_child", "tests.conftest"])
