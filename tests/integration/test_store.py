"""The write guard and the state scans, on a real MongoDB."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, OutputError
from streams.contract.ids import document_key
from streams.contract.states import DocumentState, Serving
from streams.contract.values import decode_vector
from streams.contract.writes import OutputWrite
from streams.errors import StoreRefuses, StoreUnavailable
from streams.mongo.client import cluster_time, connect
from streams.mongo.state_index import drop_old_state_indexes, state_index, state_keys
from streams.mongo.store import DocumentStore
from tests.pipelines import CLIP, CLIP_PROJECTION, CONDITIONAL_LM
from tests.waiting import wait_until

STATE_INDEX = state_index(DEFAULT)
OLD, NEW = Timestamp(100, 1), Timestamp(100, 2)


@pytest.fixture
def store(settings):
    client = connect(settings.mongo)
    yield DocumentStore(client, settings.mongo, DEFAULT)
    client.close()


def output(number=1.0, version="v1", **fields):
    value = np.full(4, number, np.float32)
    return Output(value=value, version=version, inputs={"img": "ab"}, **fields)


def error(version="v1"):
    return OutputError(
        type="InvalidImage", message="bad", attempts=1, is_retryable=False, version=version
    )


def write(document_id, result, source=OLD, model=CLIP):
    return OutputWrite(document_id=document_id, source=source, model=model, result=result)


def stored(store, document_id=1):
    return store.collection.find_one({"_id": document_id})["_outputs"]["img"]["clip"]


def test_output_is_stored_as_a_bson_vector_with_its_lineage(store):
    store.collection.insert_one({"_id": 1, "img": b"x", "title": "kept"})
    report = store.write_outputs([write(1, output(2.5))])
    assert report.written == 1
    found = stored(store)
    assert found["value"].subtype == 9
    assert decode_vector(found["value"]).tolist() == [2.5] * 4
    assert (found["version"], found["input"], found["source"]) == ("v1", {"img": "ab"}, OLD)
    assert store.collection.find_one({"_id": 1})["title"] == "kept"


def test_repeated_write_changes_nothing(store):
    """Fails without `_differs`."""
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(1, output())])
    before = stored(store)
    report = store.write_outputs([write(1, output())])
    assert (report.written, report.ignored) == (0, 1)
    assert stored(store) == before


def test_older_result_never_beats_a_newer_one(store):
    """Fails with `$ne` in place of `$lt` in `update_of`."""
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(1, output(2), source=NEW)])
    assert store.write_outputs([write(1, output(1), source=OLD)]).ignored == 1
    assert store.write_outputs([write(1, error("v2"), source=OLD)]).ignored == 1
    assert decode_vector(stored(store)["value"])[0] == 2


def test_another_version_replaces_a_result_of_the_same_change(store):
    """Fails without the version in `_differs`."""
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(1, output(1, "v1"))])
    assert store.write_outputs([write(1, output(2, "v2"))]).written == 1
    assert stored(store)["version"] == "v2"


def test_another_upstream_version_replaces_a_result_of_the_same_change_and_version(store):
    """Else a new CLIP version would leave projections of the old one for ever."""
    store.collection.insert_one({"_id": 1})
    for clip, written in (("c1", 1), ("c1", 0), ("c2", 1), ("c2", 0)):
        made = output(version="p1", features={"clip": clip})
        assert store.write_outputs([write(1, made, model=CLIP_PROJECTION)]).written == written


def test_success_replaces_an_error_and_an_error_does_not_replace_a_success(store):
    store.collection.insert_one({"_id": 1})
    store.write_outputs([write(1, error())])
    assert stored(store)["error"]["type"] == "InvalidImage"
    store.write_outputs([write(1, output())])
    assert "error" not in stored(store)
    assert store.write_outputs([write(1, error())]).ignored == 1
    assert store.write_outputs([write(1, error(version=""))]).ignored == 1


@pytest.mark.parametrize("version", ["v1", ""], ids=["known version", "unknown version"])
def test_error_that_may_pass_is_replaced_by_the_next_one_of_its_version(store, version):
    """Fails without `passing` in `_differs`: a retry that ends for good is not noted."""
    store.collection.insert_one({"_id": 1})
    passing = replace(error(version), is_retryable=True)
    assert store.write_outputs([write(1, passing)]).written == 1
    assert store.write_outputs([write(1, passing)]).written == 1
    assert store.write_outputs([write(1, error(version))]).written == 1
    assert store.write_outputs([write(1, passing)]).ignored == 1


def test_deleted_document_is_not_brought_back(store):
    """Fails with `upsert=True` in `update_of`."""
    report = store.write_outputs([write(1, output())])
    assert report.ignored == 1
    assert store.collection.count_documents({}) == 0


def test_any_order_of_the_same_writes_ends_the_same(store):
    """Fails with `$ne` in place of `$lt` in `update_of`."""
    writes = [
        write(1, output(1, "v1"), source=OLD),
        write(1, output(2, "v1"), source=NEW),
        write(1, error("v1"), source=OLD),
    ]
    for order in itertools.permutations(writes):
        store.collection.replace_one({"_id": 1}, {"img": b"x"}, upsert=True)
        for one in order:
            store.write_outputs([one])
        assert decode_vector(stored(store)["value"])[0] == 2


def test_output_that_would_make_the_document_too_large_fails_alone(store):
    store.collection.insert_many(
        [{"_id": 1, "img": b"x" * (16 * 1024 * 1024 - 200)}, {"_id": 2, "img": b"x"}]
    )
    big = Output(value=np.zeros(4096, np.float32), version="v1")
    report = store.write_outputs([write(1, big), write(2, big)])
    assert list(report.rejected) == [0]
    assert report.written == 1
    assert "_outputs" in store.collection.find_one({"_id": 2})


def test_read_finds_documents_by_key_and_leaves_out_the_deleted(store):
    store.collection.insert_many([{"_id": "a", "img": b"1"}, {"_id": 2, "img": b"2", "x": 1}])
    found = store.read_inputs(["a", 2, "gone"], after=Timestamp(1, 1))
    assert set(found) == {document_key("a"), document_key(2)}
    assert found[document_key(2)] == {"_id": 2, "img": b"2"}


def test_read_after_a_time_that_no_change_can_have_does_not_wait_for_it(store, mongo_client):
    """Fails without the second read: a forged record would stop the first stage for an hour."""
    store.collection.insert_one({"_id": 1, "img": b"1"})
    now = cluster_time(mongo_client)
    assert store.read_inputs([1], after=Timestamp(now.time + 3600, 1)) != {}
    with pytest.raises(StoreUnavailable):  # it may be the time of a change: a primary is behind
        store.read_inputs([1], after=Timestamp(now.time + 30, 1))


def test_outputs_that_cannot_be_indexed_make_room_for_the_index(store):
    """Fails without `clear_malformed` in `prepare`: the sink would wait for ever to start."""
    arrays = {"img": [{"clip": 1}], "_base": [{"conditional_lm": 1}]}
    good = {"_id": 2, "_outputs": {"img": {"clip": {"version": "v1"}}}}
    store.collection.insert_many([{"_id": 1, "_outputs": arrays}, good])
    store.prepare()
    assert STATE_INDEX in store.collection.index_information()
    assert "_outputs" not in store.collection.find_one({"_id": 1})
    assert store.collection.find_one({"_id": 2}) == good


def collection_of_kind(kind, store):
    """Make the collection one that cannot be watched or counted; return what is said about it."""
    documents = store.collection
    match kind:
        case "view":
            documents.database.create_collection(documents.name, viewOn="o", pipeline=[])
            return "is a view, .* set CAPTIONSTREAM_MONGO__COLLECTION to a plain collection"
        case "time series":
            documents.database.create_collection(documents.name, timeseries={"timeField": "t"})
            return "is a timeseries, .* set CAPTIONSTREAM_MONGO__COLLECTION to a plain collection"
        case "hidden":
            documents.create_index(state_keys(DEFAULT), name=STATE_INDEX, hidden=True)
            return f'is hidden, .*"documents".*unhideIndex."{STATE_INDEX}"'
        case "another name":
            documents.create_index(state_keys(DEFAULT), name="theirs")
            return 'in an index of the name theirs; .*dropIndex."theirs"'
    for number in range(63):
        documents.create_index(f"f{number}")
    return "has 64 indexes: .*; drop one that nothing uses"


@pytest.mark.parametrize("kind", ["view", "time series", "hidden", "another name", "full"])
def test_collection_that_cannot_serve_is_refused_with_the_remedy(store, kind):
    """Fails without `check_collection`: "check that the replica set has a primary", or nothing."""
    said = collection_of_kind(kind, store)
    for attempt in (store.check, store.prepare):
        with pytest.raises(StoreRefuses, match=said):
            attempt()
    if kind in ("view", "time series"):  # of no document's fault: all of them wait
        with pytest.raises(StoreRefuses):
            store.write_outputs([write(1, output())])


def test_state_indexes_of_other_pipelines_go_and_other_indexes_stay(store):
    store.collection.create_index("a", name="captionstream_state_of_before")
    store.collection.create_index("b", name="b")
    drop_old_state_indexes(store.collection, DEFAULT)
    store.prepare()
    assert store.collection.index_information().keys() == {"_id_", "b", STATE_INDEX}


def test_building_the_state_index_is_told_and_goes_on_at_the_server(settings, mongo_client):
    """Fails without the look at `NetworkTimeout`: "check that the replica set has a primary"."""
    hang = {"configureFailPoint": "hangAfterStartingIndexBuild"}
    quick = settings.mongo.model_copy(update={"timeout_seconds": 0.2})
    with connect(quick) as client:
        store = DocumentStore(client, quick, DEFAULT)
        store.collection.insert_one({"_id": 1})
        mongo_client.admin.command({**hang, "mode": "alwaysOn"})
        try:
            with pytest.raises(StoreUnavailable, match="is being built"):
                store.prepare()
            assert store.write_outputs([write(1, output())]).written == 1
        finally:
            mongo_client.admin.command({**hang, "mode": "off"})
        wait_until(lambda: STATE_INDEX in names_of_ready_indexes(mongo_client, store))
        store.prepare()


def names_of_ready_indexes(client, store):
    """Those that a query may be told to use."""
    stats = client[store.collection.database.name][store.collection.name].aggregate(
        [{"$indexStats": {}}]
    )
    return {row["name"] for row in stats if not row.get("building")}


def test_states_are_counted_from_the_index_alone(store):
    store.prepare()
    store.collection.insert_many([{"_id": number, "img": b"x" * 1000} for number in range(5)])
    serving = Serving(pipeline=DEFAULT, versions={"clip": "v1", "clip_projection": "p1"})
    store.write_outputs([write(number, output()) for number in range(4)])
    projected = output(version="p1", features={"clip": "v1"})
    store.write_outputs([write(number, projected, model=CLIP_PROJECTION) for number in range(3)])
    store.write_outputs([write(4, error())])
    counts = store.count_states(serving)
    assert counts[DocumentState.AWAITING_MODEL] == 3
    assert counts[DocumentState.PENDING] == 1
    assert counts[DocumentState.FAILED] == 1
    plan = store.collection.database.command(
        "explain",
        {
            "find": store.collection.name,
            "filter": {},
            "projection": {"_id": 1, f"{CONDITIONAL_LM.path}.version": 1},
            "hint": STATE_INDEX,
        },
        verbosity="executionStats",
    )
    assert plan["executionStats"]["totalDocsExamined"] == 0


def test_scan_yields_the_state_of_chosen_documents(store):
    store.prepare()
    store.collection.insert_many([{"_id": number, "img": b"x"} for number in range(5)])
    store.write_outputs([write(3, output())])
    assert len(list(store.scan_states(range(7)))) == 5
    [row] = store.scan_states([3])
    assert row["_outputs"]["img"]["clip"]["version"] == "v1"
    assert "img" not in row
