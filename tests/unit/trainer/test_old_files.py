"""What jobs leave behind: what is removed, and what somebody still needs."""

import json
import os
import time

import pytest

from trainer.fit.run_directory import RUN, held
from trainer.job.old_files import remove_old


@pytest.fixture
def snapshots(tmp_path):
    """Six snapshots, 0 the oldest, each with the run that a job made of it."""
    for number in range(6):
        snapshot = tmp_path / "snapshots" / str(number)
        snapshot.mkdir(parents=True)
        (snapshot / "documents.parquet").write_text("rows")
        make_run(tmp_path, f"run{number}", str(number), age=100 - number)
        aged(snapshot, 100 - number)
    return tmp_path / "snapshots"


def make_run(directory, name, snapshot_id, *, age, is_job=True):
    place = directory / "runs" / name
    (place / "bundle").mkdir(parents=True)
    (place / RUN).write_text(json.dumps({"snapshot_id": snapshot_id, "is_job": is_job}))
    aged(place, age)
    return place


def aged(path, seconds):
    then = time.time() - seconds
    os.utime(path, (then, then))


def names(parent):
    return sorted(path.name for path in parent.iterdir())


def test_the_newest_stay_and_older_ones_go(snapshots, tmp_path):
    remove_old(tmp_path, keep=2)
    assert names(snapshots) == ["4", "5"]
    assert names(tmp_path / "runs") == ["run4", "run5"]


def test_what_somebody_made_or_works_with_stays_with_its_snapshot(snapshots, tmp_path):
    """Fails without `is_job`, without the lock, and without `used`."""
    make_run(tmp_path, "mine", "0", age=1000, is_job=False)
    with held(tmp_path / "runs" / "run2"):
        aged(tmp_path / "runs" / "run2", 1000)
        remove_old(tmp_path, keep=2)
        assert names(tmp_path / "runs") == ["mine", "run2", "run4", "run5"]
        assert names(snapshots) == ["0", "2", "4", "5"]


def test_a_snapshot_that_nobody_finished_goes_and_one_that_grows_stays(snapshots, tmp_path):
    for name, age in (("stale", 4000), ("growing", 10)):
        place = snapshots / f".taking.{name}"
        place.mkdir()
        (place / "documents.parquet").write_text("rows")
        aged(place / "documents.parquet", age)
        aged(place, 4000)
    remove_old(tmp_path, keep=9)
    assert names(snapshots) == [".taking.growing", *"012345"]


def test_a_directory_that_is_new_is_no_error(tmp_path):
    remove_old(tmp_path, keep=1)
    assert names(tmp_path) == []
