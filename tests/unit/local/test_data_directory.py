"""Data directories in which no stack can run."""

import io
from pathlib import Path

import pytest

from streams.errors import SettingsError, StoreUnavailable
from streams.local.mongod import Mongod
from streams.local.supervisor import run_stack
from streams.settings import Settings
from tests.ports import free_port


@pytest.fixture
def start():
    """Start a stack of no processes in a directory, with servers that are not there."""

    def start_in(directory):
        addresses = {"mongo_uri": "mongodb://127.0.0.1:1/", "kafka": "127.0.0.1:1"}
        run_stack(Settings(), data_dir=directory, out=io.StringIO(), processes=(), **addresses)

    return start_in


def test_a_directory_that_cannot_be_made_is_told(start, tmp_path):
    """Fails without `_told` in `run_stack`."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(SettingsError, match=r"no stack can run in .*/file/below: .*--data-dir"):
        start(file / "below")


def test_a_lock_that_cannot_be_opened_is_told(start, tmp_path):
    """Fails with `_told` around the `mkdir` of `run_stack` only."""
    (tmp_path / "lock").mkdir()
    with pytest.raises(SettingsError, match=r"no stack can run in .*: .*lock.*--data-dir"):
        start(tmp_path)


def test_a_file_where_mongods_files_belong_is_told(tmp_path):
    """Fails with `mkdir` before the `try` of `Mongod.start`."""
    file = tmp_path / "mongod"
    file.touch()
    mongod = Mongod(Path("mongod"), data=file, log=tmp_path / "log", port=free_port())
    with pytest.raises(StoreUnavailable, match=r"cannot be started: .*/mongod.*--data-dir"):
        mongod.start()
