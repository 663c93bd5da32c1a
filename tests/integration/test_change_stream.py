"""Which changes the server lets pass, for a pipeline that reads two fields of a document."""

from contextlib import closing

import pytest
from bson.timestamp import Timestamp

from streams.capture.change_stream import ChangeStream, build_filter
from streams.contract.declaration import Declaration
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import compile_pipeline
from streams.mongo.client import cluster_time
from streams.mongo.leadership import Position
from tests.integration.conftest import publishing
from tests.integration.test_publisher import fail_command, mark
from tests.waiting import wait_until

TITLED = compile_pipeline(
    [*DEFAULT.declarations, Declaration(name="titler", kind="linear", key="title")]
)
#: Of a short one the server tells all that is left instead of where it was cut.
LONG = [f"word {number}" for number in range(40)]
DOCUMENT = {
    "img": b"a",
    "title": LONG,
    "other": LONG,
    "photo": b"b",
    "_outputs": {"img": {"clip": {"vector": LONG}}},
}
PASSING = {
    "a watched field": {"$set": {"title": "new"}},
    "the other one": {"$set": {"img": b"b"}},
    "a part of one": {"$set": {"title.0": "new"}},
    "a field within one": {"$set": {"img": {"url": "https://example.org"}}},
    "beside a field that is not": {"$set": {"other": "new", "title": "new"}},
    "beside our own": {"$set": {"_outputs.x": 1, "img": b"b"}},
    "removed": {"$unset": {"title": 1}},
    "renamed away": {"$rename": {"img": "kept"}},
    "renamed here": {"$rename": {"photo": "img"}},
    "longer": {"$push": {"title": "four"}},
    "cut": [{"$set": {"title": {"$slice": ["$title", 30]}}}],
}
DROPPED = {
    "another field": {"$set": {"other": "new"}},
    "a part of another": {"$set": {"other.0": "new"}},
    "another, removed": {"$unset": {"other": 1}},
    "another, renamed": {"$rename": {"photo": "kept"}},
    "another, cut": [{"$set": {"other": {"$slice": ["$other", 30]}}}],
    "names that look like it": {"$set": {"titles": 1, "img_url": 2, "my": {"img": 3}}},
    "an inner name": {"$set": {"meta.title": "new"}},
    "our own": {"$set": {"_outputs.img.clip.version": "v"}},
    "our own that are called so": {"$set": {"_outputs.title": {"titler": 1}}},
    "our own, removed": {"$unset": {"_outputs": 1}},
    "our own, cut": [
        {"$set": {"_outputs.img.clip.vector": {"$slice": ["$_outputs.img.clip.vector", 30]}}}
    ],
}


@pytest.fixture
def stream(documents):
    """A stream that is not open."""
    opened = ChangeStream(documents.database, documents.name, watched=TITLED.watched)
    with closing(opened):
        yield opened


def open_behind(time, stream):
    following = Timestamp(time.time, time.inc + 1)  # a stream begins with what happened at its time
    stream.open(Position(token=None, cluster_time=following, filter_hash=stream.hash))


def seen(stream):
    """Return operation and `_id` of the changes up to the one of a document called "end"."""
    found = []

    def is_end():
        change = stream.next()
        if change is not None:
            found.append((change.operation, change.event.document_id))
        return bool(found) and found[-1][1] == "end"

    wait_until(is_end, doing="the last change")
    return found[:-1]


def test_updates_pass_that_touch_a_watched_field(client, documents, stream):
    """Fails with the fields of the default pipeline, and without any of the three lists of paths.

    Those are what an update sets, removes and cuts.
    """
    assert TITLED.watched == ("img", "title")
    updates = {**PASSING, **DROPPED}
    documents.insert_many([{"_id": name, **DOCUMENT} for name in updates])
    open_behind(cluster_time(client), stream)
    for name, update in updates.items():
        assert documents.update_one({"_id": name}, update).modified_count == 1
    documents.insert_one({"_id": "end"})
    assert seen(stream) == [("update", name) for name in PASSING]


def test_all_but_updates_pass(client, documents, stream):
    documents.insert_one({"_id": 1})
    open_behind(cluster_time(client), stream)
    documents.replace_one({"_id": 1}, {"other": 1})
    documents.delete_one({"_id": 1})
    documents.update_one({"_id": 2}, {"$set": {"other": 1}}, upsert=True)
    documents.insert_one({"_id": "end"})
    assert seen(stream) == [("replace", 1), ("delete", 1), ("insert", 2)]


@pytest.mark.parametrize(
    "description", [{}, {"updatedFields": {}, "removedFields": [], "truncatedArrays": []}]
)
def test_update_that_says_nothing_passes(documents, description):
    """A server has no reason to send one. Fails without the look at empty `paths`."""
    change = {
        "operationType": "update",
        "ns": {"coll": documents.name},
        "updateDescription": description,
    }
    stages = [{"$documents": [change]}, *build_filter(documents.name, TITLED.watched)]
    assert len(list(documents.database.aggregate(stages))) == 1


def test_token_refused_after_changes_that_were_dropped(client, documents, stream, mongo_client):
    """The stream goes on behind them: the oplog may not reach back to the last one that passed.

    Fails when `idle_position` forgets the time: what passed before them comes again.
    """
    documents.insert_one({"_id": 1})
    began = cluster_time(client)
    stream.open(Position(token=None, cluster_time=began, filter_hash=stream.hash))
    documents.insert_one({"_id": 2})
    found = []
    wait_until(lambda: found.append(stream.next()) or found[-1] is None, doing="all that is there")
    passed = found[-2].position.cluster_time
    documents.update_one({"_id": 2}, {"$set": {"other": 1}})

    def is_behind():
        assert stream.next() is None
        return stream.idle_position().cluster_time > passed

    wait_until(is_behind, doing="a position behind the update")
    fail_command(mongo_client, 280, errorLabels=["NonResumableChangeStreamError"])
    assert stream.next() is None
    documents.insert_one({"_id": "end"})
    assert seen(stream) == []


def test_change_of_a_second_field_is_published(settings, client, documents, published):
    """Fails when the publisher watches `img` whatever the pipeline."""
    documents.insert_one({"_id": 1, **DOCUMENT})
    with publishing(settings, client, TITLED):
        documents.update_one({"_id": 1}, {"$set": {"other": "new"}})
        mark(documents, published, 0)
        assert published.of(1) == ["copy"]
        documents.update_one({"_id": 1}, {"$set": {"title": "new"}})
        published.wait_for(1, ["copy", "live"])


def test_watching_another_field_opens_the_stream_by_time(settings, client, documents, published):
    """The server refuses a token of another filter. What was changed before the end is not lost."""
    with publishing(settings, client):
        documents.insert_one({"_id": 1, **DOCUMENT})
        mark(documents, published, 0)
    documents.update_one({"_id": 1}, {"$set": {"title": "new"}})
    with publishing(settings, client, TITLED):
        published.wait_for(1, ["live", "live"])
        mark(documents, published, 1)
