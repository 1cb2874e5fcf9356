"""Solve the head's linear layer in closed form: a regularised linear model on the backbone's features.

With few examples, tuning rarely beats this: a convex problem with the same solution whatever the seed, solved
in seconds. Used for linear probing, and as the start of fine-tuning (Kumar et al., arXiv 2202.10054).
Shapes: n examples, D features that the head's linears see together, r = min(n, D), K outputs.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sot_nlp.errors import UserError
from sot_nlp.modeling.batch_norm import MaskedBatchNorm
from sot_nlp.training.distributed import count_weights, peak_memory
from sot_nlp.training.evaluation import loss, predict
from sot_nlp.training.logs import RunLog, finite
from sot_nlp.training.result import TrainingResult

# Inverse strengths of the L2 penalty, for features of unit mean square length.
STRENGTHS = (0.1, 1.0, 10.0, 100.0)
# What is taken where there are too few examples to choose by.
DEFAULT_STRENGTH = 1.0
FOLDS = 5
# With fewer examples a choice between strengths is chance; more are not needed for it.
LEAST_TO_CHOOSE_BY, MOST_TO_CHOOSE_BY = 40, 2000
# Directions in which the features vary less than this share of the most are numerical noise.
LEAST_VARIATION = 1e-6


@dataclass(frozen=True, kw_only=True)
class Solution:
    """The linear model that was found: features (n, D) @ `weight`.T + `bias` are the logits (n, K)."""

    weight: np.ndarray  # (K, D) float64
    bias: np.ndarray  # (K,) float64
    strength: float
    folds: int  # 0 where the strength was not chosen by cross-validation
    held_out_loss: dict[float, float]  # of each strength, the weighted mean over the held-out examples

    def to_dict(self) -> dict[str, Any]:
        """Return what a record says of it."""
        return {
            "features": self.weight.shape[1],
            "strength": self.strength,
            "folds": self.folds,
            "held_out_loss": {f"{strength:g}": value for strength, value in self.held_out_loss.items()},
        }

    def __str__(self) -> str:
        chosen = f"by {self.folds}-fold cross-validation" if self.folds else "the default"
        return f"{self.weight.shape[1]:,} features, strength {self.strength:g} ({chosen})"


def solve_head(
    model: Any,
    split: Any,
    accelerator: Any,
    *,
    kind: str,
    batch_size: int | None,
    pad_token_id: int,
    padding_side: str,
    class_weights: Tensor | None = None,
    tuned_after: bool = False,
) -> Solution:
    """Put the closed-form solution for `split` into the output linears of `model.classifier`.

    Nothing else of the model changes, but for the statistics of its BatchNorm where it is `tuned_after`.
    Deterministic; every process computes the same.

    Args:
        model: a SoT classifier, not yet wrapped.
        split: the training examples with labels as the model numbers them.
        accelerator: whose device and precision the backbone runs with.
        kind: `classification`, `regression` or `multi_label`.
        batch_size, pad_token_id, padding_side: for the batches, as in `evaluation.predict`.
        class_weights: (K,) weights of the classes.
        tuned_after: whether updates follow, which normalise by their batches. A new BatchNorm would let the
            features through as they are; the solution for those means nothing in training.

    Raises:
        UserError: if the labels leave nothing to learn, or a feature is not finite or the same everywhere.
    """
    model.eval().to(accelerator.device)
    outputs = model.classifier.outputs
    if not outputs:
        raise UserError("the head has no linear layer of its own to solve: use --training_method fine_tune")
    batches: dict[str, Any] = {
        "batch_size": batch_size,
        "pad_token_id": pad_token_id,
        "padding_side": padding_side,
    }
    if tuned_after and any(isinstance(module, MaskedBatchNorm) for module in model.modules()):
        predict(BatchStatistics(model), split, accelerator, **batches)
    features = predict(Features(model), split, accelerator, **batches)
    biased = [output for output in outputs if output.bias is not None]
    solution = solve(
        features,
        split.labels,
        kind=kind,
        num_outputs=outputs[0].out_features,
        class_weights=None if class_weights is None else class_weights.numpy(),
        with_bias=bool(biased),
    )
    weight = torch.from_numpy(solution.weight)
    with torch.no_grad():
        for output, part in zip(outputs, weight.split([o.in_features for o in outputs], 1), strict=True):
            output.weight.copy_(part)
            if output.bias is not None:
                output.bias.zero_()
        if biased:
            biased[0].bias.copy_(torch.from_numpy(solution.bias))
    return solution


def linear_probe(
    model: Any,
    solution: Solution,
    accelerator: Any,
    *,
    evaluate: Callable[[nn.Module], dict[str, Any]],
    run_folder: Path,
    main_metric: str,
    examples: int,
    seconds: float,
) -> TrainingResult:
    """Return what came out of a training that ends with `solve_head`: one evaluation, before any update.

    Args:
        model: with the solution in its head; all but the solved linears is frozen.
        solution: from `solve_head`.
        accelerator: of the run.
        evaluate: as in `loop.train`.
        run_folder: gets a line in `train.log` and the scores in `metrics.jsonl`.
        main_metric: key of what `evaluate` returns.
        examples, seconds: how many were solved for, in which time.
    """
    model.requires_grad_(False)
    for output in model.classifier.outputs:
        output.requires_grad_(True)
    with RunLog(run_folder, active=accelerator.is_main_process, total_steps=0, show_progress=False) as log:
        log.line(f"linear probe: {solution}")
        scores = finite({"epoch": 0.0, "step": 0, **evaluate(model)})
        log.metrics(scores)
    best = {"metric": main_metric, "value": scores[main_metric], "epoch": 0.0, "step": 0}
    return TrainingResult(
        model=model,
        best=best,
        evaluations=[scores],
        log_history=[],
        train_examples_per_second=examples / max(seconds, 1e-9),
        train_seconds=seconds,
        steps=0,
        skipped_updates=[],
        resumed_from=[],
        warnings=[],
        peak_memory_bytes=peak_memory(accelerator.device),
        stream={},
        num_trainable_parameters=count_weights(p for p in model.parameters() if p.requires_grad),
    )


class Features(nn.Module):
    """`model`, whose "logits" are the inputs of its output linears side by side: (B, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.outputs = model, model.classifier.outputs

    def forward(self, **batch: Tensor) -> SimpleNamespace:
        """Return the model's output, with the input of its linear layers recorded."""
        seen: dict[nn.Module, Tensor] = {}
        hooks = [
            output.register_forward_pre_hook(lambda module, inputs: seen.update({module: inputs[0]}))
            for output in self.outputs
        ]
        try:
            self.model(**batch)
        finally:
            for hook in hooks:
                hook.remove()
        return SimpleNamespace(logits=torch.cat([seen[output].float() for output in self.outputs], -1))


class BatchStatistics(nn.Module):
    """`model`, whose BatchNorm takes the mean over the statistics of all batches as its running ones."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.batches = model, 0
        self.norms = [module for module in model.modules() if isinstance(module, MaskedBatchNorm)]

    def forward(self, **batch: Tensor) -> Any:
        """Return the model's output, its BatchNorm in training mode."""
        self.batches += 1
        momenta = [norm.momentum for norm in self.norms]
        for norm in self.norms:
            norm.train()
            norm.momentum = 1 / self.batches
        output = self.model(**batch)
        for norm, momentum in zip(self.norms, momenta, strict=True):
            norm.eval()
            norm.momentum = momentum
        return output


def solve(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    kind: str,
    num_outputs: int,
    class_weights: np.ndarray | None = None,
    with_bias: bool = True,
) -> Solution:
    """Fit a regularised linear model of `labels` on `features` (n, D), its strength by cross-validation.

    A multinomial logistic regression; for `multi_label` one logistic regression per label; for `regression`
    ridge. The features are standardised first, and the solution is given for them as they were.

    Args:
        labels: (n,) class ids, (n,) or (n, 1) scores, or (n, K) of 0 and 1.
        num_outputs: K; classes without an example get a logit below all others.
        class_weights: (K,).
        with_bias: whether the linear has a bias; without one the features are only scaled.

    Raises:
        UserError: as `solve_head`.
    """
    examples, size = features.shape
    features = features.astype(np.float64)
    if not np.isfinite(features).all():
        raise UserError("the backbone's features of the training data are not all finite numbers")
    labels = np.asarray(labels).reshape(examples, *np.asarray(labels).shape[1:])
    if kind == "regression":
        labels = labels.reshape(examples).astype(np.float64)
    distinct = np.unique(labels, axis=0)
    if len(distinct) < 2:
        raise UserError(
            f"training examples: {examples}, all of the same label; a linear probe needs two different ones: "
            "give more examples"
        )
    # Unit mean square length, so that a strength means the same at every number of features.
    mean = features.mean(0) if with_bias else np.zeros(size)
    scale = np.sqrt(((features - mean) ** 2).mean(0))
    if not scale.max():
        raise UserError(
            f"training examples: {examples}, all with the same features, so that nothing tells their labels "
            "apart: are the texts all the same?"
        )
    scale = np.maximum(scale, LEAST_VARIATION * scale.max()) * math.sqrt(size)
    rotated, rotation = _rotated((features - mean) / scale)
    weights = np.ones(examples) if class_weights is None else class_weights[labels]
    weights = weights / weights.mean()
    model = _Linear(kind, num_outputs, with_bias)
    strength, folds, losses = _choose_strength(model, rotated, labels, weights)
    coefficients, intercept = model.fit(rotated, labels, weights, strength)
    weight = coefficients @ rotation.T / scale
    return Solution(
        weight=weight,
        bias=intercept - weight @ mean,
        strength=strength,
        folds=folds,
        held_out_loss=losses,
    )


def _rotated(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, r) and a rotation (D, r) with `features = rotated @ rotation.T`.

    An L2 penalty is the same in any rotation, and the weights are in the span of the examples: with few
    examples the problem has n unknowns per output instead of D.
    """
    if features.shape[0] >= features.shape[1]:
        return features, np.eye(features.shape[1])
    left, values, right = np.linalg.svd(features, full_matrices=False)
    return left * values, right.T


@dataclass(frozen=True)
class _Linear:
    """How the linear model of a kind of labels is fitted."""

    kind: str
    num_outputs: int
    with_bias: bool

    def fit(
        self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, strength: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the coefficients (K, r) and intercepts (K,)."""
        if self.kind == "regression":
            from sklearn.linear_model import Ridge

            ridge = Ridge(alpha=1 / strength, fit_intercept=self.with_bias)
            ridge.fit(features, labels, sample_weight=weights)
            return ridge.coef_[None], np.full(1, ridge.intercept_)
        if self.kind == "multi_label":
            parts = [self._one_label(features, column, strength) for column in labels.T]
            return np.stack([part[0] for part in parts]), np.array([part[1] for part in parts])
        return self._classes(features, labels, weights, strength)

    def _classes(
        self, features: np.ndarray, labels: np.ndarray, weights: np.ndarray, strength: float
    ) -> tuple[np.ndarray, np.ndarray]:
        coefficients = np.zeros((self.num_outputs, features.shape[1]))
        # The logits of the classes that were seen sum to zero: their largest is above this.
        intercept = np.full(self.num_outputs, -math.log(2 * len(labels)) if self.with_bias else 0.0)
        fitted = self._logistic(strength).fit(features, labels, sample_weight=weights)
        own, own_intercept = fitted.coef_, fitted.intercept_
        if len(own) == 1:  # two classes: one logit, between them
            own = np.concatenate([-own / 2, own / 2])
            own_intercept = np.concatenate([-own_intercept / 2, own_intercept / 2])
        coefficients[fitted.classes_], intercept[fitted.classes_] = own, own_intercept
        return coefficients, intercept

    def _one_label(self, features: np.ndarray, held: np.ndarray, strength: float) -> tuple[np.ndarray, float]:
        if held.min() == held.max():  # always or never held: its odds alone, as if one example were otherwise
            odds = math.log(2 * len(held) + 1)
            return np.zeros(features.shape[1]), (odds if held[0] else -odds) if self.with_bias else 0.0
        fitted = self._logistic(strength).fit(features, held > 0.5)
        return fitted.coef_[0], float(fitted.intercept_[0] if self.with_bias else 0.0)

    def _logistic(self, strength: float) -> Any:
        from sklearn.linear_model import LogisticRegression

        return LogisticRegression(C=strength, tol=1e-7, max_iter=5000, fit_intercept=self.with_bias)


def _choose_strength(
    model: _Linear, features: np.ndarray, labels: np.ndarray, weights: np.ndarray
) -> tuple[float, int, dict[float, float]]:
    """Return the strength with the smallest held-out loss, the number of folds, and each strength's loss.

    Classes share the folds evenly. With too few examples it is the default. Equal losses go to the stronger
    penalty.
    """
    folds = _folds(model.kind, labels)
    if not folds:
        return DEFAULT_STRENGTH, 0, {}
    losses = {}
    for strength in STRENGTHS:
        total = count = 0.0
        for train, held_out in folds:
            if model.kind != "regression" and len(np.unique(labels[train], axis=0)) < 2:
                continue
            coefficients, intercept = model.fit(features[train], labels[train], weights[train], strength)
            logits = features[held_out] @ coefficients.T + intercept
            counted = weights[held_out]
            total += loss(logits, labels[held_out], model.kind, weights=counted) * counted.sum()
            count += counted.sum()
        losses[strength] = float(total / max(count, 1e-9))
    return min(losses, key=lambda strength: (losses[strength], strength)), len(folds), losses


def _folds(kind: str, labels: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each fold's (rows to fit, held-out rows), drawn by a fixed seed; none where rows are too few."""
    from sklearn.model_selection import KFold, StratifiedKFold

    chosen = np.random.default_rng(0).permutation(len(labels))[:MOST_TO_CHOOSE_BY]
    chosen.sort()
    if len(chosen) < LEAST_TO_CHOOSE_BY:
        return []
    if kind == "classification":
        most = int(np.bincount(labels[chosen]).max())
        splitter: Any = StratifiedKFold
    else:
        most, splitter = len(chosen) // 2, KFold
    number = min(FOLDS, most)
    if number < 2:
        return []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that some class has fewer examples than there are folds
        parts = splitter(number, shuffle=True, random_state=0).split(chosen, labels[chosen])
        return [(chosen[train], chosen[held_out]) for train, held_out in parts]
