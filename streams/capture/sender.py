"""Events on their way to Kafka, in order, and the position up to which all of them have arrived.

What was sent and has not arrived is the window: bounded, in the order of the stream. It reads no
change and keeps no position.
"""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from structlog import get_logger

from streams import metrics
from streams.contract.events import DocumentChanged, DocumentDeleted
from streams.contract.pipeline import CHANGES
from streams.contract.wire import encode_event
from streams.errors import BrokerUnavailable
from streams.kafka.producer import EventProducer, is_too_large
from streams.mongo.leadership import Position
from streams.settings import Settings

log = get_logger(__name__)

#: What a record takes in the window beside key and value: its headers.
_HEADER_BYTES: Final = 200


@dataclass(slots=True, eq=False)
class _Sent:
    """One place in the window: the position behind it, its size in bytes, whether it is safe."""

    position: Position
    size: int
    sent_at: float = field(default_factory=time.monotonic)
    is_safe: bool = False


class Sender:
    """Sends events, each with the position behind it.

    Thread-safe: the reader of the stream sends, the producer's thread acknowledges.

    Attributes:
        published: Events that the broker has acknowledged.
        bytes: Size of the events in the window.
    """

    def __init__(self, settings: Settings, producer: EventProducer) -> None:
        """Keep a connected producer; the caller closes it."""
        self._producer = producer
        self._tenant = settings.mongo.tenant
        self._patience = settings.kafka.request_timeout_seconds
        self._limits = settings.publisher
        self._window: deque[_Sent] = deque()
        self._safe: Position | None = None
        self._refused: list[DocumentChanged] = []
        self._error: Exception | None = None
        self._changed = threading.Condition()
        self.bytes = 0
        self.published = 0

    def send(self, event: DocumentChanged | DocumentDeleted, position: Position) -> None:
        """Send an event; whether it arrived is known later.

        Raises:
            BrokerUnavailable: Kafka takes no records.
        """
        record = encode_event(event, tenant=self._tenant)
        sent = self._add(position, len(record.key) + len(record.value or b"") + _HEADER_BYTES)
        self._producer.send(CHANGES, record, lambda error: self._finish(sent, event, error))

    def skip(self, position: Position) -> None:
        """Note a position behind which there is nothing to send."""
        metrics.SKIPPED.inc()
        self._make_safe(self._add(position, 0))

    def wait_for_room(self, seconds: float) -> bool:
        """Wait until the window has room; False when a send was lost or the time is over.

        One event is always admitted, however large.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._is_full or self._error is not None, seconds)
            return not self._is_full

    def take_safe(self) -> Position | None:
        """Return the position before which all has arrived, if it moved since the last call."""
        with self._changed:
            safe, self._safe = self._safe, None
            return safe

    def take_refused(self) -> list[DocumentChanged]:
        """Return, once, the events that are too large for Kafka: no stage will ever see them."""
        with self._changed:
            refused, self._refused = self._refused, []
            return refused

    def check(self) -> None:
        """Find out whether an event was lost.

        Raises:
            BrokerUnavailable: One was; later ones may have arrived. Begin again.
        """
        self._producer.check()
        if self._error is not None:
            msg = f"Kafka lost a record, reading again from the committed position: {self._error!r}"
            raise BrokerUnavailable(msg) from self._error

    def drain(self) -> None:
        """Wait until everything that was sent has arrived.

        Raises:
            BrokerUnavailable: An event was lost, or the broker is silent for too long.
        """
        limit = 4 * self._patience
        if not self.settle(limit):
            self.check()
            msg = f"Kafka did not acknowledge within {limit:.0f} s"
            raise BrokerUnavailable(msg)

    def settle(self, seconds: float) -> bool:
        """Wait until the window is empty; False when a send was lost or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._window or self._error is not None, seconds)
            return not self._window

    @property
    def events(self) -> int:
        """Events in the window: not arrived, or behind one that has not."""
        return len(self._window)

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest of them; 0 when there is none."""
        with self._changed:
            return time.monotonic() - self._window[0].sent_at if self._window else 0.0

    @property
    def _is_full(self) -> bool:
        limits = self._limits
        return len(self._window) >= limits.window_events or self.bytes >= limits.window_bytes

    def _add(self, position: Position, size: int) -> _Sent:
        sent = _Sent(position, size)
        with self._changed:
            self._window.append(sent)
            self.bytes += size
        return sent

    def _finish(
        self, sent: _Sent, event: DocumentChanged | DocumentDeleted, error: Exception | None
    ) -> None:
        """Note what became of an event; behind one that was lost nothing is safe any more."""
        if error is None:
            origin = event.origin.value if isinstance(event, DocumentChanged) else "delete"
            metrics.PUBLISHED.labels(origin).inc()
            self.published += 1
        elif is_too_large(error):
            self._refuse(event)
        else:
            with self._changed:
                self._error = self._error or error
                self._changed.notify_all()
            return
        self._make_safe(sent)

    def _make_safe(self, sent: _Sent) -> None:
        with self._changed:
            sent.is_safe = True
            while self._window and self._window[0].is_safe:
                first = self._window.popleft()
                self.bytes -= first.size
                self._safe = first.position
            self._changed.notify_all()

    def _refuse(self, event: DocumentChanged | DocumentDeleted) -> None:
        metrics.SKIPPED.inc()
        log.error("event too large for Kafka, left out", document=repr(event.document_id)[:80])
        if isinstance(event, DocumentChanged):
            with self._changed:
                self._refused.append(event)
