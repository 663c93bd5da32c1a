"""A record that another client has written, and that ours cannot read, is in nobody's way."""

import asyncio

import pytest
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition

from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import CHANGES
from streams.kafka.faust.lag import count_waiting
from streams.kafka.faust.worker import StageWorker
from streams.kafka.offsets import is_cut, reset_lost_offsets
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, topic_name
from tests.pipelines import STAGES
from tests.unreadable import UNREADABLE, send
from tests.waiting import wait_until


@pytest.fixture
def topic(settings):
    """Its first partition holds readable records around a batch that is not."""
    create_topics(settings.kafka, DEFAULT)
    name = topic_name(CHANGES, settings.kafka)
    servers = settings.kafka.bootstrap_servers
    assert send(servers, name, [(b"0", [])]) == [0]
    assert send(servers, name, [(b"1", []), (b"2", UNREADABLE), (b"3", [])]) == [1, 2, 3]
    assert send(servers, name, [(b"4", []), (b"5", [])]) == [4, 5]
    return name


def test_end_of_the_log_is_known_all_the_same(settings, topic):
    """Fails without `CorruptRecordError` in `_ends`: every term of the publisher would end."""
    assert not is_cut(topic, {0: 1}, settings.kafka)
    assert is_cut(topic, {0: 6}, settings.kafka)


def test_positions_are_looked_at_all_the_same(settings, topic):
    """Fails without `CorruptRecordError` in `_ends`: a stage would wait for ever for the broker."""
    send(settings.kafka.bootstrap_servers, topic, [(b"0", UNREADABLE)], partition=1)
    group = f"{settings.kafka.prefix}group"
    consumer = KafkaConsumer(bootstrap_servers=settings.kafka.bootstrap_servers, group_id=group)
    consumer.commit({TopicPartition(topic, 1): OffsetAndMetadata(80, "", -1)})
    consumer.close()
    assert reset_lost_offsets(group, [topic], settings.kafka) == 1
    assert reset_lost_offsets(group, [topic], settings.kafka) == 0


def test_records_around_it_are_read(settings, topic):
    """Fails without `seek` in `_poll`, and without `assign` in `read_topics`."""
    send(settings.kafka.bootstrap_servers, topic, [(b"other", [])], partition=1)
    found = [
        (position, message.value) for position, message in read_topics([topic], settings.kafka)
    ]
    assert [value for position, value in found if position.startswith("0:")] == [
        b"0",
        b"1",
        b"4",
        b"5",
    ]
    assert [value for position, value in found if position.startswith("1:")] == [b"other"]


class Collecting:
    """A stage that keeps what it is given."""

    is_stopping = False

    def __init__(self):
        self.values = []

    async def handle(self, messages):
        self.values += [message.value for message in messages]
        return messages

    async def until_ready(self):
        await asyncio.Event().wait()  # nothing is held behind other records


def test_stage_goes_on_behind_it(settings, topic):
    """Fails without `_Fetched`: the consumer crashes at the record, after every start.

    Nothing waits in the end: fails without `skipped` in `count_waiting`.
    """
    servers = settings.kafka.bootstrap_servers
    assert send(servers, topic, [(b"6", UNREADABLE), (b"7", [])]) == [6, 7]
    assert send(servers, topic, [(b"8", UNREADABLE)]) == [8]
    worker = StageWorker(STAGES["clip"], settings.kafka, settings.stage)
    stage = Collecting()
    worker._declare_agent(stage)

    async def run():
        async with worker.app:
            await asyncio.to_thread(wait_until, lambda: b"5" in stage.values, doing="the last")
            skipped = worker.app.transport.skipped
            async with asyncio.timeout(100):
                while await count_waiting(worker.app.consumer, worker._next_offset, skipped) != 0:
                    await asyncio.sleep(0.05)

    asyncio.run(run())
    assert stage.values == [b"0", b"1", b"4", b"5"]
