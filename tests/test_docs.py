"""The pages of the documentation say what the code does, and their examples run."""

import contextlib
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

import sot_nlp
from sot_nlp.cli import COMMANDS, main
from sot_nlp.modeling.parts import REGISTRY
from sot_nlp.settings.arguments import FIELDS
from sot_nlp.settings.command_line import parse_flags
from sot_nlp.tasks.metrics import METRICS

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
# Pages of the site, and those that stand beside what they describe and are included there.
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (
        *sorted(DOCS.glob("*.md")),
        *(ROOT / folder / "README.md" for folder in ("tasks", "studies", "benchmarks", "sot_nlp/modeling")),
        ROOT / "CONTRIBUTING.md",
    )
}
API = PAGES["docs/api.md"]
LINES = [
    (page, line.partition("  #")[0].strip())
    for page, text in PAGES.items()
    for block in re.findall(r"^ *```bash\n(.*?)^ *```", text, flags=re.MULTILINE | re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
]


def test_the_api_page_has_every_public_name_and_no_other():
    documented = set(re.findall(r"^::: sot_nlp\.(\w+)$", API, flags=re.MULTILINE))
    assert documented == set(sot_nlp.__all__)
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", API, flags=re.MULTILINE | re.DOTALL))
    shown = {"Classifier", "Prediction", "Predictions", "Run", "explain"}  # what other calls return
    of_families = {name for name in sot_nlp.__all__ if re.match(r"SoT(Roberta|OpenAIGPT|GPT2)", name)}
    missing = {name for name in documented if f"sot_nlp.{name}" not in code}
    assert missing <= shown | of_families


@pytest.fixture
def registries_restored():
    before = [(registry, dict(registry)) for registry in (*REGISTRY.values(), METRICS)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)


@pytest.mark.usefixtures("registries_restored")
def test_the_examples_of_the_api_page_run(backbone_folder, tmp_path, monkeypatch, capsys):
    code = "\n".join(re.findall(r"^```python\n(.*?)^```", API, flags=re.MULTILINE | re.DOTALL))
    shutil.copy(ROOT / "examples" / "data" / "reviews.csv", tmp_path / "mine.csv")
    (tmp_path / "bert-folder").symlink_to(backbone_folder("bert"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    exec(compile(code, "docs/api.md", "exec"), {"__name__": "examples_of_the_api_page"})
    printed = capsys.readouterr().out
    assert "share of first" in printed
    assert "{'loss'" in printed


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_takes_its_flags(page, capsys):
    """A flag that a page shows is one that the command's help names."""
    for where, line in LINES:
        words = shlex.split(line) if where == page else []
        if "sot-nlp" in words and words[0] != "pip":
            command, *rest = words[words.index("sot-nlp") + 1 :]
            assert command in COMMANDS, line
        elif "run_glue_sot.py" in words:
            command, rest = "train", words[words.index("run_glue_sot.py") + 1 :]
        else:
            continue
        rest = rest[: rest.index(">")] if ">" in rest else rest
        if command == "train":
            parse_flags(rest, "", "")
            continue
        with contextlib.suppress(SystemExit):
            main([command, "--help"])
        told = set(re.findall(r"(?<![\w-])--?[\w.-]+", capsys.readouterr().out))
        if command in ("compare", "probe", "tune"):  # which take any setting of a run
            told |= {f"--{name}" for name in FIELDS}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in told, f"{word} in: {line}"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_and_file_that_a_page_names_is_there(page):
    folder = (ROOT / page).parent
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", PAGES[page]):
        assert (folder / target).exists(), target
    for target in re.findall(r'--8<-- "([^":]+)', PAGES[page]):
        assert (ROOT / target).is_file(), target
    for target in re.findall(r"`((?:tests|sot_nlp|studies|examples|docs|benchmarks)/[\w/.]+)`", PAGES[page]):
        assert (ROOT / target).exists(), target


def test_every_page_is_in_the_navigation():
    text = re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = set(re.findall(r"[\w-]+\.md", str(yaml.safe_load(text)["nav"])))
    assert named == {path.name for path in DOCS.glob("*.md")}
