"""The package's data flows one way: what a file may import."""

import ast
from pathlib import Path

import pytest

import sot_nlp

PACKAGE = Path(sot_nlp.__file__).parent


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, *, anywhere: bool) -> set[str]:
    """The modules of this package that a file imports: at its top, or `anywhere` in it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if anywhere else tree.body
    package = module_name(path) if path.name == "__init__.py" else module_name(path).rpartition(".")[0]
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*parts, *([node.module] if node.module else [])]) if node.level else node.module
            found |= {f"{base}.{alias.name}" for alias in node.names} | {base}
    return {name for name in found if name in FILES and name != module_name(path)}


# Each may import what stands above it, and its own files.
FLOW = (
    {"errors", "moved", "files", "records", "templates"},
    {"modeling", "settings"},
    {"tasks"},
    {"data"},
    {"training"},
    {"publishing"},
    {"runs"},
    {"inference"},
    {"explanation", "studies"},
    {"serving", "demo"},
    {"api"},
    {"commands"},
    {"cli"},
)
PLACE = {name: place for place, names in enumerate(FLOW) for name in names}


@pytest.mark.parametrize("name", [name for name in FILES if name.count(".") and "registration" not in name])
def test_data_flows_one_way(name):
    own = name.split(".")[1]
    assert own in PLACE, f"{own} has no place in FLOW"
    for imported in imports(FILES[name], anywhere=True) - {"sot_nlp"}:
        there = imported.split(".")[1]
        if there == "__init__" or there == own:
            continue
        assert PLACE[there] <= PLACE[own], f"{name} imports {imported}, which stands below it"


def test_no_file_imports_itself_in_a_circle():
    edges = {name: imports(path, anywhere=False) - {"sot_nlp"} for name, path in FILES.items()}
    done: set[str] = set()
    while edges.keys() - done:
        ready = {name for name in edges.keys() - done if edges[name] <= done}
        assert ready, f"these import each other in a circle: {sorted(edges.keys() - done)}"
        done |= ready


@pytest.mark.parametrize("path", sorted((PACKAGE / "modeling").glob("*.py")), ids=lambda path: path.name)
def test_the_modelling_files_import_only_transformers_own_needs_and_their_siblings(path):
    """They travel with a checkpoint, and transformers finds siblings only as `from .name import`."""
    allowed = {"torch", "transformers", "safetensors", "huggingface_hub"}  # the last two come with it
    standard = set(__import__("sys").stdlib_module_names)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert {alias.name.split(".")[0] for alias in node.names} <= allowed | standard
        elif isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module
            assert "." not in node.module
        elif isinstance(node, ast.ImportFrom):
            assert node.module.split(".")[0] in allowed | standard


def test_what_answers_help_imports_neither_torch_nor_transformers():
    heavy = {"torch", "transformers", "datasets", "evaluate", "accelerate", "sklearn", "scipy", "numpy"}
    seen, waiting = set(), ["sot_nlp.cli", "sot_nlp"]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
        for node in tree.body:
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [node.module]
            assert heavy.isdisjoint(module.split(".")[0] for module in modules), name
        waiting += imports(FILES[name], anywhere=False)
