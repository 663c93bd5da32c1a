"""What a copy publishes, in which order, and what it leaves to live changes."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from bson import ObjectId
from bson.timestamp import Timestamp

from streams.capture.copies import CopyRequests
from streams.capture.publisher import Publisher
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    Output,
    OutputError,
    fingerprint,
)
from streams.contract.states import Serving
from streams.contract.writes import OutputWrite
from streams.mongo.client import cluster_time, state_database
from streams.mongo.leadership import CopyState, Position
from streams.mongo.store import DocumentStore
from streams.reconcile.copy import Copier, behind, look_at
from streams.reconcile.reconciler import Reconciler
from streams.reconcile.repeats import Repeater
from tests.integration.conftest import held_lease
from tests.pipelines import CLIP, CLIP_PROJECTION
from tests.waiting import DEADLINE_SECONDS, wait_until

SERVING = Serving(pipeline=DEFAULT, versions={"clip": "c1", "clip_projection": "p1"})
OLD = Timestamp(100, 7)


@pytest.fixture
def store(client, settings):
    return DocumentStore(client, settings.mongo, DEFAULT)


@pytest.fixture
def lease(settings, client):
    return held_lease(settings, client)


@pytest.fixture
def copy(lease, client):
    """Begin a copy, or another one, as a term does."""

    def begin():
        before, now = lease.read().copy, cluster_time(client)
        start = before.here if before is not None else ()
        position = Position(token=None, cluster_time=now, filter_hash="x")
        lease.begin_copy(position, CopyState(source=now, start=start))
        return lease.read().copy

    return begin


def copier(settings, store, *, serving=lambda: SERVING, **limits):
    limits = settings.reconciler.model_copy(update={"chunk_timeout_seconds": 0.1, **limits})
    settings = settings.model_copy(update={"reconciler": limits})
    repeater = Repeater(settings, store, serving=serving, live_changes=lambda: 0)
    return Copier(settings, store, repeater)


def finish(store, document_id, *, image=b"x", source=OLD, clip="c1"):
    """Store what the stages make of an image."""
    made = {"value": np.ones(2, np.float32), "inputs": {"img": fingerprint(image)}}
    results = {
        CLIP: Output(version=clip, **made),
        CLIP_PROJECTION: Output(version="p1", features={"clip": clip}, **made),
    }
    write_all(store, document_id, results, source=source)


def write_all(store, document_id, results, **fields):
    store.write_outputs(
        [
            OutputWrite(document_id=document_id, model=model, result=result, **fields)
            for model, result in results.items()
        ]
    )


def test_finished_documents_are_left_out(settings, store, published, lease, copy):
    """Of the image, only its bytes tell; except for a document embedded since the copy began.

    Fails without the fingerprint in `is_finished` (1 is left out), and without its look at `since`
    (5 is published).
    """
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(7)])
    for number in (0, 1, 5, 6):
        finish(store, number)
    store.collection.update_one({"_id": 1}, {"$set": {"img": b"changed, and the record lost"}})
    error = OutputError(type="InvalidImage", message="", attempts=1, is_retryable=False)
    write_all(store, 3, {CLIP: replace(error, version="c1")}, source=OLD)
    finish(store, 4, clip="c0")
    store.collection.update_one({"_id": 6}, {"$unset": {"img": 1}})
    now = copy()
    finish(store, 5, image=b"another", source=now.source)
    copier(settings, store).go_on(lease, SERVING, threading.Event(), seconds=60)
    assert published.ids() == {1, 2, 3, 4, 6}
    assert {event.source for event in published.events()} == {now.source}
    assert lease.read().copy is None


def test_image_behind_a_url_counts_as_fetched(settings, store, published, lease, copy):
    """Fails without `output_from_url`."""
    url = "https://example.org/a.png"
    store.collection.insert_many([{"_id": number, "img": {"url": url}} for number in range(2)])
    for number, made_from in enumerate((url, "https://example.org/other.png")):
        finish(store, number)
        store.collection.update_one({"_id": number}, {"$set": {"_outputs.img.clip.url": made_from}})
    copy()
    copier(settings, store).go_on(lease, SERVING, threading.Event(), seconds=60)
    assert published.ids() == {1}


def test_one_chunk_is_under_way_at_a_time(settings, store, published, lease, copy):
    """The stand-in for the stages finishes them one by one.

    Fails when `_settle` takes what is finished by its versions for through: all go out at once.
    """
    store.collection.insert_many([{"_id": number, "img": b"new"} for number in range(6)])
    for number in range(6):
        finish(store, number)
    source = copy().source
    stop = threading.Event()
    looks = []  # at what serves, before each look at the chunk

    def serving():
        looks.append(SERVING)
        return SERVING

    working = copier(settings, store, serving=serving, chunk_size=2, chunk_timeout_seconds=60.0)
    thread = threading.Thread(
        target=working.go_on, args=(lease, SERVING, stop), kwargs={"seconds": 600}
    )
    thread.start()
    try:
        for done in range(0, 6, 2):
            wait_until(lambda done=done: len(published.ids()) > done, doing="a chunk")
            seen = len(looks)
            wait_until(lambda seen=seen: len(looks) > seen + 1, doing="two looks at it")
            assert published.ids() == {*range(done + 2)}
            for number in (done, done + 1):
                finish(store, number, image=b"new", source=source)
        thread.join(DEADLINE_SECONDS)
        assert not thread.is_alive()
    finally:
        stop.set()
        thread.join(DEADLINE_SECONDS)
    assert lease.read().copy is None


def test_copy_goes_on_where_it_was_and_another_round_begins_there(
    settings, store, published, lease, copy
):
    """Nothing gets through, so each call publishes one chunk.

    Fails when another copy begins at the first id: 4 and 5 are never reached if it begins often.
    """
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(6)])
    copy()

    def go_on():
        before = published.ids(), len(published.events())
        copier(settings, store, chunk_size=2).go_on(lease, SERVING, threading.Event(), seconds=60)
        found = [event.document_id for event in published.events()]
        return sorted(set(found) - before[0]) if len(found) > before[1] else []

    assert go_on() == [0, 1]
    assert go_on() == [2, 3]
    copy()
    assert lease.read().copy.start == (3,)
    assert go_on() == [4]  # and 3 again
    assert published.of(3) == ["copy", "copy"]
    while lease.read().copy is not None:
        go_on()
    assert [len(published.of(number)) for number in range(6)] == [2, 2, 2, 2, 1, 1]


def test_term_begins_another_round_where_the_copy_was(settings, client, store, lease, copy):
    """A copy is asked for while one is under way. Fails without `here` in `Term._begin_copy`."""
    store.collection.insert_one({"_id": 1, "img": b"x"})
    state = copy()
    assert lease.advance_copy(replace(state, last=(1,)), {})
    lease.release()
    CopyRequests(state_database(client, settings.mongo)).ask()
    publisher = Publisher(settings, client, DEFAULT)
    stop = threading.Event()
    thread = threading.Thread(target=publisher.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: lease.read().copy.source > state.source, doing="another copy")
    finally:
        stop.set()
        thread.join(DEADLINE_SECONDS)
    assert lease.read().copy.start == (1,)


def test_reconciler_works_on_the_copy(settings, client, store, published, lease, copy):
    """Fails without `go_on` in `Reconciler.run`."""
    store.collection.insert_one({"_id": 1, "img": b"x"})
    copy()
    reconciler = Reconciler(settings, client, DEFAULT, serving=lambda: SERVING, lease=lambda: lease)
    stop = threading.Event()
    thread = threading.Thread(target=reconciler.run, args=(stop,))
    thread.start()
    try:
        published.wait_for(1, ["copy"])
        wait_until(lambda: lease.read().copy is None, doing="its end")
    finally:
        stop.set()
        thread.join(DEADLINE_SECONDS)


def test_step_of_a_copy_is_not_kept_for_the_next_one(lease, copy):
    """Fails without `copy.source` in the filter: documents of the new copy would be passed over."""
    first = copy()
    copy()
    assert not lease.advance_copy(replace(first, last=(5,)), {})
    assert not lease.end_copy(first, {})
    assert lease.read().copy.last == ()


def test_large_id_is_not_kept(lease, copy):
    """Fails without `_KEPT_BYTES`: beside a large token the position had no room for it."""
    state = copy()
    assert lease.advance_copy(replace(state, last=("a",)), {})
    assert lease.advance_copy(replace(state, last=("x" * 2_000_000,)), {})
    assert lease.read().copy.last == ("a",)


@pytest.mark.parametrize("start", [(), (300,), ("name7",)])
def test_round_reaches_every_id_of_every_type_once(store, start):
    """Fails with `$gt` in place of `min`, which compares within one type only."""
    ids = [*range(600), *(f"name{number}" for number in range(600)), ObjectId()]
    store.collection.insert_many([{"_id": document_id} for document_id in ids])
    found, state = [], CopyState(source=OLD, start=start)
    for _ in range(30):  # so that an endless copy ends
        look = look_at(store, state, SERVING, most_unfinished=64)
        found += look.unfinished
        state = behind(state, look)
        if state is None:
            break
    assert found[:1] == [*start, 0][:1]
    assert len(found) == len(ids)
    assert set(found) == set(ids)
