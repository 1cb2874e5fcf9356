"""A module of 0.1.0 says where it is now, and that place exists."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import sot_nlp
from sot_nlp.moved import MOVED


@pytest.mark.parametrize("name", sorted(MOVED))
def test_a_former_name_says_the_new_one(name):
    assert importlib.util.find_spec(MOVED[name]) is not None
    with pytest.raises(ModuleNotFoundError, match=f"^{name} is now {MOVED[name]}$"):
        importlib.import_module(name)


def test_a_name_that_never_was_is_python_s_own_error():
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'sot_nlp\.nowhere'"):
        importlib.import_module("sot_nlp.nowhere")


def test_the_version_is_the_one_that_the_changelog_describes():
    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")
    [number, unreleased] = re.search(r"^## ([\d.]+)( \(unreleased\))?$", text, flags=re.MULTILINE).groups()
    assert sot_nlp.__version__ == number + (".dev0" if unreleased else "")
