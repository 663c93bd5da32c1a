"""Positions left over from a log that is gone."""

import pytest
from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition

from streams import app
from streams.capture.copies import CopyRequests
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import CHANGES
from streams.errors import BrokerUnavailable
from streams.kafka import offsets
from streams.kafka.offsets import reset_lost_offsets
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, topic_name
from streams.mongo.client import state_database
from streams.settings import KafkaSettings
from tests.pipelines import STAGES

GROUP = "offsets-test"


@pytest.fixture
def topic(settings):
    create_topics(settings.kafka, DEFAULT)
    name = topic_name(CHANGES, settings.kafka)
    producer = KafkaProducer(bootstrap_servers=settings.kafka.bootstrap_servers)
    for number in range(10):
        producer.send(name, key=b"k", value=str(number).encode(), partition=0)
    producer.flush()
    producer.close()
    return name


@pytest.fixture
def group(settings):
    consumer = KafkaConsumer(
        bootstrap_servers=settings.kafka.bootstrap_servers,
        group_id=settings.kafka.prefix + GROUP,
        enable_auto_commit=False,
    )
    yield consumer
    consumer.close()


def commit(group, topic, offset):
    group.commit({TopicPartition(topic, 0): OffsetAndMetadata(offset, "", -1)})


@pytest.mark.parametrize(("offset", "lost"), [(80, 1), (10, 0), (3, 0)])
def test_only_a_position_beyond_the_end_is_set_back(settings, topic, group, offset, lost):
    """Fails without the comparison with the end in `reset_lost_offsets`."""
    commit(group, topic, offset)
    found = reset_lost_offsets(settings.kafka.prefix + GROUP, [topic], settings.kafka)
    assert found == lost
    expected = 0 if lost else offset
    assert group.committed(TopicPartition(topic, 0)) == expected


def test_group_that_never_committed_is_left_alone(settings, topic, group):
    assert reset_lost_offsets(settings.kafka.prefix + GROUP, [topic], settings.kafka) == 0
    assert group.committed(TopicPartition(topic, 0)) is None


class FakeConsumer:
    """One partition whose older records have expired."""

    def __init__(self, committed):
        self._committed = committed

    def partitions_for_topic(self, _):
        return {0}

    def beginning_offsets(self, partitions):
        return dict.fromkeys(partitions, 7)

    def committed(self, _):
        return self._committed

    def highwater(self, _):
        return 20

    def assign(self, _):
        """Nothing."""

    def seek(self, *_):
        """Nothing."""

    def close(self):
        """Nothing."""


@pytest.mark.parametrize(("committed", "lost"), [(None, 1), (6, 1), (7, 0), (20, 0)])
def test_records_that_expired_before_they_were_read_are_lost(monkeypatch, committed, lost):
    """Fails without `expired`: Faust would go on with what is left, and nobody would know."""
    monkeypatch.setattr(offsets, "KafkaConsumer", lambda **_: FakeConsumer(committed))
    assert reset_lost_offsets("g", ["t"], KafkaSettings()) == lost


def test_stage_that_lost_records_asks_for_a_copy(settings, mongo_client, monkeypatch):
    """Fails without `ask` in `_reset_lost_offsets`."""
    requests = CopyRequests(state_database(mongo_client, settings.mongo))
    for lost in (0, 2):
        monkeypatch.setattr(app, "reset_lost_offsets", lambda *_, lost=lost: lost)
        process = app.StageProcess(STAGES["clip"], settings, revision=lambda: 0)
        process._reset_lost_offsets(requests)
        assert requests.is_open(None) is bool(lost)


def test_topics_of_a_broker_that_is_away_cannot_be_read(settings):
    """Fails without the translation of the first error in `read_topics`."""
    away = settings.kafka.model_copy(
        update={"bootstrap_servers": "127.0.0.1:1", "request_timeout_seconds": 0.5}
    )
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1.*BOOTSTRAP_SERVERS"):
        list(read_topics(["any"], away))


def test_broker_without_topics_has_no_records(settings):
    """Fails without the look at `partitions` in `read_topics`."""
    assert list(read_topics([topic_name(CHANGES, settings.kafka)], settings.kafka)) == []
