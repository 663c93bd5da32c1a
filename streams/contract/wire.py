"""Events on the wire: records of CloudEvents 1.0 in binary mode.

Attributes stand in headers (`ce_*`), data in the value: JSON, for anyone to consume, but where a
vector travels. Then it is msgpack, with the numbers as raw little-endian float32. A delete is a
tombstone: headers and no value. Knows nothing about brokers.
"""

import itertools
import json
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgpack
import numpy as np
from bson.timestamp import Timestamp

from streams.contract.events import (
    DOCUMENT_CHANGED,
    DOCUMENT_DELETED,
    MODEL_APPLIED,
    DocumentChanged,
    DocumentDeleted,
    Event,
    Headers,
    ModelApplied,
    Origin,
    Record,
)
from streams.contract.ids import document_id_of, document_key
from streams.contract.packing import name_of, pack, unpack
from streams.errors import InvalidEvent

#: A clusterTime further ahead than this cannot be; it would beat every later change for ever.
_FUTURE_SECONDS: Final = 86_400

#: With a number unique among all records.
_PROCESS: Final = uuid.uuid4().hex.encode()
_NUMBERS: Final = itertools.count()

_STORED: Final = "ce_stored"
_TRUE: Final = b"true"
_JSON: Final = "application/json"
_MSGPACK: Final = "application/msgpack"
_TYPES: Final[Mapping[type, str]] = {
    DocumentChanged: DOCUMENT_CHANGED,
    DocumentDeleted: DOCUMENT_DELETED,
    ModelApplied: MODEL_APPLIED,
}


def encode_event(event: Event, *, tenant: str) -> Record:
    """Return the record for an event about `tenant`, a `database.collection`.

    Raises:
        ValueError: An output in it cannot travel.
    """
    event_type = next(name for kind, name in _TYPES.items() if isinstance(event, kind))
    value, content_type = _encode_data(event)
    key = document_key(event.document_id)
    headers = [
        ("ce_specversion", b"1.0"),
        ("ce_type", event_type.encode()),
        ("ce_source", f"/{tenant}".encode()),
        ("ce_id", b"%s-%d" % (_PROCESS, next(_NUMBERS))),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("ce_clustertime", format_source(event.source).encode()),
        ("content-type", content_type.encode()),
    ]
    if isinstance(event, ModelApplied) and event.model in event.stored:
        headers.append((_STORED, _TRUE))
    if not isinstance(event, DocumentDeleted) and event.changed_at is not None:
        headers.append(("ce_walltime", event.changed_at.isoformat().encode()))
    return Record(key=key, value=value, headers=headers)


def decode_event(key: bytes | None, value: bytes | None, headers: Headers, *, tenant: str) -> Event:
    """Return the event in a record.

    Raises:
        InvalidEvent: The record is not ours, is damaged, or has an unknown format.
    """
    attributes = dict(headers)
    event_type = _text(attributes.get("ce_type"))
    if attributes.get("ce_source") != f"/{tenant}".encode():
        owner = _text(attributes.get("ce_source"))
        msg = f"record belongs to {owner!r}, this stage serves '/{tenant}'"
        raise InvalidEvent(msg)
    if event_type not in _TYPES.values():
        msg = (
            f"unknown event type or format {event_type!r:.80}: upgrade this process to the release"
            " that wrote the record, then replay its dead letter"
        )
        raise InvalidEvent(msg)
    if key is None:
        msg = "record has no key"
        raise InvalidEvent(msg)
    document_id = document_id_of(key)
    source = parse_source(_text(attributes.get("ce_clustertime")))
    if event_type == DOCUMENT_DELETED:
        return DocumentDeleted(document_id=document_id, source=source)
    if value is None:
        msg = f"record of type {event_type!r} has no value"
        raise InvalidEvent(msg)
    changed_at = _time(_text(attributes.get("ce_walltime")))
    try:
        content_type = _text(attributes.get("content-type"))
        about = {"document_id": document_id, "source": source, "changed_at": changed_at}
        return _event(event_type, content_type, value, about)
    except InvalidEvent:
        raise
    except Exception as exc:  # a hostile value may break a decoder in any way
        msg = f"record of type {event_type!r} is damaged: {exc}"
        raise InvalidEvent(msg) from exc


def is_of(tenant: str, headers: Headers) -> bool:
    """Whether a record is about documents of `tenant`, a `database.collection`."""
    return dict(headers).get("ce_source") == f"/{tenant}".encode()


def is_stored(headers: Headers) -> bool:
    """Whether the output that a record brings stands in its document: see `ModelApplied.stored`."""
    return (_STORED, _TRUE) in headers


def format_source(source: Timestamp) -> str:
    """Return a clusterTime as `seconds.increment`."""
    return f"{source.time}.{source.inc}"


def parse_source(text: str) -> Timestamp:
    """Return the clusterTime that `format_source` wrote.

    Raises:
        InvalidEvent: The text is not `seconds.increment`, or lies in the future.
    """
    try:
        seconds, increment = text.split(".")
        source = Timestamp(int(seconds), int(increment))
    except ValueError as exc:
        msg = f"clusterTime must be 'seconds.increment', got {text[:40]!r}"
        raise InvalidEvent(msg) from exc
    if source.time > time.time() + _FUTURE_SECONDS:
        msg = f"clusterTime {text} lies in the future"
        raise InvalidEvent(msg)
    return source


def _encode_data(event: Event) -> tuple[bytes | None, str]:
    if isinstance(event, DocumentDeleted):
        return None, _JSON
    data: dict[str, Any] = {"origin": event.origin.value}
    if isinstance(event, ModelApplied):
        data["model"] = event.model
        data["outputs"] = {name: pack(output) for name, output in event.outputs.items()}
        if event.stored:
            data["stored"] = sorted(event.stored)
        if any(isinstance(output.value, np.ndarray) for output in event.outputs.values()):
            return msgpack.packb(data), _MSGPACK
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode(), _JSON


def _event(
    event_type: str, content_type: str, value: bytes, about: Mapping[str, Any]
) -> DocumentChanged | ModelApplied:
    data = msgpack.unpackb(value) if content_type == _MSGPACK else json.loads(value)
    origin = Origin(data["origin"])
    if event_type == DOCUMENT_CHANGED:
        return DocumentChanged(origin=origin, **about)
    outputs, model = {name_of(k): unpack(v) for k, v in data["outputs"].items()}, data["model"]
    if model not in outputs:
        msg = f"record says it carries an output of {model!r}, but does not"
        raise InvalidEvent(msg)
    return ModelApplied(
        **about,
        origin=origin,
        model=model,
        outputs=outputs,
        stored=frozenset(map(name_of, data.get("stored", ()))),
    )


def _time(text: str) -> datetime | None:
    """Return the time in a header; None where something else stands, or nothing."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else None


def _text(raw: bytes | None) -> str:
    return raw.decode("utf-8", errors="replace") if raw else ""
