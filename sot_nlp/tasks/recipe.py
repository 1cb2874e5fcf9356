"""Merge a run's settings: recipe, launcher, `--config` file and flags, the later over the earlier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sot_nlp.settings import launcher
from sot_nlp.settings.arguments import Arguments, build_arguments
from sot_nlp.settings.command_line import config_words, read_config
from sot_nlp.tasks.spec import load_task


def layered_arguments(given: Mapping[str, Any], config: str | None, *, source: str = "flag") -> Arguments:
    """Return the checked settings: `given` over the file `config` over the launcher's over the task's recipe.

    `source` says where `given` comes from: flags, or Python's keyword arguments. Raises UserError.
    """
    in_file = read_config(config) if config else {}
    layers: list[tuple[str, Mapping[str, Any]]] = []
    task = given.get("task", in_file.get("task"))
    if task is not None:
        with config_words(config, in_file.keys() - given.keys()):
            spec = load_task(str(task))
        layers.append((f"recipe of {spec.name}", dict(spec.recipe)))
    layers.append((launcher.SOURCE, launcher.launcher_settings()))
    if config:
        layers.append((config, in_file))
    return build_arguments([*layers, (source, given)])
