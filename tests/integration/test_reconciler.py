"""What the reconciler repeats, on real servers."""

import itertools
import threading

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams import metrics
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, OutputError, fingerprint
from streams.contract.states import Recaption, Serving
from streams.contract.writes import OutputWrite
from streams.mongo.client import cluster_time, state_database
from streams.mongo.store import DocumentStore
from streams.reconcile import reconciler
from streams.reconcile.reconciler import Reconciler
from tests.integration.conftest import Published, held_lease
from tests.pipelines import CLIP, CLIP_PROJECTION, MODELS
from tests.waiting import DEADLINE_SECONDS, wait_until

SERVING = Serving(pipeline=DEFAULT, versions={"clip": "c1", "clip_projection": "p1"})
SOURCE = Timestamp(100, 7)


@pytest.fixture
def store(client, settings):
    store = DocumentStore(client, settings.mongo, DEFAULT)
    store.prepare()
    return store


@pytest.fixture
def behind_clip(settings):
    """Where a document enters for which CLIP has nothing to do."""
    return Published(settings, CLIP.name)


def with_limits(settings, **limits):
    return settings.model_copy(update={"reconciler": settings.reconciler.model_copy(update=limits)})


def finish(store, document_id, clip="c1", projection="p1", image="ab", source=SOURCE, numbers=2):
    made_of = {"value": np.ones(numbers, np.float32), "inputs": {"img": image}}
    results = {
        CLIP: Output(version=clip, **made_of),
        CLIP_PROJECTION: Output(version=projection, features={"clip": clip}, **made_of),
    }
    store.write_outputs(
        [write(document_id, model, result, source) for model, result in results.items()]
    )


def write(document_id, model, result, source=SOURCE):
    return OutputWrite(document_id=document_id, source=source, model=model, result=result)


class Reconciling:
    """A reconciler in a thread; a stand-in for the stages finishes what it publishes."""

    def __init__(self, settings, client, serving, **options):
        self.serving = serving
        self.looks = 0
        lease = held_lease(settings, client)
        self.reconciler = Reconciler(
            settings, client, DEFAULT, serving=self._look, lease=lambda: lease, **options
        )
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self.reconciler.run, args=(self._stop,))

    def _look(self):
        self.looks += 1
        return self.serving

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(timeout=DEADLINE_SECONDS)


def test_only_missing_and_stale_documents_are_repeated(settings, client, store, published):
    for number in range(6):
        store.collection.insert_one({"_id": number, "img": b"x"})
    for number in range(4):
        finish(store, number)
    finish(store, 4, clip="c0")  # by another version
    with Reconciling(settings, client, SERVING):
        published.wait_for(4, ["reconcile"])
        finish(store, 4)
        published.wait_for(5, ["reconcile"])
        finish(store, 5)
    assert published.ids() == {4, 5}


def test_repeat_carries_the_stored_source_and_never_a_newer_one(settings, client, store, published):
    store.collection.insert_one({"_id": 1, "img": b"x"})
    finish(store, 1, clip="c0")
    Reconciler(
        settings.model_copy(
            update={
                "reconciler": settings.reconciler.model_copy(update={"chunk_timeout_seconds": 0.1})
            }
        ),
        client,
        DEFAULT,
        serving=lambda: SERVING,
    ).reconcile_now()
    assert [event.source for event in published.events()] == [SOURCE]


def test_repeat_that_is_too_large_for_kafka_begins_at_the_beginning(
    settings, client, store, published, behind_clip
):
    """Fails without `again` in `Repeater._publish`: the document would stay as it is for ever."""
    store.collection.insert_one({"_id": 1, "img": b"x"})
    finish(store, 1, projection="p0", numbers=600_000)
    quick = with_limits(settings, chunk_timeout_seconds=0.1)
    Reconciler(quick, client, DEFAULT, serving=lambda: SERVING).reconcile_now()
    assert behind_clip.records() == []
    assert published.of(1) == ["reconcile"]


def test_publisher_that_is_deposed_publishes_nothing_more(settings, client, store, published):
    """It does not know yet. Fails without `_check_lease` in `Repeater._publish`."""
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(3)])
    one_by_one = with_limits(settings, chunk_size=1, grace_seconds=0.0)
    with Reconciling(one_by_one, client, SERVING) as running:
        wait_until(published.ids, doing="the first repeat")
        [first] = published.ids()
        positions = state_database(client, settings.mongo)["positions"]
        positions.update_one({}, {"$set": {"owner": "another publisher"}})
        finish(store, first, source=cluster_time(client))  # so that it goes on
        seen = running.looks
        wait_until(lambda: running.looks > seen + 5, doing="the end of its pass, and more")
    assert published.ids() == {first}


def test_more_documents_than_a_scan_takes_are_counted(
    settings, client, store, published, monkeypatch
):
    """Fails when the gauge shows what the scan has seen.

    The first scan sees all of them, as it takes none: none has been unfinished for long enough.
    """
    monkeypatch.setattr(reconciler, "_SCAN_LIMIT", 2)
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(7)])
    waiting = with_limits(settings, grace_seconds=0.0, chunk_timeout_seconds=0.1)
    with Reconciling(waiting, client, SERVING):
        wait_until(published.ids, doing="a repeat, and so the end of a scan that stopped early")
        assert metrics.RECONCILER_PENDING._value.get() == 7


def test_image_that_was_changed_without_an_event_is_found(
    settings, client, store, published, mongo_client
):
    """Fails without the sample in `plan`, and when the repeat carries the stored source."""
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(3)])
    for number in range(3):
        finish(store, number, image=fingerprint(b"x"))
    update = {"op": "u", "ns": store.tenant, "o": {"$v": 2, "diff": {"u": {"img": b"y"}}}}
    mongo_client.admin.command("applyOps", [{**update, "o2": {"_id": 1}}])
    assert store.collection.find_one({"_id": 1})["img"] == b"y"
    plain = Reconciler(
        with_limits(settings, chunk_timeout_seconds=0.1), client, DEFAULT, serving=lambda: SERVING
    )
    plan = plain.plan()
    assert (plan.total, plan.looked_at, plan.changed) == (1, 3, [1])
    assert plain.reconcile_now(plan.changed) == 1
    assert [(event.document_id, event.source > SOURCE) for event in published.events()] == [
        (1, True)
    ]


def test_promotion_makes_it_look_at_once(settings, client, store, published, behind_clip):
    slow = settings.model_copy(
        update={"reconciler": settings.reconciler.model_copy(update={"interval_seconds": 600.0})}
    )
    store.collection.insert_one({"_id": 1, "img": b"x"})
    finish(store, 1)
    with Reconciling(slow, client, SERVING) as running:
        wait_until(lambda: running.looks >= 2, doing="it to have seen what serves")
        running.serving = Serving(
            pipeline=DEFAULT, versions={**SERVING.versions, "clip_projection": "p2"}
        )
        wait_until(lambda: behind_clip.ids() == {1}, doing="the repeat")
        finish(store, 1, projection="p2")
    assert published.ids() == set(), "CLIP has nothing to do with it"


def test_chunks_bound_what_is_in_flight(settings, client, store, published):
    """Nobody finishes the first chunk, so the second is not published."""
    limits = {"chunk_size": 5, "chunk_timeout_seconds": 0.5}
    small = settings.model_copy(
        update={"reconciler": settings.reconciler.model_copy(update=limits)}
    )
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(20)])
    reconciler = Reconciler(small, client, DEFAULT, serving=lambda: SERVING)
    assert reconciler.reconcile_now() == 5
    assert len(published.records()) == 5


class NoWait(threading.Event):
    """An event that is never set, and whose waits end at once but are counted."""

    def __init__(self):
        super().__init__()
        self.longest = 0.0

    def wait(self, timeout=None):
        self.longest = max(self.longest, timeout or 0.0)
        return super().wait(min(timeout or 0.0, 0.01))


@pytest.mark.parametrize(
    ("live", "is_pausing"), [(lambda: 7, False), (itertools.count().__next__, True)]
)
def test_live_changes_get_most_of_the_time(settings, client, store, live, is_pausing):
    """The first of two chunks is finished; before the second, live changes have their turn."""
    limits = {"chunk_size": 2, "chunk_timeout_seconds": 0.5, "live_share": 0.1}
    chosen = settings.model_copy(
        update={"reconciler": settings.reconciler.model_copy(update=limits)}
    )
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(4)])
    calls = itertools.count()

    def serving():
        if next(calls) == 1:  # asked again while the first chunk is under way
            for number in (0, 1):
                finish(store, number, source=cluster_time(client))
        return SERVING

    stop = NoWait()
    Reconciler(chosen, client, DEFAULT, serving=serving, live_changes=live).reconcile_now(stop=stop)
    assert (stop.longest > 0.1) is is_pausing


def test_promotion_is_followed_when_the_stages_have_the_version(
    settings, client, store, published, behind_clip
):
    """What is published before would be made by the version that they still have."""
    loaded = threading.Event()
    asked = threading.Event()

    def is_loaded(serving):
        if serving.versions["clip_projection"] == "p2":
            asked.set()
            return loaded.is_set()
        return True

    store.collection.insert_one({"_id": 1, "img": b"x"})
    finish(store, 1)
    slow = settings.model_copy(
        update={"reconciler": settings.reconciler.model_copy(update={"interval_seconds": 600.0})}
    )
    with Reconciling(slow, client, SERVING, is_loaded=is_loaded) as running:
        wait_until(lambda: running.looks >= 2, doing="it to have seen what serves")
        running.serving = Serving(
            pipeline=DEFAULT, versions={**SERVING.versions, "clip_projection": "p2"}
        )
        wait_until(asked.is_set, doing="the question")
        assert published.records() == behind_clip.records() == []
        loaded.set()
        behind_clip.wait_for(1, ["reconcile"])
        finish(store, 1, projection="p2")


def test_plan_follows_what_the_promotion_said(settings, client, store):
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(4)])
    finish(store, 0)
    finish(store, 1, projection="p0")
    finish(store, 2, clip="c0", projection="p0")

    def plan(recaption):
        serving = Serving(
            pipeline=DEFAULT,
            versions=SERVING.versions,
            recaption={"clip": Recaption.NONE, "clip_projection": recaption},
        )
        return Reconciler(settings, client, DEFAULT, serving=lambda: serving).plan().by_model

    assert plan(Recaption.ALL) == {"clip": 1, "clip_projection": 2}
    assert plan(Recaption.STALE) == {"clip": 1, "clip_projection": 1}
    assert plan(Recaption.NONE) == {"clip": 1}


def test_retryable_error_is_tried_again_when_it_is_old_enough(settings, client, store):
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(3)])
    for number, is_retryable in enumerate((True, False)):
        error = OutputError(
            type="ModelFailed", message="", attempts=3, is_retryable=is_retryable, version="c1"
        )
        store.write_outputs([write(number, CLIP, error)])

    def retries(after):
        limits = settings.reconciler.model_copy(update={"retry_after_seconds": after})
        chosen = settings.model_copy(update={"reconciler": limits})
        return Reconciler(chosen, client, DEFAULT, serving=lambda: SERVING).plan().retries

    assert retries(after=600.0) == 0
    assert retries(after=0.0) == 1


def test_plan_counts_by_the_first_model_that_has_to_run(settings, client, store):
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(5)])
    finish(store, 0, image=fingerprint(b"x"))
    finish(store, 1, projection="p0")
    plan = Reconciler(settings, client, DEFAULT, serving=lambda: SERVING).plan()
    assert plan.by_model == {"clip": 3, "clip_projection": 1}
    assert plan.total == 4
    assert [model.name for model in MODELS][:2] == list(plan.by_model)
