"""transformers' own common tests of models, from its source distribution at the installed version."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

import transformers

FILE = "test_modeling_common.py"
PACKAGE = "transformers_common_tests"
# What the file takes from folders that the source distribution leaves out, and no classifier needs.
ABSENT = {"exporters.test_export": "ExportTesterMixin", "generation.test_utils": "GenerationTesterMixin"}


def model_tester_mixin() -> Any:
    """Return transformers' `ModelTesterMixin`; pip downloads the distribution on the first call.

    Raises:
        subprocess.CalledProcessError: if pip finds no source distribution of the installed version.
    """
    package = ModuleType(PACKAGE)
    package.__path__ = [str(_folder_with_file())]
    modules = {PACKAGE: package}
    for name, mixin in ABSENT.items():
        module = ModuleType(f"{PACKAGE}.{name}")
        setattr(module, mixin, type(mixin, (), {}))
        modules |= {f"{PACKAGE}.{name.partition('.')[0]}": ModuleType(name), module.__name__: module}
    sys.modules.update(modules)
    return importlib.import_module(f"{PACKAGE}.{FILE.removesuffix('.py')}").ModelTesterMixin


def _folder_with_file() -> Path:
    """Return the folder of the user's cache that holds the file, which is fetched where it is missing."""
    version = transformers.__version__
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sot-nlp"
    folder = cache / f"transformers-{version}-tests"
    if not (folder / FILE).is_file():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            archive = _download(f"transformers=={version}", Path(scratch))
            with tarfile.open(archive) as content:
                member = content.extractfile(f"transformers-{version}/tests/{FILE}")
                assert member is not None
                (Path(scratch) / FILE).write_bytes(member.read())
            (Path(scratch) / FILE).replace(folder / FILE)
    return folder


def _download(requirement: str, folder: Path) -> Path:
    """Return the archive of the source distribution, downloaded to `folder` by pip."""
    options = ("--quiet", "--no-deps", "--no-binary", "transformers", "--dest", str(folder))
    subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)
    return next(folder.glob("*.tar.gz"))
