"""Train many heads of one kind, one per seed, on frozen features in one vectorised pass.

The pass is `torch.func.vmap` over the head's own forward, so it is the head that is trained elsewhere. Each
seed has its own weights, order of the data, dropout and gradient norm; which seeds share a pass changes a
result by rounding alone.

Shapes: G seeds, B examples in a batch, N tokens of the longest, C hidden size, K logits, n examples.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional

from sot_nlp.modeling.head import SoTHead
from sot_nlp.modeling.losses import scored_loss
from sot_nlp.settings.arguments import Arguments
from sot_nlp.training.batching import epoch_updates
from sot_nlp.training.optimization import create_optimizer
from sot_nlp.training.speed.features import CLASS_TOKEN, SEPARATOR, WORD, Features


class DrawnDropout(nn.Module):
    """Dropout by factors that are drawn outside: under vmap a generator of each seed's own is out of reach.

    All such modules of a head share one `Draws`, whose factors they take in the order of their calls.
    """

    def __init__(self, p: float, draws: Draws):
        super().__init__()
        self.p = p
        self.draws = draws

    def forward(self, features: Tensor) -> Tensor:
        """Apply the seeds' dropout: (..., D) -> (..., D)."""
        if not self.training or self.p == 0:
            return features
        return self.draws.drop(features, self.p)


class Draws:
    """What the dropouts of a head do next: take a factor each, or note what they will need."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, int]] | None = None
        self.factors: Iterator[Tensor] | None = None

    def drop(self, features: Tensor, p: float) -> Tensor:
        """Drop by the current factors: (..., D) -> (..., D)."""
        if self.factors is None:
            assert self.noted is not None
            self.noted.append((p, features.shape[-1]))
            return features
        return features * next(self.factors)

    def draw(self, sources: Sequence[np.random.SFC64], size: int) -> list[Tensor]:
        """Draw the factors (G, size, D) of one forward, 0 or 1/(1 - p); p is rounded to 256ths."""
        assert self.noted is not None
        factors = []
        for p, width in self.noted:
            dropped = round(p * 256)
            count = size * width
            bytes_of = [
                source.random_raw(-(-count // 8)).view(np.uint8)[:count].reshape(size, width)
                for source in sources
            ]
            kept = torch.from_numpy(np.stack(bytes_of) >= dropped)
            factors.append(kept.float() * (256 / (256 - dropped)))
        return factors


class SeedBatch:
    """G heads and their optimizer. `heads` differ in their weights alone.

    Args:
        heads: one per seed.
        arguments: rates, weight decay, clipping, label smoothing (`sot_nlp.settings.arguments.Arguments`).
        kind: `classification`, `regression` or `multi_label`.
        seeds: of the dropout, one per head.
        device: where to train.
    """

    def __init__(
        self,
        heads: Sequence[SoTHead],
        *,
        arguments: Arguments,
        kind: str,
        seeds: Sequence[int],
        device: torch.device | str = "cpu",
    ):
        self.arguments = arguments
        self.kind = kind
        self.device = torch.device(device)
        self.head = heads[0].to(self.device)
        self.config = self.head.config
        self.draws = Draws()
        self.sources = [np.random.SFC64([seed, 0xD20]) for seed in seeds]
        self.parameters: dict[str, Tensor]
        self.buffers: dict[str, Tensor]
        self.parameters, self.buffers = stack_module_state([head.to(self.device) for head in heads])
        self._replace_dropout(self.head)
        self.optimizer = create_optimizer(self._groups(), arguments)

    def _replace_dropout(self, module: nn.Module) -> None:
        for name, child in module.named_children():
            if isinstance(child, nn.Dropout):
                setattr(module, name, DrawnDropout(child.p, self.draws))
            else:
                self._replace_dropout(child)

    def _groups(self) -> list[dict[str, Any]]:
        """Group parameters as for one head: no weight decay on vectors, which are matrices once stacked."""
        rate, decay = self.arguments.learning_rate, self.arguments.weight_decay
        vectors = [p for p in self.parameters.values() if p.ndim <= 2]
        others = [p for p in self.parameters.values() if p.ndim > 2]
        groups = ((others, decay), (vectors, 0.0))
        return [{"params": ps, "lr": rate, "weight_decay": value} for ps, value in groups if ps]

    def step(self, features: Features, examples: np.ndarray, factor: float) -> Tensor:
        """Update every seed on its own examples (G, B), -1 for none; return the losses (G,).

        `factor` scales the learning rate.
        """
        self.head.train()
        inputs = self._inputs(features, examples)
        labels = torch.from_numpy(features.labels[examples]).to(self.device)
        real = torch.from_numpy(examples >= 0).to(self.device)
        weights = real.float() / real.sum(-1, keepdim=True)  # (G, B)
        if self.draws.noted is None:
            self.draws.noted, self.draws.factors = [], None
            with torch.no_grad():
                states, mask, class_token = inputs
                self.head([state[0] for state in states], mask[0], class_token[0])
        factors = [drawn.to(self.device) for drawn in self.draws.draw(self.sources, examples.shape[1])]
        with warnings.catch_warnings():
            # BatchNorm's running statistics are updated seed by seed, which is no loss at their size.
            warnings.filterwarnings("ignore", message=".*performance drop.*")
            losses = vmap(self._loss)(self.parameters, self.buffers, factors, labels, weights, *inputs)
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        self._apply(gradients, factor)
        return losses.detach()

    def _apply(self, gradients: Sequence[Tensor], factor: float) -> None:
        """Clip each seed's gradient to its own norm, and take the optimizer's step."""
        squares = torch.stack([gradient.flatten(1).square().sum(1) for gradient in gradients]).sum(0)
        scale = (self.arguments.max_grad_norm / (squares.sqrt() + 1e-6)).clamp_max(1.0)  # (G,)
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            # The fused AdamW of a CPU reads a gradient as if it had its parameter's memory layout.
            parameter.grad = (gradient * scale.view(-1, *[1] * (gradient.ndim - 1))).contiguous()
        for group in self.optimizer.param_groups:
            group["lr"] = self.arguments.learning_rate * factor
        self.optimizer.step()

    def _loss(
        self,
        parameters: dict[str, Tensor],
        buffers: dict[str, Tensor],
        factors: list[Tensor],
        labels: Tensor,
        weights: Tensor,
        *inputs: Any,
    ) -> Tensor:
        """Return a seed's loss, the weighted sum over its batch; for the fusion `late` one per branch."""
        self.draws.factors = iter(factors)
        output = functional_call(self.head, (parameters, buffers), inputs)
        mean = functools.partial(self._mean_loss, labels=labels, weights=weights)
        return scored_loss(self.config, output, mean, regression=self.kind == "regression")

    def _mean_loss(self, logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
        """Reduce logits (B, K) to a scalar loss."""
        if self.kind == "classification":
            smoothing = self.arguments.label_smoothing
            losses = functional.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
            return losses @ weights
        targets = labels.reshape(logits.shape).to(logits.dtype)
        loss = (
            functional.mse_loss if self.kind == "regression" else functional.binary_cross_entropy_with_logits
        )
        return loss(logits, targets, reduction="none").mean(-1) @ weights

    def logits(self, features: Features, batch_size: int = 64) -> np.ndarray:
        """Return logits (G, n, K) in the order of `features`, in evaluation mode."""
        self.head.eval()

        def forward(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *inputs: Any) -> Tensor:
            logits: Tensor = functional_call(self.head, (parameters, buffers), inputs).logits
            return logits

        order = np.argsort(features.lengths, kind="stable")
        batches = []
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                inputs = self._inputs(features, order[start : start + batch_size])
                across = vmap(forward, (0, 0, *[None] * len(inputs)))
                batches.append(across(self.parameters, self.buffers, *inputs).cpu())
        joined = torch.cat(batches, 1).numpy()
        result = np.empty_like(joined)
        result[:, order] = joined
        return result

    def _inputs(self, features: Features, examples: np.ndarray) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
        """Return hidden states (..., B, N, C) per layer, word mask (..., B, N), class token (..., B, C)."""
        config = self.config
        chosen = features.class_token(examples, stock=config.class_token == "stock")
        class_token = chosen.to(self.device).float()
        if not config.uses_words:
            return (class_token.unsqueeze(-2),), class_token[..., :1] > math.inf, class_token
        states, kinds = (tensor.to(self.device) for tensor in features.batch(examples, config.num_layers))
        mask = (kinds == WORD) | ((kinds == SEPARATOR) & config.include_separators)
        if config.pools_class_token:
            mask = mask | (kinds == CLASS_TOKEN)
        return states.float().unbind(-2), mask, class_token

    def state_dict(self, position: int) -> dict[str, Tensor]:
        """Return the weights of one of the heads."""
        stacked = {**self.parameters, **self.buffers}
        return {name: tensor[position].detach().cpu().clone() for name, tensor in stacked.items()}


def seed_updates(
    lengths: np.ndarray, data_seeds: Sequence[int], epoch: int, size: int
) -> Iterator[np.ndarray]:
    """Return the updates of an epoch: each seed's own examples (G, size), filled up with -1.

    Each seed has the batches that a run with that seed of the data has; only the order in which short and
    long ones come is shared, so that the seeds of an update pad to about one length.
    """
    of_seeds = []
    for seed in data_seeds:
        updates = epoch_updates(lengths, seed=seed, epoch=epoch, update_size=size)
        of_seeds.append(sorted(updates, key=lambda update: float(lengths[update].mean())))
    for number in np.random.RandomState(epoch).permutation(len(of_seeds[0])):
        batch = np.full((len(data_seeds), size), -1, dtype=np.int64)
        for row, updates in zip(batch, of_seeds, strict=True):
            row[: len(updates[number])] = updates[number]
        yield batch
