"""How far a collection is published, and how that is stored. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.timestamp import Timestamp

from streams.documents import lookup
from streams.ids import DocumentId


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in the change stream.

    Attributes:
        token: Resume token; None to begin at `cluster_time`.
        cluster_time: clusterTime of the change that the token belongs to.
        pipeline_hash: Pipeline that the token was read with.
        is_invalidate: Whether the token is that of an `invalidate` event.
    """

    token: Mapping[str, Any] | None
    cluster_time: Timestamp
    pipeline_hash: str
    is_invalidate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyState:
    """A copy of the whole collection that is under way.

    Attributes:
        source: clusterTime taken before the copy began.
        last_id: The last `_id` that is safely published.
        has_begun: Whether there is a `last_id`; None is a valid one.
    """

    source: Timestamp
    last_id: DocumentId = None
    has_begun: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """What the document says.

    Attributes:
        position: Where to go on; None before the first start.
        copy: The copy that is under way, if any.
        copied_at: When the last full copy was begun.
        acknowledged: Offset of the last record that Kafka has acknowledged since, by partition.
    """

    position: Position | None
    copy: CopyState | None
    copied_at: datetime | None
    acknowledged: Mapping[int, int]


def time_of(row: Mapping[str, Any]) -> Timestamp | None:
    """Return the clusterTime of the stored position; None when there is none."""
    time = lookup(row, "position.cluster_time")
    return time if isinstance(time, Timestamp) else None


def progress_of(row: Mapping[str, Any]) -> Progress:
    """Return what the document says.

    Raises:
        AttributeError, KeyError, TypeError, ValueError: It is damaged.
    """
    position = copy = None
    if "position" in row:
        stored = row["position"]
        position = Position(
            token=_checked(stored["token"], Mapping | None),
            cluster_time=_checked(stored["cluster_time"], Timestamp),
            pipeline_hash=_checked(stored["pipeline_hash"], str),
            is_invalidate=_checked(stored["is_invalidate"], bool),
        )
    if "copy" in row:
        copy = CopyState(
            source=_checked(row["copy"]["source"], Timestamp),
            last_id=row["copy"].get("last_id"),
            has_begun="last_id" in row["copy"],
        )
    offsets = {int(n): int(offset) for n, offset in row.get("acknowledged", {}).items()}
    return Progress(
        position=position, copy=copy, copied_at=row.get("copied_at"), acknowledged=offsets
    )


def offsets_row(acknowledged: Mapping[int, int] | None) -> dict[str, Any]:
    """Return what is stored of offsets: fields of a document have names, not numbers."""
    if not acknowledged:
        return {}
    return {"acknowledged": {str(number): offset for number, offset in acknowledged.items()}}


def position_row(position: Position) -> dict[str, Any]:
    """Return what is stored of a position."""
    return {
        "token": position.token,
        "cluster_time": position.cluster_time,
        "pipeline_hash": position.pipeline_hash,
        "is_invalidate": position.is_invalidate,
    }


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        msg = f"expected {kind}, got {type(value).__name__}"
        raise TypeError(msg)
    return value
