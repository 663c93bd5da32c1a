"""What a dead letter's headers say, whoever wrote them."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from streams.contract.dead_letters import (
    dead_letter_record,
    original_headers,
    parse_dead_letter,
    replay_mark,
    replay_record,
    replayed_position,
)
from streams.contract.documents import Output, OutputError
from streams.contract.events import (
    DocumentChanged,
    ModelApplied,
    Origin,
    Record,
)
from streams.contract.wire import decode_event, encode_event
from streams.errors import InvalidEvent

ERROR = OutputError(type="InvalidImage", message="no image", attempts=1, is_retryable=False)


def letter(clustertime=b"100.1", **changed):
    original = Record(key=b"1", value=b"", headers=[("ce_clustertime", clustertime)])
    record = dead_letter_record(
        original, stage="clip", topic="t", position="0:1", model="clip", error=ERROR
    )
    headers = {**dict(record.headers), **{f"dl_{k}": v for k, v in changed.items()}}
    return parse_dead_letter(record.key, list(headers.items()))


def test_letter_says_what_was_written():
    found = letter()
    assert (found.error, found.source, found.stage) == (ERROR, Timestamp(100, 1), "clip")
    assert found.at.tzinfo is not None


@pytest.mark.parametrize(
    "changed",
    [
        {"attempts": b"9" * 30},
        {"attempts": b"-1"},
        {"attempts": None},
        {"at": b"yesterday"},
        {"at": None},
        {"at": b"0001-01-01T00:00:00+14:00"},
    ],
    ids=repr,
)
def test_headers_that_nobody_could_store_or_sort_are_refused(changed):
    """Fails without the range of `attempts`, `OverflowError`, and `_decoded`."""
    with pytest.raises(InvalidEvent, match="not a dead letter"):
        letter(**changed)


def test_headers_without_a_value_can_be_sent_again():
    """Fails without `or b""` in `original_headers`: the producer takes bytes only."""
    assert original_headers([("theirs", None)]) == [("theirs", b"")]


def test_letters_can_be_sorted_by_their_time():
    """Fails without `astimezone`: a time without a zone does not compare with one that has it."""
    assert letter(at=b"2026-01-01T00:00:00").at < letter().at


def test_error_of_a_change_from_the_future_has_no_source():
    """Fails without the look at the clock in `parse_source`.

    The error would be stored with that source, and beat every later output of the document.
    """
    assert letter(clustertime=b"4000000000.1").source is None


@given(position=st.none() | st.binary(max_size=20))
def test_mark_may_hold_anything(position):
    """Fails with a bare `decode` in `replayed_position`."""
    assert isinstance(replayed_position([("dl_replayed", position)]), str)


def test_mark_says_which_letter_was_replayed():
    assert replayed_position(replay_mark("0:7", b"1").headers) == "0:7"


CHANGED = DocumentChanged(document_id=1, source=Timestamp(5, 1), changed_at=datetime.now(UTC))


def applied(value):
    return ModelApplied(
        document_id=1,
        source=CHANGED.source,
        origin=Origin.LIVE,
        model="clip",
        outputs={"clip": Output(value=value, version="c1", inputs={"img": "ab"})},
        changed_at=CHANGED.changed_at,
    )


@pytest.mark.parametrize("event", [CHANGED, applied("x"), applied({"a": [1, None]})])
def test_replayed_record_says_so_whatever_it_is(event):
    """Fails when only a change is marked: a caption that is replayed would count its age."""
    record = encode_event(event, tenant="a.b")
    again = replay_record(record, tenant="a.b")
    found = decode_event(again.key, again.value, again.headers, tenant="a.b")
    assert found == replace(event, origin=Origin.REPLAY)


def test_record_that_says_nothing_of_ours_is_replayed_as_it_is():
    record = Record(key=b"1", value=b"junk", headers=[])
    assert replay_record(record, tenant="a.b") == record
