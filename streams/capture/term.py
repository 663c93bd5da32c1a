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
from streams.capture.change_stream import (
    DOCUMENT_OPERATIONS,
    Change,
    ChangeStream,
    brings_documents,
)
from streams.capture.copies import CopyRequests, LogWatch
from streams.capture.sender import Sender, Window
from streams.contract.events import DocumentChanged, DocumentDeleted
from streams.contract.pipeline import Pipeline
from streams.contract.states import Serving
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
    """Publishes one collection while the lease is held."""

    def __init__(
        self,
        settings: Settings,
        client: MongoClient[Document],
        pipeline: Pipeline,
        leadership: Leadership,
        producer: EventProducer,
        *,
        tick: Callable[[], None],
    ) -> None:
        """Keep what is needed; nothing is opened.

        Args:
            settings: All settings.
            client: Client of the replica set.
            pipeline: What is declared.
            leadership: The lease, held.
            producer: Connected; closed by the caller.
            tick: Called again and again while there is progress or nothing to do.
        """
        self._settings = settings
        self._client = client
        self._leadership = leadership
        self._tick = tick
        state = state_database(client, settings.mongo)
        self._requests = CopyRequests(state)
        self._registry = Registry(state)
        self._store = DocumentStore(client, settings.mongo, pipeline)
        self._collection = settings.mongo.collection
        self._stream = ChangeStream(
            client[settings.mongo.database], self._collection, watched=pipeline.watched
        )
        self._log = LogWatch(settings.kafka, producer)
        self._sender = Sender(settings, producer)
        self._position: Position | None = None
        self._due: dict[str, float] = {}

    @property
    def window(self) -> Window[Position]:
        """Records sent and not acknowledged."""
        return self._sender.window

    @property
    def published(self) -> int:
        """Records that the broker has acknowledged."""
        return self._sender.published

    def run(self, stop: threading.Event, *, is_open: Callable[[], None]) -> None:
        """Publish until `stop` is set.

        1. Read the position; without one, begin a copy and follow from a time before it. A copy
           begins, too, when Kafka's log no longer reaches as far as it was acknowledged.
        2. Follow the stream; history that is lost makes another copy. Copies are worked on beside
           it (`copy.py`); here they only begin.
        3. On a stop: everything acknowledged, committed, lease released.

        Args:
            stop: Ends it.
            is_open: Called when the stream is open.

        Raises:
            LeaseLost: Another publisher holds the lease.
            CaptureError: The stored position is damaged.
            Unavailable: MongoDB or the broker is away, or has lost its log; begin a new term.
        """
        try:
            progress = self._leadership.read()  # 1
            self._position = progress.position
            self._log.begin(progress.acknowledged)
            self._is_due("log", self._settings.reconciler.interval_seconds)  # looked at here
            if self._position is None:
                self._begin_copy("first start")
            elif self._log.is_cut():
                self._begin_copy("log lost", self._position)
            while not stop.is_set():
                try:
                    self._follow(stop, is_open)  # 2
                except HistoryLost as exc:
                    metrics.HISTORY_LOST.inc()
                    log.error("changes may have been missed: copying everything", error=str(exc))
                    self._sender.drain()
                    self._sender.window.take_safe()  # positions of the lost history
                    self._begin_copy("history lost")
            self._sender.settle()  # 3
            self._commit()
            self._leadership.release()
        finally:
            self._stream.close()

    def _begin_copy(self, reason: str, position: Position | None = None) -> None:
        """Take the time before anything is read, so that no change falls between.

        The stream goes on at that time, or behind a position that is still good. Both are kept by
        one write, so no restart falls between them.
        """
        now = cluster_time(self._client)
        position = position or Position(token=None, cluster_time=now, filter_hash=self._stream.hash)
        self._log.forget()
        before = self._leadership.read().copy
        start = before.here if before is not None else ()
        self._leadership.begin_copy(position, CopyState(source=now, start=start))
        self._position = position
        log.info("copying the collection", reason=reason)

    def _follow(self, stop: threading.Event, is_open: Callable[[], None]) -> None:
        assert self._position is not None  # noqa: S101 - a copy sets it
        self._stream.open(self._position)
        is_open()
        while not stop.is_set():
            self._tick()
            self._sender.check()
            self._housekeep()
            if self._sender.window.is_full:
                self._sender.window.wait_for_room(0.2)
                continue
            change = self._stream.next()
            if change is not None:
                self._publish(change)
            elif self._sender.window.events == 0:
                self._note_idle()
                self._look_for_a_cut_log()
            is_renamed = change is not None and brings_documents(change, self._collection)
            is_asked = self._is_due("requests", _REQUEST_POLL_SECONDS) and self._is_asked()
            if is_renamed or is_asked:
                self._sender.drain()
                self._note_refused()
                position = self._sender.window.take_safe() or self._position
                self._begin_copy("asked for, or another collection", position)

    def _publish(self, change: Change) -> None:
        operation = change["operationType"]
        metrics.CHANGES.labels(operation).inc()
        position = self._stream.position_of(change)
        if operation not in DOCUMENT_OPERATIONS:
            self._sender.skip(position)
            if position.is_invalidate:
                self._reopen_behind(position)
            return
        document_id = change["documentKey"]["_id"]
        source = change["clusterTime"]
        if operation == "delete":
            self._sender.send(DocumentDeleted(document_id=document_id, source=source), position)
        else:
            at = change.get("wallTime")
            event = DocumentChanged(document_id=document_id, source=source, changed_at=at)
            self._sender.send(event, position)

    def _reopen_behind(self, position: Position) -> None:
        """The server ends a stream with `invalidate`; what comes after needs a new one."""
        self._sender.drain()
        self._commit()
        self._stream.open(position)

    def _housekeep(self) -> None:
        settings = self._settings.publisher
        if self._is_due("lease", settings.lease_seconds / 3):
            self._leadership.renew()
        if self._is_due("commit", settings.commit_interval_seconds):
            self._commit()

    def _commit(self) -> None:
        position = self._sender.window.take_safe()
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
        self._leadership.commit(position, self._log.acknowledged)
        self._position = position
        metrics.POSITION_COMMITS.inc()

    def _note_refused(self) -> None:
        refused = self._sender.take_refused()
        note_refused(refused, store=self._store, serving=self._serving)

    def _serving(self) -> Serving:
        return self._registry.serving(self._store.pipeline)

    def _look_for_a_cut_log(self) -> None:
        """Look now and then while nothing happens: nobody else would notice."""
        if not self._is_due("log", self._settings.reconciler.interval_seconds):
            return
        self._log.begin(self._leadership.read().acknowledged)  # a copy is acknowledged beside us
        if self._log.is_cut():
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
