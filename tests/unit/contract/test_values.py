"""What a model may make, and what is refused before anybody has to store or send it."""

import math
from datetime import UTC, datetime

import bson
import numpy as np
import pytest
from bson import ObjectId
from bson.binary import Binary, BinaryVectorDtype
from hypothesis import given
from hypothesis import strategies as st

from streams.contract.values import (
    check_json,
    decode_value,
    decode_vector,
    encode_value,
    encode_vector,
)


def nested(levels, of=dict):
    """A value of so many objects, or lists, in each other."""
    value = 1
    for _ in range(levels):
        value = {"a": value} if of is dict else [value]
    return value


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=50))
def test_vector_survives_bson(values):
    vector = np.array(values, dtype=np.float32)
    assert decode_vector(encode_vector(vector)).tolist() == vector.tolist()


@pytest.mark.parametrize(
    "value",
    ["no vector", Binary(b"", 9), Binary(b"'", 9), Binary(b"x", 0)],
    ids=["text", "empty", "cut", "of another type"],
)
def test_what_is_no_vector_is_refused(value):
    """Fails without `struct.error` in `decode_vector`: MongoDB stores any bytes as a vector."""
    with pytest.raises(ValueError, match=r"BSON vector|subtype"):
        decode_vector(value)


def test_vector_of_other_numbers_is_refused():
    """Fails without the look at the dtype in `decode_vector`."""
    with pytest.raises(ValueError, match=r"float32, got BinaryVectorDtype\.INT8"):
        decode_vector(Binary.from_vector([1, 2], BinaryVectorDtype.INT8))


@pytest.mark.parametrize(
    "value",
    [
        "a cat",
        "a\0b",
        "",
        None,
        True,
        0,
        2**63 - 1,
        -(2**63),
        -1.5,
        [],
        {},
        {"": [1, {"a.b": None, "$set": "x"}]},
        nested(64),
        nested(64, list),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_plain_json_is_stored_and_read_as_it_is(value):
    assert check_json(value) is value
    stored = bson.decode(bson.encode({"_outputs": {"_base": {"m": encode_value(value)}}}))
    again = decode_value(stored["_outputs"]["_base"]["m"])
    assert again == value
    assert isinstance(again, type(value))


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (math.nan, "of type float is no plain JSON"),
        (math.inf, "of type float is no plain JSON"),
        (-math.inf, "of type float is no plain JSON"),
        (2**63, "of type int is no plain JSON"),
        (-(2**63) - 1, "of type int is no plain JSON"),
        ("\ud800", "surrogates not allowed"),
        ((1, 2), "of type tuple is no plain JSON"),
        ({1, 2}, "of type set is no plain JSON"),
        (b"x", "of type bytes is no plain JSON"),
        (ObjectId("0" * 24), "of type ObjectId is no plain JSON"),
        (datetime.now(UTC), "of type datetime is no plain JSON"),
        (np.float32(1), "of type float32 is no plain JSON"),
        (np.ones(2, np.float32), "of type ndarray is no plain JSON"),
        ({1: 2}, "'1' cannot be a name in JSON"),
        ({None: 2}, "'None' cannot be a name in JSON"),
        ({"a\0": 2}, "cannot be a name in JSON"),
        ({"\ud800": 2}, "surrogates not allowed"),
        (nested(65), "nested deeper than 64 levels"),
        (nested(65, list), "nested deeper than 64 levels"),
        (nested(5000, list), "nested deeper than 64 levels"),
    ],
    ids=lambda value: repr(value)[:30] if not isinstance(value, str | list) else None,
)
@pytest.mark.parametrize("where", ["alone", "in a list", "in an object"])
def test_what_cannot_be_stored_or_sent_is_refused(value, says, where):
    """Wherever it stands. Fails without the check of each kind in `_check` or `_check_name`."""
    placed = {"alone": value, "in a list": [1, value], "in an object": {"a": value}}[where]
    with pytest.raises(ValueError, match=says) as refused:
        check_json(placed)
    if "surrogates" not in says:
        assert len(str(refused.value)) < 200


def test_refusal_is_bounded_however_large_the_value():
    with pytest.raises(ValueError, match="is no plain JSON") as refused:
        check_json({"a": b"x" * 100_000})
    assert len(str(refused.value)) < 200


def test_what_is_nested_in_itself_is_refused():
    """Fails without the count of levels: it would never end."""
    loop = []
    loop.append(loop)
    with pytest.raises(ValueError, match="deeper"):
        check_json(loop)


@pytest.mark.parametrize(
    "stored", [ObjectId("0" * 24), datetime.now(UTC), math.nan, Binary(b"x", 0)]
)
def test_what_is_not_ours_in_a_document_is_no_value(stored):
    with pytest.raises(ValueError):  # noqa: PT011 - of several kinds
        decode_value(stored)
