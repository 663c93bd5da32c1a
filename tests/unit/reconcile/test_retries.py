"""Which failures are tried again, in which order, and how long each waits."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from bson.timestamp import Timestamp

from streams.reconcile import retries as module
from streams.reconcile.retries import Failure, Retries
from streams.settings import ReconcilerSettings

START = datetime(2030, 1, 1, tzinfo=UTC)
SOURCE = Timestamp(100, 7)
#: A scan each half minute, a chunk of 64, a first retry after ten minutes.
LIMITS = ReconcilerSettings()
HOUR = 3600


class World:
    """Documents that fail, a clock, and stages that finish a retry when they are told to."""

    def __init__(self, count, **limits):
        self.seconds = 0.0
        self.failed = dict.fromkeys(range(count), START - timedelta(hours=1))
        self.sources = dict.fromkeys(range(count), SOURCE)
        self.taken = {number: [] for number in range(count)}
        self.retries = Retries(
            LIMITS.model_copy(update=limits), clock=lambda: self.seconds, now=lambda: self.now
        )

    @property
    def now(self):
        return START + timedelta(seconds=self.seconds)

    def scan(self, *, fails_again=True):
        failures = [
            Failure(document_id=i, key=b"%d" % i, at=at, source=self.sources[i])
            for i, at in self.failed.items()
        ]
        chosen = self.retries.choose(failures)
        for number in chosen:
            self.taken[number].append(self.seconds)
        if fails_again:
            self.fail_again(chosen)
        return chosen

    def fail_again(self, numbers):
        self.failed |= dict.fromkeys(numbers, self.now)

    def run(self, seconds):
        for _ in range(int(seconds / LIMITS.interval_seconds)):
            self.scan()
            self.seconds += LIMITS.interval_seconds


def test_every_one_of_many_failures_is_retried_and_nobody_twice_before():
    """Fails with `islice` in place of `nsmallest`: the same ones are retried again and again."""
    world = World(375, chunk_size=8)
    world.run(2 * HOUR)
    first = max(times[0] for times in world.taken.values())
    assert first < HOUR / 2
    second = min(times[1] for times in world.taken.values() if times[1:])
    assert second >= first
    counts = Counter(len(times) for times in world.taken.values())
    assert max(counts) - min(counts) <= 1


def test_order_of_retries_needs_no_new_time_of_failure():
    """Records may be lost: then a document says nothing of its retry."""
    world = World(75, chunk_size=16)
    for _ in range(600):
        world.scan(fails_again=False)
        world.seconds += LIMITS.interval_seconds
    counts = {len(times) for times in world.taken.values()}
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 2


def test_each_retry_in_vain_doubles_the_wait_up_to_a_day():
    """Fails without `times` in `_wait`."""
    world = World(1)
    world.run(5 * 24 * HOUR)
    [times] = world.taken.values()
    waits = [later - sooner for sooner, later in pairwise(times)]
    assert waits[:4] == [1200, 2400, 4800, 9600]
    assert max(waits) == 24 * HOUR
    assert len(waits) > 8


def test_young_failure_waits_and_one_of_a_clock_that_went_ahead_does_not():
    world = World(3)
    world.failed[0] = START - timedelta(seconds=599)
    world.failed[1] = START + timedelta(hours=5)
    assert world.scan() == [2, 1]
    world.seconds += LIMITS.interval_seconds
    assert world.scan() == [0]


def test_next_chunk_waits_until_the_last_one_is_finished():
    """Fails without the look at `_under_way`."""
    world = World(100)
    chosen = world.scan(fails_again=False)
    for _ in range(5):
        world.seconds += LIMITS.interval_seconds
        assert world.scan() == []
    world.fail_again(chosen[1:])
    assert world.scan() == []
    del world.failed[chosen[0]]  # it got its caption
    assert world.scan() == []
    world.seconds += LIMITS.retry_after_seconds
    assert len(world.scan()) == 36


def test_chunk_that_took_long_is_followed_by_a_pause():
    """Fails without `_next_at`: a silent server would have the stages all the time."""
    world = World(100)
    chosen = world.scan(fails_again=False)
    world.seconds += LIMITS.interval_seconds + 60
    world.fail_again(chosen)
    assert world.scan() == []
    world.seconds += 60 * 3 - 1
    assert world.scan() == []
    world.seconds += 1
    assert len(world.scan()) == 36


def test_chunk_whose_records_are_lost_is_waited_for_with_patience():
    world = World(100)
    world.scan(fails_again=False)
    world.run(HOUR)
    assert all(world.taken.values())


def test_newer_change_of_a_document_begins_anew():
    world = World(1)
    world.run(4 * HOUR)
    times = len(world.taken[0])
    world.sources[0] = Timestamp(200, 1)
    world.fail_again([0])
    world.run(HOUR / 4)
    assert len(world.taken[0]) == times + 1


def test_what_is_remembered_is_bounded(monkeypatch):
    """Fails without `_forget`."""
    monkeypatch.setattr(module, "_MOST_REMEMBERED", 100)
    world = World(300)
    world.run(HOUR / 2)
    assert all(world.taken.values())
    assert len(world.retries._retried) == 100
    last = sorted(world.taken, key=lambda number: world.taken[number][-1])[-44:]
    assert {b"%d" % number for number in last} <= set(world.retries._retried)


def test_document_that_is_finished_is_forgotten():
    world = World(3)
    world.scan()
    world.failed.clear()
    world.seconds += LIMITS.interval_seconds
    world.scan()
    assert not world.retries._retried
