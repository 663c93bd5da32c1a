"""Rare inputs and events that must neither stop capture nor hold up the documents beside them."""

import threading
from datetime import UTC, datetime
from functools import partial

import numpy as np
import pytest
from bson import SON, Int64
from bson.datetime_ms import DatetimeMS
from bson.raw_bson import RawBSONDocument
from bson.timestamp import Timestamp

from streams.capture import term
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    Output,
    OutputError,
    lookup,
)
from streams.contract.states import Serving
from streams.contract.writes import OutputWrite
from streams.errors import InvalidBundle
from streams.kafka.producer import EventProducer
from streams.mongo.client import cluster_time, state_database
from streams.mongo.leadership import CopyState
from streams.mongo.store import DocumentStore
from streams.reconcile.copy import behind, look_at
from streams.reconcile.reconciler import Reconciler
from tests.integration.conftest import held_lease, publishing
from tests.integration.test_publisher import MARK, fail_command, mark, position_row
from tests.pipelines import CLIP, CLIP_PROJECTION
from tests.waiting import DEADLINE_SECONDS, wait_until

SERVING = Serving(pipeline=DEFAULT, versions={"clip": "c1", "clip_projection": "p1"})
SOURCE = Timestamp(100, 7)


def limited(settings, **limits):
    return settings.model_copy(update={"reconciler": settings.reconciler.model_copy(update=limits)})


@pytest.fixture
def store(client, settings):
    store = DocumentStore(client, settings.mongo, DEFAULT)
    store.prepare()
    return store


def finish(store, document_id):
    """Store what the stages make of a repeat that was published by now."""
    now = cluster_time(store.collection.database.client)
    inputs = {"img": "ab"}
    results = {
        CLIP: Output(value=np.ones(2, np.float32), version="c1", inputs=inputs),
        CLIP_PROJECTION: Output(
            value=np.ones(2, np.float32), version="p1", features={"clip": "c1"}, inputs=inputs
        ),
    }
    store.write_outputs(
        [
            OutputWrite(document_id=document_id, source=now, model=model, result=result)
            for model, result in results.items()
        ]
    )


def copied(store, **state):
    """Ids in the order of the copy; at most 100 looks, so that an endless copy ends."""
    state = CopyState(source=SOURCE, **state)
    found = []
    for _ in range(100):
        look = look_at(store, state, SERVING, most_unfinished=64)
        found += look.unfinished
        state = behind(state, look)
        if state is None:
            return found
    pytest.fail("the copy does not end")


# --- copy ---------------------------------------------------------------------------------------
def test_id_that_python_takes_for_equal_to_the_last_is_copied(store):
    """The last one was deleted meanwhile. Fails without `document_key` in `look_at`."""
    store.collection.insert_one({"_id": True})
    assert copied(store, last=(Int64(1),)) == [True]


def test_id_with_fields_in_another_order_than_the_last_is_copied(store):
    """As above."""
    first, second = SON([("a", 1), ("b", 2)]), SON([("b", 2), ("a", 1)])
    store.collection.insert_one({"_id": second})
    assert len(copied(store, last=(dict(first),))) == 1


def test_copy_ends_behind_an_id_that_is_not_equal_to_itself(store):
    """Fails without `document_key` in `look_at`."""
    store.collection.insert_one({"_id": float("nan")})
    assert len(copied(store)) == 1


# --- publisher ----------------------------------------------------------------------------------
def test_id_too_large_for_kafka_does_not_stop_the_others(settings, client, documents, published):
    """Fails without `_MAX_KEY_BYTES` in `EventProducer.send`."""
    with publishing(settings, client):
        mark(documents, published, 0)
        large = "x" * 600_000  # Kafka would take it, and no stage could send on what it makes
        documents.insert_one({"_id": large, "img": b"x"})
        mark(documents, published, 1)
        wait_until(lambda: stored_error(documents, large), doing="the error in the document")
    assert stored_error(documents, large)["type"] == "InvalidId"


def stored_error(documents, document_id):
    return lookup(documents.find_one({"_id": document_id}), f"{CLIP.path}.error")


def test_collection_renamed_onto_ours_is_copied(settings, client, documents, published):
    """Fails without `brings_documents` in `_follow`."""
    with publishing(settings, client):
        mark(documents, published, 0)
        other = documents.database[f"{documents.name}_other"]
        other.insert_many([{"_id": number, "img": b"x"} for number in range(3)])
        other.rename(documents.name, dropTarget=True)
        published.wait_for(2, ["copy"])
        mark(documents, published, 1)


def test_copy_begun_by_a_rename_is_finished_after_a_restart(settings, client, documents, published):
    """Fails when `_follow` keeps the position behind the rename without the copy."""
    with publishing(settings, client):
        mark(documents, published, 0)
    other = documents.database[f"{documents.name}_other"]
    other.insert_one({"_id": 1, "img": b"x"})
    other.rename(documents.name, dropTarget=True)
    with publishing(settings, client):
        published.wait_for(1, ["copy"])


def test_date_that_python_cannot_hold_does_not_stop_the_others(
    settings, client, documents, published
):
    """Fails without `datetime_conversion` in `mongo.py`."""
    far = DatetimeMS(2**60)
    with publishing(settings, client):
        mark(documents, published, 0)
        documents.insert_one({"_id": far, "img": b"x"})
        published.wait_for(far, ["live"])
        mark(documents, published, 1)


def test_id_that_is_no_utf8_does_not_stop_the_others(settings, client, documents, published):
    """Fails without `unicode_decode_error_handler` in `mongo.py`."""
    fields = b"\x02_id\x00\x03\x00\x00\x00\xff\xfe\x00" + b"\x00"
    damaged = RawBSONDocument((len(fields) + 4).to_bytes(4, "little") + fields)
    with publishing(settings, client):
        mark(documents, published, 0)
        documents.insert_one(damaged)
        mark(documents, published, 1)


@pytest.mark.parametrize("request_fields", [{}, {"at": "now"}], ids=["no time", "a text"])
def test_malformed_request_does_not_stop_the_publisher(
    settings, client, documents, published, monkeypatch, request_fields
):
    """Fails without `except ValueError` in `Term._is_asked`."""
    monkeypatch.setattr(term, "_REQUEST_POLL_SECONDS", 0.0)
    with publishing(settings, client):
        mark(documents, published, 0)
        now = client.admin.command("hello")["localTime"]
        requests = state_database(client, settings.mongo)["requests"]
        requests.insert_one({"_id": "copy", **request_fields})
        mark(documents, published, 1)
        mark(documents, published, 2)
        requests.update_one({"_id": "copy"}, {"$set": {"at": now}})
        published.wait_for(f"{MARK}0", ["copy"])


def committing_seldom(settings):
    limits = {"commit_interval_seconds": 600.0, "heartbeat_interval_seconds": 600.0}
    publisher = settings.publisher.model_copy(update=limits)
    return settings.model_copy(update={"publisher": publisher})


def wait_for_first_commit(client, settings):
    """The first heartbeat commits at once; what is acknowledged after it stays uncommitted."""
    wait_until(lambda: position_row(client, settings)["position"]["token"], doing="a heartbeat")


def test_position_of_a_lost_history_is_not_committed_again(
    settings, client, documents, published, mongo_client
):
    """Nothing is left to copy, so only the loss itself can drop what was acknowledged before.

    Fails without `take_safe` where `Term.run` handles it.
    """
    seldom = committing_seldom(settings)
    with publishing(seldom, client):
        wait_for_first_commit(client, seldom)
        documents.insert_one({"_id": 1, "img": b"x"})
        documents.delete_one({"_id": 1})
        published.wait_for(1, ["live", "delete"])
        before = position_row(client, seldom)["position"]["cluster_time"]
        fail_command(mongo_client, 286, errorLabels=["NonResumableChangeStreamError"])

        def is_new():
            return position_row(client, seldom)["position"]["cluster_time"] > before

        wait_until(is_new, doing="a new position")
        begun_at = position_row(client, seldom)["position"]["cluster_time"]
    assert position_row(client, seldom)["position"]["cluster_time"] >= begun_at


def test_requested_copy_keeps_what_was_acknowledged_before(
    settings, client, documents, published, monkeypatch
):
    """Fails when `_begin_copy` forgets what `take_safe` returns."""
    monkeypatch.setattr(term, "_REQUEST_POLL_SECONDS", 0.0)
    seldom = committing_seldom(settings)
    with publishing(seldom, client):
        wait_for_first_commit(client, seldom)
        mark(documents, published, 0)
        before = position_row(client, seldom)["position"]["cluster_time"]
        now = client.admin.command("hello")["localTime"]
        state_database(client, seldom.mongo)["requests"].insert_one({"_id": "copy", "at": now})
        published.wait_for(f"{MARK}0", ["live", "copy"])
        assert position_row(client, seldom)["position"]["cluster_time"] > before


class BrokenCallback(EventProducer):
    """Calls back into code that has a fault, once."""

    def __init__(self, settings, has_failed):
        super().__init__(settings)
        self._has_failed = has_failed  # outlives this producer: another follows

    def send(self, topic, record, done):
        def broken(error):
            if record.key == b'{"$numberInt":"7"}' and not self._has_failed.is_set():
                self._has_failed.set()
                msg = "scripted"
                raise RuntimeError(msg)
            done(error)

        super().send(topic, record, broken)


def test_fault_in_a_callback_is_no_silent_stall(settings, client, documents, published):
    """Fails without `check` in `Term._follow`."""
    has_failed = threading.Event()
    connect = partial(BrokenCallback, settings.kafka, has_failed)
    with publishing(settings, client, connect_producer=connect):
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(20)])
        mark(documents, published)
        wait_until(
            lambda: published.of(7).count("live") + published.of(7).count("copy") >= 2,
            doing="the record with the broken callback to be read again",
        )
    assert has_failed.is_set()


# --- reconciler ---------------------------------------------------------------------------------
class Running:
    def __init__(self, settings, client, serving):
        self._stop = threading.Event()
        lease = held_lease(settings, client)
        self.reconciler = Reconciler(
            settings, client, DEFAULT, serving=serving, lease=lambda: lease
        )
        self.thread = threading.Thread(target=self.reconciler.run, args=(self._stop,))

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self.thread.join(timeout=DEADLINE_SECONDS)


def test_dropped_collection_is_reconciled_when_it_comes_again(settings, client, store, published):
    """Fails without `prepare` in `Reconciler._prepare`."""
    store.collection.drop()
    store.collection.insert_one({"_id": 1, "img": b"x"})
    with Running(settings, client, lambda: SERVING):
        wait_until(lambda: published.of(1), doing="the repeat")
        finish(store, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize(("error", "is_broken"), [(InvalidBundle, False), (KeyError, True)])
def test_no_error_ends_the_reconciler(settings, client, store, published, error, is_broken):
    """Fails without one of the two `except` in `run`."""
    broken = []

    def serving():
        broken.append(running.reconciler.broken_since is not None)
        if len(broken) < 3:
            msg = "scripted"
            raise error(msg)
        return SERVING

    store.collection.insert_one({"_id": 1, "img": b"x"})
    running = Running(settings, client, serving)
    with running:
        wait_until(lambda: published.of(1), doing="the repeat")
        finish(store, 1)
        wait_until(lambda: running.reconciler.broken_since is None, doing="it to be well again")
    assert broken[:3] == [False, is_broken, is_broken]


def test_documents_that_never_settle_do_not_hold_up_the_rest(settings, client, store, published):
    """A stand-in finishes every document but two. Fails without the deadline in `_settle`."""
    small = limited(settings, chunk_size=2, chunk_timeout_seconds=2.0, grace_seconds=0.5)
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(8)])
    done = set()
    with Running(small, client, lambda: SERVING):

        def others_are_done():
            for document_id in published.ids() - {0, 1} - done:
                finish(store, document_id)
                done.add(document_id)
            return done == set(range(2, 8))

        wait_until(others_are_done, doing="the documents behind the stuck ones")


def fail(store, document_ids, at=None):
    """Write a retryable error, as a stage does; with `at`, as if that had been long ago."""
    error = OutputError(type="ModelFailed", message="", attempts=3, is_retryable=True, version="c1")
    store.write_outputs(
        [OutputWrite(document_id=i, source=SOURCE, model=CLIP, result=error) for i in document_ids]
    )
    if at is not None:
        store.collection.update_many({}, {"$set": {f"{CLIP.path}.error.at": at}})


LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def test_error_that_comes_again_is_not_retried_in_every_scan(settings, client, store, published):
    """Fails without the look at `_retried` in `Retries.choose`."""
    store.collection.insert_one({"_id": 1, "img": b"x"})
    fail(store, [1], at=LONG_AGO)
    fast = limited(settings, interval_seconds=0.1, retry_after_seconds=600.0)
    looks = []
    with Running(fast, client, lambda: looks.append(1) or SERVING):
        published.wait_for(1, ["reconcile"])
        fail(store, [1])  # again, as the stage that retries it would
        seen = len(looks)
        wait_until(lambda: len(looks) > seen + 10, doing="more scans")
    assert published.of(1) == ["reconcile"]


def test_error_of_a_clock_that_went_ahead_is_retried(settings, client, store, published):
    """Fails without the upper limit in `Retries.due`."""
    store.collection.insert_one({"_id": 1, "img": b"x"})
    fail(store, [1], at=datetime(2100, 1, 1, tzinfo=UTC))
    patient = limited(settings, interval_seconds=0.1, retry_after_seconds=600.0)
    with Running(patient, client, lambda: SERVING):
        published.wait_for(1, ["reconcile"])


def test_one_scan_retries_one_chunk_at_most(settings, client, store, published):
    """A stored error looks settled, so settling cannot throttle retries.

    Fails without the limit in `Retries.choose`.
    """
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(30)])
    fail(store, range(30), at=LONG_AGO)
    looks, serving = [], [SERVING]
    seldom = limited(settings, interval_seconds=600.0, chunk_size=5)
    with Running(seldom, client, lambda: looks.append(1) or serving[0]):
        wait_until(lambda: len(looks) >= 2, doing="it to have seen what serves")
        serving[0] = Serving(
            pipeline=DEFAULT, versions={**SERVING.versions, "conditional_lm": "l1"}
        )
        wait_until(published.ids, doing="the first retries")
        seen = len(looks)
        wait_until(lambda: len(looks) > seen + 4, doing="the end of the scan")
        assert len(published.ids()) == 5


def test_one_document_at_a_time_while_nothing_gets_through(settings, client, store, published):
    """Fails without the new `_size` in `Reconciler._settle`."""
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(9)])
    small = limited(settings, chunk_size=4, chunk_timeout_seconds=0.3)
    reconciler = Reconciler(small, client, DEFAULT, serving=lambda: SERVING)
    assert [reconciler.reconcile_now() for _ in range(3)] == [4, 1, 1]
    for number in range(9):
        finish(store, number)
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(20, 23)])
    assert reconciler.reconcile_now() == 1
    finish(store, 20)
    assert len(published.records()) == 7
