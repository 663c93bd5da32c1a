"""Documents whose `_id` is too large for Kafka, for a query, or for an event of the stream."""

import pytest

from streams import metrics
from streams.capture import term
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import lookup
from streams.contract.states import Serving
from streams.errors import StoreUnavailable
from streams.mongo.client import cluster_time
from streams.mongo.store import DocumentStore
from streams.reconcile.reconciler import Reconciler
from streams.reconcile.repeats import Repeater
from tests.integration.conftest import publishing
from tests.integration.test_publisher import mark
from tests.pipelines import CLIP
from tests.waiting import wait_until

LARGE = "x" * 2_000_000


@pytest.fixture
def store(client, settings):
    store = DocumentStore(client, settings.mongo, DEFAULT)
    store.prepare()
    return store


def committing(settings, every_seconds):
    limits = {
        "commit_interval_seconds": every_seconds,
        "heartbeat_interval_seconds": max(1.0, every_seconds),
    }
    publisher = settings.publisher.model_copy(update=limits)
    return settings.model_copy(update={"publisher": publisher})


def stored_error(documents, document_id):
    return lookup(documents.find_one({"_id": document_id}), f"{CLIP.path}.error")


def test_refusal_is_noted_before_the_position_behind_it_is_kept(
    settings, client, documents, published, monkeypatch
):
    """Fails without the note before `_keep`: the event is never read again."""
    note, calls = term.note_refused, []

    def failing_once(refused, **options):
        calls.extend(refused)
        if refused and len(calls) == 1:
            msg = "scripted"
            raise StoreUnavailable(msg)
        note(refused, **options)

    monkeypatch.setattr(term, "note_refused", failing_once)
    with publishing(committing(settings, 0.001), client):
        mark(documents, published, 0)
        documents.insert_one({"_id": LARGE, "img": b"x"})
        wait_until(lambda: stored_error(documents, LARGE), doing="the error in the document")
    assert len(calls) == 2


def test_refusal_is_noted_at_the_end_of_a_term(settings, client, documents, published):
    """Fails without the note in `_commit`."""
    with publishing(committing(settings, 600.0), client):
        mark(documents, published, 0)
        documents.insert_one({"_id": LARGE, "img": b"x"})
        mark(documents, published, 1)
    assert stored_error(documents, LARGE)["type"] == "InvalidId"


def test_reconciler_notes_refusals_for_the_version_that_serves(settings, client, store, published):
    """Fails without `note_refused` in `Repeater._send`: pending for ever after a new CLIP."""
    store.collection.insert_one({"_id": LARGE, "img": b"x"})
    for version in ("c1", "c2"):
        serving = Serving(pipeline=DEFAULT, versions={"clip": version})
        reconciler = Reconciler(settings, client, DEFAULT, serving=lambda found=serving: found)
        assert reconciler.plan().total == 1
        assert reconciler.reconcile_now() == 0
        assert reconciler.plan().total == 0
        assert lookup(store.collection.find_one(), f"{CLIP.path}.version") == version


def test_ids_that_do_not_fit_into_one_query_are_asked_for_in_pieces(settings, client, store):
    """Fails without `split_ids`: no query may have more than 16 MB."""
    ids = [f"{number}{LARGE}" for number in range(9)]
    assert list(store.scan_states(ids)) == []
    repeater = Repeater(
        settings,
        store,
        serving=lambda: Serving(pipeline=DEFAULT, versions={}),
        live_changes=lambda: 0,
    )
    repeater.send(ids, cluster_time(client))
    assert repeater.published == 0


def test_event_too_large_for_the_stream_does_not_stop_it(settings, client, documents, published):
    """It carries the id three times, twice of them as hexadecimal digits in its token.

    Fails without 10334 in `_HISTORY_LOST`.
    """
    huge = "x" * 6_000_000
    before = metrics.HISTORY_LOST._value.get()
    with publishing(settings, client):
        mark(documents, published, 0)
        documents.insert_one({"_id": huge, "img": b"x"})
        documents.insert_one({"_id": "beside it", "img": b"x"})
        wait_until(lambda: stored_error(documents, huge), doing="the error in the document")
        wait_until(lambda: published.of("beside it"), doing="the document beside it")
        mark(documents, published, 1)
        mark(documents, published, 2)
    assert metrics.HISTORY_LOST._value.get() - before <= 2
