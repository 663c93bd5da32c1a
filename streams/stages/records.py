"""Records in and out of a stage: as they were consumed, and what is sent for an outcome."""

from dataclasses import replace

from structlog import get_logger

from streams.contract.dead_letters import dead_letter_record
from streams.contract.documents import OutputError
from streams.contract.events import DocumentDeleted, Event, ModelApplied, Record
from streams.contract.pipeline import dead_letter_topic, is_dead_letter_topic
from streams.contract.wire import decode_event, encode_event
from streams.errors import CaptionstreamError, InvalidEvent
from streams.kafka.records import Delivery, Message
from streams.stages import StageSpec
from streams.stages.outcome import Failed, Ok, Outcome, Result, Waiting

log = get_logger(__name__)


class RecordMaker:
    """Makes the records of one stage."""

    def __init__(self, spec: StageSpec, *, tenant: str) -> None:
        """Keep which stage it is, and `database.collection`."""
        self._spec = spec
        self._tenant = tenant
        self._has_readers = bool(spec.output and spec.pipeline.consumers(spec.output))

    def make(self, message: Message, outcome: Outcome) -> tuple[Outcome, Delivery]:
        """Return the records to send for an outcome, and the outcome.

        That is a failure when the event cannot be encoded: what others have stored in a document
        may travel with it. A failure, or waiting for a version, stops what reads the model: where a
        model behind it does not, the event goes on as it came.
        """
        if isinstance(outcome, Waiting):
            return outcome, []
        sent: list[tuple[str, Record]] = []
        if isinstance(outcome, Ok) and outcome.result is Result.POSTPONED:
            sent.append((message.topic, _again(message)))
        elif isinstance(outcome, Ok) and outcome.event is not None:
            try:
                sent += self._output(outcome.event)
            except Exception as exc:  # a foreign value may break an encoder in any way
                outcome = Failed(error=InvalidEvent(f"the event cannot be encoded: {exc!r}"))
        if isinstance(outcome, Failed) or outcome.result is Result.AWAITING_MODEL:
            sent += self._passed_on(message)
        if isinstance(outcome, Failed):
            sent += self.dead_letter(message, outcome)
        return outcome, sent

    def _output(self, event: Event) -> Delivery:
        if self._spec.output is None or self._is_known(event):
            return []
        record = encode_event(event, tenant=self._tenant)
        return [(self._spec.output, record)]

    def _is_known(self, event: Event) -> bool:
        """Whether only the sink would get a record of it, with an output that is stored already."""
        is_stored = isinstance(event, ModelApplied) and event.model in event.stored
        return is_stored and not self._has_readers

    def _passed_on(self, message: Message) -> Delivery:
        if not self._spec.is_only_on_the_way:
            return []
        try:
            event = decode_event(message.key, message.value, message.headers, tenant=self._tenant)
        except InvalidEvent:
            return []
        return self._output(event) if not isinstance(event, DocumentDeleted) else []

    def dead_letter(self, message: Message, failed: Failed, *, is_bare: bool = False) -> Delivery:
        """Return the dead letter of a message; none for one that is a dead letter already.

        Args:
            message: What could not be processed.
            failed: Why.
            is_bare: Leave out the value, which is too large.
        """
        log.warning(
            "event failed",
            stage=self._spec.name,
            key=(message.key or b"")[:100].decode(errors="replace"),
            error=type(failed.error).__name__,
            message=str(failed.error),
            attempts=failed.attempts,
        )
        if is_dead_letter_topic(message.topic):
            return []
        value = None if is_bare else message.value
        record = dead_letter_record(
            replace(_again(message), value=value),
            stage=self._spec.name,
            topic=message.topic,
            position=f"{message.partition}:{message.offset}",
            model=self._spec.model.name if self._spec.model else "",
            error=describe_error(failed.error, failed.attempts, failed.version),
        )
        return [(dead_letter_topic(message.topic), record)]


def _again(message: Message) -> Record:
    return Record(key=message.key or b"", value=message.value, headers=message.headers)


def describe_error(error: CaptionstreamError, attempts: int, version: str) -> OutputError:
    """Return what is stored and sent about an error."""
    return OutputError(
        type=type(error).__name__,
        message=str(error),
        attempts=attempts,
        is_retryable=error.is_retryable,
        version=version,
    )
