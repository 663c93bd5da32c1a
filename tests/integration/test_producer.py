"""The producer of a publisher's term ends with the term, whatever the broker does."""

import threading

from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import Record
from streams.contract.pipeline import CHANGES
from streams.kafka.producer import EventProducer
from streams.kafka.topics import create_topics
from streams.settings import KafkaSettings
from tests.waiting import wait_until


def test_close_ends_the_session_although_a_record_cannot_be_sent(broker):
    """Fails with the client's own `close`: it flushes first, and gives up when that fails."""
    broker.start()
    kafka = KafkaSettings(bootstrap_servers=broker.bootstrap_servers)
    create_topics(kafka, DEFAULT)
    before = set(threading.enumerate())
    producer = EventProducer(kafka)
    sending = set(threading.enumerate()) - before
    assert sending
    broker.kill()
    errors = []
    producer.send(CHANGES, Record(key=b"1", value=b"{}", headers=()), errors.append)
    producer.close()
    wait_until(lambda: not any(thread.is_alive() for thread in sending), doing="its threads to end")
    assert [error is not None for error in errors] == [True], "nobody may wait for it"
