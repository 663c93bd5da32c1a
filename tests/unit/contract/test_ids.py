"""Ids in record keys, and as a user types them."""

import datetime
import json
import uuid

import bson
import pytest
from bson import Binary, Code, DBRef, Int64, ObjectId
from hypothesis import given
from hypothesis import strategies as st

from streams.contract.ids import document_id_of, document_key
from streams.errors import InvalidEvent
from streams.operate.commands.ids import parse_id


@pytest.mark.parametrize(
    "document_id",
    [
        ObjectId("65f1c0ffee65f1c0ffee65f1"),
        7,
        Int64(7),
        1.5,
        "a name",
        {"b": 1, "a": 2},
        datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC),
        Binary(uuid.UUID(int=7).bytes, 4),
        None,
        True,
        DBRef("c", 1, "d", note=2),
        Code("x", {"a": 1}),
    ],
    ids=repr,
)
def test_every_kind_of_id_survives_the_key(document_id):
    key = document_key(document_id)
    assert document_key(document_id_of(key)) == key


def test_number_types_have_different_keys():
    assert document_key(7) != document_key(Int64(7))


@pytest.mark.parametrize("key", [b"", b"{", b"\xff\xfe", b"{'a': 1}"])
def test_key_that_is_no_json_is_an_invalid_event(key):
    with pytest.raises(InvalidEvent, match="canonical extended JSON"):
        document_id_of(key)


def nested(depth):
    return b'{"a":' * depth + b"1" + b"}" * depth


@pytest.mark.parametrize(
    "key",
    [
        b'{"$gt":""}',
        b'{"a":[{"$gt":""}]}',
        b'{"a":1,"$gt":1}',
        b'{"$ref":"c","$id":{"$gt":""}}',
        b'{"$regularExpression":{"pattern":".","options":""}}',
        b"[1]",
        nested(181),
    ],
    ids=lambda key: key[:30].decode(),
)
def test_id_that_mongodb_does_not_take_is_an_invalid_event(key):
    """Fails without the checks in `document_id_of`: `$gt` would match every document."""
    with pytest.raises(InvalidEvent):
        document_id_of(key)


def test_id_as_deep_as_mongodb_takes_it():
    assert document_key(document_id_of(nested(179))) == nested(179).replace(
        b"1", b'{"$numberInt":"1"}'
    )


@pytest.mark.parametrize(
    "key",
    [
        b'{"$oid":"f"}',
        b'{"$binary":{}}',
        b'{"$binary":null,"$type":"00"}',
        b'{"$numberDecimal":"x"}',
        b'{"$date":{"$numberLong":"99999999999999999999"}}',
        b"99999999999999999999",
        b'{"\\u0000":1}',
        b'"\\ud800"',
        b"[" * 100_000,
    ],
    ids=lambda key: key[:30].decode(),
)
def test_key_that_breaks_the_decoder_is_an_invalid_event(key):
    """Fails with only `ValueError` and `TypeError` caught in `document_id_of`."""
    with pytest.raises(InvalidEvent, match="canonical extended JSON"):
        document_id_of(key)


NAMES = st.sampled_from(
    "$oid $date $numberLong $numberInt $numberDouble $numberDecimal $binary $regularExpression"
    " $timestamp $minKey $undefined $code $scope $ref $id $db $uuid $type base64 subType t i"
    " pattern options".split()
)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["00", "1e400", "5f" * 12, "AAAA"])
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(value=VALUES)
def test_any_key_is_an_id_or_an_invalid_event(value):
    try:
        document_id = document_id_of(json.dumps(value).encode())
    except InvalidEvent:
        return
    bson.encode({"_id": document_id})
    key = document_key(document_id)
    assert document_key(document_id_of(key)) == key


@pytest.mark.parametrize(
    ("text", "document_id"),
    [
        ("65f1c0ffee65f1c0ffee65f1", ObjectId("65f1c0ffee65f1c0ffee65f1")),
        ("42", 42),
        ('{"$numberLong": "42"}', 42),
        ("a name", "a name"),
    ],
)
def test_id_is_what_the_user_means(text, document_id):
    assert parse_id(text) == document_id
