"""Do the words that an explanation names carry the decision? Deletion and insertion curves, against chance.

    python -m benchmarks.faithfulness RUN --data_dir GLUE --output faithfulness.json    # prints a table
    python -m benchmarks faithfulness RUN --data_dir GLUE                               # prints the numbers

For each sentence of the task's validation split (a random sample) each method orders the words by what they
add to the predicted label. Then the words are taken away, the most important ones first (deletion), or only
those are left (insertion), in tenths of the sentence. p is the probability of the label that was predicted
for the whole sentence.

    comprehensiveness = mean over the tenths of p(whole) - p(without the first words)    more is better
    sufficiency       = mean over the tenths of p(whole) - p(with the first words alone) less is better

(DeYoung et al., arXiv 1911.03429, with a finer grid.) Words are taken away in two ways: their tokens are
deleted, or replaced by the mask token. The latter is how occlusion measures, and where the path of integrated
gradients begins, which gives these two a head start.
Shapes: N tokens and W words of a sentence, F = 9 tenths.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sot_nlp import records
from sot_nlp.data.sources import open_source
from sot_nlp.errors import UserError, decimal
from sot_nlp.explanation.attribution import Explanation, explain
from sot_nlp.explanation.inputs import Encoded, encode, replacement_token
from sot_nlp.files import write_json
from sot_nlp.inference.saved_model import SavedModel, open_model
from sot_nlp.settings.arguments import Arguments
from sot_nlp.studies.statistics import bootstrap_interval
from sot_nlp.tasks.spec import load_task

METHODS = ("exact", "pairs", "integrated_gradients", "occlusion")
TENTHS = np.arange(1, 10) / 10
BATCH_TOKENS = 4096

# The ids of a variant -> its token types are those of the tokens that are left.
Variant = tuple[tuple[int, ...], tuple[int, ...]]


class Probability:
    """The model's probability of one label for variants of texts, each computed once."""

    def __init__(self, saved: SavedModel) -> None:
        self.model = saved.model
        self.known: dict[Variant, np.ndarray] = {}

    @torch.no_grad()
    def prepare(self, variants: Iterable[Variant]) -> None:
        """Compute what is not known yet, in batches of like length."""
        new = sorted({v for v in variants if v not in self.known}, key=lambda v: len(v[0]))
        while new:
            at_once = max(1, BATCH_TOKENS // len(new[-1][0]))
            batch, new = new[-at_once:], new[:-at_once]
            length = len(batch[-1][0])

            def padded(rows: Sequence[Sequence[int]], length: int = length) -> torch.Tensor:
                return torch.tensor([[*row, *[0] * (length - len(row))] for row in rows])

            inputs = {
                "input_ids": padded([ids for ids, _ in batch]),
                "attention_mask": padded([[1] * len(ids) for ids, _ in batch]),
            }
            if batch[0][1]:
                inputs["token_type_ids"] = padded([types for _, types in batch])
            logits = self.model(**inputs).logits.double()
            for variant, row in zip(batch, logits.softmax(-1).numpy(), strict=True):
                self.known[variant] = row

    def __call__(self, variant: Variant, label: int) -> float:
        """The probability of a variant that was prepared."""
        return float(self.known[variant][label])


def without(
    each: Encoded, words: Sequence[Sequence[int]], gone: Iterable[int], stand_in: int | None
) -> Variant:
    """The text without some of its words: their tokens deleted, or replaced by `stand_in`."""
    lost = set(itertools.chain.from_iterable(words[word] for word in gone))
    types = each.types or []
    if stand_in is not None:
        return tuple(stand_in if t in lost else token for t, token in enumerate(each.ids)), tuple(types)
    kept = [t for t in range(len(each.ids)) if t not in lost]
    return tuple(each.ids[t] for t in kept), tuple(types[t] for t in kept) if types else ()


def curves(
    each: Encoded, found: Explanation, order: Sequence[int], stand_in: int | None
) -> list[list[Variant]]:
    """[whole], then the variants of the deletion curve and of the insertion curve, F each."""
    words = [word.tokens for word in found.words]
    counts = [max(1, round(float(tenth) * len(order))) for tenth in TENTHS]
    deletion = [without(each, words, order[:count], stand_in) for count in counts]
    insertion = [without(each, words, order[count:], stand_in) for count in counts]
    return [[without(each, words, (), stand_in)], deletion, insertion]


def sample(name: str, data_dir: str | None, count: int, seed: int) -> tuple[str, list[Any]]:
    """The task's first validation split, and some of its texts at random."""
    spec = load_task(name)
    split = spec.validation_splits[0]
    source = open_source(spec, split, Arguments(task=name, data_dir=data_dir))
    texts = [row for _, columns in source.texts() for row in zip(*columns, strict=True)]
    chosen = np.random.default_rng(seed).permutation(len(texts))[:count]
    return split, [texts[i] if len(texts[i]) > 1 else texts[i][0] for i in sorted(chosen.tolist())]


def measure(arguments: Sequence[str]) -> dict[str, Any]:
    given = parser().parse_args(list(arguments))
    torch.set_num_threads(given.threads)
    saved = open_model(given.run)
    if saved.kind != "classification":
        raise UserError(f"{given.run}: probabilities of one label are compared; this is a {saved.kind}")
    record = records.read(given.run)
    task = given.task or record["task"]
    split, texts = sample(task, given.data_dir, given.examples, given.seed)
    encoded = encode(saved.tokenizer, texts, saved.model, saved.max_length)
    explained: dict[str, list[Explanation]] = {}
    seconds: dict[str, float] = {}
    for method in given.methods:
        began = time.process_time()
        explained[method] = explain(
            saved.model, saved.tokenizer, texts, method=method, max_length=saved.max_length, steps=given.steps
        )
        seconds[method] = (time.process_time() - began) / len(texts)
        print(f"{method}: {seconds[method] * 1000:.0f} ms of processor a text", file=sys.stderr)
    first = explained[given.methods[0]]
    # One word alone has no order.
    kept = [i for i, each in enumerate(first) if len(each.words) > 1]
    source = np.random.default_rng(given.seed + 1)
    orders: dict[str, dict[int, list[list[int]]]] = {
        method: {i: [_order(found[i])] for i in kept} for method, found in explained.items()
    }
    orders["random"] = {
        i: [source.permutation(len(first[i].words)).tolist() for _ in range(given.random_orders)]
        for i in kept
    }
    result: dict[str, Any] = {
        "task": task,
        "split": split,
        # Of a folder the last two names: where it lies on this machine is nobody's business.
        "model": "/".join(Path(str(record.get("model"))).parts[-2:]),
        "head": record.get("head"),
        "score": record.get("best"),
        "examples": len(kept),
        "seed": given.seed,
        "steps": given.steps,
        "random_orders": given.random_orders,
        "processor_seconds_per_text": seconds,
        "versions": records.versions(),
        "removal": {},
    }
    probability = Probability(saved)
    for removal, stand_in in (("delete", None), ("mask", replacement_token(saved.tokenizer))):
        drops = {
            method: _drops(probability, encoded, first, each, stand_in) for method, each in orders.items()
        }
        result["removal"][removal] = {
            method: _summary(values, drops["random"]) for method, values in drops.items()
        }
    return result


def _order(found: Explanation) -> list[int]:
    """The words, what speaks most for the predicted label first."""
    values = found.toward(found.word_scores, found.predicted)
    return np.argsort(-values, kind="stable").tolist()


def _drops(
    probability: Probability,
    encoded: Sequence[Encoded],
    explained: Sequence[Explanation],
    orders: dict[int, list[list[int]]],
    stand_in: int | None,
) -> np.ndarray:
    """How far the probability falls: (sentences, 2, F), deletion and insertion, meaned over the orders."""
    asked = {
        i: [curves(encoded[i], explained[i], order, stand_in) for order in each] for i, each in orders.items()
    }
    probability.prepare(v for sets in asked.values() for each in sets for part in each for v in part)
    found = []
    for i, sets in asked.items():
        label = explained[i].predicted
        rows = []
        for (whole,), deletion, insertion in ((whole, d, n) for whole, d, n in sets):
            start = probability(whole, label)
            rows.append([[start - probability(v, label) for v in part] for part in (deletion, insertion)])
        found.append(np.mean(rows, axis=0))
    return np.array(found)


def _summary(drops: np.ndarray, random: np.ndarray) -> dict[str, Any]:
    areas, base = drops.mean(-1), random.mean(-1)  # (sentences, 2)
    summary: dict[str, Any] = {}
    for column, name in enumerate(("comprehensiveness", "sufficiency")):
        difference = areas[:, column] - base[:, column]
        summary[name] = float(areas[:, column].mean())
        if drops is not random:
            summary[f"{name}_less_random"] = float(difference.mean())
            summary[f"{name}_less_random_interval"] = bootstrap_interval(difference.tolist())
    summary["deletion_curve"] = drops[:, 0].mean(0).tolist()
    summary["insertion_curve"] = drops[:, 1].mean(0).tolist()
    return summary


def table(result: dict[str, Any]) -> str:
    """The numbers as Markdown."""
    head = ["order of the words"]
    for removal in ("deleted", "masked"):
        head += [f"comprehensiveness, {removal} ↑", f"sufficiency, {removal} ↓"]
    head.append("processor a text")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for method in result["removal"]["delete"]:
        cells = [method.replace("_", " ")]
        for removal in ("delete", "mask"):
            found = result["removal"][removal][method]
            for name in ("comprehensiveness", "sufficiency"):
                cell = decimal(found[name], 3)
                interval = found.get(f"{name}_less_random_interval")
                if interval is not None:
                    values = (found[f"{name}_less_random"], *interval)
                    cell += " ({}, {} to {})".format(*(decimal(value, 3, signed=True) for value in values))
                cells.append(cell)
        cost = result["processor_seconds_per_text"].get(method)
        cells.append("" if cost is None else f"{cost * 1000:.0f} ms")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(
        prog="python -m benchmarks.faithfulness", description=__doc__.split("\n")[0]
    )
    found.add_argument("run", metavar="RUN", help="the folder of a finished run with a SoT head")
    found.add_argument("--task", metavar="NAME", help="default: the run's own")
    found.add_argument("--data_dir", metavar="DIR", help="the folder of GLUE's own files; default: the Hub")
    found.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS), metavar="NAME")
    found.add_argument("--examples", type=int, default=200, metavar="N", help="default: %(default)s")
    found.add_argument("--random_orders", type=int, default=3, metavar="N", help="default: %(default)s")
    found.add_argument("--steps", type=int, default=50, metavar="N", help="of integrated gradients")
    found.add_argument("--seed", type=int, default=0, metavar="N")
    found.add_argument("--threads", type=int, default=1, metavar="N", help="default: %(default)s")
    found.add_argument("--output", metavar="PATH", help="write the numbers as JSON")
    return found


def main(arguments: Sequence[str], show: Callable[[str], None] = print) -> int:
    result = measure(arguments)
    show(table(result))
    output = parser().parse_args(list(arguments)).output
    if output is not None:
        write_json(Path(output), result)
    else:
        show(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
