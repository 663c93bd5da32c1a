"""`requirements.lock`, which `make audit` checks, holds what `pyproject.toml` asks for."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "requirements.lock").read_text().splitlines()
LOCKED = {canonicalize_name(name): version for name, version in (x.split("==") for x in LINES)}


def direct_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for group in (project["dependencies"], *project["optional-dependencies"].values()):
        for text in group:
            requirement = Requirement(text)
            if requirement.name != project["name"]:
                yield requirement


def test_every_direct_dependency_is_locked_within_its_range():
    wrong = {
        str(requirement): version
        for requirement in direct_dependencies()
        if (version := LOCKED.get(canonicalize_name(requirement.name))) is None
        or not requirement.specifier.contains(version, prereleases=True)
    }
    assert wrong == {}


def test_lock_names_releases_and_nothing_of_one_machine():
    """No URL, no path, no label of a build such as `+cpu`; no installer."""
    pattern = r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*"
    assert [line for line in LINES if not re.fullmatch(pattern, line)] == []
    assert LOCKED.keys().isdisjoint({"pip", "setuptools", "wheel"})
