"""`sot-nlp probe`: what a frozen backbone's tokens know, by heads of several kinds and many seeds each.

The backbone runs once and its hidden states are kept on disk; then the heads of all seeds of an arm train
together, a few in a pass on a processor, all in one on a GPU. Nothing is selected on the validation data: a
head's score is the one after its last epoch, and where several learning rates are given, each arm takes the
one that does best on a held-out part of the training data.
"""

from __future__ import annotations

import dataclasses
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.arguments import FIELDS, Arguments, build_arguments
from sot_nlp.command_line import parse_flags, read_config
from sot_nlp.errors import UserError, did_you_mean, printable
from sot_nlp.flag_parser import FlagParser

if TYPE_CHECKING:
    from sot_nlp.features import Features
    from sot_nlp.modeling.head import SoTHead
    from sot_nlp.modeling.head_config import SoTHeadConfig
    from sot_nlp.probe_passes import Pass, Trained
    from sot_nlp.results import Cell, Results

SUMMARY = (
    "Train heads on a frozen backbone's token features, many seeds at once, and compare them: which tokens, "
    "and which pooling, hold what the task needs."
)
# arm -> (preset, fields over it)
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "class_token": ("stock", {"class_token": "linear"}),
    "mean": ("words", {"pooling": "mean", "normalization": "none", "dropout": 0.0}),
    "class_and_mean": ("text", {"pooling": "mean", "normalization": "none", "dropout": 0.0}),
    "max": ("words", {"pooling": "max", "normalization": "none", "dropout": 0.0}),
    "vision_words": ("vision", {"fusion": "words"}),
    "text_words": ("words", {}),
    "stock": ("stock", {}),
    "vision": ("vision", {}),
    "text": ("text", {}),
}
DEFAULT_ARMS = ("class_token", "mean", "class_and_mean", "vision_words", "text_words", "text")
DEFAULTS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_train_epochs": 10,
    "per_device_train_batch_size": 32,
}
# The settings of a run that mean something here; another one that is given is refused.
USED = {
    "task", "data_dir", "train_file", "validation_file", "dataset_name", "dataset_config_name",
    "text_column_names", "label_column_name", "label_mapping", "validation_fraction", "drop_leaked",
    "max_length", "max_train_samples", "max_eval_samples", "cache_dir", "overwrite_cache",
    "model_name_or_path", "model_revision", "trust_remote_code", "attn_implementation",
    "per_device_train_batch_size", "learning_rate", "num_train_epochs", "lr_scheduler_type", "warmup_steps",
    "warmup_ratio", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
    "label_smoothing", "seed", "cpu", "output_dir", "disable_tqdm",
}  # fmt: skip
SELECTION_FRACTION = 0.1
# What fits a processor's caches; a GPU takes all seeds in one pass.
SEEDS_PER_PASS = 5


def main(argv: Sequence[str], prog: str) -> int:
    """The command line of `sot-nlp probe`."""
    own, rest = _parser(prog).parse_known_args(argv)
    if own.help:
        _parser(prog).print_help()
        print(
            f"\nsettings of a run that apply:\n  {', '.join('--' + name for name in FIELDS if name in USED)}"
        )
        return 0
    arguments = _arguments(rest, prog, own.learning_rates)
    for arm in own.arms:
        if arm not in ARMS:
            raise UserError(f"--arms {printable(arm)}: {did_you_mean(arm, ARMS)}")
    for flag in ("seeds", "jobs"):
        value = getattr(own, flag)
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: must be at least 1")
    if own.save is not None and own.save not in own.arms:
        raise UserError(f"--save {printable(own.save)}: not among --arms {', '.join(own.arms)}")
    from sot_nlp import report

    probe = Probe(arguments, tuple(dict.fromkeys(own.arms)), own.seeds, own.learning_rates, own.jobs)
    results = probe.run()
    report.show(results)
    for line in probe.timing():
        print(line)
    folder = Path(arguments.output_dir or Path("runs") / f"probe-{probe.spec.name}-{probe.model_label}")
    for file in report.write(results, folder, ["json", "markdown", "csv", "html"]):
        print(f"wrote {printable(file)}")
    if own.save is not None:
        print(f"wrote {printable(probe.save(own.save, folder / 'model'))}")
    return 0


def _parser(prog: str) -> FlagParser:
    parser = FlagParser(prog=prog, description=SUMMARY, add_help=False)
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=list(DEFAULT_ARMS),
        metavar="ARM",
        help=f"of {', '.join(ARMS)}; the first is the baseline (default: {' '.join(DEFAULT_ARMS)})",
    )
    parser.add_argument(
        "--seeds", type=int, default=20, metavar="N", help="seeds an arm, from --seed on (default: 20)"
    )
    parser.add_argument(
        "--learning_rates",
        nargs="+",
        type=float,
        metavar="X",
        help="rates to choose from, for each arm, on a tenth held out of the training data",
    )
    parser.add_argument(
        "--jobs", type=int, metavar="N", help="processes (default: one a core; a GPU needs only one)"
    )
    parser.add_argument(
        "--save", metavar="ARM", help="save backbone and this arm's first head as a model in output_dir/model"
    )
    return parser


def _arguments(words: Sequence[str], prog: str, rates: Sequence[float] | None) -> Arguments:
    """The settings of a run that apply: the task's backbone and lengths, this command's defaults, flags."""
    flags, config = parse_flags(words, prog, SUMMARY)
    in_file = read_config(config) if config else {}
    for source, given in (("flag", flags), (config or "", in_file)):
        unused = [name for name in given if name not in USED]
        if unused:
            where = f"--{unused[0]}" if source == "flag" else f"{printable(source)}: {unused[0]}"
            raise UserError(f"{where}: does not apply to a probe; what does: see {prog} --help")
    layers: list[tuple[str, dict[str, Any]]] = []
    task = flags.get("task", in_file.get("task"))
    if task is not None:
        from sot_nlp.task_spec import load_task

        recipe = load_task(str(task)).recipe
        layers.append(
            ("recipe", {k: v for k, v in recipe.items() if k in ("model_name_or_path", "max_length")})
        )
    elif "train_file" not in {**in_file, **flags} and "dataset_name" not in {**in_file, **flags}:
        raise UserError(
            "nothing to probe on: give --task (see `sot-nlp tasks`), --train_file or --dataset_name"
        )
    layers += [("default", DEFAULTS), (config or "file", in_file), ("flag", {**flags, "head": "stock"})]
    arguments = build_arguments(layers)
    if arguments.num_train_epochs != int(arguments.num_train_epochs):
        raise UserError(f"--num_train_epochs {arguments.num_train_epochs}: a probe trains whole epochs")
    for rate in rates or ():
        if not 0 < rate < 1e3:
            raise UserError(f"--learning_rates {rate}: must be above 0")
    return arguments


class Probe:
    """A probe of one backbone on one task.

    Args:
        arguments: the settings (`USED` of them), with `head` `stock`.
        arms: names of `ARMS`, the baseline first.
        num_seeds: seeds an arm, from `arguments.seed` on.
        rates: learning rates that each arm chooses from; one and the same for all when None.
        jobs: processes; a core each when None.
    """

    def __init__(
        self,
        arguments: Arguments,
        arms: Sequence[str],
        num_seeds: int,
        rates: Sequence[float] | None = None,
        jobs: int | None = None,
    ):
        from sot_nlp import preparation

        self.arguments = arguments
        self.arms = tuple(arms)
        self.seeds = tuple(range(arguments.seed, arguments.seed + num_seeds))
        self.rates = tuple(dict.fromkeys(rates or ()))
        self.spec = preparation.task_of(arguments)
        preparation.check_model_folder(arguments.model_name_or_path)
        self.model_label = model_label(arguments.model_name_or_path)
        self.jobs = jobs or os.cpu_count() or 1
        self.seconds: dict[str, float] = {}
        self.chosen: dict[str, float] = {}
        self.weights: dict[str, dict[str, Any]] = {}

    def run(self) -> Results:
        """Make the features, train every arm, and return its scores as a study's results."""
        import torch

        self.device = "cuda" if torch.cuda.is_available() and not self.arguments.cpu else "cpu"
        if self.device == "cuda":
            self.jobs = 1
        train, validation = self._features()
        started = time.perf_counter()
        if len(self.rates) > 1:
            self._choose_rates(train)
        passes = [each for arm in self.arms for each in self._passes(arm, self.seeds, train, validation)]
        done = self._train(passes, "heads")
        self.seconds["heads"] = time.perf_counter() - started
        return self._results(passes, done, validation)

    def timing(self) -> list[str]:
        """What took how long, and the rates that were chosen."""
        lines = [
            f"features: {self.seconds['features']:.0f} s (kept for the next time); "
            f"{len(self.arms)} arms x {len(self.seeds)} seeds: {self.seconds['heads']:.0f} s "
            f"on {self.jobs} x {self.device}"
        ]
        if self.chosen:
            chosen = ", ".join(f"{arm} {rate:g}" for arm, rate in self.chosen.items())
            lines.append(f"learning rates, chosen on held-out training data: {chosen}")
        return lines

    def _features(self) -> tuple[Features, Features]:
        from sot_nlp import data, preparation
        from sot_nlp.features import load_features
        from sot_nlp.modeling.head_config import resolve_head

        started = time.perf_counter()
        arguments = self.arguments
        tokenizer = preparation.load_tokenizer(arguments)
        first, *_ = self.spec.validation_splits
        self.data = data.load_data(self.spec, arguments, tokenizer, splits=("train", first))
        model, _ = preparation.load_model(arguments, resolve_head("stock"), self.data, tokenizer)
        self.model = model.eval().to(self.device)
        self.tokenizer = tokenizer
        cache = data.cache_folder(arguments.cache_dir).with_name("features")
        found = [
            load_features(
                self.model, self.data.splits[split], cache=cache, pad_token_id=tokenizer.pad_token_id
            )
            for split in ("train", first)
        ]
        self.model.cpu()
        self.seconds["features"] = time.perf_counter() - started
        return found[0], found[1]

    def config(self, arm: str) -> SoTHeadConfig:
        """The head of an arm: its preset, for `text` with the widths and dropout of the task's recipe."""
        from sot_nlp.modeling.head_config import resolve_head

        preset, fields = ARMS[arm]
        recipe: dict[str, Any] = {}
        if preset in ("text", "words") and self.spec.recipe.get("head") == "text":
            recipe = {
                key.removeprefix("head."): value
                for key, value in self.spec.recipe.items()
                if key.startswith("head.")
            }
        return resolve_head(preset, **{**recipe, **fields})

    def _head(self, arm: str, seed: int) -> SoTHead:
        import torch

        self.model.config.set_head(self.config(arm))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            head: SoTHead = self.model.build_head()
            head.reset_parameters(self.model.initializer_std)
        return head

    def _passes(
        self,
        arm: str,
        seeds: Sequence[int],
        train: Features,
        validation: Features,
        *,
        rate: float | None = None,
        every_epoch: bool = True,
    ) -> list[Pass]:
        rate = rate or self.chosen.get(arm) or (self.rates or (self.arguments.learning_rate,))[0]
        size = len(seeds) if self.device == "cuda" else SEEDS_PER_PASS
        groups = [tuple(seeds[start : start + size]) for start in range(0, len(seeds), size)]
        from sot_nlp.probe_passes import Pass

        return [
            Pass(
                arm=arm,
                heads=[self._head(arm, seed) for seed in group],
                seeds=group,
                arguments=dataclasses.replace(self.arguments, learning_rate=rate),
                kind=self.data.kind,
                metric=self.spec.main_metric,
                train=train,
                validation=validation,
                device=self.device,
                every_epoch=every_epoch,
            )
            for group in groups
        ]

    def _choose_rates(self, train: Features) -> None:
        """For each arm the rate whose mean score over a few seeds is best on held-out training data."""
        import numpy as np

        from sot_nlp.splitting import hold_out

        out = hold_out(train.labels, len(train), SELECTION_FRACTION, 0)
        rest = np.setdiff1d(np.arange(len(train)), out)
        kept, held = train.subset(rest), train.subset(out)
        seeds = self.seeds[:SEEDS_PER_PASS]
        plans = [(arm, rate) for arm in self.arms for rate in self.rates]
        passes = [
            each
            for arm, rate in plans
            for each in self._passes(arm, seeds, kept, held, rate=rate, every_epoch=False)
        ]
        done = self._train(passes, "rates")
        best: dict[str, tuple[float, float]] = {}
        for (arm, rate), trained in zip(plans, done, strict=True):
            score = float(np.mean([curve[-1][1] for curve in trained.curves]))
            best[arm] = max(best.get(arm, (-np.inf, 0.0)), (score, rate))
        self.chosen = {arm: rate for arm, (_, rate) in best.items()}

    def _train(self, passes: Sequence[Pass], what: str) -> list[Trained]:
        from sot_nlp.probe_passes import train_passes

        return train_passes(passes, jobs=self.jobs, description=what, quiet=self.arguments.disable_tqdm)

    def _results(self, passes: Sequence[Pass], done: Sequence[Trained], validation: Features) -> Results:
        from sot_nlp import records
        from sot_nlp.collecting import data_hash, short_hash
        from sot_nlp.results import Results

        versions = records.versions()
        right: dict[tuple[str, int], Any] = {}
        cells: list[Cell] = []
        common: dict[str, Any] = {
            "data": data_hash({"data": self.data.report}),
            "versions": short_hash(versions),
        }
        for each, trained in zip(passes, done, strict=True):
            if each.seeds[0] == self.seeds[0]:
                self.weights[each.arm] = trained.weights
            for row, seed in enumerate(each.seeds):
                if self.data.kind == "classification":
                    right[each.arm, seed] = trained.decisions[row] == validation.labels
                cells.append(self._cell(each, trained, row, right, common))
        cells.sort(key=lambda cell: (self.arms.index(cell.arm), cell.seed))
        rates = {each.arm: each.arguments.learning_rate for each in passes}
        epochs, size = self.arguments.num_train_epochs, self.arguments.per_device_train_batch_size
        return Results(
            name=f"probe-{self.spec.name}",
            title=f"Heads on frozen {self.model_label}, {self.spec.title}",
            description=(
                f"Only the heads were trained: {epochs:g} epochs, batches of {size}, learning rate "
                + ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
                + (", each chosen on held-out training data." if self.chosen else ".")
            ),
            baseline=self.arms[0],
            arms=self.arms,
            holm="all",
            cells=tuple(cells),
            versions={short_hash(versions): versions},
        )

    def _cell(
        self,
        each: Pass,
        trained: Trained,
        row: int,
        right: dict[tuple[str, int], Any],
        common: dict[str, Any],
    ) -> Cell:
        import numpy as np

        from sot_nlp.probe_passes import DATA_SEED_OFFSET
        from sot_nlp.results import FINISHED, Cell

        seed = each.seeds[row]
        disagreements: dict[str, Any] = {}
        mine, theirs = right.get((each.arm, seed)), right.get((self.arms[0], seed))
        if mine is not None and theirs is not None and each.arm != self.arms[0]:
            disagreements = {
                "only_here": int((mine & ~theirs).sum()),
                "only_baseline": int((theirs & ~mine).sum()),
            }
        curve = trained.curves[row]
        return Cell(
            task=self.spec.name,
            model=self.model_label,
            setting="frozen",
            arm=each.arm,
            seed=seed,
            data_seed=seed + DATA_SEED_OFFSET,
            status=FINISHED,
            metric=self.spec.main_metric,
            score=curve[-1][1],
            epoch=curve[-1][0],
            curve=tuple(curve),
            collapsed=bool(len(np.unique(trained.decisions[row], axis=0)) == 1),
            seconds=trained.seconds / len(each.seeds),
            **disagreements,
            **common,
        )

    def save(self, arm: str, folder: Path) -> Path:
        """Save the backbone with the arm's first head as a classifier, its tokenizer beside it."""
        from sot_nlp import preparation

        model: Any
        model, _ = preparation.load_model(self.arguments, self.config(arm), self.data, self.tokenizer)
        model.classifier.load_state_dict(self.weights[arm])
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder


def model_label(name_or_path: str) -> str:
    """A short name of a backbone for tables and folders: the last part of its name, or the last two."""
    parts = [part for part in re.split(r"[/\\]+", name_or_path) if part not in ("", ".", "..")]
    label = "-".join(parts[-2:]) if parts and parts[-1] == "model" else (parts or ["model"])[-1]
    return re.sub(r"[^A-Za-z0-9._-]+", "_", label).strip(".-") or "model"
