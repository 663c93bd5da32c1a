"""Events on their way to Kafka, and the position up to which all of them have arrived."""

import threading

from structlog import get_logger

from streams import metrics
from streams.capture.window import Window
from streams.contract.events import DocumentChanged, DocumentDeleted
from streams.contract.pipeline import CHANGES
from streams.contract.wire import encode_event
from streams.errors import BrokerUnavailable
from streams.kafka.producer import EventProducer, is_too_large
from streams.mongo.position import Position
from streams.settings import Settings

log = get_logger(__name__)


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
