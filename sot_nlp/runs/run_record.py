"""Keep a run's record: what `record.json` holds, what a resumed run must match in it, and what is printed."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sot_nlp import records
from sot_nlp.data.data_report import describe, describe_stream, seen_in_training, stream_report
from sot_nlp.errors import UserError, decimal, printable
from sot_nlp.runs import lora
from sot_nlp.runs.collapse import collapse_warnings, scale_warning
from sot_nlp.settings import launcher
from sot_nlp.tasks import metrics
from sot_nlp.tasks.labels import label_names
from sot_nlp.training.signals import Interrupted

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from sot_nlp.runs.runner import Run
    from sot_nlp.training.loop import TrainingResult


def new_record(run: Run) -> dict[str, Any]:
    """Return the record of a run that has not begun: all but scores and timings."""
    arguments, data, model, spec = run.arguments, run.data, run.model, run.scorer.spec
    method = {"name": run.method.name, "reason": run.method.reason}
    if run.solution is not None:
        method |= run.solution.to_dict()
    return {
        "format_version": records.FORMAT_VERSION,
        "status": records.RUNNING,
        "task": spec.name,
        "model": arguments.model_name_or_path,
        "model_class": type(model).__name__,
        "head": model.config.head_preset or "custom",
        "head_config": model.config.head,
        "seed": arguments.seed,
        "data_seed": arguments.seed if arguments.data_seed is None else arguments.data_seed,
        "labels": None if data.labels is None else list(data.labels),
        # A classifier that is trained further keeps its own order.
        "output_labels": None if data.labels is None else list(label_names(model.config.id2label)),
        "main_metric": spec.main_metric,
        "main_metric_traits": metrics.traits(spec.main_metric).to_dict(),
        "best": None,
        "evaluations": [],
        "train_examples_per_second": None,
        "num_parameters": lora.num_parameters(model),
        "num_trainable_parameters": None,
        "warnings": [],
        "collapsed": False,
        "arguments": arguments.to_dict(),
        "working_directory": str(Path.cwd()),  # where relative paths in the arguments start
        "sources": arguments.sources,
        "task_spec": spec.to_dict(),
        "data": data.report,
        "versions": records.versions(),
        "git": records.git_state(),
        "environment": records.environment(run.accelerator),
        "timings": {},
        "log_history": [],
        "method": method,
        "score_scale": None if run.scorer.scale is None else run.scorer.scale.to_dict(),
    }


# Of a split. Notes say how a file is read where that was guessed; an older version read it otherwise.
FINGERPRINTED = ("sha256", "examples", "chosen", "notes")


def fingerprint(record: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """Return the settings, data and size of `model` that a checkpoint must match to resume from it."""
    shaping = ["task", "head_config", "labels", "arguments"]
    if record["score_scale"] is not None:  # (which checkpoints of older versions lack)
        shaping.append("score_scale")
    # What the files hold counts, and what of it is used; not where they are.
    files = {
        name: {key: split[key] for key in FINGERPRINTED if split.get(key, []) != []}
        for name, split in record["data"]["splits"].items()
        if name == "train" or name.startswith("validation")
    }
    # All that a checkpoint holds: more than the record's number where LoRA keeps the head that it replaced.
    size = sum(parameter.numel() for parameter in model.parameters())
    return {**{name: record[name] for name in shaping}, "num_parameters": size, "data": files}


@contextlib.contextmanager
def recorded(run: Run, record: dict[str, Any]) -> Iterator[None]:
    """Keep `record.json` true whatever happens inside: running, then finished, interrupted or failed."""

    def save(status: str) -> None:
        record["status"] = status
        if run.accelerator.is_main_process:
            records.write(run.folder, record)

    save(records.RUNNING)
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        with contextlib.suppress(OSError):  # report what ended the run, not that its record could not say so
            save(records.INTERRUPTED)
        raise
    except UserError as error:
        record["failure"] = str(error)
        with contextlib.suppress(OSError):
            save(records.FAILED)
        raise
    save(records.FINISHED)


def add_result(
    record: dict[str, Any], run: Run, result: TrainingResult, rows: dict[str, list[dict[str, Any]]]
) -> None:
    """Fill in what the training gave, with `rows`, the kept model's predictions by split."""
    first = next(iter(run.scorer.splits))
    kept = next(e for e in result.evaluations if result.best is None or e["step"] == result.best["step"])
    losses = [entry["loss"] for entry in record["log_history"] if "learning_rate" in entry]
    predicted = [run.scorer.named(row["prediction"]) for row in rows[first]]
    signs = collapse_warnings(predicted, losses, kept, run.data.kind, updates=result.steps > 0)
    off_scale = scale_warning(rows[first]) if run.data.kind == "regression" else []
    record |= {
        "num_trainable_parameters": result.num_trainable_parameters,
        "best": result.best,
        "evaluations": result.evaluations,
        "train_examples_per_second": result.train_examples_per_second,
        "resumed_from": result.resumed_from,
        "skipped_updates": result.skipped_updates,
        "collapsed": bool(signs),
        "warnings": [*result.warnings, *signs, *off_scale, *seen_in_training(record["data"])],
        "timings": {
            "train_seconds": result.train_seconds,
            "total_seconds": time.time() - run.started,
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        },
    }
    if run.data.stream is not None:
        dropped = run.arguments.drop_leaked
        source = run.data.stream.source.table.name
        record["data"]["splits"]["train"] = stream_report(source, result.stream, dropped=dropped)


def summary(run: Run, record: dict[str, Any]) -> list[str]:
    """Return a few lines on what is about to be trained, on what and by what."""
    environment = record["environment"]
    from_launcher = [name for name, source in record["sources"].items() if source == launcher.SOURCE]
    return [
        *describe(run.data),
        f"{record['task']}: {record['model_class']} from {printable(record['model'])}, "
        f"head {record['head']}, {record['num_parameters'] / 1e6:.1f} M parameters, "
        f"on {environment['processes']} x {environment['device']} ({environment['mixed_precision']})",
        *launcher.describe({name: record["arguments"][name] for name in from_launcher}),
    ]


def outcome(folder: Path, record: dict[str, Any]) -> list[str]:
    """Return lines on the result and where it is."""
    best = record["best"]
    lines = [*describe_stream(record["data"]), *(f"warning: {warning}" for warning in record["warnings"])]
    if best and best["value"] is not None:
        lines.append(f"best {best['metric']} {decimal(best['value'], 4)} at epoch {best['epoch']:g}")
    return [*lines, f"model, record and predictions: {printable(folder)}"]
