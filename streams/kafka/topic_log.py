"""Reading whole topics as they are now, without joining a group."""

import time
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition
from kafka.errors import CorruptRecordError, KafkaError
from structlog import get_logger

from streams.errors import BrokerUnavailable
from streams.kafka.clients import open_client
from streams.kafka.offsets import FETCH_WAIT_MS, partitions_of, step_over
from streams.kafka.security import broker_unavailable
from streams.settings import KafkaSettings

log = get_logger(__name__)

#: Without one record for so long, nobody waits any longer.
_STILL_SECONDS: Final = 60.0


def read_topics(
    topics: Sequence[str],
    settings: KafkaSettings,
    *,
    starts: Mapping[tuple[str, int], int] = MappingProxyType({}),
) -> Iterator[tuple[str, Any]]:
    """Yield each record of topics with its `partition:offset`, up to the high watermarks of now.

    The records of one partition come in order, whatever their number takes the same memory. What
    another client has written and ours cannot read is left out.

    Args:
        topics: Names on the broker.
        settings: Where the broker is.
        starts: Offset of the first record to read, by topic and partition; the log's beginning
            where there is none, and where the log has become shorter than that.

    Raises:
        BrokerUnavailable: No broker answers, or no record came for a minute.
    """
    consumer = open_client(
        KafkaConsumer,
        settings,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        partitions = partitions_of(topics, consumer)
        if not partitions:  # no such topics yet, so nothing in them
            return
        consumer.assign(partitions)
        consumer.seek_to_beginning()
        for part in partitions:
            if (start := starts.get((part.topic, part.partition))) is not None:
                consumer.seek(part, start)
        try:
            yield from _read(consumer, partitions)
        except CorruptRecordError:
            # Nobody says whose record it was: each partition goes on by itself.
            rest = [part for part in partitions if not _is_read(consumer, part)]
            for part, begin in [(part, consumer.position(part)) for part in rest]:
                consumer.assign([])
                consumer.poll()  # forgets what it was about to read, else it would look for ever
                consumer.assign([part])
                consumer.seek(part, begin)
                yield from _read(consumer, [part])
    except KafkaError as exc:
        raise broker_unavailable(settings, exc) from exc
    finally:
        consumer.close()


def _read(
    consumer: KafkaConsumer, partitions: Sequence[TopicPartition]
) -> Iterator[tuple[str, Any]]:
    """Yield what stands in the assigned partitions behind their positions.

    Raises:
        BrokerUnavailable: Nothing comes any more, and it is not read to the end.
        CorruptRecordError: A record of one of several partitions cannot be read.
    """
    waiting = set(partitions)
    places = [consumer.position(part) for part in partitions]
    deadline = time.monotonic() + _STILL_SECONDS
    while waiting:
        for message in _poll(consumer, partitions):
            yield f"{message.partition}:{message.offset}", message
        # Fetches carry the right high watermark; asking for LATEST does not everywhere.
        waiting = {part for part in waiting if not _is_read(consumer, part)}
        before, places = places, [consumer.position(part) for part in partitions]
        if before != places:
            deadline = time.monotonic() + _STILL_SECONDS
        elif waiting and time.monotonic() > deadline:
            topics = ", ".join(sorted({part.topic for part in partitions}))
            msg = f"{topics}: no record came for {_STILL_SECONDS:.0f} s, and more are there"
            raise BrokerUnavailable(msg)


def _poll(consumer: KafkaConsumer, partitions: Sequence[TopicPartition]) -> list[Any]:
    """Return the next records; step over one that cannot be read, if it is clear where it stands.

    The rest of its batch cannot be read either, and is stepped over one by one.
    """
    try:
        polled = consumer.poll(timeout_ms=200)
    except CorruptRecordError as exc:
        if len(partitions) > 1:
            raise
        (part,) = partitions
        log.error(
            "a record cannot be read, it is left out",
            topic=part.topic,
            position=f"{part.partition}:{consumer.position(part)}",
            error=str(exc),
        )
        step_over(part, consumer)
        return []
    return [message for messages in polled.values() for message in messages]


def _is_read(consumer: KafkaConsumer, partition: TopicPartition) -> bool:
    end = consumer.highwater(partition)
    if end is not None and consumer.position(partition) > end:  # the broker has lost its log
        consumer.seek_to_beginning(partition)
        return bool(end == 0)
    return end is not None and consumer.position(partition) >= end
