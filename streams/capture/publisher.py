"""The publisher: every change of an image becomes a record on Kafka, at least once, in order."""

import threading
import time
from collections.abc import Callable
from typing import Final

from pymongo import MongoClient
from structlog import get_logger

from streams import metrics
from streams.backoff import Backoff
from streams.capture.sender import Sender
from streams.capture.term import Term
from streams.contract.pipeline import Pipeline
from streams.errors import CaptionstreamError, LeaseLost, SettingsError, Unavailable
from streams.kafka.producer import EventProducer
from streams.mongo.client import Document, state_database
from streams.mongo.leadership import Leadership
from streams.settings import Settings

log = get_logger(__name__)

_BACKOFF: Final = Backoff(0.2, 10.0)


class Publisher:
    """Publishes one collection while it holds the lease; otherwise it stands by.

    Attributes:
        is_leading: Whether it holds the lease.
        waits_for: What it cannot do without; empty while it publishes or stands by.
        last_tick: When it last made progress, monotonic seconds.
    """

    def __init__(
        self,
        settings: Settings,
        client: MongoClient[Document],
        pipeline: Pipeline,
        *,
        connect_producer: Callable[[], EventProducer] | None = None,
    ) -> None:
        """Keep what is needed; nothing is opened.

        Args:
            settings: All settings.
            client: Client of the replica set.
            pipeline: What is declared.
            connect_producer: Makes a producer; for tests that need one that fails.
        """
        self._settings = settings
        self._client = client
        self._pipeline = pipeline
        self._leadership = Leadership(
            state_database(client, settings.mongo),
            tenant=settings.mongo.tenant,
            lease_seconds=settings.publisher.lease_seconds,
        )
        self._connect_producer = connect_producer or (lambda: EventProducer(settings.kafka))
        self._term: Term | None = None
        self._published_before = 0
        self._failures = 0
        self._is_standby = False
        self._has_connected = False
        self._started_at = time.time()
        self.is_leading = False
        self.waits_for = "the lease"
        self.last_tick = time.monotonic()

    @property
    def sender(self) -> Sender | None:
        """What it sends with; None while it does not publish."""
        return term.sender if (term := self._term) else None

    @property
    def lease(self) -> Leadership | None:
        """The lease, while it publishes."""
        return self._leadership if self.is_leading else None

    @property
    def in_flight(self) -> int:
        """Events sent and not acknowledged."""
        return sender.events if (sender := self.sender) else 0

    @property
    def source_lag_seconds(self) -> float:
        """Age of the committed position; 0 while another publisher leads.

        Without a position it counts from the start: so it grows whatever keeps us from publishing.
        """
        if self._is_standby:
            return 0.0
        kept = self._leadership.kept_time
        return max(0.0, time.time() - (kept.time if kept is not None else self._started_at))

    @property
    def published(self) -> int:
        """Records acknowledged since the start."""
        return self._published_before + (sender.published if (sender := self.sender) else 0)

    def run(self, stop: threading.Event) -> None:
        """Publish until `stop` is set.

        1. Acquire the lease, or stand by.
        2. Lead for a term.
        3. After a failure, begin again from the committed position, ever more slowly.

        Raises:
            CaptureError: The stored position is damaged.
            SettingsError: A setting is wrong; not once it has been connected with the same.
        """
        while not stop.is_set():
            self.last_tick = time.monotonic()
            try:
                self._is_standby = self._leadership.acquire() is None  # 1
                if self._is_standby:
                    self.waits_for = ""
                    stop.wait(self._settings.publisher.lease_seconds / 3)
                    continue
                self._lead(stop)  # 2
            except LeaseLost as exc:
                log.warning("lease lost, standing by", error=str(exc))
            except Unavailable as exc:  # 3
                self._wait(stop, exc)
            except SettingsError as exc:  # files of certificates that are just being renewed?
                if not self._has_connected:
                    raise
                self._wait(stop, exc)

    def _wait(self, stop: threading.Event, error: CaptionstreamError) -> None:
        self._failures += 1
        self.waits_for = str(error)
        log.warning("publisher waits", error=str(error))
        stop.wait(_BACKOFF.jittered(self._failures))

    def _lead(self, stop: threading.Event) -> None:
        producer = self._connect_producer()
        self._has_connected = True
        term = Term(self._settings, self._client, self._pipeline, self._leadership, producer)
        self._term = term
        self._set_leading(is_leading=True)
        self.waits_for = "the change stream"
        began = time.monotonic()
        try:
            term.run(stop, tick=self._tick)
        finally:
            self._set_leading(is_leading=False)
            # An open stream is no progress: what it delivers may fail again and again.
            if term.sender.published or time.monotonic() - began > _BACKOFF.most:
                self._failures = 0
            self._published_before, self._term = self.published, None
            producer.close()

    def _set_leading(self, *, is_leading: bool) -> None:
        self.is_leading = is_leading
        metrics.IS_LEADER.set(int(is_leading))
        if is_leading:
            metrics.LEASE_EPOCH.set(self._leadership.epoch)

    def _tick(self) -> None:
        self.waits_for = ""
        self.last_tick = time.monotonic()
