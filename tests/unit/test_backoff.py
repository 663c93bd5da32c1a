"""Pauses grow, and have an end."""

from streams.backoff import Backoff


def test_pauses_double_up_to_the_longest():
    backoff = Backoff(0.5, 3)
    assert [backoff.pause(attempt) for attempt in range(1, 6)] == [0.5, 1, 2, 3, 3]
    assert backoff.pause(10**9) == 3
    assert Backoff(0, 3).pause(7) == 0


def test_random_pauses_differ_and_lie_between_this_one_and_the_next():
    backoff = Backoff(0.5, 3)
    for attempt, (least, most) in enumerate([(0.5, 1), (1, 2), (1.5, 3), (1.5, 3)], start=1):
        pauses = {backoff.jittered(attempt) for _ in range(50)}
        assert len(pauses) > 1
        assert least <= min(pauses) <= max(pauses) <= most
