"""Who publishes, and up to where: one document that holds lease, position and copy together.

Every write names owner and epoch of the lease, so a publisher that was replaced while it slept
cannot commit.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo.database import Database

from streams.contract.documents import lookup
from streams.contract.ids import DocumentId, id_bytes
from streams.errors import CaptureError, SettingsError
from streams.mongo.client import Document, mongo_errors
from streams.mongo.lease import Lease, check_lease_format

_COLLECTION: Final = "positions"
#: Largest id that is kept of a copy: position, token and copy are one document. Behind a larger one
#: the last but one stays, and a copy that resumes publishes a little more again.
_KEPT_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """A place in the change stream.

    Attributes:
        token: Resume token; None to begin at `cluster_time`.
        cluster_time: clusterTime of the change that the token belongs to.
        filter_hash: Filter that the token was read with.
        is_invalidate: Whether the token is that of an `invalidate` event.
    """

    token: Mapping[str, Any] | None
    cluster_time: Timestamp
    filter_hash: str
    is_invalidate: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class CopyState:
    """A copy of the whole collection that is under way: one round through its ids, in their order.

    A round begins at any id, goes up to the last one, and then from the first one up to where it
    began: a copy that has to begin anew goes on where the one before it was, so that however often
    that happens each document gets its turn. An id is a tuple of one, as None is an id too.

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


def _time_of(row: Mapping[str, Any]) -> Timestamp | None:
    time = lookup(row, "position.cluster_time")
    return time if isinstance(time, Timestamp) else None


def _progress_of(row: Mapping[str, Any]) -> Progress:
    position = copy = None
    if "position" in row:
        stored = row["position"]
        position = Position(
            token=_checked(stored["token"], Mapping | None),
            cluster_time=_checked(stored["cluster_time"], Timestamp),
            filter_hash=_checked(stored["filter_hash"], str),
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
    at = row.get("copied_at")
    offsets = {int(n): int(offset) for n, offset in row.get("acknowledged", {}).items()}
    return Progress(position=position, copy=copy, copied_at=at, acknowledged=offsets)


def _offsets_update(acknowledged: Mapping[int, int]) -> dict[str, Any]:
    """The stream and a copy both keep offsets, and none goes back."""
    offsets = {f"acknowledged.{number}": offset for number, offset in acknowledged.items()}
    return {"$max": offsets} if offsets else {}


def _row_of(state: Position | CopyState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__slots__}


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        msg = f"expected {kind}, got {type(value).__name__}"
        raise TypeError(msg)
    return value


def position_time(database: Database[dict[str, Any]], tenant: str) -> Timestamp:
    """Return how far a collection is published: the clusterTime of the committed position.

    Raises:
        UnknownFormat: It is kept in another format.
        StoreUnavailable: MongoDB does not answer.
    """
    fields = {"format": 1, "position.cluster_time": 1}
    with mongo_errors("reading the publisher's position"):
        row = database[_COLLECTION].find_one({"_id": tenant}, fields)
    if row is None:
        return Timestamp(0, 0)
    check_lease_format(row, database[_COLLECTION])
    return _time_of(row) or Timestamp(0, 0)


class Leadership(Lease):
    """The lease of one publisher on one collection, and what is kept under it."""

    def __init__(
        self, database: Database[dict[str, Any]], *, tenant: str, lease_seconds: float
    ) -> None:
        """Keep what is needed.

        Args:
            database: State database, majority writes.
            tenant: `database.collection` that is published.
            lease_seconds: How long a silent publisher keeps the lease.
        """
        lost = f"another publisher holds the lease on {tenant}"
        super().__init__(database[_COLLECTION], tenant, seconds=lease_seconds, lost=lost)
        #: clusterTime of the position that was last read or kept here; None before the first.
        self.kept_time: Timestamp | None = None

    def acquire(self) -> Document | None:
        """Take the lease. See `Lease.acquire`.

        Raises:
            SettingsError: The state database is that of another pipeline: its models would be ours.
            UnknownFormat: Another release had it, in a format of its own.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("looking for other pipelines"):
            other = self._rows.find_one({"_id": {"$ne": self._name}}, {"_id": 1})
        if other is not None:
            taken = other["_id"]
            msg = (
                f"the state database {self._rows.database.name} is that of {taken}: set"
                f" CAPTIONSTREAM_MONGO__STATE_DATABASE to another one for {self._name}; or, if"
                f" nobody watches {taken} any more, remove its document from {self._rows.full_name}"
            )
            raise SettingsError(msg)
        row = super().acquire()
        if row is not None:
            self.kept_time = _time_of(row)
        return row

    def read(self) -> Progress:
        """Return position and copy.

        Raises:
            CaptureError: What is stored is damaged; nothing is guessed.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading the position"):
            row = self._rows.find_one({"_id": self._name}) or {}
        try:
            return _progress_of(row)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            msg = (
                f"the position of {self._name} is damaged ({exc!r}); remove its document from"
                f" {self._rows.full_name} to copy everything again (finished work is skipped)"
            )
            raise CaptureError(msg) from exc

    def commit(self, position: Position, acknowledged: Mapping[int, int] | None = None) -> None:
        """Keep a position, and how far Kafka has acknowledged each partition by then.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        kept = {"$set": {"position": _row_of(position)}}
        self.write(kept | _offsets_update(acknowledged or {}), "committing the position")
        self.kept_time = position.cluster_time

    def begin_copy(self, position: Position, copy: CopyState) -> None:
        """Keep that everything is to be copied, and with it where the stream goes on.

        What was acknowledged before no longer counts. Raises what `commit` does.
        """
        fields = {
            "copy": {"$literal": _row_of(copy)},
            "copied_at": "$$NOW",
            "position": {"$literal": _row_of(position)},
        }
        self.write([{"$unset": ["copy", "acknowledged"]}, {"$set": fields}], "beginning a copy")
        self.kept_time = position.cluster_time

    def advance_copy(self, copy: CopyState, acknowledged: Mapping[int, int]) -> bool:
        """Keep how far a copy is, and how far Kafka has acknowledged each partition.

        Returns False if another copy has begun meanwhile: then nothing is kept. Raises what
        `commit` does.
        """
        fields: dict[str, Any] = {"copy.is_second_leg": copy.is_second_leg}
        if all(id_bytes(last) <= _KEPT_BYTES for last in copy.last):
            fields["copy.last"] = list(copy.last)
        update = {"$set": fields} | _offsets_update(acknowledged)
        return self._write_copy(copy, update, "keeping the state of the copy")

    def end_copy(self, copy: CopyState, acknowledged: Mapping[int, int]) -> bool:
        """Keep that a copy is complete. See `advance_copy`."""
        update = {"$unset": {"copy": 1}} | _offsets_update(acknowledged)
        return self._write_copy(copy, update, "ending the copy")

    def _write_copy(self, copy: CopyState, update: Any, doing: str) -> bool:
        with mongo_errors(doing):
            mine = {**self._mine(), "copy.source": copy.source}
            is_kept = self._rows.update_one(mine, update).matched_count > 0
        if not is_kept:
            self.check()
        return is_kept
