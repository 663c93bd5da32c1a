"""Clients that find no broker leave nothing behind."""

import os
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from streams.capture.producer import EventProducer
from streams.errors import BrokerUnavailable
from streams.offsets import is_cut, reset_lost_offsets
from streams.settings import KafkaSettings
from streams.topic_log import read_topics
from streams.topics import connect_admin

AWAY = KafkaSettings(bootstrap_servers="127.0.0.1:1", request_timeout_seconds=0.1)


def descriptors():
    """Of loops and of what wakes them; the library leaves refused connections to the collector."""
    found = {each.fd for each in psutil.Process().net_connections("unix")}
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own is closed
            if os.readlink(entry) == "anon_inode:[eventpoll]":
                found.add(int(entry.name))
    return found


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
    threads, opened = set(threading.enumerate()), descriptors()
    for _ in range(3):
        with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
            attempt()
    assert set(threading.enumerate()) <= threads
    assert descriptors() <= opened
