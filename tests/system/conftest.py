"""Processes of trainings, too, do not wait for the disk: they import `tests.conftest`."""

from __future__ import annotations

from benchmarks.faults import CONTEXT

CONTEXT.set_forkserver_preload(["benchmarks._faults_child", "tests.conftest"])
