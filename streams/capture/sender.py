"""Events on their way to Kafka, and the position up to which all of them have arrived."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

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

P = TypeVar("P")


@dataclass(slots=True, eq=False)
class Slot(Generic[P]):
    """One send: the position behind it, its size in bytes, whether it is acknowledged."""

    position: P
    size: int
    sent_at: float = field(default_factory=time.monotonic)
    is_acknowledged: bool = False


class Window(Generic[P]):
    """Keeps the order in which changes were read, and knows how far all of them are safe.

    Thread-safe: slots are added by the reader and acknowledged by the producer's thread.
    """

    def __init__(self, *, max_events: int, max_bytes: int) -> None:
        """Keep the limits; one send is always admitted, however large."""
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._slots: deque[Slot[P]] = deque()
        self._bytes = 0
        self._safe: P | None = None
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def add(self, position: P, size: int) -> Slot[P]:
        """Append a send that stands before `position`."""
        slot = Slot(position, size)
        with self._changed:
            self._slots.append(slot)
            self._bytes += size
        return slot

    def acknowledge(self, slot: Slot[P]) -> None:
        """Note that the broker has it."""
        with self._changed:
            slot.is_acknowledged = True
            while self._slots and self._slots[0].is_acknowledged:
                first = self._slots.popleft()
                self._bytes -= first.size
                self._safe = first.position
            self._changed.notify_all()

    def fail(self, error: Exception) -> None:
        """Note that a send was lost; later ones may be there, so the reader must start again."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def take_safe(self) -> P | None:
        """Return the position up to which all is acknowledged, if it moved since the last call."""
        with self._changed:
            safe, self._safe = self._safe, None
            return safe

    @property
    def error(self) -> Exception | None:
        """The first send that was lost."""
        return self._error

    @property
    def is_full(self) -> bool:
        """Whether no more may be sent now."""
        return len(self._slots) >= self._max_events or self._bytes >= self._max_bytes

    @property
    def events(self) -> int:
        """Sends that are not acknowledged, or stand behind one that is not."""
        return len(self._slots)

    @property
    def bytes(self) -> int:
        """Their size."""
        return self._bytes

    @property
    def oldest_seconds(self) -> float:
        """Age of the oldest of them; 0 when there is none."""
        with self._changed:
            return time.monotonic() - self._slots[0].sent_at if self._slots else 0.0

    def wait_for_room(self, seconds: float) -> None:
        """Return when there is room, a send was lost, or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self.is_full or self._error is not None, seconds)

    def drain(self, seconds: float) -> bool:
        """Wait until nothing is in flight; False when a send was lost or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: not self._slots or self._error is not None, seconds)
            return not self._slots


class Sender:
    """Sends events in order, each with the position behind it.

    Attributes:
        window: What was sent and is not acknowledged.
        published: Events that the broker has acknowledged.
    """

    def __init__(self, settings: Settings, producer: EventProducer) -> None:
        """Keep a connected producer; the caller closes it."""
        self._producer = producer
        self._tenant = settings.mongo.tenant
        self._patience = settings.kafka.request_timeout_seconds
        limits = settings.publisher
        self.window: Window[Position] = Window(
            max_events=limits.window_events, max_bytes=limits.window_bytes
        )
        self._refused: list[DocumentChanged] = []
        self._lock = threading.Lock()
        self.published = 0

    def send(self, event: DocumentChanged | DocumentDeleted, position: Position) -> None:
        """Send an event; whether it arrived is known later.

        Raises:
            BrokerUnavailable: Kafka takes no records.
        """
        record = encode_event(event, tenant=self._tenant)
        slot = self.window.add(position, len(record.key) + len(record.value or b"") + 200)
        origin = event.origin.value if isinstance(event, DocumentChanged) else "delete"

        def done(error: Exception | None) -> None:
            if is_too_large(error):
                self._refuse(event)
            elif error is not None:
                self.window.fail(error)
                return
            else:
                metrics.PUBLISHED.labels(origin).inc()
                self.published += 1
            self.window.acknowledge(slot)

        self._producer.send(CHANGES, record, done)

    def skip(self, position: Position) -> None:
        """Note a position behind which there is nothing to send."""
        metrics.SKIPPED.inc()
        self.window.acknowledge(self.window.add(position, 0))

    def check(self) -> None:
        """Find out whether an event was lost.

        Raises:
            BrokerUnavailable: One was; later ones may have arrived. Begin again.
        """
        self._producer.check()
        error = self.window.error
        if error is not None:
            msg = f"Kafka lost a record, reading again from the committed position: {error!r}"
            raise BrokerUnavailable(msg) from error

    def drain(self) -> None:
        """Wait until everything that was sent has arrived.

        Raises:
            BrokerUnavailable: An event was lost, or the broker is silent for too long.
        """
        limit = 4 * self._patience
        if not self.window.drain(limit):
            self.check()
            msg = f"Kafka did not acknowledge within {limit:.0f} s"
            raise BrokerUnavailable(msg)

    def settle(self) -> None:
        """Give what is under way some time to arrive, for a clean end."""
        self.window.drain(self._patience)

    def take_refused(self) -> list[DocumentChanged]:
        """Return, once, the events that are too large for Kafka: no stage will ever see them."""
        with self._lock:
            refused, self._refused = self._refused, []
        return refused

    def _refuse(self, event: DocumentChanged | DocumentDeleted) -> None:
        metrics.SKIPPED.inc()
        log.error("event too large for Kafka, left out", document=repr(event.document_id)[:80])
        if isinstance(event, DocumentChanged):
            with self._lock:
                self._refused.append(event)
