"""One term of a publisher: from winning the lease to losing it, stopping or failing.

Reads the change stream, sends, and commits the position of what the broker has acknowledged.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from pymongo import MongoClient
from structlog import get_logger

from streams import metrics
from streams.capture.change_stream import Change, ChangeStream
from streams.capture.copies import CopyRequests, has_lost_log
from streams.capture.sender import Sender
from streams.contract.pipeline import CHANGES, Pipeline
from streams.errors import BrokerUnavailable, HistoryLost
from streams.kafka.producer import EventProducer
from streams.mongo.client import Document, cluster_time, state_database
from streams.mongo.leadership import CopyState, Leadership, Position
from streams.mongo.store import DocumentStore
from streams.reconcile.oversized import note_refused
from streams.registry.versions import Registry
from streams.settings import Settings

log = get_logger(__name__)

_REQUEST_POLL_SECONDS: Final = 2.0
_COMPLAINT_SECONDS: Final = 60.0


class Term:
    """Publishes one collection while the lease is held.

    Attributes:
        sender: What it sends, and how much of that has arrived.
    """

    def __init__(
        self,
        settings: Settings,
        client: MongoClient[Document],
        pipeline: Pipeline,
        leadership: Leadership,
        producer: EventProducer,
    ) -> None:
        """Keep what is needed; nothing is opened.

        Args:
            settings: All settings.
            client: Client of the replica set.
            pipeline: What is declared.
            leadership: The lease, held.
            producer: Connected; closed by the caller.
        """
        mongo = settings.mongo
        state = state_database(client, mongo)
        self._settings = settings
        self._client = client
        self._leadership = leadership
        self._producer = producer
        self._requests = CopyRequests(state)
        self._registry = Registry(state)
        self._store = DocumentStore(client, mongo, pipeline)
        self._stream = ChangeStream(
            client[mongo.database], mongo.collection, watched=pipeline.watched
        )
        self._position: Position | None = None
        self._due: dict[str, float] = {}
        self.sender = Sender(settings, producer)

    def run(self, stop: threading.Event, *, tick: Callable[[], None]) -> None:
        """Publish until `stop` is set.

        1. Read the position; without one, begin a copy and follow from a time before it. A copy
           begins, too, when Kafka's log no longer reaches as far as it was acknowledged.
        2. Follow the stream; history that is lost makes another copy. Copies are worked on beside
           it (`reconcile/copy.py`); here they only begin.
        3. On a stop: everything acknowledged, committed, lease released.

        Args:
            stop: Ends it.
            tick: Called again and again while the stream is open.

        Raises:
            LeaseLost: Another publisher holds the lease.
            CaptureError: The stored position is damaged.
            Unavailable: MongoDB or the broker is away, or has lost its log; begin a new term.
        """
        try:
            self._begin()  # 1
            while not stop.is_set():
                try:
                    self._follow(stop, tick)  # 2
                except HistoryLost as exc:
                    metrics.HISTORY_LOST.inc()
                    log.error("changes may have been missed: copying everything", error=str(exc))
                    self.sender.drain()
                    self.sender.take_safe()  # a position of the lost history
                    self._begin_copy("history lost")
            self.sender.settle(self._settings.kafka.request_timeout_seconds)  # 3
            self._commit()
            self._leadership.release()
        finally:
            self._stream.close()

    def _begin(self) -> None:
        progress = self._leadership.read()
        self._position = progress.position
        self._is_due("log", self._settings.reconciler.interval_seconds)  # looked at here
        if self._position is None:
            self._begin_copy("first start")
        elif has_lost_log(progress.acknowledged, self._settings.kafka):
            self._begin_copy("log lost", self._position)

    def _begin_copy(self, reason: str, position: Position | None = None) -> None:
        """Take the time before anything is read, so that no change falls between.

        The stream goes on at that time, or behind a position that is still good. Both are kept by
        one write, so no restart falls between them.
        """
        now = cluster_time(self._client)
        position = position or Position(token=None, cluster_time=now, filter_hash=self._stream.hash)
        self._producer.forget_acknowledged()
        before = self._leadership.read().copy
        start = before.here if before is not None else ()
        self._leadership.begin_copy(position, CopyState(source=now, start=start))
        self._position = position
        log.info("copying the collection", reason=reason)

    def _follow(self, stop: threading.Event, tick: Callable[[], None]) -> None:
        assert self._position is not None  # noqa: S101 - a copy sets it
        self._stream.open(self._position)
        while not stop.is_set():
            tick()
            self.sender.check()
            self._housekeep()
            if not self.sender.wait_for_room(0.2):
                continue
            change = self._stream.next()
            if change is not None:
                self._publish(change)
            elif self.sender.events == 0:
                self._note_idle()
                self._look_for_a_lost_log()
            is_asked = self._is_due("requests", _REQUEST_POLL_SECONDS) and self._is_asked()
            if is_asked or (change is not None and change.brings_documents):
                self.sender.drain()
                self._note_refused()
                position = self.sender.take_safe() or self._position
                self._begin_copy("asked for, or another collection", position)

    def _publish(self, change: Change) -> None:
        metrics.CHANGES.labels(change.operation).inc()
        if change.event is not None:
            self.sender.send(change.event, change.position)
            return
        self.sender.skip(change.position)
        if change.position.is_invalidate:  # it ends the stream: what comes after needs a new one
            self.sender.drain()
            self._commit()
            self._stream.open(change.position)

    def _housekeep(self) -> None:
        settings = self._settings.publisher
        if self._is_due("lease", settings.lease_seconds / 3):
            self._leadership.renew()
        if self._is_due("commit", settings.commit_interval_seconds):
            self._commit()

    def _commit(self) -> None:
        position = self.sender.take_safe()
        self._note_refused()  # first: behind a position that is kept nothing is read again
        if position is not None:
            self._keep(position)

    def _note_idle(self) -> None:
        """An idle stream's token ages too: without this the oplog would outrun it."""
        if not self._is_due("heartbeat", self._settings.publisher.heartbeat_interval_seconds):
            return
        self._commit()
        position = self._stream.idle_position()
        if position is not None and position != self._position:
            self._keep(position)

    def _keep(self, position: Position) -> None:
        self._leadership.commit(position, self._producer.acknowledged(CHANGES))
        self._position = position
        metrics.POSITION_COMMITS.inc()

    def _note_refused(self) -> None:
        refused = self.sender.take_refused()
        note_refused(
            refused,
            store=self._store,
            serving=lambda: self._registry.serving(self._store.pipeline),
        )

    def _look_for_a_lost_log(self) -> None:
        """Look now and then while nothing happens: nobody else would notice."""
        if not self._is_due("log", self._settings.reconciler.interval_seconds):
            return
        self._commit()  # with it what was acknowledged; a copy keeps beside us what it sends
        if has_lost_log(self._leadership.read().acknowledged, self._settings.kafka):
            self._begin_copy("log lost", self._position)
            # A broker that lost its log may not know this producer either: it takes nothing of it.
            msg = "Kafka lost its log: a new session of the producer copies everything"
            raise BrokerUnavailable(msg)

    def _is_asked(self) -> bool:
        try:
            return self._requests.is_open(self._leadership.read().copied_at)
        except ValueError as exc:
            if self._is_due("complaint", _COMPLAINT_SECONDS):
                log.error("request ignored", error=str(exc))
            return False

    def _is_due(self, what: str, interval: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + interval
        return True
