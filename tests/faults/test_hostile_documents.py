"""Documents of any content go through a running stack: nothing dies, and what can be right is."""

import json
import random
from datetime import UTC

import pytest
from bson import (
    Binary,
    Code,
    DBRef,
    Decimal128,
    Int64,
    MaxKey,
    MinKey,
    ObjectId,
    Regex,
    Timestamp,
    json_util,
)
from bson.datetime_ms import DatetimeMS
from bson.errors import BSONError
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from pymongo.errors import PyMongoError

from tests.captioner import publish_tiny_captioner
from tests.faults.load import picture
from tests.faults.soak import running

#: Names that would mean something else in a path or a query.
NAMES = st.sampled_from(
    ["a", "img", "a.b", "$set", "$where", "_outputs.img.clip", "", " ", "é", "x" * 300, "__proto__"]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=30),
    st.binary(max_size=100),
    st.datetimes(timezones=st.just(UTC)),
    st.sampled_from(
        [
            ObjectId(b"0" * 12),
            Int64(7),
            Decimal128("NaN"),
            Decimal128("1.5"),
            Timestamp(4_000_000_000, 1),
            Binary(b"\x00", 5),
            Binary(b"\x27\x00\x00\x00\x80?", 9),
            Code("while (true) {}"),
            Regex("(a+)+$"),
            MinKey(),
            MaxKey(),
            DBRef("documents", 1),
            DatetimeMS(2**60),
        ]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
IDS = SCALARS.filter(lambda value: not isinstance(value, Regex)) | st.dictionaries(
    st.sampled_from(["a", "b", "a.b"]), SCALARS, max_size=2
)


def examples(strategy, number):
    """Return a hundred values, the same in every run."""
    found = []

    @seed(number)
    @settings(max_examples=100, database=None, deadline=None)
    @given(strategy)
    def collect(value):
        found.append(value)

    collect()
    return found


def insert(documents, document):
    """Insert what the driver and MongoDB accept; return its id."""
    try:
        return documents.insert_one(document).inserted_id
    except (PyMongoError, BSONError, OverflowError):
        return None


@pytest.mark.timeout(600)
def test_documents_of_any_content(tmp_path):
    """Fails without `datetime_conversion` in `mongo.py`."""
    generator = random.Random(3)  # noqa: S311 - pictures
    with running(tmp_path) as (stack, _, _):
        publish_tiny_captioner(stack.info["mongo_uri"], stack.info["database"])
        before = stack.pids()
        documents = stack.documents
        for value in examples(IDS, 1):
            insert(documents, {"_id": value, "img": picture(generator)})
        for value in examples(VALUES, 2):
            insert(documents, {"img": value, "captions": value, "_fold": value})
            insert(documents, {"img": picture(generator), "captions": value, "a.b": value})
        insert(documents, {"img": picture(generator), "padding": b"x" * (15 << 20)})
        stack.run("wait", "--timeout", "300")
        counts = stack.status()["documents"]
        assert counts["captioned"] > 150
        assert counts["failed"] > 80
        assert json.loads(stack.run("verify", "--json"))["wrong"] == []

        # What a producer puts where our outputs belong may stay wrong, and harms nobody else.
        forged = [
            insert(documents, {"img": picture(generator), "_outputs": value})
            for value in examples(VALUES, 4)
        ]
        last = documents.insert_one({"img": picture(generator)}).inserted_id
        stack.wait_for_output(last, "conditional_lm")
        wrong = json.loads(stack.run("verify", "--json", "--patience", "5", code=None))["wrong"]
        about = {json_util.dumps(json_util.loads(json.dumps(row["id"]))) for row in wrong}
        assert about <= {json_util.dumps(document_id) for document_id in forged}
        assert stack.pids() == before, "no process died of it"
