"""The Kafka producer of all that is not a stage: idempotent, acknowledged by all replicas."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, Final

from kafka import KafkaProducer
from kafka.errors import KafkaError, MessageSizeTooLargeError
from structlog import get_logger

from streams import metrics
from streams.contract.events import Record
from streams.errors import BrokerUnavailable
from streams.kafka.clients import open_client
from streams.kafka.topics import topic_name
from streams.settings import KafkaSettings

log = get_logger(__name__)

#: Longest key. It travels through all stages, beside vectors and headers, and with dead letters:
#: far below the 1 MB that Kafka takes by default.
_MAX_KEY_BYTES: Final = 512 * 1024

Done = Callable[[Exception | None], None]


class _Session(KafkaProducer):  # type: ignore[misc]  # the client has no types
    """A client whose `close` always closes.

    `close` begins with `flush`, and would end there when a record can be neither sent nor given up:
    by an exception, with the session still sending.
    """

    def flush(self, timeout: float | None = None) -> None:
        with suppress(KafkaError):
            super().flush(timeout)


class EventProducer:
    """Sends records; one session of one idempotent producer."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Connect.

        Raises:
            BrokerUnavailable: No broker answers.
        """
        self._settings = settings
        self._fault: Exception | None = None
        #: Offset of the last record that the broker has acknowledged, by topic and partition.
        self._acknowledged: dict[tuple[str, int], int] = {}
        request_ms = int(settings.request_timeout_seconds * 1000)
        self._producer = open_client(
            _Session,
            settings,
            acks="all",
            # Said aloud: other settings could switch it off silently.
            enable_idempotence=True,
            linger_ms=5,
            request_timeout_ms=request_ms,
            delivery_timeout_ms=2 * request_ms,
            max_block_ms=request_ms,
            allow_auto_create_topics=False,
        )

    def send(self, topic: str, record: Record, done: Done) -> None:
        """Hand a record over; `done` is called once, with None or with what went wrong.

        Args:
            topic: Topic without prefix.
            record: What to send.
            done: Runs in the producer's thread or in this one.

        Raises:
            BrokerUnavailable: The record could not even be handed over; `done` is not called.
        """
        if len(record.key) > _MAX_KEY_BYTES:
            self._tell(MessageSizeTooLargeError(f"a key of {len(record.key)} bytes"), done)
            return
        try:
            future = self._producer.send(
                topic_name(topic, self._settings),
                key=record.key,
                value=record.value,
                headers=list(record.headers),
            )
        except MessageSizeTooLargeError as exc:
            metrics.PUBLISH_ERRORS.labels(type(exc).__name__).inc()
            self._tell(exc, done)  # waiting would not make it smaller
            return
        except (KafkaError, ValueError) as exc:
            metrics.PUBLISH_ERRORS.labels(type(exc).__name__).inc()
            msg = f"Kafka does not take records for {topic}: {exc!r}"
            raise BrokerUnavailable(msg) from exc
        future.add_both(lambda *_: self._acknowledge(future, done))

    def acknowledged(self, topic: str) -> dict[int, int]:
        """Return the offset of the last record that the broker has acknowledged, by partition."""
        name = topic_name(topic, self._settings)
        return {n: offset for (t, n), offset in list(self._acknowledged.items()) if t == name}

    def forget_acknowledged(self) -> None:
        """Begin anew: the log was lost."""
        self._acknowledged.clear()

    def publish(self, topic: str, records: Iterable[Record]) -> list[int]:
        """Send records and wait until the broker has all of them.

        Records that are too large for Kafka are left out, with an error in the log; their positions
        are returned.

        Raises:
            BrokerUnavailable: Some may not have been stored; repeat all.
        """
        answers: dict[int, Exception | None] = {}
        sent = 0
        for record in records:
            self.send(topic, record, partial(answers.__setitem__, sent))
            sent += 1
        self._producer.flush(timeout=2 * self._settings.request_timeout_seconds)
        self.check()
        errors = answers.copy()  # one that is late may come at this moment
        refused = [position for position, error in errors.items() if is_too_large(error)]
        lost = next((e for e in errors.values() if e is not None and not is_too_large(e)), None)
        if lost is not None or len(errors) != sent:
            msg = f"Kafka lost records for {topic}: {lost or 'no acknowledgement'!r}"
            raise BrokerUnavailable(msg) from lost
        for position in refused:
            reason = str(errors[position])
            log.error("record too large for Kafka, left out", topic=topic, error=reason)
        return refused

    def check(self) -> None:
        """Find out whether an acknowledgement was lost on our side.

        Raises:
            BrokerUnavailable: A callback failed; nothing that was sent may be taken for stored.
        """
        if self._fault is not None:
            msg = f"an acknowledgement could not be noted, sending again: {self._fault!r}"
            raise BrokerUnavailable(msg) from self._fault

    def close(self) -> None:
        """End the session. What is not acknowledged within a second or two counts as lost."""
        self._producer.close(timeout=1.0)

    def _acknowledge(self, future: Any, done: Done) -> None:
        error = future.exception if future.failed() else None
        if error is not None:
            metrics.PUBLISH_ERRORS.labels(type(error).__name__).inc()
        else:
            stored = future.value
            self._acknowledged[stored.topic, stored.partition] = stored.offset
        self._tell(error, done)

    def _tell(self, error: Exception | None, done: Done) -> None:
        """The client logs and forgets exceptions of callbacks; `check` remembers them."""
        try:
            done(error)
        except Exception as exc:
            log.exception("delivery callback failed")
            self._fault = exc


def publish_all(records: Iterable[tuple[str, Record]], settings: KafkaSettings) -> None:
    """Send records, each to its topic, in order, and wait for the broker.

    Raises:
        BrokerUnavailable: Some may not have been stored.
    """
    producer = EventProducer(settings)
    try:
        for topic, record in records:
            producer.publish(topic, [record])
    finally:
        producer.close()


def is_too_large(error: Exception | None) -> bool:
    """Whether a record was refused for its size: sending it again cannot help."""
    return isinstance(error, MessageSizeTooLargeError)
