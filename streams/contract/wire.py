"""Events on the wire: records of CloudEvents 1.0 in binary mode.

Attributes stand in headers (`ce_*`), data in the value. Vectors travel as msgpack with raw
little-endian float32 and their shape; the caption is JSON, for anyone to consume. A delete is a
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

from streams.contract.default_pipeline import (
    MODEL_BY_NAME,
)
from streams.contract.documents import (
    Output,
)
from streams.contract.events import (
    CAPTION_GENERATED,
    DOCUMENT_DELETED,
    IMAGE_CHANGED,
    MODEL_APPLIED,
    DocumentDeleted,
    Event,
    Headers,
    ImageChanged,
    ModelApplied,
    Origin,
    Record,
)
from streams.contract.ids import DocumentId, document_id_of, document_key
from streams.errors import InvalidEvent

#: A clusterTime further ahead than this cannot be; it would beat every later change for ever.
_FUTURE_SECONDS: Final = 86_400

#: More than any search keeps, and far less than MongoDB can store.
_MOST_SENTENCES: Final = 1 << 16

_JSON: Final = "application/json"
_MSGPACK: Final = "application/msgpack"


def encode_event(event: Event, *, event_type: str, tenant: str) -> Record:
    """Return the record for an event.

    Args:
        event: What happened.
        event_type: CloudEvents type: the name of the topic without prefix. Ignored for a delete.
        tenant: `database.collection` that the event is about.
    """
    value, content_type = _encode_data(event, event_type)
    if isinstance(event, DocumentDeleted):
        event_type = DOCUMENT_DELETED
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
        InvalidEvent: The record is not ours, is damaged, or has an unknown schema version.
    """
    attributes = {name: _text(raw) for name, raw in headers}
    event_type = attributes.get("ce_type", "")
    if not is_of(tenant, headers):
        msg = f"record belongs to {attributes.get('ce_source')!r}, this stage serves '/{tenant}'"
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
        event = _decode_data(event_type, value, document_id, source)
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


def _encode_data(event: Event, event_type: str) -> tuple[bytes | None, str]:
    if isinstance(event, DocumentDeleted):
        return None, _JSON
    if isinstance(event, ImageChanged):
        return json.dumps({"origin": event.origin.value}).encode(), _JSON
    if event_type == CAPTION_GENERATED:
        return _encode_caption(event), _JSON
    data = {
        "origin": event.origin.value,
        "input": event.input,
        "model": event.model,
        "outputs": {name: _pack_output(output) for name, output in event.outputs.items()},
    }
    return msgpack.packb(data), _MSGPACK


def _encode_caption(event: ModelApplied) -> bytes:
    output = event.outputs[event.model]
    data = {
        "origin": event.origin.value,
        "input": event.input,
        "model": event.model,
        "caption": output.value,
        "score": output.score,
        "version": output.version,
        "features": dict(output.features),
        "beam_width": output.beam_width,
    }
    return json.dumps(data, ensure_ascii=False).encode()


def _decode_data(
    event_type: str, value: bytes, document_id: DocumentId, source: Timestamp
) -> ImageChanged | ModelApplied:
    if event_type == IMAGE_CHANGED:
        origin = Origin(json.loads(value)["origin"])
        return ImageChanged(document_id=document_id, source=source, origin=origin)
    if event_type == CAPTION_GENERATED:
        data = json.loads(value)
        outputs = {data["model"]: _caption_output(data)}
    elif event_type in MODEL_APPLIED:
        data = msgpack.unpackb(value)
        outputs = {name: _unpack_output(packed) for name, packed in data["outputs"].items()}
    else:
        msg = f"unknown event type or schema version {event_type!r}; upgrade this stage or replay"
        raise InvalidEvent(msg)
    if data["model"] not in outputs:
        msg = f"record says it carries an output of {data['model']!r}, but does not"
        raise InvalidEvent(msg)
    return ModelApplied(
        document_id=document_id,
        source=source,
        origin=Origin(data["origin"]),
        input=_checked(data["input"], str),
        model=data["model"],
        outputs=outputs,
    )


def _caption_output(data: Mapping[str, Any]) -> Output:
    return Output(
        value=_checked(data["caption"], str),
        version=_checked(data["version"], str),
        features=_features(data["features"]),
        score=_checked(data["score"], float | None),
        beam_width=_beam_width(data),
    )


def _pack_output(output: Output) -> dict[str, Any]:
    packed: dict[str, Any] = {"version": output.version, "features": dict(output.features)}
    if isinstance(output.value, str):
        packed["text"] = output.value
    else:
        packed["shape"] = list(output.value.shape)
        packed["float32"] = np.ascontiguousarray(output.value, dtype="<f4").tobytes()
    if output.score is not None:
        packed["score"] = output.score
    if output.url is not None:
        packed["url"] = output.url
    if output.beam_width != 1:
        packed["beam_width"] = output.beam_width
    return packed


def _unpack_output(packed: Mapping[str, Any]) -> Output:
    value: np.ndarray | str
    if "text" in packed:
        value = _checked(packed["text"], str)
    else:
        value = np.frombuffer(packed["float32"], dtype="<f4").reshape(packed["shape"])
        if value.ndim != 1:
            msg = f"expected a vector of shape (D,), got {value.shape}"
            raise InvalidEvent(msg)
    return Output(
        value=value,
        version=_checked(packed["version"], str),
        features=_features(packed["features"]),
        score=_checked(packed.get("score"), float | None),
        url=_checked(packed.get("url"), str | None),
        beam_width=_beam_width(packed),
    )


def _beam_width(data: Mapping[str, Any]) -> int:
    """Return the width; records of an earlier release do not name it."""
    width: int = _checked(data.get("beam_width", 1), int)
    if not 1 <= width < _MOST_SENTENCES:
        msg = f"record says that {width} sentences were kept"
        raise InvalidEvent(msg)
    return width


def _features(value: Any) -> dict[str, str]:
    """Return versions by model; a name that is no model's may be an operator of MongoDB."""
    unknown = set(value) - set(MODEL_BY_NAME)
    if unknown:
        msg = f"record names features of no model of ours: {sorted(unknown, key=str)}"
        raise InvalidEvent(msg)
    return {name: _checked(version, str) for name, version in value.items()}


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
