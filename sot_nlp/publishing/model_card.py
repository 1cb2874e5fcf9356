"""record.json -> the README.md of a model's Hub repository, and the plot of its training.

The record alone is read, never a live model. Every value of it that came from a user (names of tasks,
models, labels, files) is escaped: for YAML by huggingface_hub's own writer, for Markdown and HTML here.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sot_nlp.errors import printable
from sot_nlp.files import write_atomic
from sot_nlp.publishing.training_plot import evaluations_of, mapping, training_plot
from sot_nlp.settings.arguments import TRAITS
from sot_nlp.tasks.metrics import METRICS, traits

CARD_NAME = "README.md"
PLOT_NAME = "training.png"
# Stands in every card that was written from a record; a card without it is the user's own and is kept.
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


def write_card(folder: str | Path, record: Mapping[str, Any], **options: Any) -> list[Path]:
    """Write card and plot of `record` into `folder`; returns what was written. `options`: `model_card`'s.

    A README.md of the user's own (one without the line that says who wrote it) is left as it is.
    """
    folder = Path(folder)
    plot = plot_of(record)
    written = []
    if plot is not None:
        write_atomic(folder / PLOT_NAME, plot)
        written.append(folder / PLOT_NAME)
    card = folder / CARD_NAME
    if own_card(folder) is None:
        write_atomic(card, model_card(record, plot=plot is not None, **options))
        written.append(card)
    return written


def plot_of(record: Mapping[str, Any]) -> bytes | None:
    """The plot of a run's training; None without curves or without matplotlib (extra `plots`)."""
    return training_plot(record)


def own_card(folder: Path) -> str | None:
    """The text of a README.md in `folder` that its user wrote or changed; None where there is none."""
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
    """The model card of a run, as text: YAML metadata with the scores as `model-index`, then Markdown.

    Fields that the record lacks leave their line or table out.

    Args:
        record: the run's record.json.
        repo_id: where the model will lie on the Hub; without it the card says "this folder".
        license: the Hub's identifier of the licence that the user gives the model; left out when None.
        remote_code: whether the model's code lies beside it.
        plot: whether `training.png` lies beside it.
    """
    sections = [
        _introduction(record),
        _scores(record),
        f"![Loss and scores over the training]({PLOT_NAME})" if plot else "",
        _usage(record, repo_id, remote_code),
        _data(record),
        _settings_table("Head", mapping(record, "head_config")),
        _settings_table("Training", _training_settings(record)),
        _versions(record),
        f"## Citation\n\nThe head is that of [SoT]({PAPER}):\n\n```bibtex\n{CITATION}\n```",
    ]
    metadata = _metadata(record, repo_id, license, remote_code)
    body = "\n\n".join(section for section in sections if section)
    return f"---\n{metadata}\n---\n\n{MARK}\n\n{body}\n"


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
    """The backbone's name on the Hub; None where it came from a folder, whose path is nobody's business."""
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
    """The evaluations of the weights that were kept, one a split; the last ones where none was best."""
    evaluations = evaluations_of(record)
    step = mapping(record, "best").get("step")
    kept = [entry for entry in evaluations if entry["step"] == step] or evaluations
    return list({str(entry["split"]): entry for entry in kept}.values())


def scores_of(evaluation: Mapping[str, Any]) -> dict[str, float]:
    """The metrics of one evaluation that are finite numbers."""
    return {
        name: value
        for name, value in evaluation.items()
        if name not in NOT_SCORES
        and isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
    }


# -- text ---------------------------------------------------------------------------------------------


def _introduction(record: Mapping[str, Any]) -> str:
    base = _hub_model(record)
    model = f"[{escape(base)}](https://huggingface.co/{base})" if base else "A pretrained model"
    pooling = mapping(record, "head_config").get("pooling")
    if pooling == "none":
        head = "a linear classifier on its classification token, the baseline of"
    elif pooling in ("cross_covariance", "covariance"):
        head = "a head that reads second-order statistics of all its word tokens, of the kind of"
    else:
        head = "a head that pools its word tokens, a variant of"
    name = record.get("head")
    preset = f" (preset `{name}`)" if isinstance(name, str) and name.isidentifier() else ""
    text = f"# {escape(_title(record))}\n\n{model}, fine-tuned with {head} [SoT]({PAPER}){preset}."
    status = record.get("status")
    if status not in (None, "finished"):
        text += f"\n\n**This training is not finished** (status: {escape(status)})."
    return text


def _scores(record: Mapping[str, Any]) -> str:
    evaluations = [entry for entry in best_evaluations(record) if scores_of(entry)]
    if not evaluations:
        return ""
    names = list(dict.fromkeys(name for entry in evaluations for name in scores_of(entry)))
    rows = []
    for entry in evaluations:
        scores = scores_of(entry)
        found = (f"{scores[name]:.4f}" if name in scores else "" for name in names)
        rows.append([escape(entry["split"]), *found])
    heading = ["Split", *(escape(_heading(name, record)) for name in names)]
    parts = ["## Scores", table(heading, rows)]
    best = mapping(record, "best")
    epochs = {str(entry["epoch"]) for entry in evaluations_of(record)}
    if len(epochs) > 1 and isinstance(best.get("epoch"), (int, float)):
        parts.append(
            f"These are the weights of epoch {best['epoch']:g}, the best of {len(epochs)} evaluated ones by "
            f"{escape(best.get('metric', 'the main metric'))} on the first split: on new texts expect a "
            "little less."
        )
    warnings = record.get("warnings")
    if isinstance(warnings, list):
        parts += [f"**Warning:** {escape(warning)}" for warning in warnings]
    return "\n\n".join(parts)


def _heading(metric: str, record: Mapping[str, Any]) -> str:
    known = traits(metric, record)
    return known.title if known.higher_is_better else f"{known.title} (lower is better)"


def _data(record: Mapping[str, Any]) -> str:
    """Sizes of the splits; not their files, whose names and places are nobody's business."""
    splits = mapping(mapping(record, "data"), "splits")
    rows = [
        [escape(name), escape(report.get("examples", "")), escape(report.get("truncated", ""))]
        for name, report in splits.items()
        if isinstance(report, Mapping)
    ]
    return f"## Data\n\n{table(['Split', 'Examples', 'Cut to fit'], rows)}" if rows else ""


def _usage(record: Mapping[str, Any], repo_id: str | None, remote_code: bool) -> str:
    # The repository's name was checked by the client; a folder's may hold anything, so it is not written.
    name = repo_id if repo_id and HUB_ID.fullmatch(repo_id) else "path/of/this/folder"
    pair = len(_spec(record).get("text_columns") or ()) == 2
    call = 'classify({"text": "...", "text_pair": "..."})' if pair else 'classify("...")'
    parts = ["## How to use"]
    if remote_code:
        parts.append(
            "With transformers alone; `trust_remote_code=True` lets it run the few Python files of this "
            f"repository:\n\n```python\nfrom transformers import pipeline\n\n"
            f'classify = pipeline("text-classification", model="{name}", trust_remote_code=True)\n{call}\n```'
        )
    parts.append(
        "With `sot-nlp` installed, no code of the repository is run:\n\n```python\nimport sot_nlp\n"
        "from transformers import pipeline\n\n"
        f'classify = pipeline("text-classification", model="{name}")\n{call}\n```\n\n'
        f"```shell\nsot-nlp predict {name} --file texts.csv\n```"
    )
    labels = record.get("labels")
    if isinstance(labels, list) and labels:
        rows = [[str(index), escape(label)] for index, label in enumerate(labels)]
        parts.append(table(["Id", "Label"], rows))
    return "\n\n".join(parts)


def _settings_table(title: str, settings: Mapping[str, Any]) -> str:
    rows = [[f"`{name}`", escape(_shown(value))] for name, value in settings.items() if name.isidentifier()]
    return f"## {title}\n\n{table(['Setting', 'Value'], rows)}" if rows else ""


def _training_settings(record: Mapping[str, Any]) -> dict[str, Any]:
    arguments = mapping(record, "arguments")
    settings = {
        name: arguments[name]
        for name, traits in TRAITS.items()
        if traits.card and arguments.get(name) is not None
        if traits.needs is None or arguments.get(traits.needs) is not None
    }
    environment = mapping(record, "environment")
    for name in ("processes", "mixed_precision", "device_name"):
        if environment.get(name) is not None:
            settings[name] = environment[name]
    if record.get("num_parameters") is not None:
        settings["num_parameters"] = record["num_parameters"]
    return settings


def _versions(record: Mapping[str, Any]) -> str:
    versions = mapping(record, "versions")
    if not versions:
        return ""
    return "## Versions\n\n" + ", ".join(
        f"{escape(name)} {escape(value)}" for name, value in versions.items()
    )


def table(heading: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of cells that are already escaped."""
    heading = list(heading)
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def escape(text: object) -> str:
    """`text` so that neither Markdown nor HTML takes any part of it for markup; one line."""
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
