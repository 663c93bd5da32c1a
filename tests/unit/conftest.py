"""Fixtures of tests that need no server."""

from pathlib import Path

import pytest


@pytest.fixture
def readme():
    return (Path(__file__).parents[2] / "README.md").read_text()
