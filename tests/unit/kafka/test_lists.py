"""Records in lists: which are taken, how many at once, and what is read of a fetch."""

import asyncio

import pytest
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.kafka.faust.application import build_app
from streams.settings import KafkaSettings

PLACE = TopicPartition("changes", 0)


@pytest.fixture
def run():
    """Runs a coroutine function with a consumer that is never started."""

    def run(use):
        async def main():
            app = build_app("clip", KafkaSettings(bootstrap_servers="127.0.0.1:1"))
            consumer = app.consumer
            consumer._thread.thread_loop.close()
            app.flow_control.resume()
            return await asyncio.wait_for(use(consumer), 30)

        return asyncio.run(main())

    return run


def records(*offsets):
    return [ConsumerRecord("changes", 0, o, 0, 0, b"k", b"v", None, 1, 1, ()) for o in offsets]


def messages(consumer, *offsets):
    return [consumer._to_message(PLACE, record) for record in records(*offsets)]


async def take(consumer, most=10, within=0.0):
    return [message.offset for message in await consumer.take(most, within=within)]


def test_what_is_there_is_taken_at_once_and_no_more_than_asked_for(run):
    async def use(consumer):
        await consumer._lists.put(messages(consumer, 0, 1, 2, 3))
        return [await take(consumer, 3) for _ in range(2)]

    assert run(use) == [[0, 1, 2], [3]]


def test_what_keeps_coming_is_collected(run):
    """Fails when `take` returns with the first list: many small batches cost most."""

    async def use(consumer):
        taking = asyncio.create_task(take(consumer, 3, within=3600))
        for offset in range(4):
            await consumer._lists.put(messages(consumer, offset))
        return await taking

    assert run(use) == [0, 1, 2]


def test_what_comes_after_the_time_is_over_is_returned_at_once(run):
    """Fails when the time begins with the first record."""

    async def use(consumer):
        taking = asyncio.create_task(take(consumer, 3))
        for _ in range(20):  # turns of the loop
            await asyncio.sleep(0)
        await consumer._lists.put(messages(consumer, 0))
        return await taking

    assert run(use) == [0]


def test_what_is_taken_is_waited_for_by_a_rebalance_until_it_is_acknowledged(run):
    """Fails without `_unacked_messages`: partitions would go with a batch in hand."""

    async def use(consumer):
        consumer.app.topics._acking_topics.add("changes")
        await consumer._lists.put(messages(consumer, 0, 1, 2))
        taken = await consumer.take(2, within=0.0)
        before = {message.offset for message in consumer.unacked}
        consumer.ack(taken[0])
        return before, {message.offset for message in consumer.unacked}

    assert run(use) == ({0, 1}, {1})


@pytest.mark.parametrize("change", ["another generation", "partitions are going"])
def test_what_was_fetched_for_an_assignment_that_is_over_is_not_taken(run, change):
    """Fails without `_is_current`: another process may have it by now."""

    async def use(consumer):
        await consumer._lists.put(messages(consumer, 0))
        if change == "another generation":
            consumer.app.consumer_generation_id += 1
        else:
            consumer.app.flow_control.suspend()
        taking = asyncio.create_task(take(consumer))
        for _ in range(20):  # turns of the loop, for it to look
            await asyncio.sleep(0)
        consumer.app.flow_control.resume()
        await consumer._lists.put(messages(consumer, 7))
        return await taking

    assert run(use) == [7]


def test_nothing_is_handed_over_while_partitions_come_and_go(run):
    async def use(consumer):
        consumer.app.flow_control.suspend()
        handing = asyncio.create_task(consumer._hand_over(messages(consumer, 0)))
        await asyncio.sleep(0)
        before = consumer._lists.empty()
        consumer.app.flow_control.resume()
        await handing
        return before, consumer._lists.qsize()

    assert run(use) == (True, 1)


def test_records_from_before_a_seek_are_left_out_and_gaps_are_not_waited_for(run):
    """Fails without `_add_gap`: nothing behind a gap of a compacted log would be committed."""

    async def use(consumer):
        consumer._read_offset[PLACE] = 5
        read = await consumer._unread({PLACE: records(3, 4, 5, 6, 9)})
        gap = sorted((piece.begin, piece.end) for piece in consumer._gap[PLACE])
        return [message.offset for message in read], gap

    assert run(use) == ([5, 6, 9], [(7, 10)])
