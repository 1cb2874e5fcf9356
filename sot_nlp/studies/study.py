"""Define a study: a grid of tasks, backbones, settings, heads and seeds; each cell is an ordinary run.

It comes from a YAML file (`study_file`), from flags, or from both, and is checked as a whole before anything
runs: every cell's settings, and that the arms which are compared may spend the same.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sot_nlp.data.infer_task import task_name, user_task
from sot_nlp.data.sources import held_out_splits
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.files import write_json
from sot_nlp.modeling.head_config import DEFAULT_PRESET, resolve_head
from sot_nlp.runs.folder import safe_name
from sot_nlp.settings import plugins
from sot_nlp.settings.arguments import HEAD_PREFIX, TRAITS, Arguments, build_arguments, overridden
from sot_nlp.studies import own_data
from sot_nlp.studies.read_results import NOT_AN_ARM, STUDY_NAME, short_hash
from sot_nlp.studies.results import DATA_SEED_OFFSET, ChosenRates, Place, place_title
from sot_nlp.tasks.spec import TaskSpec, load_task

FORMAT_VERSION = 1
# The seeds that arms choose their rates on, where the study does not say.
RATE_SEEDS = (1000, 1001)
NO_VALIDATION = "it has no validation data but a share of its training data, drawn by each seed"
# What a run may spend: arms that are compared must agree on it.
BUDGET = tuple(name for name, traits in TRAITS.items() if traits.budget)
# What the grid itself sets, and the flag of `sot-nlp compare` that does; and what it sets for every run.
GRID_FLAGS = {name: traits.grid for name, traits in TRAITS.items() if traits.grid}
GRID = (*(name for name in GRID_FLAGS if name != "head"), "output_dir")
# What is compared where nothing else is said.
DEFAULT_HEADS = ("stock", DEFAULT_PRESET)
# Settings that change neither the weights nor the scores: a cell with other ones is the same cell.
NO_MATTER = NOT_AN_ARM - GRID_FLAGS.keys()


@dataclass(frozen=True, kw_only=True)
class StudyCell:
    """One run of the grid: the names of its place, and the settings of `sot-nlp train` that it has."""

    task: str
    model: str
    setting: str
    arm: str
    seed: int
    data_seed: int
    settings: dict[str, Any]
    folder: str

    @property
    def title(self) -> str:
        """Its place in a line."""
        parts = (self.task, self.model, self.setting, self.arm, f"seed {self.seed}")
        return printable(" · ".join(part for part in parts if part))

    def names(self) -> dict[str, Any]:
        """Return the cell's place, in the field names of `results.Cell`."""
        names = ("task", "model", "setting", "arm", "seed", "data_seed")
        return {name: getattr(self, name) for name in names}

    def command(self, output_dir: Path) -> list[str]:
        """Return the command that runs it."""
        words = [sys.executable, "-m", "sot_nlp.cli", "train", *plugins.flags()]
        for name, value in self.settings.items():
            words += flag_words(name, value)
        return [*words, "--output_dir", str(output_dir)]


# A grid asks for the same few tasks hundreds of times.
_load_once = functools.lru_cache(maxsize=64)(load_task)


def flag_words(name: str, value: Any) -> list[str]:
    """Return a setting as words of the command line."""
    if name.startswith(HEAD_PREFIX):
        return [f"--{name}={json.dumps(value) if not isinstance(value, str) else value}"]
    if isinstance(value, (list, tuple)):
        return [f"--{name}", *map(str, value)]
    if isinstance(value, Mapping):
        return [f"--{name}", *(f"{key}={item}" for key, item in value.items())]
    if isinstance(value, bool):
        value = "true" if value else "false"
    return [f"--{name}={'none' if value is None else value}"]


@dataclass(frozen=True, kw_only=True)
class Study:
    """A grid and how it is read: `tasks`, `models`, `settings` and `heads` map names in tables to values.

    A task of None is the data that the settings name, as `train_file`, without a task's file. `arguments` are
    settings of every run; `settings` those of a regime, over them; `heads` those of an arm,
    over both. `published` holds scores in percent, by arm, model and task.
    """

    name: str
    title: str = ""
    description: str = ""
    tasks: dict[str, str | None]
    models: dict[str, str]
    heads: dict[str, dict[str, Any]]
    settings: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    seeds: tuple[int, ...] = tuple(range(10))
    arguments: dict[str, Any] = field(default_factory=dict)
    baseline: str = ""
    score: str = "last"
    holm: str = "tasks"
    allow_unequal_budget: bool = False
    held_out: bool = False
    published: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    published_source: str = ""
    # What `rates` lets every arm choose from, on which seeds, and what was chosen.
    rates: dict[str, tuple[float | None, ...]] = field(default_factory=dict)
    rate_seeds: tuple[int, ...] = RATE_SEEDS
    chosen: tuple[ChosenRates, ...] = ()

    def cells(self, runs: Path | None = None) -> list[StudyCell]:
        """Return every cell, seed by seed, so that a study that is stopped has whole pairs.

        A run in `runs` that an earlier version began, which knew a local model by its place alone, is kept:
        what the model's files held is unknown. Raises UserError for invalid settings, and for arms with
        different budgets.
        """
        resolved = self.resolved()
        if not self.allow_unequal_budget:
            ending = "; make them equal, or set allow_unequal_budget: true"
            if problems := [difference + ending for difference in self._budget_differences(resolved)]:
                raise UserError("\n".join(dict.fromkeys(problems)))
        specs = {name: None if task is None else _load_once(task) for name, task in self.tasks.items()}
        contents = {
            place: (own_data.data_content(specs[place[0]], arguments), own_data.model_content(arguments))
            for place, arguments in resolved.items()
        }
        return [
            self._cell(place, seed, resolved[place], *contents[place], runs)
            for seed in self.seeds
            for place in self._places()
        ]

    def resolved(self) -> dict[Place, Arguments]:
        """Return the first seed's settings of every (task, model, setting, arm). UserError if invalid."""
        problems: dict[Place, str] = {}
        resolved: dict[Place, Arguments] = {}
        places = self._places()
        for place in places:
            try:
                resolved[place] = self._resolve(place)
            except UserError as error:
                problems[place] = str(error)
        if len(problems) == len(places) and len(set(problems.values())) == 1:
            raise UserError(problems[places[0]])  # the same everywhere
        if problems:
            lines = [f"{place_title(place)}: {problem}" for place, problem in problems.items()]
            raise UserError("\n".join(dict.fromkeys(lines)))
        return resolved

    def cell_with(self, arm: str, given: Mapping[str, Any]) -> StudyCell:
        """Return a cell outside the grid of a study of one task, model and setting: `given` over an arm.

        `given` holds `seed` and `data_seed`.
        """
        (task,), (model,), (setting,) = self.tasks, self.models, self.settings
        return self._cell_at((task, model, setting, arm), given, folder="")

    def marks(self) -> list[str]:
        """Return what a reader of its results must know, such as differences of budget that were let pass."""
        marks = ["scored on held-out training data, to choose settings"] if self.held_out else []
        if self.chosen:
            marks += [
                f"{printable(task)}: {NO_VALIDATION}, so its rates were chosen on texts that it is scored on"
                for task in self.tasks_without_validation()
            ]
        if self.allow_unequal_budget:
            marks += self._budget_differences({place: self._resolve(place) for place in self._places()})
        return marks

    def tasks_without_validation(self) -> list[str]:
        """Return the tasks scored on a share of their training data, on which settings are chosen, too."""
        tasks = []
        for task, location in self.tasks.items():
            arguments = self._baseline_arguments(task)
            spec = _load_once(location) if location is not None else user_task(arguments)
            none = not spec.validation_splits and arguments.validation_file is None
            if none or held_out_splits(spec, arguments):
                tasks.append(task)
        return tasks

    def with_held_out_tasks(self, folder: Path) -> Study:
        """Return the study, if it says so with held-out training data in place of validation data."""
        if not self.held_out:
            return self
        from sot_nlp.studies.tuning_task import write_tuning_task

        scored = self._without_validation_data()
        tasks: dict[str, str | None] = {}
        of_name: Counter[str] = Counter()
        for name, task in self.tasks.items():
            if task is None:  # whose own data, without a validation file, is held out of the training file
                tasks[name] = None
                continue
            spec = load_task(task)
            # (files of own tasks, in several folders, may give one name)
            number = of_name[spec.name]
            of_name[spec.name] += 1
            tasks[name] = str(write_tuning_task(spec, folder / str(number) if number else folder))
        return dataclasses.replace(scored, tasks=tasks)

    def task_of(self, task: str) -> TaskSpec:
        """Return the task of that name as its runs have it, its own data looked at. Raises UserError."""
        from sot_nlp.runs import preparation

        return preparation.task_of(self._baseline_arguments(task))

    def _baseline_arguments(self, task: str) -> Arguments:
        """Return a task's settings in the baseline's first run."""
        return self._resolve((task, next(iter(self.models)), next(iter(self.settings)), self.baseline))

    def _without_validation_data(self) -> Study:
        """Return the study without settings that would put validation data in the held-out data's place."""
        regimes, heads = self.settings.values(), self.heads.values()
        if any(layer.get("dataset_name") is not None for layer in (self.arguments, *regimes, *heads)):
            raise UserError(
                "dataset_name: the dataset has validation data of its own, and a search scores on held-out "
                "training data; name it in a task's file (tasks/README.md)"
            )
        return dataclasses.replace(
            self,
            arguments=_without_validation(self.arguments),
            settings={name: _without_validation(layer) for name, layer in self.settings.items()},
            heads={name: _without_validation(layer) for name, layer in self.heads.items()},
        )

    def _places(self) -> list[Place]:
        return [
            (task, model, setting, arm)
            for task in self.tasks
            for model in self.models
            for setting in self.settings
            for arm in self.heads
        ]

    def _given(self, place: Place) -> dict[str, Any]:
        """Return the settings that a cell's command names, but for seeds and folder."""
        task, model, setting, arm = place
        given: dict[str, Any] = {"model_name_or_path": self.models[model]}
        if (location := self.tasks[task]) is not None:
            given = {"task": location, **given}
        own = next((choice.rates for choice in self.chosen if choice.place == place), {})
        layers = (self.arguments, self.settings[setting], self.heads[arm], own)
        return functools.reduce(overridden, layers, given)

    def _resolve(self, place: Place) -> Arguments:
        given = self._given(place)
        layers: list[tuple[str, Mapping[str, Any]]] = [("study", {**given, "seed": self.seeds[0]})]
        if "task" in given:
            spec = _load_once(given["task"])
            if spec.model_from is not None:
                raise UserError(f"task {printable(spec.name)} has no training data")
            layers.insert(0, (f"recipe of {spec.name}", dict(spec.recipe)))
        arguments = build_arguments(layers)
        from sot_nlp.runs.preparation import check_model_folder, head_of

        head_of(arguments)
        check_model_folder(arguments.model_name_or_path)
        return arguments

    def _budget_differences(self, resolved: Mapping[Place, Arguments]) -> list[str]:
        problems = []
        for (task, model, setting, arm), arguments in resolved.items():
            baseline = resolved[task, model, setting, self.baseline]
            differing = [
                f"{name} {getattr(arguments, name)} against {getattr(baseline, name)}"
                for name in BUDGET
                if getattr(arguments, name) != getattr(baseline, name)
            ]
            if differing:
                where = " · ".join(part for part in (task, model, setting) if part)
                problems.append(
                    f"{printable(where)}: {printable(arm)} has another budget than "
                    f"{printable(self.baseline)} ({', '.join(differing)})"
                )
        return problems

    def _cell(
        self,
        place: Place,
        seed: int,
        arguments: Arguments,
        data_content: dict[str, Any],
        model_content: dict[str, str],
        runs: Path | None,
    ) -> StudyCell:
        seeds = {"seed": seed, "data_seed": seed + DATA_SEED_OFFSET}
        default = Arguments()
        # By what differs from the defaults: a setting that a later version adds makes no cell another one.
        shaping = {
            name: value
            for name, value in {**arguments.to_dict(), **seeds}.items()
            if name not in NO_MATTER and value != getattr(default, name)
        }
        shaping |= data_content
        # A preset that a later version changes makes it another cell.
        shaping["head_config"] = resolve_head(arguments.head, **arguments.head_overrides).to_dict()
        names = "-".join(part for part in (*place, f"seed{seed}") if part)
        if not names.isascii():
            shaping["names"] = names  # of which the folder's name keeps too little
        slug = safe_name(names)[:120]
        folder = f"{slug}-{short_hash(shaping)[:8]}"
        if model_content and (runs is None or not (runs / folder).exists()):
            folder = f"{slug}-{short_hash({**shaping, 'model_files': model_content})[:8]}"
        return self._cell_at(place, seeds, folder=folder)

    def _cell_at(self, place: Place, given: Mapping[str, Any], *, folder: str) -> StudyCell:
        task, model, setting, arm = place
        return StudyCell(
            task=task,
            model=model,
            setting=setting,
            arm=arm,
            seed=given["seed"],
            data_seed=given["data_seed"],
            settings=overridden(self._given(place), given),
            folder=folder,
        )

    def write_plan(self, folder: Path, cells: Sequence[StudyCell], command: str) -> None:
        """Write `study.json`, by which the report knows what was planned."""
        names = ("name", "title", "description", "baseline", "score", "holm", "published", "published_source")
        plan = {
            "format_version": FORMAT_VERSION,
            **{name: getattr(self, name) for name in names},
            "arms": list(self.heads),
            "command": command,
            "marks": self.marks(),
            "rates": [dataclasses.asdict(choice) for choice in self.chosen],
            "cells": [dataclasses.asdict(cell) for cell in cells],
        }
        write_json(folder / STUDY_NAME, plan)


def _without_validation(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "validation_file"}


def finished(study: Study) -> Study:
    """Return `study` with its baseline, its own parts checked. Raises UserError with all problems.

    Without a task the data is what its settings name, if they do.
    """
    own = {name: value for name, value in study.arguments.items() if name in own_data.DATA_SETTINGS}
    if not study.tasks and any(value is not None for value in own.values()):
        study = dataclasses.replace(study, tasks={task_name(build_arguments([("study", own)])): None})
    problems = [
        f"{key}: none is given (in the file, or by --{key}{'; or --train_file' if key == 'tasks' else ''})"
        for key in ("tasks", "models", "heads")
        if not getattr(study, key)
    ]
    baseline = study.baseline or ("stock" if "stock" in study.heads else next(iter(study.heads), ""))
    if study.heads and baseline not in study.heads:
        hint = did_you_mean(baseline, study.heads)
        problems.append(f"baseline {printable(baseline)!r} is not among the heads; {hint}")
    if problems:
        raise UserError("; ".join(problems))
    return dataclasses.replace(study, baseline=baseline)


def shown_command(words: Sequence[str]) -> str:
    """Return a command as a line for a shell, with this Python as `python`."""
    return shlex.join(["python" if word == sys.executable else word for word in words])


def published_command(words: Sequence[str]) -> str:
    """Return the same with the last part of every absolute path, for results that leave this machine."""
    shorter = []
    for word in words:
        before, equals, path = word.rpartition("=")
        shorter.append(before + equals + Path(path).name if Path(path).is_absolute() else word)
    return shown_command(shorter)


def flat_settings(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `parse_flags` gives, with `head_overrides` as the single `head.FIELD` settings."""
    flat = {name: value for name, value in flags.items() if name != "head_overrides"}
    return flat | {HEAD_PREFIX + name: value for name, value in flags.get("head_overrides", {}).items()}
