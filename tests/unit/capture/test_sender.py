"""The committed position is never ahead of an event that is not acknowledged."""

import threading

import pytest
from bson.timestamp import Timestamp
from hypothesis import given
from hypothesis import strategies as st
from kafka.errors import KafkaTimeoutError, MessageSizeTooLargeError

from streams.capture.sender import Sender
from streams.contract.events import DocumentChanged
from streams.errors import BrokerUnavailable
from streams.mongo.leadership import Position
from streams.settings import PublisherSettings, Settings


class Producer:
    """Leaves it to the test when, and in which order, an event is acknowledged."""

    def __init__(self):
        self.done = []

    def send(self, _topic, _record, done):
        self.done.append(done)

    def check(self):
        pass


def position(number):
    return Position(token=None, cluster_time=Timestamp(number, 1), filter_hash="x")


def sending(count, **limits):
    """Return a sender, and what acknowledges each of the events that it has sent."""
    producer = Producer()
    settings = Settings().model_copy(update={"publisher": PublisherSettings(**limits)})
    sender = Sender(settings, producer)
    for number in range(count):
        event = DocumentChanged(document_id=number, source=Timestamp(number, 1))
        sender.send(event, position(number))
    return sender, producer.done


@given(order=st.permutations(range(12)), stop_at=st.integers(min_value=0, max_value=12))
def test_safe_position_is_the_end_of_the_contiguous_prefix(order, stop_at):
    sender, done = sending(12)
    for number in order[:stop_at]:
        done[number](None)
    acknowledged = {*order[:stop_at]}
    safe = next(number for number in range(13) if number not in acknowledged)
    assert sender.take_safe() == (position(safe - 1) if safe else None)
    assert sender.events == 12 - safe
    assert sender.published == stop_at


def test_position_is_told_once():
    sender, done = sending(1)
    done[0](None)
    assert sender.take_safe() == position(0)
    assert sender.take_safe() is None


def test_late_acknowledgement_of_the_first_frees_all():
    sender, done = sending(3)
    size = sender.bytes
    for acknowledge in reversed(done[1:]):
        acknowledge(None)
    assert (sender.take_safe(), sender.events, sender.bytes) == (None, 3, size)
    assert size > 0
    done[0](None)
    assert (sender.take_safe(), sender.events, sender.bytes) == (position(2), 0, 0)


def test_position_that_is_skipped_waits_for_what_is_before_it():
    sender, done = sending(1)
    sender.skip(position(1))
    assert sender.take_safe() is None
    done[0](None)
    assert sender.take_safe() == position(1)


@pytest.mark.parametrize("limits", [{"window_events": 1}, {"window_bytes": 1}])
def test_window_is_full_by_count_or_by_bytes(limits):
    sender, _ = sending(0, **limits)
    assert sender.wait_for_room(0)
    sender, done = sending(1, **limits)
    assert not sender.wait_for_room(0)
    done[0](None)
    assert sender.wait_for_room(0)


def test_event_that_is_lost_is_never_safe_and_wakes_the_reader():
    sender, done = sending(2, window_events=2)
    woken = threading.Event()
    reader = threading.Thread(target=lambda: (sender.wait_for_room(60), woken.set()))
    reader.start()
    done[0](KafkaTimeoutError("gone"))
    assert woken.wait(10)
    reader.join()
    done[1](None)
    assert sender.take_safe() is None
    assert not sender.settle(0.01)
    with pytest.raises(BrokerUnavailable, match="gone"):
        sender.check()


def test_event_that_is_too_large_holds_up_nothing_and_is_told_of_once():
    sender, done = sending(2)
    done[0](MessageSizeTooLargeError("large"))
    done[1](None)
    assert sender.take_safe() == position(1)
    assert [event.document_id for event in sender.take_refused()] == [0]
    assert sender.take_refused() == []
    assert sender.published == 1
    sender.check()
