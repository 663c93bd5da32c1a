"""The committed position is never ahead of a send that is not acknowledged."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from streams.capture.sender import Window


def window(events=100, size=10_000):
    return Window(max_events=events, max_bytes=size)


@given(order=st.permutations(range(12)), stop_at=st.integers(min_value=0, max_value=12))
def test_safe_position_is_the_end_of_the_contiguous_prefix(order, stop_at):
    sends = window()
    slots = [sends.add(number, 1) for number in range(12)]
    acknowledged = set()
    safe = -1
    for number in order[:stop_at]:
        sends.acknowledge(slots[number])
        acknowledged.add(number)
        safe = sends.take_safe() if set(range(safe + 2)) <= acknowledged else safe
        while set(range(safe + 2)) <= acknowledged and safe < 11:
            safe += 1
        assert set(range(safe + 1)) <= acknowledged
    assert sends.events == 12 - (safe + 1)


def test_position_is_told_once():
    sends = window()
    sends.acknowledge(sends.add("a", 1))
    assert sends.take_safe() == "a"
    assert sends.take_safe() is None


def test_late_acknowledgement_of_the_first_frees_all():
    sends = window()
    slots = [sends.add(number, 5) for number in range(3)]
    for slot in reversed(slots[1:]):
        sends.acknowledge(slot)
    assert (sends.take_safe(), sends.events, sends.bytes) == (None, 3, 15)
    sends.acknowledge(slots[0])
    assert (sends.take_safe(), sends.events, sends.bytes) == (2, 0, 0)


def test_window_is_full_by_count_or_by_bytes():
    by_count = window(events=1)
    by_count.add("a", 1)
    assert by_count.is_full
    by_bytes = window(size=10)
    by_bytes.add("a", 10)
    assert by_bytes.is_full


def test_lost_send_is_never_safe_and_wakes_the_reader():
    sends = window(events=1)
    sends.add("a", 1)
    woken = threading.Event()
    reader = threading.Thread(target=lambda: (sends.wait_for_room(60), woken.set()))
    reader.start()
    sends.fail(OSError("gone"))
    assert woken.wait(10)
    reader.join()
    assert sends.take_safe() is None
    assert isinstance(sends.error, OSError)
    assert not sends.drain(0.01)
