"""One term of a publisher: from winning the lease to losing it, stopping or failing.

Reads the change stream, sends, and commits the position of what the broker has acknowledged.
"""

import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

from pymongo import MongoClient
from structlog import get_logger

from streams import events, metrics
from streams.capture.change_stream import ChangeStream
from streams.capture.copy import copy_chunks
from streams.capture.leadership import CopyState, Leadership, Position
from streams.capture.pipeline import DOCUMENT_OPERATIONS, Change, touches_image
from streams.capture.producer import EventProducer, is_too_large
from streams.capture.window import Window
from streams.documents import DocumentId
from streams.errors import BrokerUnavailable, HistoryLost
from streams.events import DocumentDeleted, ImageChanged, Origin
from streams.mongo import Document, cluster_time, mongo_errors, state_database
from streams.settings import Settings
from streams.store import DocumentStore
from streams.wire import encode_event

log = get_logger(__name__)

_REQUESTS: Final = "requests"
_REQUEST_POLL_SECONDS: Final = 2.0
_COMPLAINT_SECONDS: Final = 60.0


class Term:
    """Publishes one collection while the lease is held."""

    def __init__(
        self,
        settings: Settings,
        client: MongoClient[Document],
        leadership: Leadership,
        producer: EventProducer,
        *,
        tick: Callable[[], None],
    ) -> None:
        """Keep what is needed; nothing is opened.

        Args:
            settings: All settings.
            client: Client of the replica set.
            leadership: The lease, held.
            producer: Connected; closed by the caller.
            tick: Called again and again while there is progress or nothing to do.
        """
        self._settings = settings
        self._client = client
        self._leadership = leadership
        self._producer = producer
        self._tick = tick
        self._tenant = f"{settings.mongo.database}.{settings.mongo.collection}"
        self._state = state_database(client, settings.mongo)
        self._collection = DocumentStore(client, settings.mongo).collection
        self._stream = ChangeStream(client[settings.mongo.database], settings.mongo.collection)
        limits = settings.publisher
        self._window: Window[Position | DocumentId] = Window(
            max_events=limits.window_events, max_bytes=limits.window_bytes
        )
        self._position: Position | None = None
        self._due: dict[str, float] = {}
        self.published = 0

    @property
    def in_flight(self) -> int:
        """Records sent and not acknowledged."""
        return self._window.events

    def run(self, stop: threading.Event, *, is_open: Callable[[], None]) -> None:
        """Publish until `stop` is set.

        1. Read the position; without one, begin a copy from a time before it.
        2. Finish a copy that is under way.
        3. Follow the stream; history that is lost makes a new copy.
        4. On a stop: everything acknowledged, committed, lease released.

        Args:
            stop: Ends it.
            is_open: Called when the stream is open.

        Raises:
            LeaseLost: Another publisher holds the lease.
            CaptureError: The stored position is damaged.
            Unavailable: MongoDB or the broker is away; begin a new term.
        """
        try:
            self._position = self._leadership.read().position  # 1
            if self._position is None:
                self._begin_copy("first start")
            while not stop.is_set():
                try:
                    self._finish_copy(stop)  # 2
                    self._follow(stop, is_open)  # 3
                except HistoryLost as exc:
                    metrics.HISTORY_LOST.inc()
                    log.error("changes may have been missed: copying everything", error=str(exc))
                    self._drain()
                    self._window.take_safe()  # positions of the lost history
                    self._begin_copy("history lost")
            self._window.drain(self._settings.kafka.request_timeout_seconds)  # 4
            self._commit()
            self._leadership.release()
        finally:
            self._stream.close()

    def _begin_copy(self, reason: str) -> None:
        """Take the time before anything is read, so that no change falls between."""
        now = cluster_time(self._client)
        position = Position(token=None, cluster_time=now, pipeline_hash=self._stream.hash)
        self._leadership.begin_copy(position, now)
        self._position = position
        log.info("copying the collection", reason=reason)

    def _finish_copy(self, stop: threading.Event) -> None:
        state = self._leadership.read().copy
        if state is None:
            return
        count = 0
        for ids in copy_chunks(self._collection, state, stop):
            for document_id in ids:
                self._send_copied(document_id, state)
            self._drain()
            self._window.take_safe()  # these positions are ids
            self._leadership.advance_copy(ids[-1])
            self._tick()
            self._leadership.renew()
            count += len(ids)
        if not stop.is_set():
            self._leadership.end_copy()
            log.info("collection copied", documents=count)

    def _send_copied(self, document_id: DocumentId, state: CopyState) -> None:
        event = ImageChanged(document_id=document_id, source=state.source, origin=Origin.COPY)
        self._send(event, document_id)

    def _drain(self) -> None:
        """Wait until everything that was sent is acknowledged."""
        limit = 4 * self._settings.kafka.request_timeout_seconds
        if not self._window.drain(limit):
            self._check_window()
            msg = f"Kafka did not acknowledge within {limit:.0f} s"
            raise BrokerUnavailable(msg)

    def _follow(self, stop: threading.Event, is_open: Callable[[], None]) -> None:
        assert self._position is not None  # noqa: S101 - a copy sets it
        self._stream.open(self._position)
        is_open()
        while not stop.is_set():
            self._tick()
            self._check_window()
            self._housekeep()
            if self._window.is_full:
                self._window.wait_for_room(0.2)
                continue
            change = self._stream.next()
            if change is not None:
                self._publish(change)
            elif self._window.events == 0:
                self._note_idle()
            if self._is_due("requests", _REQUEST_POLL_SECONDS) and self._copy_is_requested():
                self._drain()
                self._commit()
                self._leadership.begin_copy(None, cluster_time(self._client))
                self._finish_copy(stop)

    def _publish(self, change: Change) -> None:
        operation = change["operationType"]
        metrics.CHANGES.labels(operation).inc()
        position = self._stream.position_of(change)
        if operation not in DOCUMENT_OPERATIONS or not touches_image(change):
            metrics.SKIPPED.inc()
            self._window.acknowledge(self._window.add(position, 0))
            if position.is_invalidate:
                self._reopen_behind(position)
            return
        document_id = change["documentKey"]["_id"]
        source = change["clusterTime"]
        if operation == "delete":
            self._send(DocumentDeleted(document_id=document_id, source=source), position)
        else:
            self._send(ImageChanged(document_id=document_id, source=source), position)

    def _reopen_behind(self, position: Position) -> None:
        """The server ends a stream with `invalidate`; what comes after needs a new one."""
        self._window.drain(self._settings.kafka.request_timeout_seconds)
        self._check_window()
        self._commit()
        self._stream.open(position)

    def _send(self, event: ImageChanged | DocumentDeleted, position: Any) -> None:
        record = encode_event(event, event_type=events.IMAGE_CHANGED, tenant=self._tenant)
        slot = self._window.add(position, len(record.key) + len(record.value or b"") + 200)
        origin = event.origin.value if isinstance(event, ImageChanged) else "delete"

        def done(error: Exception | None) -> None:
            if is_too_large(error):
                metrics.SKIPPED.inc()
                log.error("record too large for Kafka, left out", error=str(error))
                self._window.acknowledge(slot)
                return
            if error is not None:
                self._window.fail(error)
                return
            self._window.acknowledge(slot)
            metrics.PUBLISHED.labels(origin).inc()
            self.published += 1

        self._producer.send(events.IMAGE_CHANGED, record, done)

    def _check_window(self) -> None:
        self._producer.check()
        error = self._window.error
        if error is not None:
            msg = f"Kafka lost a record, reading again from the committed position: {error!r}"
            raise BrokerUnavailable(msg) from error

    def _housekeep(self) -> None:
        settings = self._settings.publisher
        if self._is_due("lease", settings.lease_seconds / 3):
            self._leadership.renew()
        if self._is_due("commit", settings.commit_interval_seconds):
            self._commit()
        metrics.WINDOW_EVENTS.set(self._window.events)
        metrics.WINDOW_BYTES.set(self._window.bytes)
        metrics.WINDOW_OLDEST_SECONDS.set(self._window.oldest_seconds)
        if self._position is not None:
            metrics.SOURCE_LAG.set(max(0.0, time.time() - self._position.cluster_time.time))

    def _commit(self) -> None:
        position = self._window.take_safe()
        if isinstance(position, Position):
            self._leadership.commit(position)
            self._position = position
            metrics.POSITION_COMMITS.inc()

    def _note_idle(self) -> None:
        """An idle stream's token ages too: without this the oplog would outrun it."""
        if not self._is_due("heartbeat", self._settings.publisher.heartbeat_interval_seconds):
            return
        self._commit()
        position = self._stream.idle_position()
        if position is not None and position != self._position:
            self._leadership.commit(position)
            self._position = position
            metrics.POSITION_COMMITS.inc()

    def _copy_is_requested(self) -> bool:
        """The supervisor asks for a copy when a broker lost its log."""
        with mongo_errors("reading requests"):
            row = self._state[_REQUESTS].find_one({"_id": "reconcile"})
        if row is None:
            return False
        if not isinstance(row.get("at"), datetime):
            if self._is_due("complaint", _COMPLAINT_SECONDS):
                log.error("request without a date in `at` is ignored", request=str(row)[:200])
            return False
        copied_at = self._leadership.read().copied_at
        return copied_at is None or bool(row["at"] > copied_at)

    def _is_due(self, what: str, interval: float) -> bool:
        now = time.monotonic()
        if now < self._due.get(what, 0.0):
            return False
        self._due[what] = now + interval
        return True
