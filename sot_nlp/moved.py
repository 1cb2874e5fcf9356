"""Modules of 0.1.0 that stand elsewhere now: importing one says where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

# By room: the former name, and the new one where it differs.
_ROOMS = {
    "modeling": "registration",
    "settings": "arguments argument_checks:checks command_line flag_parser:command_line yaml_file",
    "tasks": "task_spec:spec metrics metric_modules labels",
    "data": "data.own_data:infer_task data.checking:row_checks",
    "training": (
        "training.ledger:progress training.trainable:model_setup training.processes:distributed "
        "training.interruption:signals training.runlog:logs"
    ),
    "training.checkpointing": (
        "training.keeping:checkpointer training.checkpoints:folders training.state_files:tensor_files "
        "training.fingerprint"
    ),
    "training.speed": (
        "training.quick_cpu:fast_cpu training.cuda_graphs training.vocabulary:embedding_rows "
        "training.allocator:malloc training.frozen:cached_backbone training.features training.precision"
    ),
    "runs": "runner preparation scoring collapse lora run_folder:folder",
    "inference": "saved_model prediction:predict evaluate_saved:evaluate export",
    "publishing": "hub model_card training_plot submission",
    "demo": "grammar tiny_bert",
    "serving": "demo_page:page",
    "studies": "studies.collecting:read_results",
    "studies.report": (
        "studies.overview studies.report_cells:cells studies.report_html:page studies.report_plots:plots "
        "studies.report_tables:tables"
    ),
    "studies.probe": "studies.probe_passes:passes studies.seed_batch:parallel_heads",
    "explanation": (
        "explanation.explanation_html:page explanation.explanation_png:picture "
        "explanation.explanation_terminal:terminal explanation.explanation_view:view"
    ),
}
MOVED = {
    f"sot_nlp.{old}": f"sot_nlp.{room}.{new or old.rpartition('.')[2]}"
    for room, names in _ROOMS.items()
    for old, _, new in (name.partition(":") for name in names.split())
}


class _Signpost(MetaPathFinder):
    """Stand behind all other finders: only what none of them knows arrives here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in MOVED:
            raise ModuleNotFoundError(f"{fullname} is now {MOVED[fullname]}", name=fullname)
        return None


def install() -> None:
    """Say from now on where a moved module is. Calling it again does nothing."""
    if not any(isinstance(finder, _Signpost) for finder in sys.meta_path):
        sys.meta_path.append(_Signpost())
