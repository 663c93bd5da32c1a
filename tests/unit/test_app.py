"""Health is progress, not liveness."""

import time

import pytest

from streams.app import StageProcess
from streams.endpoints import Endpoints
from streams.kafka.faust.worker import StageWorker
from streams.settings import Settings, StageSettings
from streams.stages.stage import Stage
from tests.pipelines import STAGES

SINK = STAGES["sink"]


class IdleStep:
    """Does nothing."""

    def run(self, events):
        return []

    def self_test(self):
        return True

    def versions(self):
        return {}


@pytest.fixture
def process():
    settings = Settings(stage=StageSettings(stall_seconds=60, batch_size=8))
    made = StageProcess(SINK, settings, revision=lambda: 0)

    async def deliver(records):
        return None

    made._stage = Stage(SINK, IdleStep(), settings.stage, tenant="a.b", deliver=deliver)
    return made


def stand_still(process, seconds):
    process._stage.progress._last = time.monotonic() - seconds


def test_process_that_loads_its_model_is_healthy_and_not_ready():
    loading = StageProcess(SINK, Settings(), revision=lambda: 0)
    assert loading.health().is_ok
    assert loading.readiness().reason == "loading"


def test_idle_stage_is_healthy_for_ever(process):
    process._worker.lag.note(0)
    stand_still(process, 10_000)
    assert process.health().is_ok


@pytest.mark.parametrize(("in_flight", "lag"), [(5, 0), (0, 5), (5, None), (0, None)])
def test_stage_that_has_work_or_may_have_and_does_not_move_is_not_healthy(process, in_flight, lag):
    process._stage.progress.begin(in_flight)
    process._worker.lag.note(lag)
    stand_still(process, 59)
    assert process.health().is_ok
    stand_still(process, 61)
    assert not process.health().is_ok
    assert "nothing moved for 61 s" in process.health().reason


@pytest.fixture
def joined(process, monkeypatch):
    """A process that has partitions and a broker."""
    monkeypatch.setattr(StageWorker, "has_broker", True)
    process._worker.has_assignment = True
    return process


def test_waiting_on_purpose_is_healthy_and_not_ready(joined):
    process = joined
    process._stage.progress.begin(5)
    stand_still(process, 61)
    process._stage.progress.beat()
    process._stage._isolator._hold("MongoDB is away")
    assert process.health().is_ok
    assert process.readiness().reason == "waits for MongoDB is away"


def test_model_that_is_broken_for_good_is_not_healthy(joined):
    """Fails when whatever is waited for on purpose is healthy."""
    joined._stage.progress.begin(5)
    joined._stage._isolator._failed_tests = 2
    assert joined.health().is_ok
    joined._stage._isolator._failed_tests = 3
    assert not joined.health().is_ok
    assert "failed its self-test 3 times in a row" in joined.health().reason


def test_stage_that_makes_no_progress_is_not_ready_long_before_it_is_not_healthy(joined):
    """Fails when a stage that has its neighbours is ready whatever it does."""
    joined._worker.lag.note(3)
    stand_still(joined, 11)
    assert joined.readiness().is_ok
    stand_still(joined, 13)
    assert joined.readiness().reason == "work waits and nothing moved for 13 s"
    assert joined.health().is_ok


def test_stage_without_partitions_broker_or_leader_is_not_ready(joined, monkeypatch):
    assert joined.readiness().is_ok
    monkeypatch.setattr(StageWorker, "has_broker", False)
    assert joined.readiness().reason == "waits for the Kafka broker"
    partitions = ["captions.changes[1]", "captions.changes[3]"]
    monkeypatch.setattr(StageWorker, "has_broker", True)
    monkeypatch.setattr(StageWorker, "leaderless", partitions)
    expected = "waits for a broker that leads captions.changes[1] and 1 more"
    assert joined.readiness().reason == expected
    joined._worker.has_assignment = False
    assert joined.readiness().reason == "joining the consumer group"


def test_process_that_is_itself_not_ready_joins_no_group_and_stays_healthy(joined):
    """Fails without `beat` in the wait: it would be restarted for want of progress."""
    reasons = ["promote it"] * 3
    joined._waits_for = lambda: reasons[-1] if reasons else ""
    assert joined.readiness().reason == "promote it"
    assert joined._report(joined._stage, endpoints()).models == []
    joined._worker.lag.note(None)
    stand_still(joined, 10_000)
    joined._waits_for = lambda: reasons.pop() if reasons else ""
    joined._wait_until_ready(joined._stage)
    assert reasons == []
    assert joined.health().is_ok


def endpoints():
    return Endpoints(url="http://x", close=lambda: None)
