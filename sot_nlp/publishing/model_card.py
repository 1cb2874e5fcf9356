"""Write a model card, the README.md of a model's Hub repository, from record.json, with its training plot.

The record alone is read, never a live model. Every value of it that came from a user (names of tasks,
models, labels, files) is escaped: for YAML by huggingface_hub's own writer, for Markdown and HTML by the
filter `md` of the template `card.md`. (`ModelCard.from_template` knows no filters and prints
nothing for a name that is missing; the cards are checked by its `ModelCard` in the tests.)
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sot_nlp.errors import printable
from sot_nlp.modeling.head_config import PRESETS
from sot_nlp.publishing.training_plot import evaluations_of, mapping
from sot_nlp.settings.arguments import HEAD_PREFIX, TRAITS
from sot_nlp.tasks.metrics import METRICS, traits
from sot_nlp.templates import render

CARD_NAME = "README.md"
PLOT_NAME = "training.png"
# Part of every card that was written from a record; a card without it is the user's own and is kept.
MARK = "<!-- Written by sot-nlp from record.json. Remove this line to keep your own changes. -->"
PAPER = "https://arxiv.org/abs/2104.10935"
CITATION = """@article{xie2021sot,
  title   = {{SoT}: Delving Deeper into Classification Head for Transformer},
  author  = {Xie, Jiangtao and Zeng, Ruiren and Wang, Qilong and Zhou, Ziqi and Li, Peihua},
  journal = {arXiv preprint arXiv:2104.10935},
  year    = {2021}
}"""

NOT_SCORES = {"epoch", "step", "split", "loss", "seconds", "examples", "num_examples", "examples_per_second"}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
MARKDOWN = re.compile(r"([\\`*_{}\[\]#!|~$@]|:(?=//))")


def own_card(folder: Path) -> str | None:
    """Return the text of a README.md in `folder` that its user wrote or changed; None where there is none."""
    try:
        text = (folder / CARD_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    return None if MARK in text else text


def model_card(
    record: Mapping[str, Any],
    *,
    repo_id: str | None = None,
    license: str | None = None,
    remote_code: bool = True,
    plot: bool = False,
) -> str:
    """Return a run's model card: YAML metadata with the scores as `model-index`, then Markdown.

    Fields that the record lacks omit their line or table.

    Args:
        record: the run's record.json.
        repo_id: the model's repository on the Hub; without it the card says "this folder".
        license: the Hub's identifier of the licence that the user gives the model; omitted when None.
        remote_code: whether the model's code is in the same folder.
        plot: whether `training.png` is in the same folder.
    """
    evaluations = [
        (entry["split"], scores) for entry in best_evaluations(record) if (scores := scores_of(entry))
    ]
    splits = mapping(mapping(record, "data"), "splits").items()
    warnings, labels = record.get("warnings"), record.get("output_labels") or record.get("labels")
    pair = len(_spec(record).get("text_columns") or ()) == 2
    preset = record.get("head")
    values = {
        "card_data": _metadata(record, repo_id, license, remote_code),
        "mark": MARK,
        "paper": PAPER,
        "citation": CITATION,
        "title": _title(record),
        "base": _hub_model(record),
        "head": _head(record),
        "preset": preset if isinstance(preset, str) and preset.isidentifier() else None,
        "known": preset if _is_of_preset(record) else None,
        "status": record.get("status"),
        "evaluations": evaluations,
        "metrics": list(dict.fromkeys(name for _, scores in evaluations for name in scores)),
        "kept": _kept(record),
        "warnings": warnings if isinstance(warnings, list) else [],
        "plot": PLOT_NAME if plot else None,
        "remote_code": remote_code,
        # The client checks a repository's name; a folder's may hold anything, so it is not written.
        "name": repo_id if repo_id and HUB_ID.fullmatch(repo_id) else "path/of/this/folder",
        "call": 'classify({"text": "...", "text_pair": "..."})' if pair else 'classify("...")',
        "labels": labels if isinstance(labels, list) else [],
        # Sizes, not files, whose names and places are nobody's business.
        "splits": [(name, report) for name, report in splits if isinstance(report, Mapping)],
        "head_settings": _rows(mapping(record, "head_config")),
        "training_settings": _rows(_training_settings(record)),
        "versions": mapping(record, "versions"),
    }
    filters = {"md": escape, "heading": lambda metric: _heading(metric, record)}
    return render("sot_nlp.publishing", "card.md", values, filters)


def _is_of_preset(record: Mapping[str, Any]) -> bool:
    """Return whether the head is its preset's, in the task's sizes; what is known of it is of no other."""
    preset, settings = record.get("head"), mapping(record, "head_config")
    if not isinstance(preset, str) or preset not in PRESETS:
        return False
    recipe = mapping(_spec(record), "recipe")
    own = PRESETS[preset].to_dict()
    own |= {name: recipe[HEAD_PREFIX + name] for name in own if HEAD_PREFIX + name in recipe}
    # (`token_norm` is `auto` in a preset, which the backbone decides)
    return all(
        own.get(name) == settings.get(name) for name in (own.keys() | settings.keys()) - {"token_norm"}
    )


# -- metadata -----------------------------------------------------------------------------------------


def _metadata(record: Mapping[str, Any], repo_id: str | None, license: str | None, remote_code: bool) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    dataset = _hub_dataset(record)
    results = []
    for evaluation in best_evaluations(record):
        for metric, value in scores_of(evaluation).items():
            kind = METRICS[metric].hub_name if metric in METRICS else metric
            title = traits(metric, record).title
            results.append(
                EvalResult(
                    task_type="text-classification",
                    task_name="Text classification",
                    dataset_type=dataset or "custom",
                    dataset_name=printable(_title(record)),
                    dataset_config=_dataset_config(record) if dataset else None,
                    dataset_split=printable(evaluation.get("split") or "validation"),
                    metric_type=printable(kind),
                    metric_name=printable(title),
                    metric_value=value,
                )
            )
    data = ModelCardData(
        base_model=_hub_model(record),
        datasets=[dataset] if dataset else None,
        eval_results=results or None,
        library_name="transformers",
        license=license,
        metrics=sorted({result.metric_type for result in results}) or None,
        model_name=(repo_id or f"{_task(record)}-sot").rpartition("/")[2],
        pipeline_tag="text-classification",
        tags=["sot-nlp", "sot", "second-order-pooling", *(["custom_code"] if remote_code else [])],
    )
    if not results:
        data.pop("model_name")
    return data.to_yaml()


def _hub_model(record: Mapping[str, Any]) -> str | None:
    """Return the backbone's name on the Hub; None where it came from a folder, whose path stays private."""
    model = record.get("model")
    if not isinstance(model, str) or not HUB_ID.fullmatch(model) or Path(model).exists():
        return None
    return model


def _hub_dataset(record: Mapping[str, Any]) -> str | None:
    arguments = mapping(record, "arguments")
    if arguments.get("train_file"):
        return None
    name = _spec(record).get("dataset_name") or arguments.get("dataset_name")
    return name if isinstance(name, str) and HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _dataset_config(record: Mapping[str, Any]) -> str | None:
    name = _spec(record).get("dataset_config_name") or mapping(record, "arguments").get("dataset_config_name")
    return printable(name) if name else None


def best_evaluations(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the evaluations of the weights that were kept, one per split; the last ones if none was best."""
    evaluations = evaluations_of(record)
    step = mapping(record, "best").get("step")
    kept = [entry for entry in evaluations if entry["step"] == step] or evaluations
    return list({str(entry["split"]): entry for entry in kept}.values())


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics of one evaluation that are finite numbers."""
    return {
        name: value
        for name, value in evaluation.items()
        if name not in NOT_SCORES
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


# -- text ---------------------------------------------------------------------------------------------


def _head(record: Mapping[str, Any]) -> str:
    """Return the head in a few words, which "SoT" follows."""
    pooling = mapping(record, "head_config").get("pooling")
    if pooling == "none":
        return "a linear classifier on its classification token, the baseline of"
    if pooling in ("cross_covariance", "covariance"):
        return "a head that reads second-order statistics of all its word tokens, of the kind of"
    return "a head that pools its word tokens, a variant of"


def _kept(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the epoch of the weights, of how many, and the metric that chose it; None for a single epoch."""
    best = mapping(record, "best")
    epochs = {str(entry["epoch"]) for entry in evaluations_of(record)}
    if len(epochs) < 2 or not isinstance(best.get("epoch"), (int, float)):
        return None
    return {
        "epoch": best["epoch"],
        "count": len(epochs),
        "metric": best.get("metric", "the main metric"),
    }


def _heading(metric: str, record: Mapping[str, Any]) -> str:
    known = traits(metric, record)
    return known.title if known.higher_is_better else f"{known.title} (lower is better)"


def _rows(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(name, _shown(value)) for name, value in settings.items() if name.isidentifier()]


def _training_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    arguments = mapping(record, "arguments")
    settings = {
        name: arguments[name]
        for name, traits in TRAITS.items()
        if traits.card and arguments.get(name) is not None
        if traits.needs is None or arguments.get(traits.needs) is not None
    }
    method = mapping(record, "method")
    if method.get("strength") is not None:  # a head solved in closed form
        if method.get("name") == "linear_probe":  # and no updates, whose settings would mislead
            kept = ("class_weights", "max_length", "seed", "data_seed")
            settings = {name: value for name, value in settings.items() if name in kept}
        settings = {"training_method": method.get("name"), "strength": method["strength"], **settings}
    if (length := mapping(record, "data").get("max_length")) is not None:
        settings["max_length"] = length  # what the model's positions left of the setting
    environment = mapping(record, "environment")
    for name in ("processes", "mixed_precision", "device_name"):
        if environment.get(name) is not None:
            settings[name] = environment[name]
    if record.get("num_parameters") is not None:
        settings["num_parameters"] = record["num_parameters"]
    return settings


def escape(text: object) -> str:
    """Escape `text`, as one line, so that neither Markdown nor HTML takes any part of it for markup."""
    return MARKDOWN.sub(r"\\\1", html.escape(printable(text), quote=False))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {_shown(item)}" for name, item in value.items())
    return str(value)


def _spec(record: Mapping[str, Any]) -> Mapping[str, Any]:
    return mapping(record, "task_spec")


def _task(record: Mapping[str, Any]) -> str:
    return printable(record.get("task") or "text-classification")


def _title(record: Mapping[str, Any]) -> str:
    return str(_spec(record).get("title") or _task(record))
