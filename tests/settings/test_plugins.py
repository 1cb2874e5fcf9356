"""`--plugin FILE.py`: a user's metrics and parts are known to every command, and mistakes are one line."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sot_nlp import records
from sot_nlp.cli import main
from sot_nlp.modeling import parts
from sot_nlp.settings import plugins
from sot_nlp.tasks.metrics import METRICS

PART = """
from sot_nlp import Normalization, register_normalization


class Halved(Normalization):
    def forward(self, pooled):
        return pooled / 2


register_normalization("halved", Halved)
"""
METRIC = """
from sot_nlp import register_metric

register_metric(
    "cost", lambda p, r: float(((p == 1) & (r == 0)).mean()), kinds="classification", higher_is_better=False
)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with plugins, and a task that names their metric; what is registered is dropped again."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("part", PART), ("cost", METRIC), ("both", PART + METRIC)):
        Path(f"{name}.py").write_text(text)
    for name, texts in (("train", 16), ("dev", 8)):
        rows = [
            f"the zorp {'runs' if i % 2 else 'sees'} {i},{'yes' if i % 2 else 'no'}" for i in range(texts)
        ]
        Path(f"{name}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    Path("task.yaml").write_text(
        "text_columns: [text]\nlabel_column: label\nlabels: ['no', 'yes']\nmetrics: [cost, accuracy]\n"
        "files: {train: train.csv, validation: dev.csv}\n"
    )
    known, metrics = dict(parts.NORMALIZATIONS), dict(METRICS)
    yield tmp_path
    for registry, before in ((parts.NORMALIZATIONS, known), (METRICS, metrics)):
        registry.clear()  # type: ignore[attr-defined]
        registry.update(before)  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.startswith("sot_nlp_plugin_")]:
        del sys.modules[name]
    plugins.import_plugins([])


def test_a_studys_cells_and_later_commands_know_it(
    folder: Path, backbone_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--tasks", "mine=task.yaml", "--models", f"tiny={backbone_folder('bert')}", "--seeds", "1"]
    words += [
        "--heads",
        "text",
        "--head.normalization",
        "halved",
        "--head.width_x",
        "4",
        "--head.width_y",
        "3",
    ]
    words += ["--num_train_epochs", "1", "--cpu", "--cache_dir", str(folder / "cache"), "--plan"]
    assert main(["compare", *words]) == 2
    assert "'cost' is not known" in (told := capsys.readouterr().err)
    assert "--plugin FILE.py" in told
    assert main(["compare", *words, "--plugin", "part.py", "--plugin=cost.py"]) == 0
    [command] = capsys.readouterr().out.splitlines()
    _, _, module, *cell = shlex.split(command)
    given = ["--plugin", str(folder / "part.py"), "--plugin", str(folder / "cost.py")]
    assert (module, cell[1:5]) == ("sot_nlp.cli", given)
    # The cell's own command, as printed.
    run = cell[cell.index("--output_dir") + 1]
    assert main([*cell, "--disable_tqdm"]) == 0
    record = records.read(Path(run))
    assert (record["main_metric"], record["best"]["metric"]) == ("cost", "cost")
    assert not record["main_metric_traits"]["higher_is_better"]
    assert record["head_config"]["normalization"] == "halved"
    (folder / "texts.txt").write_text("the zorp runs\n")
    assert main(["predict", run, "--file", "texts.txt", "--cpu", "--plugin=part.py"]) == 0


def test_a_part_that_can_not_be_saved_is_refused_before_the_training(
    folder: Path, backbone_folder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--task", "task.yaml", "--model_name_or_path", str(backbone_folder("bert")), "--cpu"]
    words += ["--cache_dir", str(folder / "cache"), "--output_dir", "out", "--head.normalization", "halved"]
    assert main(["train", *words, "--plugin", "both.py"]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "'halved' cannot be saved with the model: both.py, line " in told
    assert "imports register_metric" in told
    assert not (folder / "out" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("none.py", None, "--plugin none.py: no such file"),
        ("bad.py", "x = 1\nx +\n", "bad.py:2: SyntaxError: invalid syntax"),
        ("raises.py", "\n\nopen('nowhere')\n", "raises.py:3: FileNotFoundError: "),
        ("no_module_of_this_name", None, "no installed module of that name; a file ends in .py"),
        ("", None, "--plugin: expected a FILE.py"),
    ],
)
def test_mistakes_are_one_line(
    name: str, text: str | None, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        Path(name).write_text(text)
    assert main(["tasks", f"--plugin={name}"]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1
    assert f"sot_nlp_plugin_{Path(name).stem}" not in sys.modules


def test_an_installed_module_is_imported_and_named_for_other_processes() -> None:
    assert plugins.import_plugins(["train", "--plugin", "json.tool", "--seed", "3"]) == [
        "train",
        "--seed",
        "3",
    ]
    assert plugins.flags() == ["--plugin", "json.tool"]
    assert plugins.import_plugins(["train"]) == ["train"]
    assert plugins.flags() == []
