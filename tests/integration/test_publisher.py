"""From MongoDB to Kafka: what is published, what is not, and what a failure does to it."""

import itertools
import threading
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import pytest
from bson import Int64, ObjectId
from bson.timestamp import Timestamp
from kafka.errors import KafkaTimeoutError
from pymongo import ReadPreference
from pymongo.errors import AutoReconnect

from streams import metrics
from streams.capture.process import measure
from streams.capture.publisher import Publisher
from streams.contract.default_pipeline import DEFAULT
from streams.errors import BrokerUnavailable, CaptureError, LeaseLost, SettingsError
from streams.kafka.producer import EventProducer
from streams.mongo.client import connect, state_database
from streams.mongo.leadership import CopyState, Leadership, Position
from streams.settings import PublisherSettings
from tests.integration.conftest import publishing
from tests.waiting import DEADLINE_SECONDS, wait_until

MARK = "mark"


def mark(documents, published, number=0):
    """Insert a document and wait for its record: what came before it has been read."""
    documents.insert_one({"_id": f"{MARK}{number}", "img": b"x"})
    published.wait_for(f"{MARK}{number}", ["live"])


def position_row(client, settings):
    return state_database(client, settings.mongo)["positions"].find_one()


def test_insert_update_replace_and_delete_are_published_in_order(
    settings, client, documents, published
):
    with publishing(settings, client):
        documents.insert_one({"_id": 1, "img": b"a"})
        documents.update_one({"_id": 1}, {"$set": {"img": b"b"}})
        documents.replace_one({"_id": 1}, {"img": b"c"})
        documents.delete_one({"_id": 1})
        published.wait_for(1, ["live", "live", "live", "delete"])
    sources = [event.source for event in published.events()]
    assert sources == sorted(sources)
    for event in published.events()[:-1]:  # fails without `wallTime` in the pipeline
        assert abs(event.changed_at.timestamp() - event.source.time) < 2
    tombstone = published.records()[-1]
    assert tombstone.value is None


def test_changes_of_other_fields_and_our_own_writes_publish_nothing(
    settings, client, documents, published
):
    documents.insert_one({"_id": 1, "img": b"a", "tags": ["x"]})
    with publishing(settings, client):
        for update in (
            {"$set": {"title": "new"}},
            {"$push": {"captions": "a cat"}},
            {"$set": {"_outputs.img.clip": {"version": "v"}}},
            {"$set": {"_outputs.img.clip.version": "w"}},
            {"$unset": {"_outputs": 1}},
            {"$set": {"img_url": "lookalike"}},
        ):
            documents.update_one({"_id": 1}, update)
        mark(documents, published)
        assert published.of(1) == ["copy"]
        documents.update_one({"_id": 1}, {"$set": {"img": b"b", "_outputs.x": 1}})
        published.wait_for(1, ["live"])


def test_every_kind_of_id_is_published(settings, client, documents, published):
    ids = [ObjectId(), 5, Int64(2**40), "text", {"a": 1, "b": [2]}, 1.5, True]
    with publishing(settings, client):
        documents.insert_many([{"_id": document_id, "img": b"x"} for document_id in ids])
        for document_id in ids:
            published.wait_for(document_id, ["live"])


def test_documents_of_before_the_first_start_are_copied(settings, client, documents, published):
    ids = [*range(30), *(f"name{number}" for number in range(30)), ObjectId()]
    documents.insert_many([{"_id": document_id, "img": b"x"} for document_id in ids])
    with publishing(settings, client):
        assert published.ids() == set(ids)
    assert {event.origin.value for event in published.events()} == {"copy"}


def test_half_done_copy_goes_on_where_it_was(settings, client, documents, published):
    documents.insert_many([{"_id": number, "img": b"x"} for number in range(20)])
    state = state_database(client, settings.mongo)
    leadership = Leadership(
        state, tenant=f"{settings.mongo.database}.{settings.mongo.collection}", lease_seconds=3
    )
    assert leadership.acquire()
    now = client.admin.command("ping")["operationTime"]
    copy = CopyState(source=now)
    leadership.begin_copy(Position(token=None, cluster_time=now, filter_hash="x"), copy)
    assert leadership.advance_copy(replace(copy, last=(14,)), {})
    leadership.release()
    with publishing(settings, client):
        mark(documents, published)
    assert published.ids() - {f"{MARK}0"} == set(range(15, 20))


def test_restart_goes_on_without_a_gap(settings, client, documents, published):
    with publishing(settings, client):
        mark(documents, published, 0)
    documents.insert_many([{"_id": number, "img": b"x"} for number in range(50)])
    with publishing(settings, client):
        mark(documents, published, 1)
    assert published.ids() >= set(range(50))


def test_clean_stop_repeats_nothing(settings, client, documents, published):
    """Fails without step 3 of `Term.run`: nothing else commits here."""
    seldom = PublisherSettings(
        commit_interval_seconds=600, heartbeat_interval_seconds=600, lease_seconds=3
    )
    with publishing(settings.model_copy(update={"publisher": seldom}), client):
        # The first heartbeat commits at once.
        wait_until(lambda: position_row(client, settings)["position"]["token"], doing="it")
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(50)])
        published.wait_for(49, ["live"])
    with publishing(settings, client):
        mark(documents, published)
    assert len(published.records()) == 51


class LossyProducer(EventProducer):
    """Loses the record of one document once, as a broker that is cut off does."""

    def __init__(self, settings, has_lost):
        super().__init__(settings)
        self._has_lost = has_lost  # outlives this producer: another follows after a loss

    def send(self, topic, record, done):
        if record.key == b'{"$numberInt":"7"}' and not self._has_lost.is_set():
            self._has_lost.set()
            done(KafkaTimeoutError("scripted"))
            return
        super().send(topic, record, done)


def test_lost_record_is_read_again_although_later_ones_were_acknowledged(
    settings, client, documents, published
):
    """Fails without `_error` in `Sender._finish`; what is safe then is shown in unit/capture."""
    has_lost = threading.Event()
    connect = partial(LossyProducer, settings.kafka, has_lost)
    with publishing(settings, client, connect_producer=connect):
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(20)])
        published.wait_for(7, ["live"])
        mark(documents, published)
    assert has_lost.is_set()
    assert published.ids() >= set(range(20))


class BreakingProducer(EventProducer):
    """Is cut off from the broker at the twentieth record, once."""

    def __init__(self, settings, numbers):
        super().__init__(settings)
        self._numbers = numbers  # they go on in the producer that follows

    def send(self, topic, record, done):
        if next(self._numbers) == 20:
            done(KafkaTimeoutError("scripted"))
            return
        super().send(topic, record, done)


def test_transaction_torn_in_the_middle_is_finished(settings, client, documents, published):
    """All events of a transaction have one clusterTime: only the token tells them apart.

    Fails with `start_at_operation_time` in place of the token: all of it comes again.
    """
    often = settings.model_copy(
        update={
            "publisher": PublisherSettings(
                window_events=2, commit_interval_seconds=0.001, lease_seconds=3
            )
        }
    )
    numbers = itertools.count(1)
    connect = partial(BreakingProducer, settings.kafka, numbers)
    documents.insert_one({"_id": "first", "img": b"x"})
    with publishing(often, client, connect_producer=connect):
        with client.start_session() as session, session.start_transaction():
            rows = [{"_id": number, "img": b"x"} for number in range(50)]
            documents.insert_many(rows, session=session)
        published.wait_for(49, ["live"])
    assert next(numbers) > 20
    assert published.ids() >= set(range(50))
    assert published.of(0) == ["live"], "it went on in the middle"


def test_collection_dropped_renamed_and_created_again(settings, client, documents, published):
    """Fails with a stream on the collection if nothing reopens it; either alone is enough."""
    with publishing(settings, client):
        mark(documents, published, 0)
        documents.drop()
        mark(documents, published, 1)
        documents.rename(documents.name + "_old")
        mark(documents, published, 2)


def test_database_dropped_and_created_again(settings, client, documents, published):
    """Fails without `is_invalidate` in `Term._publish`."""
    with publishing(settings, client):
        mark(documents, published, 0)
        client.drop_database(settings.mongo.database)
        mark(documents, published, 1)
        mark(documents, published, 2)


@pytest.mark.parametrize(
    "change",
    [
        {"position.filter_hash": "that of another release"},
        {"position.token": {"_data": "8200"}},
        {"position.token": {"_data": "garbage"}},
        {"position.token": None},
    ],
    ids=["filter changed", "token cut", "token garbage", "no token"],
)
def test_token_of_no_use_is_replaced_by_its_cluster_time(
    settings, client, documents, published, change
):
    """Fails without the second try by clusterTime in `ChangeStream.open`."""
    with publishing(settings, client):
        mark(documents, published, 0)
    state_database(client, settings.mongo)["positions"].update_one({}, {"$set": change})
    documents.insert_one({"_id": 1, "img": b"x"})
    with publishing(settings, client):
        published.wait_for(1, ["live"])


def test_damaged_position_is_refused_with_the_remedy(settings, client, documents, published):
    with publishing(settings, client):
        mark(documents, published, 0)
    state_database(client, settings.mongo)["positions"].update_one(
        {}, {"$set": {"position.cluster_time": "yesterday"}}
    )
    with pytest.raises(CaptureError, match="remove its document"):
        Publisher(settings, client, DEFAULT).run(threading.Event())


def fail_command(client, code, times=1, **options):
    """Let reads of a stream fail; without a code their connection is closed."""
    client.admin.command(
        {
            "configureFailPoint": "failCommand",
            "mode": {"times": times},
            "data": {
                "failCommands": ["aggregate", "getMore"],
                "appName": "captionstream",
                **({"closeConnection": True} if code is None else {"errorCode": code}),
                **options,
            },
        }
    )


@pytest.mark.parametrize("code", [286, 136])
def test_lost_history_is_counted_and_everything_is_copied(
    settings, client, documents, published, mongo_client, code
):
    """Fails without the code in `_HISTORY_LOST`."""
    before = metrics.HISTORY_LOST._value.get()
    with publishing(settings, client):
        documents.insert_one({"_id": 1, "img": b"x"})
        published.wait_for(1, ["live"])
        fail_command(mongo_client, code, errorLabels=["NonResumableChangeStreamError"])
        published.wait_for(1, ["copy"])
        mark(documents, published)
    assert metrics.HISTORY_LOST._value.get() == before + 1


@pytest.mark.parametrize("code", [43, 10107, 280, 11602, 6, None])
def test_broken_stream_goes_on_without_a_gap(
    settings, client, documents, published, mongo_client, code
):
    """Fails without the translation of errors in `ChangeStream`: the publisher would end.

    The driver resumes once by itself, so it fails thrice.
    """
    with publishing(settings, client):
        mark(documents, published, 0)
        fail_command(mongo_client, code, times=3)
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(10)])
        published.wait_for(9, ["live"])
    assert published.ids() >= set(range(10))


def test_primary_that_steps_down_is_waited_for(
    settings, client, documents, published, mongo_client
):
    """Fails without `except Unavailable` in `Publisher.run`.

    The driver waits for a primary by itself; here it may not wait for so long.
    """
    hasty = settings.mongo.model_copy(update={"timeout_seconds": 1.0})
    with connect(hasty) as impatient, publishing(settings, impatient) as publisher:
        mark(documents, published, 0)
        with suppress(AutoReconnect):  # it closes the connection that asks
            mongo_client.admin.command("replSetStepDown", 300, force=True)
        try:
            wait_until(lambda: publisher.waits_for, doing="the publisher to notice")
        finally:  # it may be elected again
            anyone = ReadPreference.SECONDARY_PREFERRED
            mongo_client.admin.command("replSetFreeze", 0, read_preference=anyone)
        mark(documents, published, 1)


def test_idle_stream_keeps_a_young_position(settings, client, documents, published):
    with publishing(settings, client):
        mark(documents, published, 0)
        before = position_row(client, settings)["position"]["token"]
        documents.update_many({}, {"$set": {"_outputs.x": 1}})  # filtered
        wait_until(
            lambda: position_row(client, settings)["position"]["token"] != before,
            doing="the heartbeat",
        )


def test_second_publisher_stands_by_and_takes_over(settings, client, documents, published):
    long = settings.publisher.model_copy(update={"lease_seconds": 60.0})
    patient = settings.model_copy(update={"publisher": long})
    stop = threading.Event()
    with publishing(patient, client) as first:
        wait_until(lambda: first.is_leading, doing="the first to lead")
        second = Publisher(settings, client, DEFAULT)
        thread = threading.Thread(target=second.run, args=(stop,), daemon=True)
        thread.start()
        wait_until(lambda: not second.waits_for, doing="the second to stand by")
        assert not second.is_leading
        assert second.source_lag_seconds == 0
        mark(documents, published, 0)
    wait_until(lambda: second.is_leading, doing="the takeover")
    mark(documents, published, 1)
    stop.set()
    thread.join(timeout=DEADLINE_SECONDS)


def test_state_database_of_another_pipeline_is_refused(client, settings):
    """Fails without the look at other rows in `acquire`: two pipelines moved the same pointers."""
    state = state_database(client, settings.mongo)
    first, second = (Leadership(state, tenant=name, lease_seconds=60) for name in ("a.b", "a.c"))
    assert first.acquire()
    said = r"that of a\.b: set CAPTIONSTREAM_MONGO__STATE_DATABASE .* for a\.c; .*remove"
    with pytest.raises(SettingsError, match=said):
        second.acquire()
    assert first.acquire(), "the second one leaves nothing behind"


def test_fenced_publisher_cannot_commit(settings, client):
    """Fails without owner and epoch in the filter of `Lease.write`."""
    state = state_database(client, settings.mongo)
    first, second = (Leadership(state, tenant="a.b", lease_seconds=60) for _ in range(2))
    assert first.acquire()
    assert not second.acquire()
    over = {"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}
    state["positions"].update_one({"_id": "a.b"}, {"$set": over})
    assert second.acquire()
    position = Position(token=None, cluster_time=Timestamp(1, 1), filter_hash="x")
    with pytest.raises(LeaseLost, match="another publisher holds the lease"):
        first.commit(position)
    second.commit(position)
    assert second.epoch == first.epoch + 1


def test_broker_away_is_waited_for(settings, client, documents, published):
    """The producer cannot be made three times; nothing is lost meanwhile."""
    attempts = []

    def connect():
        attempts.append(1)
        if len(attempts) <= 3:
            return EventProducer(
                settings.kafka.model_copy(
                    update={"bootstrap_servers": "127.0.0.1:1", "request_timeout_seconds": 0.2}
                )
            )
        return EventProducer(settings.kafka)

    documents.insert_one({"_id": 1, "img": b"x"})
    with publishing(settings, client, connect_producer=connect):
        published.wait_for(1, ["copy"])
    assert len(attempts) >= 4


def test_certificates_that_are_being_renewed_are_waited_for(settings, client, documents, published):
    """Fails without `except SettingsError` in `Publisher.run`."""
    attempts = []

    def connect():
        attempts.append(1)
        if len(attempts) == 2:
            msg = "certificate and key do not fit together"
            raise SettingsError(msg)
        producer = EventProducer(settings.kafka)
        if len(attempts) == 1:
            producer.close()  # its term fails at the first record
        return producer

    with publishing(settings, client, connect_producer=connect):
        mark(documents, published)
    assert len(attempts) >= 3


def test_lag_grows_while_nothing_can_be_published(settings, client, documents, published):
    """Fails when the gauge is set by a term: without a broker there is none."""
    with publishing(settings, client):
        mark(documents, published)

    def refuse():
        msg = "scripted"
        raise BrokerUnavailable(msg)

    stop = threading.Event()
    publisher = Publisher(settings, client, DEFAULT, connect_producer=refuse)
    thread = threading.Thread(target=publisher.run, args=(stop,))
    measure(publisher)
    lag = lambda: metrics.SOURCE_LAG.collect()[0].samples[0].value  # noqa: E731
    thread.start()
    try:
        wait_until(lambda: publisher.waits_for == "scripted", doing="the broker to be away")
        before = lag()
        wait_until(lambda: lag() > before + 0.5, doing="the lag to grow")
        kept = position_row(client, settings)["position"]["cluster_time"].time
        assert lag() == pytest.approx(time.time() - kept, abs=5)
    finally:
        stop.set()
        thread.join(timeout=DEADLINE_SECONDS)


def test_large_documents_do_not_break_the_stream(settings, client, documents, published):
    """Each event would have more than 16 MB: the document, and what tells of its change.

    Fails with `full_document="updateLookup"` and without the `$project` of `build_filter`.
    """
    size = 16 * 1024 * 1024 - 60
    with publishing(settings, client):
        documents.insert_one({"_id": 1, "img": b"x" * size})
        documents.update_one({"_id": 1}, {"$set": {"img": b"y" * size}})
        documents.replace_one({"_id": 1}, {"img": b"z" * size})
        published.wait_for(1, ["live", "live", "live"])


def test_requested_copy_publishes_everything_again(settings, client, documents, published):
    with publishing(settings, client):
        mark(documents, published, 0)
        now = client.admin.command("hello")["localTime"]
        state_database(client, settings.mongo)["requests"].insert_one({"_id": "copy", "at": now})
        published.wait_for(f"{MARK}0", ["live", "copy"])
        mark(documents, published, 1)


class WithholdingProducer(EventProducer):
    """Tells of no acknowledgement until it is released."""

    def __init__(self, settings):
        super().__init__(settings)
        self.held = []
        self.is_released = threading.Event()

    def send(self, topic, record, done):
        if self.is_released.is_set():
            super().send(topic, record, done)
        else:
            self.held.append(done)

    def release(self):
        self.is_released.set()
        for done in self.held:
            done(None)


def test_window_bounds_what_is_in_flight(settings, client, documents, published):
    """Fails without the wait for room in `_follow`."""
    small = settings.model_copy(
        update={
            "publisher": PublisherSettings(
                window_events=3, commit_interval_seconds=0.1, lease_seconds=3
            )
        }
    )
    producer = WithholdingProducer(settings.kafka)
    with publishing(small, client, connect_producer=lambda: producer) as publisher:
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(50)])
        wait_until(lambda: len(producer.held) == 3, doing="the window to be full")
        ticks = set()
        wait_until(lambda: len(ticks.add(publisher.last_tick) or ticks) > 5, doing="it to go round")
        assert len(producer.held) == publisher.in_flight == 3
        producer.release()
        published.wait_for(49, ["live"])
    assert published.ids() == set(range(3, 50))


def test_stream_is_read_on_during_a_copy(settings, client, documents, published, monkeypatch):
    """While a copy is held up, a user changes what was read for it: all that is published.

    Fails with a copy in the thread of the stream, and when the position is taken after the copy.
    """
    documents.insert_many([{"_id": number, "img": b"x"} for number in (1, 2)])
    publish = EventProducer.publish

    def meddle_and_publish(producer, topic, records):
        documents.update_one({"_id": 1}, {"$set": {"img": b"y"}})
        documents.delete_one({"_id": 2})
        documents.insert_one({"_id": 3, "img": b"x"})
        published.wait_for(3, ["live"])
        kept = position_row(client, settings)
        changed_at = published.events()[-1].source
        wait_until(
            lambda: position_row(client, settings)["position"]["cluster_time"] >= changed_at,
            doing="a position behind the change",
        )
        assert kept["copy"]["last"] == []
        return publish(producer, topic, records)

    monkeypatch.setattr(EventProducer, "publish", meddle_and_publish)
    with publishing(settings, client):
        pass
    assert published.of(1) == ["live", "copy"]
    assert published.of(2) == ["delete", "copy"]
