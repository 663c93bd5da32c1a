"""Clients that find no broker leave nothing behind."""

import threading

import pytest

from streams.errors import BrokerUnavailable
from streams.kafka.offsets import is_cut, reset_lost_offsets
from streams.kafka.producer import EventProducer
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import connect_admin
from streams.settings import KafkaSettings
from tests.descriptors import descriptors

#: Of loops; the library leaves refused connections to the collector.
LOOPS = "anon_inode:[eventpoll]"
AWAY = KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_seconds=0.1)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda: connect_admin(AWAY),
        lambda: reset_lost_offsets("group", ["topic"], AWAY),
        lambda: is_cut("topic", {0: 1}, AWAY),
        lambda: list(read_topics(["topic"], AWAY)),
        lambda: EventProducer(AWAY),
    ],
    ids=["admin", "reset_lost_offsets", "is_cut", "read_topics", "producer"],
)
def test_attempts_without_a_broker_leave_nothing_open(attempt):
    """Fails without `closing` in `open_client`: a stage that waits for hours has no descriptors."""
    threads, opened = set(threading.enumerate()), descriptors(LOOPS)
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
            attempt()
    assert set(threading.enumerate()) <= threads
    assert descriptors(LOOPS) <= opened
