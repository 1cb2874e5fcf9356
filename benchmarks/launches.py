"""What a step of BERT-base launches on a GPU in bf16, and how many bytes that moves, counted without one.

The passes run on torch's meta device, which computes nothing, with the casts that CUDA's autocast makes, one
kernel for dropout, and one forward and three backward for attention. Views and numbers launch nothing; each
operation reads its tensors and writes its results once. What a GPU's libraries split or fuse otherwise is not
seen.
"""

from __future__ import annotations

import argparse
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks._aims import PRESETS

HEADS = ("stock", *PRESETS)
# By these kinds the launches are summed, in this order, by the beginning of an operation's name.
KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "baddbmm"),
    "casts between fp32 and bf16": ("cast",),
    "gradients: zeroed, accumulated": ("gradient",),
    "sums of activations and of their gradients": ("add", "sum"),
    "layer norm": ("native_layer_norm",),
    "GELU": ("gelu",),
    "dropout": ("native_dropout",),
    "attention": ("attention",),
}
REST = "all else"
NOTHING = frozenset(
    (
        *("alias", "as_strided", "detach", "empty", "empty_like", "empty_strided", "expand", "is_same_size"),
        *("permute", "promote_types", "scalar_tensor", "select", "slice", "split", "split_with_sizes"),
        *("squeeze", "squeeze_", "t", "transpose", "unbind", "unfold", "unsqueeze", "view"),
        *("_reshape_alias", "_unsafe_view"),
    )
)


class Launches(TorchDispatchMode):
    """Count the operations on tensors, `launches`, and what they read and write, `bytes`, by kind."""

    def __init__(self, gradients: set[int]) -> None:
        super().__init__()
        self.gradients = gradients  # their storages' addresses
        self.launches: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name in NOTHING:
            return result
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        if name in ("zero_", "add_") and given[0].untyped_storage()._cdata in self.gradients:
            name, given = "gradient", given if name == "add_" else []
        elif name in ("_to_copy", "copy_") and given[-1].dtype != made[0].dtype:
            name = "cast"
        self.note(name, *given, *made)
        return result

    def note(self, name: str, *tensors: Tensor, launches: int = 1) -> None:
        """Count operation `name`, which reads or writes each of `tensors`."""
        kind = next((kind for kind, names in KINDS.items() if name.startswith(names)), REST)
        self.launches[kind] += launches
        self.bytes[kind] += sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Autocast(TorchFunctionMode):
    """Cast as CUDA's autocast to bf16 does, each weight once; dropout and attention are one kernel."""

    LOW = frozenset({functional.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm})
    HIGH = frozenset({functional.layer_norm, functional.cross_entropy, functional.softmax})

    def __init__(self, launches: Launches) -> None:
        super().__init__()
        self.launches = launches
        self.weights: dict[int, Tensor] = {}
        self.enabled = True

    @contextlib.contextmanager
    def off(self, *_: Any, **__: Any) -> Iterator[None]:
        """Cast nothing inside, as in the SoT head, which computes in fp32."""
        self.enabled = False
        yield
        self.enabled = True

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.dropout and kwargs.get("training", args[2] if len(args) > 2 else True):
            return torch.native_dropout(args[0], 0.1, True)[0]
        if func is functional.scaled_dot_product_attention:
            return Attention.apply(self.launches, *map(self.low, args[:3]))
        if func in self.LOW and self.enabled:
            args, kwargs = tuple(map(self.low, args)), {name: self.low(x) for name, x in kwargs.items()}
        elif func in self.HIGH:
            args = tuple(x.float() if isinstance(x, Tensor) and x.is_floating_point() else x for x in args)
        return func(*args, **kwargs)

    def low(self, value: Any) -> Any:
        """Return `value` in bf16 where it is a tensor in fp32."""
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not isinstance(value, torch.nn.Parameter):
            return value.bfloat16()
        if id(value) not in self.weights:
            self.weights[id(value)] = value.bfloat16()
        return self.weights[id(value)]


class Attention(torch.autograd.Function):
    """Attention as a kernel forward and three backward."""

    @staticmethod
    def forward(ctx: Any, launches: Launches, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        ctx.launches, ctx.shape = launches, query
        launches.note("attention", query, key, value, query)
        return torch.empty_like(query)

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> tuple[None, Tensor, Tensor, Tensor]:
        ctx.launches.note("attention", *[ctx.shape] * 8, launches=3)
        return None, *(torch.empty_like(ctx.shape) for _ in range(3))


def counted_step(model: Any, batch: int, tokens: int) -> Launches:
    """Return the launches of `model`'s forward and backward on the meta device, gradients zeroed before."""
    from sot_nlp.modeling import class_token, head

    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    gradients = {parameter.grad.untyped_storage()._cdata for parameter in model.parameters()}
    ids = torch.ones(batch, tokens, dtype=torch.long, device="meta")
    launches = Launches(gradients)
    autocast = Autocast(launches)
    with contextlib.ExitStack() as patches:
        for module in (head, class_token):
            patches.enter_context(mock.patch.object(module, "maybe_autocast", autocast.off))
        # (so that no mask is looked at, as in a graph)
        patches.enter_context(mock.patch("torch.cuda.is_current_stream_capturing", return_value=True))
        with launches:
            model.zero_grad(set_to_none=False)
            with autocast:
                loss = model(input_ids=ids, attention_mask=ids, labels=ids[:, 0]).loss
            loss.backward()
    return launches


def measure(arguments: list[str]) -> dict[str, Any]:
    from sot_nlp import AutoSoTForSequenceClassification, SoTBertConfig
    from sot_nlp.modeling.head_config import resolve_head

    parser = argparse.ArgumentParser(prog="python -m benchmarks launches", description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="examples (32)")
    parser.add_argument("--tokens", type=int, default=128, help="of each example (128)")
    options = parser.parse_args(arguments)
    counts = {}
    for head in HEADS:
        with torch.device("meta"):
            config = SoTBertConfig(head=resolve_head(head))
            model = AutoSoTForSequenceClassification.from_config(config).train()
        step = counted_step(model, options.batch, options.tokens)
        counts[head] = {
            kind: {"launches": step.launches[kind], "gigabytes": round(step.bytes[kind] / 1e9, 2)}
            for kind in (*KINDS, REST)
        }
    return {"benchmark": "launches", "batch": f"{options.batch}x{options.tokens}", "counts": counts}


def table(result: dict[str, Any]) -> str:
    """Return the launches and GB of each head's step, by kind, as Markdown."""
    counts = result["counts"]
    lines = [f"| {result['batch']} | {' | '.join(counts)} |", "|---" * (len(counts) + 1) + "|"]
    for kind in (*KINDS, REST):
        cells = [f"{of[kind]['launches']} ({of[kind]['gigabytes']:.2f} GB)" for of in counts.values()]
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    totals = [
        f"{sum(x['launches'] for x in of.values())} ({sum(x['gigabytes'] for x in of.values()):.1f} GB)"
        for of in counts.values()
    ]
    return "\n".join([*lines, f"| together | {' | '.join(totals)} |"])
