"""Machines whose clocks differ."""

import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from streams.mongo.client import connect, state_database
from streams.mongo.processes import Report, Reporter, read_reports
from streams.settings import child_environment
from tests.faults.clock import JumpingClock
from tests.waiting import wait_until

ASK = """
from streams.mongo.client import connect, state_database
from streams.mongo.processes import read_reports
from streams.settings import load_settings
mongo = load_settings().mongo
with connect(mongo) as client:
    print(len(read_reports(state_database(client, mongo))))
"""


def test_reports_of_processes_long_dead_are_removed(settings, mongo_client):
    """Fails without `_forget_the_dead`: each killed process would leave one for ever."""
    state = state_database(mongo_client, settings.mongo)
    old = datetime.now(UTC) - timedelta(days=2)
    state["processes"].insert_many(
        [{"_id": "long dead", "at": old}, {"_id": "dead", "at": datetime.now(UTC)}]
    )
    reporter = Reporter(state, report)
    reporter.start()
    wait_until(lambda: state["processes"].count_documents({}) == 2, doing="the new report")
    assert {row["_id"] for row in state["processes"].find()} >= {"dead"}
    reporter.stop()
    assert [row["_id"] for row in state["processes"].find()] == ["dead"]


@pytest.mark.parametrize("hours", [-1, 1])
def test_process_is_seen_from_a_machine_with_another_clock(settings, tmp_path, hours):
    """Fails with `datetime.now` in place of `$$NOW` in `processes.py`."""
    clock = JumpingClock(tmp_path)
    if not clock.is_here:
        pytest.skip("no C compiler: the clock of a process cannot be shifted")
    clock.jump(3600 * hours)
    with connect(settings.mongo) as client:
        state = state_database(client, settings.mongo)
        reporter = Reporter(state, report)
        reporter.start()
        wait_until(lambda: read_reports(state), doing="the report")
        asked = subprocess.run(
            [sys.executable, "-c", ASK],
            env={**os.environ, **child_environment(settings), **clock.environment},
            capture_output=True,
            text=True,
            check=True,
        )
        reporter.stop()
        assert read_reports(state) == []
    assert asked.stdout.strip() == "1"


def report():
    return Report(
        stage="sink",
        url="http://127.0.0.1:1",
        is_ready=True,
        reason="",
        lag=0,
        documents=0,
        rate=0.0,
        versions={},
        models=[],
        in_flight=0,
    )
