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

from streams.contract.documents import Output
from streams.contract.events import (
    DOCUMENT_CHANGED,
    MODEL_APPLIED,
    DocumentChanged,
    DocumentDeleted,
    ModelApplied,
    Origin,
)
from streams.contract.wire import decode_event, encode_event, is_stored, parse_source
from streams.errors import InvalidEvent

TENANT = "captions.documents"
SOURCE = Timestamp(1_700_000_000, 3)
ID = ObjectId("65f1c0ffee65f1c0ffee65f1")
#: What a model may make that is neither vector nor text.
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5), inner
        )
    ),
    max_leaves=8,
)


def applied(model="clip", **outputs):
    return ModelApplied(
        document_id=ID,
        source=SOURCE,
        origin=Origin.LIVE,
        model=model,
        outputs=outputs or {"clip": Output(value=np.arange(4, dtype=np.float32), version="c1")},
    )


def round_trip(event, tenant=TENANT):
    record = encode_event(event, tenant=TENANT)
    return decode_event(record.key, record.value, record.headers, tenant=tenant)


def test_a_change_survives():
    event = DocumentChanged(document_id=ID, source=SOURCE, origin=Origin.COPY)
    assert round_trip(event) == event


@pytest.mark.parametrize(
    "event",
    [
        DocumentChanged(document_id=ID, source=SOURCE),
        applied(),
        applied("conditional_lm", conditional_lm=Output(value="a cat", version="l1")),
    ],
    ids=["change", "vector", "text"],
)
def test_time_of_the_change_survives_in_every_event(event):
    """Fails without the header in `encode_event`."""
    at = datetime(2026, 11, 27, 12, 0, 0, 123_000, tzinfo=UTC)
    assert round_trip(replace(event, changed_at=at)).changed_at == at
    assert round_trip(event).changed_at is None


@pytest.mark.parametrize("text", [b"", b"\xff", b"yesterday", b"2026-11-27T12:00:00", b"9" * 99])
def test_time_that_is_none_is_left_out(text):
    """Fails without `_time`: a clock that nobody needs would make a poison message."""
    event = DocumentChanged(document_id=ID, source=SOURCE)
    record = encode_event(event, tenant=TENANT)
    headers = [*record.headers, ("ce_walltime", text)]
    assert decode_event(record.key, record.value, headers, tenant=TENANT) == event


def test_delete_is_a_tombstone():
    event = DocumentDeleted(document_id=ID, source=SOURCE)
    record = encode_event(event, tenant=TENANT)
    assert record.value is None
    assert round_trip(event) == event


def test_vectors_and_lineage_survive():
    event = applied(
        model="clip_projection",
        clip=Output(
            value=np.array([1.5, -2], np.float32),
            version="c1",
            inputs={"img": "ab"},
            url="http://u",
        ),
        clip_projection=Output(
            value=np.array([0.25], np.float32),
            version="p1+01234567",
            features={"clip": "c1"},
            inputs={"img": "ab", "a title": "cd"},
        ),
        conditional_lm=Output(value="a cat", version="l1", score=-0.5, inputs={"img": "ab"}),
    )
    again = round_trip(event)
    assert again.outputs["clip"].value.tolist() == [1.5, -2.0]
    assert again.outputs["clip"].url == "http://u"
    assert again.outputs["clip_projection"].features == {"clip": "c1"}
    assert again.outputs["conditional_lm"] == event.outputs["conditional_lm"]
    assert [output.inputs for output in again.outputs.values()] == [
        {"img": "ab"},
        {"img": "ab", "a title": "cd"},
        {"img": "ab"},
    ]
    assert again.outputs["clip_projection"].version == "p1+01234567"
    assert (again.model, again.source) == (event.model, SOURCE)


@pytest.mark.parametrize(
    "stored",
    [{"clip"}, {"text"}, {"clip", "text"}, set()],
    ids=lambda names: "-".join(sorted(names)),
)
def test_what_is_stored_survives_and_a_header_says_it_of_the_output_that_is_brought(stored):
    event = replace(applied("text", text=Output(value="a", version="t1")), stored=frozenset(stored))
    assert round_trip(event) == event
    assert is_stored(encode_event(event, tenant=TENANT).headers) is ("text" in stored)


def test_every_record_has_an_id_of_its_own():
    ids = {dict(encode_event(applied(), tenant=TENANT).headers)["ce_id"] for _ in range(3)}
    assert len(ids) == 3


def test_vectors_are_raw_little_endian_float32_on_the_wire():
    record = encode_event(applied(), tenant=TENANT)
    packed = msgpack.unpackb(record.value)["outputs"]["clip"]
    assert packed["float32"] == np.arange(4, dtype="<f4").tobytes()


def test_caption_is_json_for_anyone():
    caption = Output(
        value="a café", version="l1", features={"clip": "c1"}, inputs={"img": "ab"}, score=-0.25
    )
    event = applied(model="conditional_lm", conditional_lm=caption)
    record = encode_event(event, tenant=TENANT)
    assert json.loads(record.value)["outputs"]["conditional_lm"]["value"] == "a café"
    assert "café".encode() in record.value
    assert dict(record.headers)["content-type"] == b"application/json"
    assert round_trip(event).outputs["conditional_lm"] == caption


@given(value=JSON)
@pytest.mark.parametrize("clip", [{}, {"clip": Output(value=np.ones(2, np.float32), version="c1")}])
def test_plain_json_survives_alone_and_beside_a_vector(clip, value):
    event = applied(model="line", **clip, line=Output(value=value, version="l1+0a1b2c3d"))
    again = round_trip(event).outputs["line"]
    assert again == event.outputs["line"]
    assert type(again.value) is type(value)


def test_outputs_of_models_that_this_process_does_not_know_are_carried_along():
    """Fails when names are looked up in a pipeline: another one may be declared by now."""
    stranger = Output(
        value="x", version="s1", features={"another": "a1"}, inputs={"a title": "cd"}, score=-1.0
    )
    again = round_trip(applied(model="stranger", stranger=stranger))
    assert (again.model, again.outputs) == ("stranger", {"stranger": stranger})


def test_record_that_does_not_carry_the_output_that_it_names_is_refused():
    """Fails without the look at `model` in `_event`: the sink would store another one."""
    record = encode_event(applied("stranger"), tenant=TENANT)
    with pytest.raises(InvalidEvent, match=r"carries an output of 'stranger', but does not"):
        decode_event(record.key, record.value, record.headers, tenant=TENANT)


@pytest.mark.parametrize("value", [{1, 2}, float("nan"), 2**63, ["\ud800"], {1: 2}], ids=repr)
def test_value_that_cannot_travel_is_not_encoded(value):
    """Fails without `check_json` in `pack`: whoever reads the record could not take it."""
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        encode_event(applied(model="line", line=Output(value=value, version="l1")), tenant=TENANT)


def test_record_of_another_tenant_is_refused():
    """Fails without the comparison of `ce_source`."""
    with pytest.raises(InvalidEvent, match=r"belongs to '/captions\.documents'"):
        round_trip(applied(), tenant="other.documents")


def test_unknown_format_is_refused_by_name():
    """Fails without the error at the end of `_event`."""
    record = encode_event(applied(), tenant=TENANT)
    headers = [
        (name, b"captionstream.model.applied.v2" if name == "ce_type" else value)
        for name, value in record.headers
    ]
    with pytest.raises(InvalidEvent, match=r"unknown event type .*applied\.v2"):
        decode_event(record.key, record.value, headers, tenant=TENANT)


@pytest.mark.parametrize("event_type", [MODEL_APPLIED, DOCUMENT_CHANGED])
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
    record = encode_event(applied(), tenant=TENANT)
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
        round_trip(event)
