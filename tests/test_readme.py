"""The README's commands and snippet do what it says, on a model and data small enough for a test."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from sot_nlp.cli import COMMANDS, main
from sot_nlp.settings.command_line import parse_flags

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
LINES = [
    line.partition("  #")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.replace("\\\n", " ").splitlines()
]


def test_there_are_two_one_line_commands_that_start_from_nothing():
    demo, tests = [line for line in LINES if line.startswith("python3 -m venv")]
    for line in (demo, tests):
        assert "pip install" in line
        assert "-c constraints.txt" in line
    assert demo.endswith("run_glue_sot.py --task demo")
    assert ".venv/bin/python -m pytest" in tests


def test_the_flags_of_every_training_command_exist():
    commands = [line for line in LINES if "run_glue_sot.py" in line or line.startswith("sot-nlp train")]
    commands += re.findall(r"`((?:accelerate|torchrun|srun) [^`]*run_glue_sot\.py[^`]*)`", README)
    assert len(commands) >= 4
    for line in commands:
        words = shlex.split(re.split(r"run_glue_sot\.py|sot-nlp train", line)[1])
        parse_flags(words, "", "")


def test_every_command_of_the_readme_exists_and_every_command_is_in_it():
    used = {line.split()[1] for line in LINES if line.startswith("sot-nlp ")}
    assert used <= COMMANDS.keys()
    for name in COMMANDS:
        assert f"sot-nlp {name}" in README, name


def test_every_file_that_the_readme_links_to_or_proves_a_row_by_is_there():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    targets += re.findall(r"`(tests/[\w/]+\.py)`", README)
    for target in targets:
        assert (ROOT / target).exists(), target


def test_the_citation_names_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert "2104.10935" in citation["preferred-citation"]["url"]


def snippet(model, folder, capsys):
    """What the README's Python prints when it is run with `model` in the checkout."""
    (code,) = [block for language, block in BLOCKS if language == "python"]
    code = code.replace("sentence-transformers/all-MiniLM-L6-v2", str(model))
    exec(code.replace('"reviews"', repr(str(folder))), {})
    return capsys.readouterr().out


def test_the_snippet_runs_as_it_stands(backbone_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    accuracy, labels = snippet(backbone_folder("bert"), tmp_path / "out", capsys).splitlines()[-2:]
    assert 0 <= float(accuracy) <= 1
    assert set(eval(labels)) <= {"good", "bad"}


@pytest.mark.minilm
def test_the_snippet_prints_what_the_readme_says(minilm_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (output,) = [block for language, block in BLOCKS if language == "text"]
    assert snippet(minilm_folder, tmp_path / "out", capsys).endswith(output)


def test_it_is_short_and_says_nothing_of_targets():
    assert len(README.splitlines()) <= 150
    assert not re.search(r"required|misses the aim|at least \d", README)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command(name, capsys):
    try:
        code = main([name, "--help"])
    except SystemExit as left:
        code = left.code
    assert code == 0
    assert "usage:" in capsys.readouterr().out
