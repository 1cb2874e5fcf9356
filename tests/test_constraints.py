"""constraints.txt pins what each Python that the package claims can install."""

import configparser
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parents[1]
PINS = [
    Requirement(line)
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]


def test_the_pythons_are_those_that_the_metadata_claims():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    claimed = [
        line.rpartition(" ")[2]
        for line in setup["metadata"]["classifiers"].splitlines()
        if "Python :: 3." in line
    ]
    assert claimed == PYTHONS
    assert setup["options"]["python_requires"] == f">={PYTHONS[0]}"


@pytest.mark.parametrize("python", PYTHONS)
def test_each_package_has_one_version_and_it_takes_that_python(python):
    """Versions that are installed say so themselves; the last patch release counts."""
    seen = set()
    for pin in PINS:
        if pin.marker and not pin.marker.evaluate({"python_version": python}):
            continue
        assert pin.name not in seen, pin
        seen.add(pin.name)
        try:
            installed = metadata.distribution(pin.name)
        except metadata.PackageNotFoundError:
            continue
        if f"=={installed.version}" == str(pin.specifier):
            takes = SpecifierSet(installed.metadata.get("Requires-Python") or "")
            assert takes.contains(f"{python}.99"), f"{pin} takes Python {takes}"
