"""Write the folder of a Hugging Face Space: the page of a model, with all that it needs to run there."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sot_nlp.errors import UserError, printable
from sot_nlp.files import check_folder, write_atomic, write_json, writing
from sot_nlp.inference.saved_model import SavedModel, open_model
from sot_nlp.serving.page import build_page, import_gradio, launch

SETTINGS = "settings.json"
# What the copied package imports where a page is served. gradio itself is named by the Space's front matter.
REQUIREMENTS = (
    "accelerate",
    "datasets",
    "evaluate",
    "jinja2",
    "numpy",
    "pyyaml",
    "regex",
    "rich",
    "safetensors",
    "scikit-learn",
    "scipy",
    "torch",
    "transformers",
)
APP = '''"""The page of this Space; `python app.py` runs it on any machine."""

from pathlib import Path

from sot_nlp.serving.space import run_space

if __name__ == "__main__":
    run_space(Path(__file__).parent)
'''


def check_space(folder: Path) -> None:
    """Raise UserError where a Space can't be written to `folder`."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--space {printable(folder)}: is not an empty folder")
    check_folder(folder, "--space")


def write_space(
    folder: Path,
    model: str,
    saved: SavedModel,
    *,
    name: str,
    examples: Sequence[Sequence[str]] = (),
    trust_remote_code: bool = False,
) -> None:
    """Write into `folder` what a Space of the kind gradio runs as it is.

    That is `app.py`, `requirements.txt` with the versions that are installed here, `README.md` with the
    Space's front matter, the model's files (for a model in a folder; one of the Hub is named), this package's
    code, and `settings.json`: name, columns, length and examples. The run's record stays at home.
    Code that is saved with the model comes along, and runs there, with `trust_remote_code` alone.

    Raises:
        UserError: if the folder is not empty or can't be written, or without gradio.
    """
    gradio = import_gradio()
    check_space(folder)
    from huggingface_hub import SpaceCardData

    from sot_nlp.publishing.hub import files_to_push

    source = Path(model)
    settings = {
        "model": "model" if source.is_dir() else model,
        "name": name,
        "text_columns": list(saved.text_columns),
        "max_length": saved.max_length,
        "trust_remote_code": trust_remote_code,
        "examples": [list(example) for example in examples],
    }
    front = SpaceCardData(
        title=printable(name, 60),
        sdk="gradio",
        sdk_version=gradio.__version__,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        models=None if source.is_dir() else [model],
    )
    with writing(folder, "--space"):
        folder.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            (folder / "model").mkdir()
            for file in files_to_push(source):
                # The package's own code is used, but for parts that are the user's.
                if trust_remote_code or not file.endswith(".py"):
                    shutil.copyfile(source / file, folder / "model" / file)
        package = Path(__file__).resolve().parent.parent
        shutil.copytree(package, folder / "sot_nlp", ignore=shutil.ignore_patterns("__pycache__"))
        write_json(folder / SETTINGS, settings)
        write_atomic(folder / "requirements.txt", "".join(f"{line}\n" for line in _requirements()))
        write_atomic(folder / "README.md", f"---\n{front.to_yaml()}\n---\n")
        write_atomic(folder / "app.py", APP)


def run_space(folder: Path) -> None:
    """Serve the page of a Space's folder, where gradio's environment variables say, until it is stopped."""
    settings: dict[str, Any] = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    model = str(folder / "model") if (folder / "model").is_dir() else settings["model"]
    saved = open_model(
        model,
        max_length=settings["max_length"],
        any_classifier=True,
        trust_remote_code=settings.get("trust_remote_code", False),
    )
    saved = dataclasses.replace(saved, text_columns=tuple(settings["text_columns"]))
    page = build_page(saved, name=settings["name"], examples=settings["examples"])
    launch(page, host=None, port=None, local=False, block=True)


def _requirements() -> list[str]:
    # A local version ("2.13.0+cpu") is in no registry.
    return [f"{name}=={importlib.metadata.version(name).partition('+')[0]}" for name in REQUIREMENTS]
