"""Health is progress, not liveness."""

import time

import pytest

from streams.app import StageProcess
from streams.settings import Settings, StageSettings
from streams.stages import SINK
from streams.stages.stage import Stage


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
    settings = Settings(stage=StageSettings(stall_seconds=60))
    made = StageProcess(SINK, settings)

    async def deliver(records):
        return None

    made._stage = Stage(SINK, IdleStep(), settings.stage, tenant="a.b", deliver=deliver)
    return made


def stand_still(process, seconds):
    process._stage.progress._last = time.monotonic() - seconds


def test_process_that_loads_its_model_is_healthy_and_not_ready():
    loading = StageProcess(SINK, Settings())
    assert loading.health().is_ok
    assert loading.readiness().reason == "loading"


def test_idle_stage_is_healthy_for_ever(process):
    process._worker.lag = 0
    stand_still(process, 10_000)
    assert process.health().is_ok


@pytest.mark.parametrize(("in_flight", "lag"), [(5, 0), (0, 5), (5, None)])
def test_stage_that_has_work_and_does_not_move_is_not_healthy(process, in_flight, lag):
    process._stage.progress.begin(in_flight)
    process._worker.lag = lag
    stand_still(process, 59)
    assert process.health().is_ok
    stand_still(process, 61)
    assert not process.health().is_ok
    assert "nothing moved for 61 s" in process.health().reason


def test_waiting_on_purpose_is_healthy_and_not_ready(process):
    process._worker.has_assignment = True
    process._stage.progress.begin(5)
    stand_still(process, 61)
    process._stage.progress.beat()
    process._stage._isolator._hold("MongoDB is away")
    assert process.health().is_ok
    assert process.readiness().reason == "waits for MongoDB is away"


def test_stage_without_partitions_is_not_ready(process):
    assert process.readiness().reason == "joining the consumer group"
    process._worker.has_assignment = True
    assert process.readiness().is_ok
