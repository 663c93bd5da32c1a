"""Ids of documents, and the record keys that carry them.

A key may be written by anybody who reaches the broker. An id that MongoDB would not store is
refused here: in a query it would be a pattern or an operator, and so match other documents, or
fail the query of a whole batch.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import bson
from bson import ObjectId, json_util
from bson.code import Code
from bson.codec_options import DatetimeConversion
from bson.dbref import DBRef
from bson.regex import Regex

from streams.errors import InvalidEvent

DocumentId = Any
"""Any BSON value that MongoDB accepts as `_id`."""

#: Dates that Python cannot hold stay what they are, instead of failing.
_KEY_JSON: Final = json_util.CANONICAL_JSON_OPTIONS.with_options(
    datetime_conversion=DatetimeConversion.DATETIME_AUTO
)
#: What nearly every `_id` is; all others need a parser of JSON.
_OBJECT_ID: Final = re.compile(rb'\{"\$oid":"([0-9a-f]{24})"\}')
#: MongoDB stores no document that is nested deeper, and fails queries that are a little deeper.
_MAX_DEPTH: Final = 180
#: Below the 16 MB that MongoDB takes as one query; a single id fits in any case.
_QUERY_BYTES: Final = 8 * 1024 * 1024


def document_key(document_id: DocumentId) -> bytes:
    """Return the canonical extended JSON of an `_id`: the key of every record about it."""
    if type(document_id) is ObjectId:
        return b'{"$oid":"%s"}' % str(document_id).encode()
    text = json_util.dumps(document_id, json_options=_KEY_JSON, separators=(",", ":"))
    return text.encode()


def document_id_of(key: bytes) -> DocumentId:
    """Return the `_id` that `document_key` wrote.

    Raises:
        InvalidEvent: The key is not extended JSON, or of no value that MongoDB takes as `_id`.
    """
    if usual := _OBJECT_ID.fullmatch(key):
        return ObjectId(usual[1].decode())
    try:
        document_id = json_util.loads(key.decode(), json_options=_KEY_JSON)
        if isinstance(document_id, list | Regex):
            msg = f"MongoDB takes no {type(document_id).__name__.lower()} as _id"
            raise InvalidEvent(msg)
        _check(document_id, 1)
        bson.encode({"_id": document_id})
    except InvalidEvent:
        raise
    except Exception as exc:  # a hostile key may break the decoder in any way
        msg = f"record key is not canonical extended JSON: {key[:80]!r}"
        raise InvalidEvent(msg) from exc
    return document_id


def split_ids(document_ids: Iterable[DocumentId]) -> Iterator[list[DocumentId]]:
    """Yield ids in pieces that fit into one query each: an `_id` may be as large as a document."""
    piece: list[DocumentId] = []
    total = 0
    for document_id in document_ids:
        size = id_bytes(document_id)
        if piece and total + size > _QUERY_BYTES:
            yield piece
            piece, total = [], 0
        piece.append(document_id)
        total += size
    if piece:
        yield piece


def id_bytes(document_id: DocumentId) -> int:
    """Return the size of an `_id` in MongoDB."""
    return len(bson.encode({"_id": document_id}))


def _check(value: Any, depth: int) -> None:
    """Raise `InvalidEvent` for what MongoDB does not store within an `_id`."""
    if depth > _MAX_DEPTH:
        msg = f"record key is nested deeper than {_MAX_DEPTH} levels"
        raise InvalidEvent(msg)
    names = [name for name in _fields(value) if name.startswith("$")]
    if names:
        msg = f"record key holds the operator {names[0][:40]!r}"
        raise InvalidEvent(msg)
    inside = value if isinstance(value, list) else _fields(value).values()
    for inner in inside:
        _check(inner, depth + 1)


def _fields(value: Any) -> Mapping[str, Any]:
    if isinstance(value, DBRef):
        fields = dict(value.as_doc())
        # The three names that may begin with a dollar sign.
        return {
            "id": fields.pop("$id"),
            "ref": fields.pop("$ref"),
            "db": fields.pop("$db", None),
        } | fields
    if isinstance(value, Code):
        return value.scope or {}
    return value if isinstance(value, Mapping) else {}
