"""How far a collection is published, and how that is stored. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bson.timestamp import Timestamp

from streams.contract.documents import lookup
from streams.contract.ids import DocumentId


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
    """A copy of the whole collection that is under way: one round through its ids, in their order.

    A round begins at any id, goes up to the last one, and then from the first one up to where it
    began. So a copy that has to begin anew goes on where the one before it was, and no documents
    are left for ever to the end of a copy that begins again and again. An id is a tuple of one, as
    None is an id too.

    Attributes:
        source: clusterTime taken before the copy began.
        start: The id that the round begins at; empty for the first one.
        last: The last id that is safely published in this leg; empty while there is none.
        is_second_leg: Whether it is behind the last id, and goes on from the first one to `start`.
    """

    source: Timestamp
    start: tuple[DocumentId, ...] = ()
    last: tuple[DocumentId, ...] = ()
    is_second_leg: bool = False

    @property
    def here(self) -> tuple[DocumentId, ...]:
        """Where another round may begin; empty at the first id."""
        return self.last or (() if self.is_second_leg else self.start)


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
        stored = row["copy"]
        copy = CopyState(
            source=_checked(stored["source"], Timestamp),
            start=tuple(_checked(stored["start"], list)),
            last=tuple(_checked(stored["last"], list)),
            is_second_leg=_checked(stored["is_second_leg"], bool),
        )
    offsets = {int(n): int(offset) for n, offset in row.get("acknowledged", {}).items()}
    return Progress(
        position=position, copy=copy, copied_at=row.get("copied_at"), acknowledged=offsets
    )


def offsets_update(acknowledged: Mapping[int, int]) -> dict[str, Any]:
    """Return the update that keeps offsets; the stream and a copy both do, and none goes back."""
    if not acknowledged:
        return {}
    return {"$max": {f"acknowledged.{number}": offset for number, offset in acknowledged.items()}}


def copy_row(state: CopyState) -> dict[str, Any]:
    """Return what is stored of a copy."""
    return {
        "source": state.source,
        "start": list(state.start),
        "last": list(state.last),
        "is_second_leg": state.is_second_leg,
    }


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
