"""Records survive the wire; damaged and foreign ones are refused."""

import json
from dataclasses import replace
from datetime import UTC, datetime

import msgpack
import numpy as np
import pytest
from bson import ObjectId
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from streams.contract import events
from streams.contract.documents import Output
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied, Origin
from streams.contract.pipeline import CHANGES
from streams.contract.wire import decode_event, encode_event, parse_source
from streams.errors import InvalidEvent

TENANT = "captions.documents"
SOURCE = Timestamp(1_700_000_000, 3)
ID = ObjectId("65f1c0ffee65f1c0ffee65f1")


def applied(model="clip", **outputs):
    return ModelApplied(
        document_id=ID,
        source=SOURCE,
        origin=Origin.LIVE,
        input="ab" * 16,
        model=model,
        outputs=outputs or {"clip": Output(value=np.arange(4, dtype=np.float32), version="c1")},
    )


def round_trip(event, event_type, tenant=TENANT):
    record = encode_event(event, tenant=TENANT)
    return decode_event(record.key, record.value, record.headers, tenant=tenant)


def test_image_changed_survives():
    event = DocumentChanged(document_id=ID, source=SOURCE, origin=Origin.COPY)
    assert round_trip(event, CHANGES) == event


@pytest.mark.parametrize("topic", [CHANGES, *events.MODEL_APPLIED])
def test_time_of_the_change_survives_on_every_topic(topic):
    """Fails without the header in `encode_event`."""
    at = datetime(2026, 11, 27, 12, 0, 0, 123_000, tzinfo=UTC)
    caption = applied("conditional_lm", conditional_lm=Output(value="a cat", version="l1"))
    event = DocumentChanged(document_id=ID, source=SOURCE) if topic == CHANGES else caption
    assert round_trip(replace(event, changed_at=at), topic).changed_at == at
    assert round_trip(event, topic).changed_at is None


@pytest.mark.parametrize("text", [b"", b"\xff", b"yesterday", b"2026-11-27T12:00:00", b"9" * 99])
def test_time_that_is_none_is_left_out(text):
    """Fails without `_time`: a clock that nobody needs would make a poison message."""
    event = DocumentChanged(document_id=ID, source=SOURCE)
    record = encode_event(event, tenant=TENANT)
    headers = [*record.headers, ("ce_walltime", text)]
    assert decode_event(record.key, record.value, headers, tenant=TENANT) == event


def test_delete_is_a_tombstone_on_every_topic():
    event = DocumentDeleted(document_id=ID, source=SOURCE)
    record = encode_event(event, tenant=TENANT)
    assert record.value is None
    assert round_trip(event, events.IMAGE_PROJECTED) == event


def test_vectors_and_lineage_survive():
    event = applied(
        model="clip_projection",
        clip=Output(value=np.array([1.5, -2], np.float32), version="c1", url="http://u"),
        clip_projection=Output(
            value=np.array([0.25], np.float32), version="p1", features={"clip": "c1"}
        ),
        conditional_lm=Output(value="a cat", version="l1", score=-0.5, beam_width=5),
    )
    again = round_trip(event, events.IMAGE_PROJECTED)
    assert again.outputs["clip"].value.tolist() == [1.5, -2.0]
    assert again.outputs["clip"].url == "http://u"
    assert again.outputs["clip_projection"].features == {"clip": "c1"}
    assert again.outputs["conditional_lm"] == event.outputs["conditional_lm"]
    assert (again.input, again.model, again.source) == (event.input, event.model, SOURCE)


def test_vectors_are_raw_little_endian_float32_on_the_wire():
    record = encode_event(applied(), event_type=events.IMAGE_FEATURIZED, tenant=TENANT)
    packed = msgpack.unpackb(record.value)["outputs"]["clip"]
    assert packed["shape"] == [4]
    assert packed["float32"] == np.arange(4, dtype="<f4").tobytes()


def test_caption_is_json_for_anyone():
    caption = Output(
        value="a café", version="l1", features={"clip": "c1"}, score=-0.25, beam_width=5
    )
    event = applied(model="conditional_lm", conditional_lm=caption)
    record = encode_event(event, tenant=TENANT)
    assert json.loads(record.value)["caption"] == "a café"
    assert dict(record.headers)["content-type"] == b"application/json"
    assert round_trip(event, events.CAPTION_GENERATED).outputs["conditional_lm"] == caption


def test_caption_of_an_earlier_release_was_decoded_greedily():
    event = applied(model="conditional_lm", conditional_lm=Output(value="a", version="l1"))
    record = encode_event(event, tenant=TENANT)
    data = json.loads(record.value)
    del data["beam_width"]
    again = decode_event(record.key, json.dumps(data).encode(), record.headers, tenant=TENANT)
    assert again == event


def test_record_of_another_tenant_is_refused():
    """Fails without the comparison of `ce_source`."""
    with pytest.raises(InvalidEvent, match=r"belongs to '/captions\.documents'"):
        round_trip(applied(), events.IMAGE_FEATURIZED, tenant="other.documents")


def test_unknown_schema_version_is_refused_by_name():
    """Fails without the error at the end of `_decode_data`."""
    record = encode_event(applied(), event_type=events.IMAGE_FEATURIZED, tenant=TENANT)
    headers = [
        (name, b"captions.image.featurized.v2" if name == "ce_type" else value)
        for name, value in record.headers
    ]
    with pytest.raises(InvalidEvent, match=r"unknown event type .*featurized\.v2"):
        decode_event(record.key, record.value, headers, tenant=TENANT)


@pytest.mark.parametrize("event_type", [*events.MODEL_APPLIED, CHANGES])
@given(value=st.binary(max_size=200))
def test_garbage_is_an_invalid_event_and_nothing_else(event_type, value):
    headers = [
        ("ce_type", event_type.encode()),
        ("ce_source", f"/{TENANT}".encode()),
        ("ce_clustertime", b"1.1"),
    ]
    with pytest.raises(InvalidEvent):
        decode_event(b'{"$numberInt":"1"}', value, headers, tenant=TENANT)


@given(cut=st.integers(min_value=0, max_value=200))
def test_truncated_record_is_an_invalid_event(cut):
    record = encode_event(applied(), event_type=events.IMAGE_FEATURIZED, tenant=TENANT)
    shorter = record.value[: min(cut, len(record.value) - 1)]
    with pytest.raises(InvalidEvent):
        decode_event(record.key, shorter, record.headers, tenant=TENANT)


@pytest.mark.parametrize("text", ["", "1", "1.2.3", "a.b", "-1.0", "1.99999999999"])
def test_source_that_is_no_cluster_time_is_refused(text):
    with pytest.raises(InvalidEvent, match=r"seconds\.increment"):
        parse_source(text)


def test_source_from_the_future_is_refused():
    event = DocumentChanged(document_id=ID, source=Timestamp(4_000_000_000, 1))
    with pytest.raises(InvalidEvent, match="future"):
        round_trip(event, CHANGES)


@pytest.mark.parametrize(
    "change",
    [
        {"features": {"$set": "c1"}},
        {"features": {"clip": 2**70}},
        {"features": [1]},
        {"score": "high"},
        {"score": 2**70},
        {"beam_width": 2**70},
        {"beam_width": 0},
        {"beam_width": "wide"},
        {"caption": "\ud800"},
        {"version": "\udfff"},
    ],
    ids=repr,
)
def test_caption_that_mongodb_could_not_store_is_an_invalid_event(change):
    """Fails without the checks in `_caption_output`."""
    caption = Output(value="a cat", version="l1", features={"clip": "c1"}, score=-0.25)
    event = applied(model="conditional_lm", conditional_lm=caption)
    record = encode_event(event, tenant=TENANT)
    value = json.dumps({**json.loads(record.value), **change}).encode()
    with pytest.raises(InvalidEvent):
        decode_event(record.key, value, record.headers, tenant=TENANT)
