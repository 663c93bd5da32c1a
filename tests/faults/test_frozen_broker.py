"""A broker that does not answer for a while."""

import os
import signal

from streams.contract.default_pipeline import DEFAULT
from streams.kafka.topics import create_topics
from tests.integration.conftest import publishing
from tests.integration.test_capture_faults import limited
from tests.waiting import wait_until

WINDOW, DOCUMENTS = 20, 300


def test_publisher_stops_reading_while_the_broker_is_frozen(
    settings, client, documents, published, broker
):
    """Fails without `wait_for_room` in `Term._follow`: all changes would be held in memory."""
    broker.start()
    own = settings.kafka.model_copy(
        update={"bootstrap_servers": broker.bootstrap_servers, "request_timeout_seconds": 60.0}
    )
    window = settings.publisher.model_copy(update={"window_events": WINDOW})
    settings = settings.model_copy(update={"kafka": own, "publisher": window})
    create_topics(own, DEFAULT)
    published = type(published)(settings)
    documents.insert_one({"_id": "first", "img": b"x"})
    # An idle publisher asks the broker how long its log is, and would wait for the answer.
    with publishing(limited(settings, interval_seconds=600.0), client) as publisher:
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            documents.insert_many([{"_id": number, "img": b"x"} for number in range(DOCUMENTS)])
            wait_until(lambda: publisher.in_flight >= WINDOW, doing="a full window")
            tick = publisher.last_tick
            wait_until(lambda: publisher.last_tick > tick + 2, doing="some more turns of the loop")
            assert publisher.in_flight == WINDOW
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        wait_until(lambda: published.ids() >= set(range(DOCUMENTS)), doing="all records")
