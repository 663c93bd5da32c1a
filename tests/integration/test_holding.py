"""A stage that holds a batch for long, with more records waiting than it buffers."""

import asyncio
import threading

import pytest
from aiokafka.consumer.subscription_state import SubscriptionState

from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import CHANGES
from streams.kafka.faust.worker import StageWorker
from streams.kafka.topics import create_topics, topic_name
from streams.stages import stages_of
from tests.unreadable import send
from tests.waiting import wait_until

_BACKLOG = 1000
_DAY_SECONDS = 24 * 3600


class Holding:
    """A stage that keeps its first batch until it is let go."""

    is_stopping = False

    def __init__(self):
        self.let_go = threading.Event()
        self.values = set()

    async def handle(self, messages):
        await asyncio.to_thread(self.let_go.wait)
        self.values |= {message.value for message in messages}
        return messages

    async def until_ready(self):
        await asyncio.Event().wait()  # nothing is held behind other records


@pytest.fixture
def looks(monkeypatch):
    """Let a day pass for the consumer in each second of a hold; its looks at that are noted."""
    seconds = SubscriptionState.fetcher_idle_time.fget
    found = []

    def idle(state):
        if (days := seconds(state)) > 1:
            found.append(days)
        return days * _DAY_SECONDS

    monkeypatch.setattr(SubscriptionState, "fetcher_idle_time", property(idle))
    return found


def test_stage_goes_on_after_a_hold_of_days(settings, looks):
    """Fails with a poll interval of 1,000 s: the consumer leaves its group and never returns."""
    create_topics(settings.kafka, DEFAULT)
    name = topic_name(CHANGES, settings.kafka)
    values = [str(i).encode() for i in range(_BACKLOG)]
    send(settings.kafka.bootstrap_servers, name, [(value, []) for value in values])
    worker = StageWorker(stages_of(DEFAULT)["clip"], settings.kafka, settings.stage)
    stage = Holding()
    worker._declare_agent(stage)

    def is_held_for_days():
        return len(looks) > 1 or (looks and not worker.has_assignment)

    async def run():
        async with worker.app:
            await asyncio.to_thread(wait_until, is_held_for_days, doing="a hold")
            stage.let_go.set()
            await asyncio.to_thread(
                wait_until, lambda: len(stage.values) == _BACKLOG, 60, doing="the backlog"
            )

    asyncio.run(run())
