"""The step of `sink` on a real MongoDB."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import bson
import numpy as np
import pytest
from bson.timestamp import Timestamp

from streams import metrics
from streams.contract.dead_letters import dead_letter_record, parse_dead_letter
from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import Output, OutputError
from streams.contract.events import (
    DocumentChanged,
    DocumentDeleted,
    ModelApplied,
    Origin,
)
from streams.contract.pipeline import CHANGES
from streams.contract.states import DocumentState, Serving, document_state
from streams.contract.wire import encode_event
from streams.errors import StoreRefuses, WriteRejected
from streams.mongo.client import connect, state_database
from streams.mongo.rehearsal import rehearse
from streams.mongo.store import DocumentStore
from streams.operate.status import wait_until_settled
from streams.reconcile.scans import scan_unfinished
from streams.registry.versions import Registry
from streams.stages.outcome import Failed, Result
from streams.stages.sink import Sink

SOURCE = Timestamp(100, 1)


@pytest.fixture
def client(settings):
    with connect(settings.mongo) as client:
        yield client


@pytest.fixture
def store(client, settings):
    return DocumentStore(client, settings.mongo, DEFAULT)


def applied(document_id, value, model="clip", source=SOURCE, image="ab"):
    return ModelApplied(
        document_id=document_id,
        source=source,
        origin=Origin.LIVE,
        model=model,
        outputs={model: Output(value=value, version="v1", inputs={"img": image})},
    )


def letter(document_id, stage="clip", model="clip"):
    changed = DocumentChanged(document_id=document_id, source=SOURCE)
    record = dead_letter_record(
        encode_event(changed, tenant="a.b"),
        stage=stage,
        topic=CHANGES,
        position="0:1",
        model=model,
        error=OutputError(
            type="InvalidImage", message="bad", attempts=2, is_retryable=False, version="v1"
        ),
    )
    return parse_dead_letter(record.key, record.headers)


def outputs(store, document_id):
    return store.collection.find_one({"_id": document_id}).get("_outputs")


def test_outputs_and_errors_of_a_batch_land_in_their_documents(store):
    store.collection.insert_many([{"_id": 1}, {"_id": 2}])
    batch = [
        applied(1, np.ones(2, np.float32)),
        applied(1, "a cat", model="conditional_lm"),
        letter(2),
    ]
    assert {outcome.result for outcome in Sink(store).run(batch)} == {Result.DONE}
    assert outputs(store, 1)["_base"]["conditional_lm"]["value"] == "a cat"
    error = outputs(store, 2)["img"]["clip"]["error"]
    assert (error["type"], error["message"], error["attempts"]) == ("InvalidImage", "bad", 2)


def test_failure_of_an_image_takes_the_caption_of_the_image_before(store):
    """Fails without `drops_of` for errors: the caption would stay, of an image gone by."""
    store.collection.insert_one({"_id": 1})
    before = applied(1, "a cat", model="conditional_lm", source=Timestamp(SOURCE.time - 1, 1))
    Sink(store).run([before, applied(1, np.ones(2, np.float32), source=before.source)])
    Sink(store).run([letter(1)])
    found = outputs(store, 1)
    assert (found["img"].keys(), found["_base"]) == ({"clip"}, {})
    assert (found["img"]["clip"]["error"]["type"], found["img"]["clip"]["source"]) == (
        "InvalidImage",
        SOURCE,
    )
    assert document_state(store.collection.find_one({"_id": 1}), SERVING) is DocumentState.FAILED
    Sink(store).run([before])
    assert outputs(store, 1)["_base"] == {}, "a late one does not come back"
    later = Timestamp(SOURCE.time + 1, 1)
    Sink(store).run([applied(1, "a dog", model="conditional_lm", source=later)])
    assert outputs(store, 1)["_base"]["conditional_lm"]["value"] == "a dog"


def test_letters_that_name_no_output_are_ignored(store):
    store.collection.insert_one({"_id": 1})
    without_key = parse_dead_letter(b"?", dead_letter_headers(letter(1)))
    batch = [letter(1, stage="sink", model=""), without_key]
    assert [outcome.result for outcome in Sink(store).run(batch)] == [Result.IGNORED] * 2
    assert outputs(store, 1) is None


def dead_letter_headers(found):
    return [
        ("dl_format", b"1"),
        ("dl_stage", found.stage.encode()),
        ("dl_model", found.model.encode()),
        ("dl_error_type", b"X"),
        ("dl_error_message", b"y"),
        ("dl_attempts", b"1"),
        ("dl_retryable", b"false"),
        ("dl_version", b""),
        ("dl_at", b"2026-01-01T00:00:00+00:00"),
    ]


@pytest.mark.parametrize(
    "taken", [5, None, [1], {"img": 5}, {"img": [{}]}, {"img": {"clip": {"source": "x"}}}]
)
def test_what_stands_where_outputs_belong_makes_room(store, taken):
    """Fails without `clear_malformed` in `_write`, or the type in the guard: pending for ever."""
    store.collection.insert_many([{"_id": 1, "_outputs": taken, "title": "kept"}, {"_id": 2}])
    vector = np.ones(2, np.float32)
    outcomes = Sink(store).run([applied(1, vector), applied(2, vector)])
    assert [outcome.result for outcome in outcomes] == [Result.DONE] * 2
    assert outputs(store, 1).keys() == {"img"}
    assert outputs(store, 1)["img"]["clip"]["version"] == "v1"
    assert store.collection.find_one({"_id": 1})["title"] == "kept"


def test_output_that_does_not_fit_leaves_its_error_in_the_document(store):
    """Fails without `_refusal`: the document would look unfinished for ever."""
    store.collection.insert_many(
        [{"_id": 1, "img": b"x" * (16 * 1024 * 1024 - 2000)}, {"_id": 2, "img": b"x"}]
    )
    vector = np.ones(4096, np.float32)
    large, other = Sink(store).run([applied(1, vector), applied(2, vector)])
    assert isinstance(large, Failed)
    assert isinstance(large.error, WriteRejected)
    assert other.result is Result.DONE
    error = outputs(store, 1)["img"]["clip"]
    assert (error["error"]["type"], error["version"]) == ("WriteRejected", "v1")
    assert document_state(store.collection.find_one({"_id": 1}), SERVING) is DocumentState.FAILED


def full_document(document_id):
    """One that leaves room for ten bytes."""
    size = len(bson.encode({"_id": document_id, "img": b""}))
    return {"_id": document_id, "img": b"x" * (16 * 1024 * 1024 - size - 10)}


def test_document_without_room_for_its_error_is_failed_until_there_is_room(store, client, settings):
    """Fails without `write_errors`: it would be pending, and `wait` would not end, for ever."""
    store.prepare()
    store.collection.insert_one(full_document(1))
    [outcome] = Sink(store).run([applied(1, np.ones(2, np.float32))])
    assert isinstance(outcome, Failed), "there is a dead letter"

    serving, state = (
        Serving(pipeline=DEFAULT, versions={"clip": "v1"}),
        state_database(client, settings.mongo),
    )
    assert store.count_states(serving)[DocumentState.FAILED] == 1
    assert store.count_states(serving)[DocumentState.PENDING] == 0
    assert list(scan_unfinished(store, serving)) == []
    assert document_state(next(iter(store.scan_states([1]))), serving) is DocumentState.FAILED
    [shown] = store.no_room.lay_over([{"_id": 1}])
    assert "MongoDB refused the output" in shown["_outputs"]["img"]["clip"]["error"]["message"]
    Registry(state).announce("clip", "v1", {"dimension": 2})
    assert wait_until_settled(store, state, timeout_seconds=0)

    another = Serving(pipeline=DEFAULT, versions={"clip": "v2"})
    assert [row["_id"] for row, _ in scan_unfinished(store, another)] == [1], "it is tried again"

    store.collection.update_one({"_id": 1}, {"$set": {"img": b"small"}})
    Sink(store).run([applied(1, np.ones(2, np.float32))])
    assert store.count_states(serving)[DocumentState.FAILED] == 0
    assert "error" not in outputs(store, 1)["img"]["clip"]


def test_error_of_a_document_without_room_keeps_its_reason(store):
    """Fails when the refusal takes its place."""
    store.collection.insert_one(full_document(1))
    Sink(store).run([letter(1)])
    [shown] = store.no_room.lay_over([{"_id": 1}])
    assert shown["_outputs"]["img"]["clip"]["error"]["type"] == "InvalidImage"


SERVING = Serving(pipeline=DEFAULT, versions={"clip": "v1", "clip_projection": "p1"})


def test_schema_that_forbids_our_field_is_told_with_what_to_add(store):
    """Fails without `SCHEMA`, `refused` and `rehearse`: pending for ever with everything green."""
    properties = {"_id": {}, "img": {}}
    schema = {"$jsonSchema": {"additionalProperties": False, "properties": properties}}
    database = store.collection.database
    database.create_collection(store.collection.name, validator=schema)
    assert not rehearse(store), "nothing to try it with"
    rows = [{"_id": 1, "img": b"x"}, {"_id": 2, "img": b"x"}]
    store.collection.insert_many(rows)
    sink = Sink(store)
    with pytest.raises(StoreRefuses, match=ADD):
        rehearse(store)
    outcomes = sink.run([applied(i, np.ones(2, np.float32)) for i in (1, 2)])
    for outcome in outcomes:
        assert re.search(ADD, str(outcome.error))
    count, reason = sink.refused()
    assert (count, bool(re.search(ADD, reason))) == (2, True)
    assert list(store.collection.find()) == rows

    properties["_outputs"] = {"bsonType": "object"}
    database.command("collMod", store.collection.name, validator=schema)
    assert rehearse(store)
    assert list(store.collection.find()) == rows, "nothing is left"
    sink.run([applied(1, np.ones(2, np.float32)), DocumentDeleted(document_id=2, source=SOURCE)])
    assert sink.refused() == (0, "")


ADD = r"add _outputs: .bsonType: \"object\". to `properties` of the collection's \$jsonSchema"


def test_caption_of_the_image_before_does_not_stay(store):
    """Fails without `drops_of`: nothing else tells that no captioner has seen the new image."""
    store.collection.insert_many([{"_id": 1}, {"_id": 2}])
    vector = np.ones(2, np.float32)
    before = Timestamp(SOURCE.time - 1, 1)
    for document_id in (1, 2):
        caption = applied(document_id, "a cat", model="conditional_lm", source=before)
        Sink(store).run([applied(document_id, vector, source=before), caption])
    same = applied(1, vector)
    other = applied(2, vector, image="another image")
    Sink(store).run([same, other])
    assert outputs(store, 1)["_base"]["conditional_lm"]["value"] == "a cat"
    assert outputs(store, 2)["_base"] == {}
    late = applied(2, vector, source=before)
    newer = applied(2, "a dog", model="conditional_lm", image="another image")
    Sink(store).run([newer, late])
    assert outputs(store, 2)["_base"]["conditional_lm"]["value"] == "a dog"


def test_latency_is_that_of_writes_that_were_done(store):
    """Fails without `done` in the report: one repeated record takes the latencies of its batch.

    Or without the look at `origin`; and where a whole second is taken for the time of the change.
    """
    observed = metrics.END_TO_END_SECONDS.labels("clip")._sum.get
    store.collection.insert_many([{"_id": number} for number in range(4)])
    live, other, repeat, unknown = (
        replace(
            applied(number, np.ones(2, np.float32)),
            changed_at=datetime.now(UTC) - timedelta(seconds=100 * 10**number),
        )
        for number in range(4)
    )
    repeat = replace(repeat, origin=Origin.REPLAY)
    unknown = replace(unknown, changed_at=None)
    Sink(store).run([live])
    before = observed()
    Sink(store).run([live, other, repeat, unknown])
    assert 1000 <= observed() - before < 1100
