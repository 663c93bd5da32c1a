"""Events on the wire: records of CloudEvents 1.0 in binary mode.

Attributes stand in headers (`ce_*`), data in the value: JSON, for anyone to consume, but where a
vector travels. Then it is msgpack, with the numbers as raw little-endian float32. A delete is a
tombstone: headers and no value. Knows nothing about brokers.
"""

import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import UnionType
from typing import Any, Final

import msgpack
import numpy as np
from bson.timestamp import Timestamp

from streams.contract.declaration import is_field, is_name
from streams.contract.documents import Output
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
from streams.contract.ids import DocumentId, document_id_of, document_key
from streams.contract.values import check_json
from streams.errors import InvalidEvent

#: A clusterTime further ahead than this cannot be; it would beat every later change for ever.
_FUTURE_SECONDS: Final = 86_400

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
        ("ce_id", uuid.uuid4().hex.encode()),
        ("ce_time", datetime.now(UTC).isoformat().encode()),
        ("ce_clustertime", format_source(event.source).encode()),
        ("content-type", content_type.encode()),
    ]
    if not isinstance(event, DocumentDeleted) and event.changed_at is not None:
        headers.append(("ce_walltime", event.changed_at.isoformat().encode()))
    return Record(key=key, value=value, headers=headers)


def decode_event(key: bytes | None, value: bytes | None, headers: Headers, *, tenant: str) -> Event:
    """Return the event in a record.

    Raises:
        InvalidEvent: The record is not ours, is damaged, or has an unknown format.
    """
    attributes = {name: _text(raw) for name, raw in headers}
    event_type = attributes.get("ce_type", "")
    if not is_of(tenant, headers):
        msg = f"record belongs to {attributes.get('ce_source')!r}, this stage serves '/{tenant}'"
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
    source = parse_source(attributes.get("ce_clustertime", ""))
    if event_type == DOCUMENT_DELETED:
        return DocumentDeleted(document_id=document_id, source=source)
    if value is None:
        msg = f"record of type {event_type!r} has no value"
        raise InvalidEvent(msg)
    changed_at = _time(attributes.get("ce_walltime"))
    try:
        content_type = attributes.get("content-type", _JSON)
        event = _decode_data(event_type, content_type, value, document_id, source)
        return replace(event, changed_at=changed_at)
    except InvalidEvent:
        raise
    except Exception as exc:  # a hostile value may break a decoder in any way
        msg = f"record of type {event_type!r} is damaged: {exc}"
        raise InvalidEvent(msg) from exc


def is_of(tenant: str, headers: Headers) -> bool:
    """Whether a record is about documents of `tenant`, a `database.collection`."""
    attributes = {name: _text(raw) for name, raw in headers}
    return attributes.get("ce_source") == f"/{tenant}"


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
        data["outputs"] = {name: _pack(output) for name, output in event.outputs.items()}
        if any(isinstance(output.value, np.ndarray) for output in event.outputs.values()):
            return msgpack.packb(data), _MSGPACK
    return json.dumps(data, ensure_ascii=False, allow_nan=False).encode(), _JSON


def _decode_data(
    event_type: str, content_type: str, value: bytes, document_id: DocumentId, source: Timestamp
) -> DocumentChanged | ModelApplied:
    data = msgpack.unpackb(value) if content_type == _MSGPACK else json.loads(value)
    origin = Origin(data["origin"])
    if event_type == DOCUMENT_CHANGED:
        return DocumentChanged(document_id=document_id, source=source, origin=origin)
    outputs = {_name(name): _unpack(packed) for name, packed in data["outputs"].items()}
    if data["model"] not in outputs:
        msg = f"record says it carries an output of {data['model']!r}, but does not"
        raise InvalidEvent(msg)
    return ModelApplied(
        document_id=document_id, source=source, origin=origin, model=data["model"], outputs=outputs
    )


def _pack(output: Output) -> dict[str, Any]:
    packed: dict[str, Any] = {
        "version": output.version,
        "features": dict(output.features),
        "inputs": dict(output.inputs),
    }
    if isinstance(output.value, np.ndarray):
        packed["float32"] = np.ascontiguousarray(output.value, dtype="<f4").tobytes()
    else:
        packed["value"] = check_json(output.value)
    if output.score is not None:
        packed["score"] = output.score
    if output.url is not None:
        packed["url"] = output.url
    return packed


def _unpack(packed: Mapping[str, Any]) -> Output:
    if "float32" in packed:
        value = np.frombuffer(packed["float32"], dtype="<f4")
    else:
        value = check_json(packed["value"])
    return Output(
        value=value,
        version=_checked(packed["version"], str),
        features={_name(k): _checked(v, str) for k, v in packed["features"].items()},
        inputs={_field(k): _checked(v, str) for k, v in packed["inputs"].items()},
        score=_checked(packed.get("score"), float | None),
        url=_checked(packed.get("url"), str | None),
    )


def _name(value: Any) -> str:
    """Return the name of a model, known here or not; another text may be an operator of MongoDB."""
    if not isinstance(value, str) or not is_name(value):
        msg = f"record names a model {value!r}"
        raise InvalidEvent(msg)
    return value


def _field(value: Any) -> str:
    if not isinstance(value, str) or not is_field(value):
        msg = f"record names a field {value!r}"
        raise InvalidEvent(msg)
    return value


def _checked(value: Any, kind: type | UnionType) -> Any:
    if not isinstance(value, kind):
        msg = f"expected {getattr(kind, '__name__', kind)}, got {type(value).__name__}"
        raise InvalidEvent(msg)
    if isinstance(value, str):
        value.encode()  # half a surrogate pair can be written in JSON, but not be stored
    return value


def _time(text: str | None) -> datetime | None:
    """Return the time in a header; None where something else stands, or nothing."""
    try:
        time_of_change = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return time_of_change if time_of_change.tzinfo is not None else None


def _text(raw: bytes | str | None) -> str:
    if isinstance(raw, bytes):
        return raw.decode("utf-8", errors="replace")
    return raw or ""
