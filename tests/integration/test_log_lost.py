"""A broker that is not ours to supervise loses its log: the publisher finds out by itself."""

from streams import metrics
from streams.capture.copies import CopyRequests
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import CHANGES
from streams.kafka.offsets import is_cut
from streams.kafka.topics import create_topics, topic_name
from streams.mongo.client import state_database
from tests.integration.conftest import Published, publishing
from tests.integration.test_capture_faults import limited
from tests.integration.test_publisher import mark
from tests.waiting import wait_until


def test_lost_log_is_noticed_and_everything_is_copied(settings, client, documents, broker):
    """By a term that begins, and by one that is idle. Fails without `has_lost_log` there."""
    kafka = settings.kafka.model_copy(update={"bootstrap_servers": broker.bootstrap_servers})
    settings = settings.model_copy(update={"kafka": kafka})
    published = Published(settings)
    before = metrics.LOG_LOST._value.get()

    def begin_with_an_empty_log():
        broker.kill()
        broker.start()
        create_topics(kafka, DEFAULT)

    begin_with_an_empty_log()
    with publishing(settings, client):
        mark(documents, published, 0)
    begin_with_an_empty_log()
    with publishing(limited(settings, interval_seconds=600.0), client):
        published.wait_for("mark0", ["copy"])
        mark(documents, published, 1)
    with publishing(settings, client):
        begin_with_an_empty_log()
        wait_until(lambda: {"mark0", "mark1"} <= published.ids(), doing="another copy")
        copied_at = state_database(client, settings.mongo)["positions"].find_one()["copied_at"]
        assert not CopyRequests(state_database(client, settings.mongo)).is_open(copied_at)
    assert metrics.LOG_LOST._value.get() == before + 2


def test_log_that_is_as_long_as_it_was_is_not_cut(settings, client, documents, published):
    """Fails with ends as LATEST tells them: after a batch that is too little on some brokers."""
    documents.insert_many([{"_id": number, "img": b"x"} for number in range(50)])
    with publishing(settings, client):
        wait_until(lambda: len(published.ids()) == 50, doing="the copy")
        mark(documents, published)
    kept = state_database(client, settings.mongo)["positions"].find_one()["acknowledged"]
    acknowledged = {int(number): offset for number, offset in kept.items()}
    topic = topic_name(CHANGES, settings.kafka)
    assert sum(acknowledged.values()) + len(acknowledged) == 51
    assert not is_cut(topic, acknowledged, settings.kafka)
    assert is_cut(topic, {**acknowledged, 0: acknowledged[0] + 1}, settings.kafka)
    assert is_cut(topic, {7: 0}, settings.kafka), "a partition that is gone"
