"""What processes say of themselves, and what is done beside their work."""

import threading
from datetime import UTC, datetime

import pytest

from streams import metrics
from streams.following import Follower
from streams.mongo.client import state_database
from streams.mongo.processes import Report, Reporter, read_reports
from streams.stages.watchdog import HUNG, Watchdog, WatchedStep
from tests.waiting import wait_until


def report(stage="sink"):
    return Report(stage=stage, url="", is_ready=True)


def test_processes_of_one_host_and_number_are_told_apart(settings, mongo_client):
    """Fails with host and process id: two containers may have both in common."""
    state = state_database(mongo_client, settings.mongo)
    reporters = [Reporter(state, report) for _ in range(2)]
    for reporter in reporters:
        reporter.start()
    wait_until(lambda: len(read_reports(state)) == 2, doing="both reports")
    assert len({found.process for found in read_reports(state)}) == 2
    reporters[0].stop()
    assert len(read_reports(state)) == 1
    reporters[1].stop()
    assert read_reports(state) == []


def test_report_of_another_format_is_not_seen(settings, mongo_client):
    """Fails without the format in `read_reports`."""
    state = state_database(mongo_client, settings.mongo)
    reporter = Reporter(state, report)
    reporter.start()
    wait_until(lambda: read_reports(state), doing="the report")
    state["processes"].insert_one({"format": 2, "at": datetime.now(UTC), "stage": ["sink"]})
    assert [found.stage for found in read_reports(state)] == ["sink"]
    reporter.stop()


def test_report_that_cannot_be_made_once_is_made_again(settings, mongo_client):
    """Fails when an unexpected error ends the thread of the reporter."""
    state = state_database(mongo_client, settings.mongo)
    faults = [ValueError("scripted")]

    def describe():
        if faults:
            raise faults.pop()
        return report()

    reporter = Reporter(state, describe)
    reporter.start()
    wait_until(lambda: read_reports(state), doing="a report")
    reporter.stop()


def test_unexpected_errors_are_counted_and_end_nothing():
    calls = []

    def look():
        calls.append(1)
        msg = "scripted"
        raise RuntimeError(msg)

    counted = metrics.FOLLOWER_ERRORS.labels("test")
    follower = Follower(look, name="test", seconds=0.001, at_once=True)
    follower.start()
    wait_until(lambda: len(calls) >= 3, doing="three looks")
    follower.stop()
    assert counted._value.get() == len(calls)


@pytest.mark.parametrize("broken", ["refresh", "mark_hanging"])
def test_watchdog_ends_a_process_that_hangs_whatever_else_fails(broken):
    """Fails when an unexpected error ends the thread, or comes before the end of the process."""

    class Notes:
        def __getattr__(self, name):
            def note(*_):
                if name == broken:
                    msg = "scripted"
                    raise TypeError(msg)

            return note

    step = WatchedStep(HangingStep(), Notes(), beat=lambda: None)
    step.in_hand = ["an event"]
    ended = threading.Event()
    codes = []

    def end(code):
        codes.append(code)
        ended.set()

    watchdog = Watchdog(step, Notes(), seconds=0.02, end=end)
    watchdog.start()
    assert ended.wait(60)
    watchdog.stop()
    assert codes[0] == HUNG


class HangingStep:
    """Has one event in hand for ever."""

    def versions(self):
        return {"clip": "c1"}
