"""The changes of one collection, from where they were left on, and what each of them means."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bson import json_util
from bson.timestamp import Timestamp
from pymongo.change_stream import DatabaseChangeStream
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError
from structlog import get_logger

from streams import metrics
from streams.contract.events import DocumentChanged, DocumentDeleted
from streams.errors import HistoryLost, StoreUnavailable
from streams.mongo.client import reason_of
from streams.mongo.leadership import Position

log = get_logger(__name__)

#: Nothing behind the position can be read: ChangeStreamHistoryLost and CappedPositionLost, as the
#: oplog does not reach back, and BSONObjectTooLarge, as the next event has more than 16 MB: an
#: event holds the `_id` three times, twice of them as hexadecimal digits in its token.
_HISTORY_LOST: Final = frozenset((286, 136, 10334))
#: The token cannot be resumed with this filter or at all: the clusterTime beside it still can.
#: ChangeStreamFatalError, InvalidResumeToken, and those of a token that does not parse.
_TOKEN_LOST: Final = frozenset((280, 260, 9, 14, 15, 2, 40649, 50811))
#: How long the server holds a request for changes; also how long a stop may take.
_AWAIT_MS: Final = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What the stream tells.

    Attributes:
        operation: Its `operationType`.
        position: The place behind it.
        event: What is to be published; None for what concerns the whole collection.
        brings_documents: Whether another collection was renamed to ours: its documents were never
            inserted here.
    """

    operation: str
    position: Position
    event: DocumentChanged | DocumentDeleted | None
    brings_documents: bool = False


def build_filter(collection: str, watched: Sequence[str]) -> list[dict[str, Any]]:
    """Return the aggregation pipeline that the server applies to the stream of a database.

    It keeps changes of one collection, and of these the updates that touch a watched field: our own
    writes never come back. Values stay on the server, so an event cannot outgrow its 16 MB,
    however large a document. A stream on the database survives a drop, rename or re-creation of
    the collection.

    Args:
        collection: Name of the collection.
        watched: Names of fields at the top of its documents.
    """
    is_ours = {
        "$or": [
            {"ns.coll": collection},
            {"operationType": "rename", "to.coll": collection},
            {"operationType": "invalidate"},
        ]
    }
    is_wanted = {"$or": [{"operationType": {"$ne": "update"}}, {"$expr": _touches(watched)}]}
    kept = ("operationType", "documentKey", "to", "clusterTime", "wallTime")
    return [{"$match": {"$and": [is_ours, is_wanted]}}, {"$project": dict.fromkeys(kept, 1)}]


def _touches(watched: Sequence[str]) -> dict[str, Any]:
    """Return the expression: an update sets, removes or cuts one of these fields, or a part of it.

    One without a description changes nothing that we know of: better once too often.
    """
    updated = {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}}
    removed = {"$ifNull": ["$updateDescription.removedFields", []]}
    cut = {"$ifNull": ["$updateDescription.truncatedArrays", []]}
    paths = {
        "$concatArrays": [
            {"$map": {"input": updated, "in": "$$this.k"}},
            removed,
            {"$map": {"input": cut, "in": "$$this.field"}},
        ]
    }
    first = {"$arrayElemAt": [{"$split": ["$$this", "."]}, 0]}
    fields = {"$map": {"input": paths, "in": first}}
    is_touched = {"$ne": [{"$setIntersection": [fields, list(watched)]}, []]}
    return {"$or": [is_touched, {"$eq": [paths, []]}]}


def filter_hash(stages: list[dict[str, Any]]) -> str:
    """Return a hash of a filter: a token of one may not be resumed with another."""
    return hashlib.sha256(json_util.dumps(stages).encode()).hexdigest()[:16]


class ChangeStream:
    """Changes of one collection, from a position on. Not thread-safe."""

    def __init__(
        self, database: Database[dict[str, Any]], collection: str, *, watched: Sequence[str]
    ) -> None:
        """Keep what is watched, see `build_filter`; nothing is opened."""
        self._database = database
        self._collection = collection
        self._filter = build_filter(collection, watched)
        self._stream: DatabaseChangeStream[dict[str, Any]] | None = None
        self._last_time: Timestamp | None = None
        self.hash = filter_hash(self._filter)

    def open(self, position: Position) -> None:
        """Open the stream behind a position.

        By token if it was read with the same filter; else, or if the server refuses the token, by
        clusterTime, which delivers some changes again.

        Raises:
            HistoryLost: The oplog no longer reaches back to it.
            StoreUnavailable: MongoDB does not answer.
        """
        self.close()
        self._last_time = position.cluster_time
        if position.token is None:
            self._open("start", start_at_operation_time=position.cluster_time)
        elif position.filter_hash != self.hash:
            self._open("filter_changed", start_at_operation_time=position.cluster_time)
        else:
            way = "start_after" if position.is_invalidate else "resume_after"
            try:
                self._open("resume", **{way: position.token})
            except _TokenRefused as exc:
                self._open_by_time(exc)

    def next(self) -> Change | None:
        """Return the next change, None when there is none for half a second.

        Raises:
            HistoryLost: The stream fell behind the oplog.
            StoreUnavailable: MongoDB does not answer; open the stream again.
        """
        if self._stream is None:
            msg = "the change stream is closed"
            raise StoreUnavailable(msg)
        try:
            row = self._stream.try_next()
        except PyMongoError as exc:
            problem = _translate(exc)
            if not isinstance(problem, _TokenRefused):
                raise problem from exc
            self._open_by_time(exc)  # the server may find out only when it reads
            return None
        if row is not None:
            self._last_time = row["clusterTime"]
            return self._change_of(row)
        if not self._stream.alive:
            msg = "the server closed the change stream"
            raise StoreUnavailable(msg)
        return None

    def _change_of(self, row: Mapping[str, Any]) -> Change:
        operation = row["operationType"]
        source = row["clusterTime"]
        event: DocumentChanged | DocumentDeleted | None = None
        if operation == "delete":
            event = DocumentDeleted(document_id=row["documentKey"]["_id"], source=source)
        elif operation in ("insert", "update", "replace"):
            at = row.get("wallTime")  # since MongoDB 6
            key = row["documentKey"]["_id"]
            event = DocumentChanged(document_id=key, source=source, changed_at=at)
        position = Position(
            token=row["_id"],
            cluster_time=source,
            filter_hash=self.hash,
            is_invalidate=operation == "invalidate",
        )
        brings = operation == "rename" and row["to"]["coll"] == self._collection
        return Change(operation=operation, position=position, event=event, brings_documents=brings)

    def idle_position(self) -> Position | None:
        """Return the newest position while nothing arrives; it is behind filtered changes too."""
        token = self._stream.resume_token if self._stream is not None else None
        if token is None or self._last_time is None:
            return None
        # Where a token is refused later, the stream goes on from here.
        self._last_time = max(self._last_time, _time_of(token) or self._last_time)
        return Position(token=token, cluster_time=self._last_time, filter_hash=self.hash)

    def close(self) -> None:
        """Close the stream, if it is open."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                stream.close()
            except PyMongoError as exc:
                log.warning("change stream not closed", error=str(exc))

    def _open_by_time(self, error: Exception) -> None:
        log.warning("resume token refused, reopening by clusterTime", error=str(error))
        self._open("token_refused", start_at_operation_time=self._last_time)

    def _open(self, reason: str, **start: Any) -> None:
        try:
            self._stream = self._database.watch(
                self._filter, batch_size=500, max_await_time_ms=_AWAIT_MS, **start
            )
        except PyMongoError as exc:
            raise _translate(exc) from exc
        metrics.RESUMES.labels(reason).inc()


class _TokenRefused(StoreUnavailable):
    """The token is of no use; the clusterTime may be."""


def _translate(exc: PyMongoError) -> HistoryLost | StoreUnavailable:
    code = exc.code if isinstance(exc, OperationFailure) else None
    if code in _HISTORY_LOST:
        reason = str(exc)[:300]  # it may hold the event
        return HistoryLost(f"nothing behind the stored position can be read: {reason}")
    if code in _TOKEN_LOST:
        return _TokenRefused(f"the change stream refuses its token: {exc}")
    return StoreUnavailable(f"the change stream failed: {reason_of(exc)}")


def _time_of(token: dict[str, Any] | Any) -> Timestamp | None:
    """Decode the clusterTime in a resume token: hex 82, 8 digits seconds, 8 digits increment.

    The layout is not documented, so anything unexpected gives None.
    """
    data = token.get("_data", "")
    try:
        if data[:2] != "82":
            return None
        return Timestamp(int(data[2:10], 16), int(data[10:18], 16))
    except (TypeError, ValueError):
        return None
