"""A guard at the start of a stage: committed positions that lie beyond the end of the log.

They are left over when a broker lost its log. Faust would silently drop every record below them,
so they are set back to the beginning; records are then processed again, which is harmless.
"""

import time
from typing import Any, Final

from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.errors import KafkaError
from structlog import get_logger

from streams.errors import BrokerUnavailable
from streams.kafka_security import broker_unavailable, client_arguments
from streams.settings import KafkaSettings

log = get_logger(__name__)

_END_SECONDS: Final = 30.0


def reset_lost_offsets(group: str, topics: list[str], settings: KafkaSettings) -> int:
    """Set committed offsets beyond the log's end back to its beginning; return how many there were.

    Args:
        group: Consumer group; none of its members may be running with these partitions.
        topics: Names on the broker.
        settings: Where the broker is.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    try:
        consumer = KafkaConsumer(
            **client_arguments(settings),
            group_id=group,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
    except (KafkaError, OSError) as exc:
        raise broker_unavailable(settings, exc) from exc
    try:
        lost = _lost_partitions(consumer, topics)
        if lost:
            log.error("positions beyond the end of the log are set back", partitions=len(lost))
            consumer.commit({partition: _beginning() for partition in lost})
        return len(lost)
    except KafkaError as exc:
        msg = f"cannot check the positions of {group}: {exc}"
        raise BrokerUnavailable(msg) from exc
    finally:
        consumer.close()


def _beginning() -> Any:
    return OffsetAndMetadata(0, "", -1)


def _lost_partitions(consumer: KafkaConsumer, topics: list[str]) -> list[TopicPartition]:
    partitions = [
        TopicPartition(topic, number)
        for topic in topics
        for number in sorted(consumer.partitions_for_topic(topic) or ())
    ]
    committed = {part: consumer.committed(part) for part in partitions}
    candidates = [part for part in partitions if committed[part]]
    if not candidates:
        return []
    ends = _ends(consumer, candidates)
    return [part for part in candidates if committed[part] > ends[part]]


def _ends(consumer: KafkaConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
    """Return high watermarks as fetches tell them; LATEST is not right on every broker."""
    consumer.assign(partitions)
    consumer.seek_to_beginning()
    deadline = time.monotonic() + _END_SECONDS
    while True:
        consumer.poll(timeout_ms=100, max_records=1)
        ends = {part: consumer.highwater(part) for part in partitions}
        if None not in ends.values():
            return ends
        if time.monotonic() > deadline:
            msg = f"the broker did not tell the end of {partitions} in {_END_SECONDS:.0f} s"
            raise BrokerUnavailable(msg)
