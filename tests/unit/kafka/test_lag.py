"""What waits is counted, and what cannot be counted is not taken for nothing."""

import asyncio

import pytest

from streams.kafka.faust.lag import count_waiting
from streams.kafka.faust.worker import StageWorker
from streams.settings import KafkaSettings, StageSettings
from streams.stages.stage import Stage
from tests.pipelines import STAGES
from tests.unit.test_app import IdleStep

SINK = STAGES["sink"]


class FakeConsumer:
    """Partitions by name, each with its end and its position."""

    def __init__(self, **partitions):
        self._partitions = partitions

    def assignment(self):
        return set(self._partitions)

    def highwater(self, partition):
        return self._partitions[partition][0]

    async def position(self, partition):
        return self._partitions[partition][1]


@pytest.mark.parametrize(
    ("partitions", "waiting"),
    [
        ({}, 0),
        ({"a": (10, 4), "b": (7, 7)}, 6),
        ({"a": (10, 4), "b": (12, 0)}, 7),
        ({"a": (10, 6), "b": (12, 0)}, 2),
        ({"a": (10, 10), "c": (None, 3)}, None),
        ({"a": (10, 10), "c": (3, None)}, None),
    ],
    ids=["no partition", "positions", "handled", "left out", "no fetch", "no position"],
)
def test_what_is_not_fetched_is_unknown(partitions, waiting):
    """Fails when a partition without a highwater counts as empty."""
    skipped = {("a", 6): 8, ("a", 8): 9, ("b", 6): 9}
    assert asyncio.run(count_waiting(FakeConsumer(**partitions), {"b": 11}, skipped)) == waiting


@pytest.fixture
def worker():
    return StageWorker(SINK, KafkaSettings(), StageSettings())


def measured(worker, consumer, *, is_rebalancing=False):
    """Whether a measurement takes the stage for one that has nothing to do."""
    stage = Stage(SINK, IdleStep(), StageSettings(), tenant="a.b", deliver=None)
    stage.progress._last = before = -1.0
    worker.app.consumer = consumer
    worker.app.rebalancing = is_rebalancing
    asyncio.run(worker._measure_lag(stage))
    return stage.progress._last != before


def test_only_a_count_of_nothing_is_progress(worker):
    """Fails without `has_assignment` and `rebalancing` in `_measure_lag`: a join may hang."""
    nothing, unfetched = FakeConsumer(), FakeConsumer(a=(None, 3))
    assert not measured(worker, nothing)
    assert worker.lag.value is None
    asyncio.run(worker._on_assigned())
    assert measured(worker, nothing)
    assert worker.lag.value == 0
    assert not measured(worker, nothing, is_rebalancing=True)
    assert not measured(worker, unfetched)
    assert worker.lag.value is None
    asyncio.run(worker._on_revoked())
    assert not worker.has_assignment
    assert not measured(worker, nothing)


class TakenAway(FakeConsumer):
    """A rebalance takes a partition just after the assignment was told, as aiokafka says it."""

    def highwater(self, partition):
        msg = f"{partition} is not assigned"
        raise AssertionError(msg)


def test_partition_that_goes_while_it_is_measured_is_borne(worker):
    """Fails without `AssertionError` in `_measure_lag`: it leaves the timer and ends the app."""
    asyncio.run(worker._on_assigned())
    worker.lag.note(7)
    assert not measured(worker, TakenAway(a=(3, 3)))
    assert worker.lag.value is None


def test_count_that_is_not_renewed_is_forgotten(worker):
    """Fails without `_FRESH_SECONDS`: the loop or the consumer hangs, and 0 stays for ever."""
    worker.lag.note(0)
    worker.lag._noted_at -= 3600
    assert worker.lag.value is None
