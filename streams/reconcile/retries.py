"""Which documents whose error may pass are tried again, and when. Pure."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from heapq import nlargest, nsmallest
from math import inf
from typing import Any, Final

from streams.backoff import Backoff
from streams.contract.ids import DocumentId
from streams.settings import ReconcilerSettings

#: A document that fails again and again is tried at least so often.
_LONGEST_WAIT_SECONDS: Final = 24 * 3600.0
#: Most retried documents that are remembered; of the others the stored time of the error counts.
_MOST_REMEMBERED: Final = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """A document with an error that may pass.

    Attributes:
        document_id: Its `_id`.
        key: The same as `document_key`.
        at: When it failed last, by the clock of whoever wrote that.
        source: clusterTime of the change that failed.
    """

    document_id: DocumentId
    key: bytes
    at: datetime
    source: Any


@dataclass(frozen=True, kw_only=True, slots=True)
class _Retry:
    """The last retry of a document, while that fails.

    Attributes:
        source: clusterTime of the change that failed; a newer change begins anew.
        since: When, monotonic seconds.
        times: How often by now.
    """

    source: Any
    since: float
    times: int


class Retries:
    """Chooses one chunk after the other, the least recently retried documents first.

    The next one when the stages are done with the last: a retry may take them as long as a silent
    server lets them wait, and live changes wait behind it.
    """

    def __init__(
        self,
        limits: ReconcilerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Keep the limits."""
        self._limits = limits
        self._clock = clock
        self._now = now
        self._retried: dict[bytes, _Retry] = {}
        self._under_way: dict[bytes, datetime] = {}
        self._sent_at = -inf
        self._next_at = -inf

    def due(self, failures: Iterable[Failure]) -> Iterator[tuple[float, datetime, Failure]]:
        """Yield failures that are old enough, each behind when it was retried and when it failed.

        Each retry in vain doubles the wait. A time of failure that has not come yet is that of a
        clock that is ahead: it says nothing.
        """
        clock, now = self._clock(), self._now()
        young = now - timedelta(seconds=self._limits.retry_after_seconds)
        for failure in failures:
            last = self._retried.get(failure.key)
            if last is None or last.source != failure.source:
                if not young <= failure.at <= now:
                    yield -inf, failure.at, failure
            elif clock - last.since >= self._wait(last.times):
                yield last.since, failure.at, failure

    def choose(self, failures: Iterable[Failure]) -> list[DocumentId]:
        """Return the chunk to be sent now; empty while the last one is under way.

        Args:
            failures: All there are.
        """
        seen: dict[bytes, datetime] = {}

        def noted() -> Iterator[Failure]:
            for failure in failures:
                if failure.key in self._retried:
                    seen[failure.key] = failure.at
                yield failure

        chosen = nsmallest(self._limits.chunk_size, self.due(noted()), key=lambda found: found[:2])
        self._retried = {key: last for key, last in self._retried.items() if key in seen}
        if self._is_under_way(seen):
            return []
        for _, _, failure in chosen:
            self._note(failure)
        self._under_way = {failure.key: failure.at for _, _, failure in chosen}
        self._sent_at = self._clock()
        self._forget()
        return [failure.document_id for _, _, failure in chosen]

    def _is_under_way(self, seen: dict[bytes, datetime]) -> bool:
        """Whether the last chunk is; or its share of the time, if it took more than an interval.

        An error that comes again has a new time. Records may be lost, so patience has an end.
        """
        now, limits = self._clock(), self._limits
        took = now - self._sent_at - limits.interval_seconds
        is_there = any(seen.get(key) == at for key, at in self._under_way.items())
        if is_there and took < limits.retry_after_seconds:
            return True
        if self._under_way:
            self._under_way = {}
            pause = max(0.0, took) * (1 / limits.live_share - 1)
            self._next_at = now + min(pause, limits.retry_after_seconds)
        return now < self._next_at

    def _note(self, failure: Failure) -> None:
        last = self._retried.get(failure.key)
        times = last.times if last is not None and last.source == failure.source else 0
        self._retried[failure.key] = _Retry(
            source=failure.source, since=self._clock(), times=times + 1
        )

    def _forget(self) -> None:
        if len(self._retried) > _MOST_REMEMBERED:
            newest = nlargest(_MOST_REMEMBERED, self._retried.items(), key=lambda i: i[1].since)
            self._retried = dict(newest)

    def _wait(self, times: int) -> float:
        first = self._limits.retry_after_seconds
        return Backoff(first, max(first, _LONGEST_WAIT_SECONDS)).pause(1 + times)
