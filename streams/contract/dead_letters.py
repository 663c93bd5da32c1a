"""Dead letters: records that a stage could not process, kept with the reason.

A dead letter is the original record, unchanged, on `<topic>.dlq`, with `dl_*` headers that say
which stage gave up, why, and after how many attempts. A replay sends the record to its topic again
and leaves a mark beside the dead letter, so that it is listed only once. `dl_format` is the number
of the layout of these headers; a mark has none, and means the same in every format.
"""

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from bson.timestamp import Timestamp

from streams.contract.documents import OutputError
from streams.contract.events import DocumentDeleted, Headers, Origin, Record
from streams.contract.formats import format_problem
from streams.contract.ids import DocumentId, document_id_of
from streams.contract.wire import decode_event, encode_event, parse_source
from streams.errors import InvalidEvent, bounded

#: Layout of the `dl_*` headers.
FORMAT: Final = 1
_PREFIX: Final = "dl_"
_REPLAYED: Final = "dl_replayed"
_AGAIN: Final = "`captionstream reconcile --all` publishes its document again"
_MOST_ATTEMPTS: Final = 2**31


@dataclass(frozen=True, kw_only=True, slots=True)
class DeadLetter:
    """Why one record was given up.

    Attributes:
        stage: Stage that gave up.
        topic: Topic that the record came from, without prefix.
        position: `partition:offset` of the record there.
        model: Name of the model that the stage applies; "" for none.
        error: What happened.
        at: When.
        key: Key of the record.
        source: clusterTime of the change; None when the record does not say.
    """

    stage: str
    topic: str
    position: str
    model: str
    error: OutputError
    at: datetime
    key: bytes | None
    source: Timestamp | None

    @property
    def document_id(self) -> DocumentId:
        """`_id` of the document.

        Raises:
            InvalidEvent: The key is not one of ours.
        """
        if self.key is None:
            msg = "the record has no key"
            raise InvalidEvent(msg)
        return document_id_of(self.key)


def dead_letter_record(
    original: Record, *, stage: str, topic: str, position: str, model: str, error: OutputError
) -> Record:
    """Return the dead letter of a record."""
    details = {
        "format": str(FORMAT),
        "stage": stage,
        "topic": topic,
        "position": position,
        "model": model,
        "error_type": error.type,
        "error_message": bounded(error.message),  # headers stay far below any broker's limit
        "attempts": str(error.attempts),
        "retryable": "true" if error.is_retryable else "false",
        "version": error.version,
        "at": datetime.now(UTC).isoformat(),
    }
    headers = [
        *original_headers(original.headers),
        *((_PREFIX + name, value.encode()) for name, value in details.items()),
    ]
    return Record(key=original.key, value=original.value, headers=headers)


def original_headers(headers: Headers) -> list[tuple[str, bytes]]:
    """Return the headers that the record had before it was dead-lettered."""
    return [(name, value or b"") for name, value in headers if not name.startswith(_PREFIX)]


def parse_dead_letter(key: bytes | None, headers: Headers) -> DeadLetter:
    """Return what a dead letter's headers say.

    Raises:
        InvalidEvent: The headers are not those of a dead letter, or of another format.
    """
    found = {
        name.removeprefix(_PREFIX): _decoded(value)
        for name, value in headers
        if name.startswith(_PREFIX)
    }
    plain = dict(original_headers(headers))
    try:
        number = int(found["format"])
        if problem := format_problem("the dead letter", number, reads=FORMAT, otherwise=_AGAIN):
            raise InvalidEvent(problem)
        error = OutputError(
            type=found["error_type"],
            message=found["error_message"],
            attempts=int(found["attempts"]),
            is_retryable=found["retryable"] == "true",
            version=found["version"],
        )
        at = datetime.fromisoformat(found["at"]).astimezone(UTC)
    except (KeyError, ValueError, OverflowError) as exc:
        msg = f"not a dead letter of ours: {exc}"
        raise InvalidEvent(msg) from exc
    if not 0 <= error.attempts < _MOST_ATTEMPTS:
        msg = f"not a dead letter of ours: {error.attempts} attempts"
        raise InvalidEvent(msg)
    return DeadLetter(
        stage=found.get("stage", ""),
        topic=found.get("topic", ""),
        position=found.get("position", ""),
        model=found.get("model", ""),
        error=error,
        at=at,
        key=key,
        source=_source(plain.get("ce_clustertime")),
    )


def replay_record(record: Record, *, tenant: str) -> Record:
    """Return the record of a dead letter as it is sent to its topic again.

    Marked as replayed, so that its age is not taken for the pipeline's latency.
    """
    try:
        event = decode_event(record.key, record.value, record.headers, tenant=tenant)
    except InvalidEvent:
        return record
    if isinstance(event, DocumentDeleted):
        return record
    return encode_event(replace(event, origin=Origin.REPLAY), tenant=tenant)


def replay_mark(letter_position: str, key: bytes) -> Record:
    """Return the record that says, beside a dead letter, that it was replayed."""
    return Record(key=key, value=None, headers=[(_REPLAYED, letter_position.encode())])


def is_replay_mark(headers: Headers) -> bool:
    """Whether a record on a dead-letter topic is such a mark."""
    return any(name == _REPLAYED for name, _ in headers)


def replayed_position(headers: Headers) -> str | None:
    """Return the `partition:offset` that a mark is about; None when it is no mark."""
    return next((_decoded(value) for name, value in headers if name == _REPLAYED), None)


def _decoded(value: bytes | None) -> str:
    """Kafka's headers may hold anything, or nothing."""
    return (value or b"").decode("utf-8", errors="replace")


def _source(raw: bytes | None) -> Timestamp | None:
    try:
        return parse_source(raw.decode()) if raw else None
    except (InvalidEvent, UnicodeDecodeError):
        return None
