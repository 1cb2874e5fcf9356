"""Which files of a folder this tool wrote, so that nothing else in it is deleted or replaced."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path
from typing import Any

from sot_nlp import records
from sot_nlp.data.sources import FILE_FLAGS, place
from sot_nlp.errors import UserError, printable
from sot_nlp.publishing.model_card import CARD_NAME, MARK, PLOT_NAME
from sot_nlp.publishing.submission import predictions_name
from sot_nlp.publishing.training_plot import mapping
from sot_nlp.runs.lora import ADAPTER
from sot_nlp.settings import plugins
from sot_nlp.settings.arguments import Arguments
from sot_nlp.tasks.spec import TaskSpec, available_tasks, load_task
from sot_nlp.training.checkpointing.folders import BEST_NAME, FOLDER, STEP_NAME, UNFINISHED
from sot_nlp.training.logs import LOG_NAME, METRICS_NAME, PROJECT

WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json")
TOKENIZER = re.compile(
    r"(tokenizer|tokenizer_config|special_tokens_map|added_tokens)\.json"
    r"|vocab\.(txt|json)|merges\.txt|spiece\.model|sentencepiece\.bpe\.model|chat_template\.jinja"
)
EXPORT = "onnx"
GRAPH = re.compile(r"model(_int8)?\.onnx(\.data)?")
# What the tool writes to the folders in a run's folder.
INSIDE = {
    ADAPTER: re.compile(r"adapter_config\.json|adapter_model\.safetensors|README\.md"),
    FOLDER: re.compile(rf"{STEP_NAME.pattern}|{BEST_NAME.pattern}|{re.escape(UNFINISHED)}.+"),
    "logs": re.compile(re.escape(PROJECT)),
    EXPORT: re.compile(rf"config\.json|{TOKENIZER.pattern}|{GRAPH.pattern}"),
}


def own_paths(folder: Path) -> list[Path]:
    """Return what a run wrote to `folder` beside its record, with its model's export and an earlier card."""
    # transformers, which it takes, is slow to import.
    from sot_nlp.modeling.own_code import saved_names
    from sot_nlp.modeling.remote_code import modeling_files

    names = {LOG_NAME, METRICS_NAME, "config.json", *_predictions(folder)}
    names |= {*(file.name for file in modeling_files()), *saved_names(folder)}
    card = folder / CARD_NAME
    if card.is_file() and MARK.encode() in card.read_bytes():
        names |= {CARD_NAME, PLOT_NAME}
    paths = [
        path
        for path in folder.iterdir()
        if path.name in names or WEIGHTS.fullmatch(path.name) or TOKENIZER.fullmatch(path.name)
    ]
    for name, pattern in INSIDE.items():
        if (folder / name).is_dir() and (name != EXPORT or is_export(folder / name)):
            paths += [path for path in (folder / name).iterdir() if pattern.fullmatch(path.name)]
    return sorted(paths)


def _predictions(folder: Path) -> set[str]:
    """Return the names of the predictions, and of GLUE's files, that the run in `folder` may have written."""
    record: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        record = records.read(folder)
    names = {"predictions.json", predictions_name("test")}
    for split in mapping(mapping(record, "data"), "splits"):
        test = split.startswith("test")
        names.add(predictions_name(split) if test else f"predictions{split.removeprefix('validation')}.json")
    tables = [*mapping(mapping(record, "task_spec"), "submission").values()]
    if record.get("task") in available_tasks():
        tables += load_task(record["task"]).submission.values()
    return names | {str(table) for table in tables if str(table).endswith(".tsv")}


def check_not_own(path: str | Path, flag: str) -> None:
    """Raise UserError where `path`, which `flag` gave, is a file that a run wrote to its folder."""
    path = Path(path)
    if not path.is_file() or not (path.parent / records.NAME).exists():
        return
    own = (other.name for other in own_paths(path.parent) if other.parent == path.parent)
    if path.name in (records.NAME, *own):
        raise UserError(f"{flag} {printable(path)}: is a file of the run in that folder; give another name")


def check_export(folder: Path, flag: str) -> None:
    """Raise UserError where an export to `folder` would replace something else than an earlier export."""
    if not folder.is_dir() or is_export(folder):
        return
    for path in sorted(folder.iterdir()):
        if _is_of_a_model(path) or INSIDE[EXPORT].fullmatch(path.name):
            raise UserError(
                f"{flag} {printable(folder)}: holds {printable(path.name)}, which is not of an export; "
                "give another folder"
            )


def _is_of_a_model(path: Path) -> bool:
    return path.name == records.NAME or path.suffix in (".safetensors", ".bin")


def is_export(folder: Path) -> bool:
    """Return whether `folder` holds an export of a SoT model to ONNX, whole or begun, and no run or model."""
    if any(_is_of_a_model(path) for path in folder.iterdir()):
        return False
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return str(config["model_type"]).startswith("sot") and "auto_map" not in config
    except (OSError, ValueError, KeyError, TypeError):
        return False


def check_inputs(folder: Path, arguments: Arguments, spec: TaskSpec) -> None:
    """Raise UserError for what a run reads where `--overwrite_output_dir` would delete it."""
    inputs = [("--model_name_or_path", arguments.model_name_or_path), ("--task", spec.source_path)]
    inputs += [(plugins.FLAG, name) for name in plugins.flags()[1::2]]
    for split in spec.splits:
        flag = FILE_FLAGS.get(split, "")
        with contextlib.suppress(UserError):  # which reading it will raise
            if isinstance(where := place(spec, split, arguments), Path):
                inputs.append((f"--{flag}" if getattr(arguments, flag, None) else "--task", str(where)))
    own = {path.parent.resolve() / path.name for path in [*own_paths(folder), folder / records.NAME]}
    for flag, name in inputs:
        path = Path(name)
        seen = (path.resolve(), path.parent.resolve() / path.name)
        if name and any(own & {path, *path.parents} for path in seen):
            raise UserError(
                f"{flag} {printable(name)}: --overwrite_output_dir would delete it with the run in "
                f"{printable(folder)}; move it, or give another --output_dir"
            )
