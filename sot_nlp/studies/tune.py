"""Search settings by optuna: every arm gets the same number of trials, the baseline too.

A trial is an ordinary run on a task whose validation data is held-out training data, so that nothing is
chosen on the data that the winner is reported on. A trial that does worse than the median of those before it
at the same epoch is stopped. Several programs, on several machines, may share a storage.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

from sot_nlp import records
from sot_nlp.data.infer_task import user_task
from sot_nlp.data.sources import FILE_FLAGS, place
from sot_nlp.errors import UserError, printable
from sot_nlp.files import sha256, write_atomic
from sot_nlp.settings.arguments import FIELDS, HEAD_PREFIX, Arguments, convert
from sot_nlp.studies import read_results
from sot_nlp.studies.own_data import model_content
from sot_nlp.studies.read_results import NOT_AN_ARM
from sot_nlp.studies.results import DATA_SEED_OFFSET
from sot_nlp.studies.search_space import Dimension, check_heads
from sot_nlp.studies.study import BUDGET, Study
from sot_nlp.studies.study_runner import SIGNALS, drop_weights
from sot_nlp.studies.workers import end_run, failure_reason, start_run
from sot_nlp.tasks.metrics import traits
from sot_nlp.training.logs import METRICS_NAME
from sot_nlp.training.signals import handled_signals

if TYPE_CHECKING:
    import optuna

POLL_SECONDS = 0.5
# Of a search in its storage: what its trials have in common; in it, where model, task and data come from.
PLAN = "plan"
# What a task's file holds beside what its trials are trained and scored by.
NOT_SCORED = ("name", "source_path", "title", "description", "files", "recipe")
SOURCES = ("the model", "the model's files", "the task", "the training data")


class Tuner:
    """Searches settings for each arm of a study with one task, one backbone and one group of settings.

    Args:
        study: what stays fixed, and the arms; its task holds its validation data out of the training data.
        folder: where the trials' runs and the results go.
        space: what is searched.
        trials: how many, for each arm, over all programs that share the storage.
        storage: the URL of a database that optuna takes; a file in `folder` when None.
        slots: environments of the runs at once (`study_runner.slots`).
        prune: whether hopeless trials are stopped.

    Raises:
        UserError: without optuna, for a storage that can't be opened, and for one whose trials were made with
            other settings.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        *,
        space: Sequence[Dimension],
        trials: int,
        storage: str | None,
        slots: Sequence[Mapping[str, str]],
        prune: bool = True,
    ):
        try:
            import optuna
            from sqlalchemy.exc import SQLAlchemyError
        except ImportError:
            raise UserError("tuning needs optuna: pip install 'sot-nlp[tune]'") from None
        self.optuna = optuna
        self.study = study
        self.folder = folder
        self.space = tuple(space)
        self.trials = trials
        self.slots = slots
        (task,) = study.tasks
        self.main_metric = study.task_of(task).main_metric
        self.metric = traits(self.main_metric)
        self.stopped = threading.Event()
        self.signum = 0
        self.lock = threading.Lock()
        self.failures: list[str] = []
        for arm in study.heads:
            check_heads(study, arm, self.space_of(arm))
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        pruners = optuna.pruners
        pruner = pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1) if prune else pruners.NopPruner()
        url = storage or f"sqlite:///{(folder / 'trials.db').resolve()}"
        places = (*study.tasks, *study.models, *study.settings)
        try:
            opened = optuna.storages.RDBStorage(url)
            self.searches = {
                arm: optuna.create_study(
                    study_name=" · ".join(filter(None, (*places, arm))),
                    storage=opened,
                    direction="maximize" if self.metric.higher_is_better else "minimize",
                    load_if_exists=True,
                    sampler=optuna.samplers.TPESampler(multivariate=True, constant_liar=True),
                    pruner=pruner,
                )
                for arm in study.heads
            }
        except (SQLAlchemyError, ImportError, optuna.exceptions.OptunaError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise UserError(f"--storage {printable(url)}: {printable(reason)}") from None

        self._check_plan()

    def _check_plan(self) -> None:
        """Refuse trials that were made with other settings: what is best among them says nothing of these."""
        default = Arguments()
        for (*_, arm), arguments in self.study.resolved().items():
            plan = {
                name: value
                for name, value in arguments.to_dict().items()
                if name not in NOT_AN_ARM and value != getattr(default, name)
            }
            plan |= {f"--search {d.name}": dataclasses.asdict(d) for d in self.space_of(arm)}
            plan |= _sources(arguments)
            plan = json.loads(json.dumps({**plan, "--seeds": self.study.seeds, "score": self.study.score}))
            search = self.searches[arm]
            before = search.user_attrs.get(PLAN, plan)
            names = sorted(
                name
                for name in before.keys() | plan.keys()
                # (searches of earlier versions did not note their sources)
                if before.get(name) != plan.get(name) and (name not in SOURCES or name in before)
            )
            if names:
                raise UserError(
                    f"--output_dir {printable(self.folder)}: the trials there were made with other settings "
                    f"({', '.join(map(printable, names))}); use the same ones to resume, or another folder"
                )
            search.set_user_attr(PLAN, plan)

    def run(self) -> None:
        """Run every arm's trials. A signal to end stops the runs at work; what is done is kept."""
        self._forget_the_dead()
        workers = [threading.Thread(target=self._work, args=(slot,)) for slot in self.slots]
        with handled_signals(SIGNALS, self._note):
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()

    def _note(self, signum: int) -> None:
        self.signum = signum
        self.stopped.set()

    def _forget_the_dead(self) -> None:
        """Fail the trials that a killed program of this machine left unfinished."""
        states = self.optuna.trial.TrialState
        for search in self.searches.values():
            for trial in search.get_trials(deepcopy=False, states=(states.RUNNING,)):
                host, pid = trial.user_attrs.get("owner", ("", 0))
                if host == socket.gethostname() and not psutil.pid_exists(pid):
                    search.tell(trial.number, state=states.FAIL)

    def _work(self, slot: Mapping[str, str]) -> None:
        """Take trials of the arm that has fewest, until all have theirs."""
        while not self.stopped.is_set():
            with self.lock:
                arm = self._next_arm()
                if arm is None:
                    return
                trial = self.searches[arm].ask()
                trial.set_user_attr("owner", [socket.gethostname(), os.getpid()])
                settings = {dimension.name: dimension.suggest(trial) for dimension in self.space_of(arm)}
            self._try(arm, trial, settings, slot)

    def _next_arm(self) -> str | None:
        states = self.optuna.trial.TrialState
        numbers: dict[str, int] = {}
        for arm, search in self.searches.items():
            trials = search.get_trials(deepcopy=False)
            failed = sum(trial.state == states.FAIL for trial in trials)
            numbers[arm] = len(trials) - failed
            # A failed trial is made again, but not without end; of an arm without a search all are the same.
            if failed >= self.trials or (numbers[arm] and not self.space_of(arm)):
                numbers[arm] = self.trials
        arm = min(numbers, key=lambda name: numbers[name])
        return arm if numbers[arm] < self.trials else None

    def space_of(self, arm: str) -> tuple[Dimension, ...]:
        """Return what is searched for an arm: the stock head has no use for the settings of a SoT head."""
        if self.study.heads[arm].get("head") == "stock":
            return tuple(dimension for dimension in self.space if not dimension.name.startswith(HEAD_PREFIX))
        return self.space

    def _try(self, arm: str, trial: optuna.Trial, settings: dict[str, Any], slot: Mapping[str, str]) -> None:
        """Run a trial over the study's seeds, and report the outcome."""
        states = self.optuna.trial.TrialState
        search, scores = self.searches[arm], []
        for number, seed in enumerate(self.study.seeds):
            run = self.folder / "runs" / f"{arm}-{trial.number}-seed{seed}"
            given = {**settings, "seed": seed, "data_seed": seed + DATA_SEED_OFFSET}
            # Only the first seed can be pruned: the others' epochs would be reported twice.
            outcome = self._run(arm, given, run, slot, trial if number == 0 else None)
            if isinstance(outcome, float):
                scores.append(outcome)
                continue
            if outcome is None:
                search.tell(trial, state=states.PRUNED)
            else:
                search.tell(trial, state=states.FAIL)
                if not self.stopped.is_set():
                    self.failures.append(f"{arm}, trial {trial.number}: {outcome}")
            return
        search.tell(trial, sum(scores) / len(scores))

    def _run(
        self,
        arm: str,
        given: Mapping[str, Any],
        run: Path,
        slot: Mapping[str, str],
        trial: optuna.Trial | None,
    ) -> float | str | None:
        """Return the score of one run; None where it was hopeless; why it failed."""
        shutil.rmtree(run, ignore_errors=True)
        log_path = self.folder / "logs" / f"{run.name}.log"
        log_path.parent.mkdir(parents=True, exist_ok=True)
        cell = self.study.cell_with(arm, given)
        process = start_run(cell.command(run), slot, log_path)
        seen = 0
        while process.poll() is None:
            time.sleep(POLL_SECONDS)
            points = _points(run / METRICS_NAME, self.main_metric) if trial is not None else []
            for epoch, score in points[seen:]:
                assert trial is not None
                trial.report(score, round(epoch))
            hopeless = len(points) > seen and trial is not None and trial.should_prune()
            seen = len(points)
            if hopeless or self.stopped.is_set():
                end_run(process)
                drop_weights(run)
                return None if hopeless else "stopped"
        code = process.wait()
        if code != 0:
            return failure_reason(code, log_path)
        cell_of_run = read_results.cell_of_record(records.read(run), cell.names(), self.study.score, {})
        drop_weights(run)
        return cell_of_run.reason if cell_of_run.score is None else cell_of_run.score

    def best(self) -> dict[str, tuple[float, dict[str, Any]]]:
        """Return each arm's best score and its settings, for the arms with a finished trial."""
        states = self.optuna.trial.TrialState
        best = {}
        for arm, search in self.searches.items():
            if search.get_trials(deepcopy=False, states=(states.COMPLETE,)):
                best[arm] = (float(search.best_value), dict(search.best_params))
        return best

    def write(self, study: Study) -> Path:
        """Write `tuned.yaml`: `study`, on the real validation data, with the best settings of each arm."""
        best = self.best()
        heads = {arm: {**study.heads[arm], **best[arm][1]} for arm in study.heads if arm in best}
        tasks = {
            name: str(Path(task).absolute()) if task.lower().endswith((".yaml", ".yml")) else task
            for name, task in study.tasks.items()
            if task is not None
        }
        content = {
            "name": f"{study.name}_tuned",
            "title": f"{', '.join(study.tasks)}: every arm at its best of {self.trials} trials",
            **({"tasks": tasks} if tasks else {}),
            "models": {
                name: str(Path(model).absolute()) if Path(model).is_dir() else model
                for name, model in study.models.items()
            },
            "heads": heads,
            "baseline": study.baseline,
            "seeds": "100-109",
            "arguments": {name: _typed(name, value) for name, value in _absolute(study.arguments).items()},
            # What was searched may be part of the budget; the budget of the search itself was equal.
            "allow_unequal_budget": any(dimension.name in BUDGET for dimension in self.space),
        }
        if study.settings != {"": {}}:
            content["settings"] = study.settings
        path = self.folder / "tuned.yaml"
        write_atomic(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return path


def _sources(arguments: Arguments) -> dict[str, Any]:
    """Return model, hashes of its files, task but for where its files are, and its training file's hash.

    Hashes are of local files.
    """
    model = Path(arguments.model_name_or_path)
    spec = user_task(arguments)
    task = {key: value for key, value in spec.to_dict().items() if key not in NOT_SCORED}
    where = place(spec, "train", arguments)
    data = sha256(where) if isinstance(where, Path) and where.is_file() else str(where)
    name = str(model.resolve() if model.exists() else model)
    return dict(zip(SOURCES, (name, model_content(arguments), task, data), strict=True))


def _absolute(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings that name own files by their whole path: the study may be run from another folder."""
    places = {"data_dir", *FILE_FLAGS.values()}
    own = {name: value for name, value in settings.items() if name in places and value is not None}
    return {**settings, **{name: str(Path(value).absolute()) for name, value in own.items()}}


def _typed(name: str, value: Any) -> Any:
    """Return a run's setting in its type, where a flag gave it as text."""
    return convert(name, value) if isinstance(value, str) and name in FIELDS else value


def _points(path: Path, metric: str) -> list[tuple[float, float]]:
    """Return (epoch, score) of each evaluation that a run has written so far."""
    points = []
    with contextlib.suppress(OSError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                points.append((float(entry["epoch"]), float(entry[metric])))
    return points
