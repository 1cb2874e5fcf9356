"""Probe what a frozen backbone's tokens know, by heads of several kinds and many seeds each.

The backbone runs once and its hidden states are kept on disk; then the heads of all seeds of an arm train
together, a few in a pass on a processor, all in one on a GPU. Nothing is selected on the validation data: a
head's score is the one after its last epoch, and where several learning rates are given, each arm takes the
one that does best on a held-out part of the training data.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp.runs.folder import model_label
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.metrics import higher_is_better, traits
from sot_nlp.training.speed.threads import usable_cores

if TYPE_CHECKING:
    from sot_nlp.modeling.head import SoTHead
    from sot_nlp.modeling.head_config import SoTHeadConfig
    from sot_nlp.studies.probe.passes import Pass, Trained
    from sot_nlp.studies.results import Cell, Results
    from sot_nlp.training.speed.features import Features

PLAN = "probe.json"  # what the results beside it were made with
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
    "sot": ("sot", {}),
    # As `sot`, the same class token and mixture of layers, but for what pools the words:
    "sot_mean": ("sot", {"pooling": "mean", "normalization": "none"}),
    # The mean of maps, without any product: as many channels as the maps of `sot` (96 + 48), and seven times
    # as many.
    "sot_mapped_mean": (
        "sot",
        {"pooling": "mapped_mean", "normalization": "none", "num_heads": 1, "width_x": 144},
    ),
    "sot_mapped_mean_wide": ("mapped_mean", {}),
    # As pre-norm backbones' tokens are, for what scaling them does (`token_norm`).
    "sot_unscaled": ("sot", {"token_norm": "none"}),
    "sot_mean_unscaled": ("sot", {"pooling": "mean", "normalization": "none", "token_norm": "none"}),
    "sot_max": ("sot", {"pooling": "max", "normalization": "none"}),
    "sot_attention": ("sot", {"pooling": "attention", "normalization": "none"}),
    "sot_isqrt": ("sot", {"pooling": "covariance", "normalization": "isqrt_cov"}),
    "moments": ("moments", {}),
    "mapped_moments": ("mapped_moments", {}),
    # Its first form.
    "mapped_moments_wide": ("mapped_moments", {"mean_width": 1024, "mean_alpha": 1}),
}
SELECTION_FRACTION = 0.1
# What fits a processor's caches; a GPU takes all seeds in one pass.
SEEDS_PER_PASS = 10


class Probe:
    """A probe of one backbone on one task.

    Args:
        arguments: the settings (`USED` of them), with `head` `stock`.
        arms: names of `ARMS`, the baseline first.
        num_seeds: seeds per arm, from `arguments.seed` on.
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
        from sot_nlp.runs import preparation

        self.arguments = arguments
        self.arms = tuple(arms)
        self.seeds = tuple(range(arguments.seed, arguments.seed + num_seeds))
        self.rates = tuple(dict.fromkeys(rates or ()))
        self.spec = preparation.task_of(arguments)
        preparation.check_model_folder(arguments.model_name_or_path)
        self.model_label = model_label(arguments.model_name_or_path)
        self.jobs = jobs or usable_cores()
        self.seconds: dict[str, float] = {}
        self.chosen: dict[str, float] = {}
        self.weights: dict[str, dict[str, Any]] = {}
        self.marks: list[str] = []

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
        passes = [
            one_pass for arm in self.arms for one_pass in self._passes(arm, self.seeds, train, validation)
        ]
        done = self._train(passes, "heads")
        self.seconds["heads"] = time.perf_counter() - started
        return self._results(passes, done, validation)

    def timing(self) -> list[str]:
        """Return what took how long, and the rates that were chosen."""
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
        from sot_nlp.data import task_data
        from sot_nlp.modeling.head_config import resolve_head
        from sot_nlp.runs import preparation
        from sot_nlp.training.speed.features import load_features

        started = time.perf_counter()
        arguments = self.arguments
        self.checkpoint = preparation.read_checkpoint(arguments)
        tokenizer = preparation.load_tokenizer(arguments, self.checkpoint)
        first, *_ = self.spec.validation_splits
        self.data = task_data.load_data(
            self.spec,
            arguments,
            tokenizer,
            splits=("train", first),
            model_max_length=preparation.model_positions(arguments, self.checkpoint),
        )
        model, _ = preparation.load_model(
            arguments, self.checkpoint, resolve_head("stock"), self.data, tokenizer
        )
        self.model = model.eval().to(self.device)
        tokenizer.model_max_length = self.data.report["max_length"]
        self.tokenizer = tokenizer
        cache = task_data.cache_folder(arguments.cache_dir).with_name("features")
        features = [
            load_features(
                self.model,
                self.data.splits[split],
                cache=cache,
                pad_token_id=tokenizer.pad_token_id,
                num_layers=max(self.config(arm).num_layers for arm in self.arms),
            )
            for split in ("train", first)
        ]
        self.model.cpu()
        self.seconds["features"] = time.perf_counter() - started
        return features[0], features[1]

    def config(self, arm: str) -> SoTHeadConfig:
        """Return the head of an arm: its preset, of text's kind with the recipe's widths and dropout."""
        head_config: SoTHeadConfig = self._model_config(arm).head_config
        return head_config

    def _model_config(self, arm: str) -> Any:
        """Return the config of a model with that head."""
        from sot_nlp.modeling.head_config import TEXT_FAMILY, resolve_head

        preset, fields = ARMS[arm]
        recipe: dict[str, Any] = {}
        if preset in TEXT_FAMILY and self.spec.recipe.get("head") in TEXT_FAMILY:
            recipe = {
                key.removeprefix("head."): value
                for key, value in self.spec.recipe.items()
                if key.startswith("head.")
            }
        config = copy.deepcopy(self.model.config)
        config.set_head(resolve_head(preset, **{**recipe, **fields}), preset)
        return config

    def _heads(self, arm: str, seeds: Sequence[int]) -> list[SoTHead]:
        """Return a head per seed, as the model of that arm would have it."""
        import torch

        config = self._model_config(arm)
        # The whole model is built for its head alone: on the meta device that costs no memory.
        with torch.device("meta"):
            head: Any = type(self.model)(config).classifier
        heads = []
        for seed in seeds:
            heads.append(copy.deepcopy(head).to_empty(device="cpu"))
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                heads[-1].reset_parameters(self.model.initializer_std)
        return heads

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
        from sot_nlp.runs.score_scale import scale_of
        from sot_nlp.studies.probe.passes import Pass

        passes = []
        for group in groups:
            heads = self._heads(arm, group)
            passes.append(
                Pass(
                    arm=arm,
                    heads=heads,
                    seeds=group,
                    arguments=dataclasses.replace(self.arguments, learning_rate=rate),
                    kind=self.data.kind,
                    metric=self.spec.main_metric,
                    train=train,
                    validation=validation,
                    device=self.device,
                    every_epoch=every_epoch,
                    scale=scale_of(train.labels, self.spec, heads[0]),
                )
            )
        return passes

    def _choose_rates(self, train: Features) -> None:
        """Choose each arm's rate by a few seeds' mean on held-out training data; the first of equals."""
        import numpy as np

        from sot_nlp.data.splitting import hold_out
        from sot_nlp.studies.rates import LEAST_HELD_OUT

        out = hold_out(train.labels, len(train), SELECTION_FRACTION, 0)
        rest = np.setdiff1d(np.arange(len(train)), out)
        kept, held = train.subset(rest), train.subset(out)
        seeds = self.seeds[:SEEDS_PER_PASS]
        plans = [(arm, rate) for arm in self.arms for rate in self.rates]
        passes = [
            one_pass
            for arm, rate in plans
            for one_pass in self._passes(arm, seeds, kept, held, rate=rate, every_epoch=False)
        ]
        done = self._train(passes, "rates")
        sign = 1 if higher_is_better(self.spec.main_metric) else -1
        best: dict[str, float] = {}
        for (arm, rate), trained in zip(plans, done, strict=True):
            score = sign * float(np.mean([curve[-1][1] for curve in trained.curves]))
            if arm not in best or score > best[arm]:
                best[arm], self.chosen[arm] = score, rate
        if len(out) < LEAST_HELD_OUT:
            self.marks.append(
                f"the rates were chosen on {len(out)} held-out examples, where the noise of the score decides"
            )

    def _train(self, passes: Sequence[Pass], what: str) -> list[Trained]:
        from sot_nlp.studies.probe.passes import train_passes

        return train_passes(passes, jobs=self.jobs, description=what, quiet=self.arguments.disable_tqdm)

    def _results(self, passes: Sequence[Pass], done: Sequence[Trained], validation: Features) -> Results:
        from sot_nlp import records
        from sot_nlp.studies.read_results import data_hash, short_hash
        from sot_nlp.studies.results import Results

        versions = records.versions()
        right: dict[tuple[str, int], Any] = {}
        cells: list[Cell] = []
        common: dict[str, Any] = {
            "data": data_hash({"data": self.data.report}),
            "versions": short_hash(versions),
        }
        for one_pass, trained in zip(passes, done, strict=True):
            if one_pass.seeds[0] == self.seeds[0]:
                self.weights[one_pass.arm] = trained.weights
            for row, seed in enumerate(one_pass.seeds):
                if self.data.kind == "classification":
                    right[one_pass.arm, seed] = trained.decisions[row] == validation.labels
                cells.append(self._cell(one_pass, trained, row, right, common))
        cells.sort(key=lambda cell: (self.arms.index(cell.arm), cell.seed))
        rates = {one_pass.arm: one_pass.arguments.learning_rate for one_pass in passes}
        epochs, size = self.arguments.num_train_epochs, self.arguments.per_device_train_batch_size
        return Results(
            name=f"probe-{self.spec.name}",
            title=f"Heads on frozen {self.model_label}, {self.spec.title}",
            description=(
                f"Only the heads were trained, on {len(passes[0].train)} examples: {epochs:g} epochs, "
                f"batches of {size}, learning rate "
                + ", ".join(f"{arm} {rate:g}" for arm, rate in rates.items())
                + (", each chosen on held-out training data." if self.chosen else ".")
            ),
            baseline=self.arms[0],
            arms=self.arms,
            holm="all",
            cells=tuple(cells),
            versions={short_hash(versions): versions},
            marks=tuple(self.marks),
        )

    def _cell(
        self,
        one_pass: Pass,
        trained: Trained,
        row: int,
        right: dict[tuple[str, int], Any],
        common: dict[str, Any],
    ) -> Cell:
        import numpy as np

        from sot_nlp.studies.results import DATA_SEED_OFFSET, FINISHED, Cell

        seed = one_pass.seeds[row]
        disagreements: dict[str, Any] = {}
        mine, theirs = right.get((one_pass.arm, seed)), right.get((self.arms[0], seed))
        if mine is not None and theirs is not None and one_pass.arm != self.arms[0]:
            disagreements = {
                "only_here": int((mine & ~theirs).sum()),
                "only_baseline": int((theirs & ~mine).sum()),
            }
        curve, known = trained.curves[row], traits(self.spec.main_metric)
        return Cell(
            task=self.spec.name,
            model=self.model_label,
            setting="frozen",
            arm=one_pass.arm,
            seed=seed,
            data_seed=seed + DATA_SEED_OFFSET,
            status=FINISHED,
            metric=self.spec.main_metric,
            higher_is_better=known.higher_is_better,
            times=known.times,
            score=curve[-1][1],
            epoch=curve[-1][0],
            curve=tuple(curve),
            collapsed=bool(len(np.unique(trained.decisions[row], axis=0)) == 1),
            seconds=trained.seconds / len(one_pass.seeds),
            **disagreements,
            **common,
        )

    def save(self, arm: str, folder: Path) -> Path:
        """Save the backbone with the arm's first head as a classifier, its tokenizer beside it."""
        from sot_nlp.runs import preparation

        model: Any
        model, _ = preparation.load_model(
            self.arguments, self.checkpoint, self.config(arm), self.data, self.tokenizer
        )
        model.classifier.load_state_dict(self.weights[arm])
        folder.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return folder
