"""Where a log begins and ends, and positions that lie outside: records were lost, or have expired.

A stage looks at its start. Positions beyond the end are left over when a broker lost its log: Faust
would silently drop every record below them, so they are set back to the beginning. Records before
the beginning were removed before the stage has read them. The publisher looks whether the log still
reaches as far as it was once acknowledged. Either way a copy of everything makes good what is lost.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import CorruptRecordError, KafkaError
from structlog import get_logger

from streams.errors import BrokerUnavailable
from streams.kafka.clients import open_client
from streams.settings import KafkaSettings

log = get_logger(__name__)

_END_SECONDS: Final = 30.0
#: How long a fetch waits at the broker where there is nothing to read.
FETCH_WAIT_MS: Final = 100


def reset_lost_offsets(group: str, topics: list[str], settings: KafkaSettings) -> int:
    """Set committed offsets beyond the log's end back to its beginning.

    Args:
        group: Consumer group; none of its members may be running with these partitions.
        topics: Names on the broker.
        settings: Where the broker is.

    Returns:
        In how many partitions records were lost: these, and those whose next record has expired.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    with _consumer(settings, group) as consumer:
        partitions = partitions_of(topics, consumer)
        begins = consumer.beginning_offsets(partitions)
        committed = {part: consumer.committed(part) for part in partitions}
        known = {part: offset for part, offset in committed.items() if offset}
        ends = _ends(consumer, dict.fromkeys(known, 0))
        beyond = [part for part, offset in known.items() if offset > ends[part]]
        if beyond:
            log.error("positions beyond the end of the log are set back", partitions=len(beyond))
            consumer.commit({part: OffsetAndMetadata(begins[part], "", -1) for part in beyond})
        expired = [part for part in partitions if (committed[part] or 0) < begins[part]]
        if expired:
            log.error("records have expired before they were read", partitions=len(expired))
        return len(beyond) + len(expired)


def is_cut(topic: str, acknowledged: Mapping[int, int], settings: KafkaSettings) -> bool:
    """Whether a log is shorter than it was: the broker lost it, or a part of it.

    Args:
        topic: Name on the broker.
        acknowledged: Offset of the last record that the broker has acknowledged, by partition.
        settings: Where the broker is.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    if not acknowledged:
        return False
    with _consumer(settings, None) as consumer:
        present = {part.partition: part for part in partitions_of([topic], consumer)}
        if not acknowledged.keys() <= present.keys():
            return True
        ends = _ends(consumer, {present[n]: offset + 1 for n, offset in acknowledged.items()})
        return any(ends[present[n]] <= offset for n, offset in acknowledged.items())


def partitions_of(topics: Sequence[str], consumer: KafkaConsumer) -> list[TopicPartition]:
    """Return the partitions of topics, in order; none of a topic that is not there."""
    return [
        TopicPartition(topic, number)
        for topic in topics
        for number in sorted(consumer.partitions_for_topic(topic) or ())
    ]


def step_over(partition: TopicPartition, consumer: KafkaConsumer) -> None:
    """Move on: kafka-python would look for ever for a next record where one cannot be read."""
    consumer.seek(partition, consumer.position(partition) + 1)


@contextmanager
def _consumer(settings: KafkaSettings, group: str | None) -> Iterator[KafkaConsumer]:
    consumer = open_client(
        KafkaConsumer,
        settings,
        group_id=group,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )
    try:
        yield consumer
    except KafkaError as exc:
        msg = f"cannot find where Kafka's log begins and ends: {exc!r}"
        raise BrokerUnavailable(msg) from exc
    finally:
        consumer.close()


def _ends(
    consumer: KafkaConsumer, starts: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Return high watermarks as fetches bring them; LATEST is not right on every broker.

    Args:
        consumer: Without partitions.
        starts: From where to fetch, by partition: near the end there is less to read.
    """
    consumer.assign(list(starts))
    for partition, offset in starts.items():
        consumer.seek(partition, offset)
    deadline = time.monotonic() + _END_SECONDS
    while True:
        ends = {part: consumer.highwater(part) for part in starts}
        if None not in ends.values():
            return ends
        if time.monotonic() > deadline:
            msg = f"the broker did not send the end of {list(starts)} in {_END_SECONDS:.0f} s"
            raise BrokerUnavailable(msg)
        try:
            consumer.poll(timeout_ms=100, max_records=1)
        except CorruptRecordError:  # the end is noted before a record is looked at
            for part in starts:
                if consumer.highwater(part) is not None:
                    step_over(part, consumer)
