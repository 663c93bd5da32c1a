"""Who publishes, and up to where: one document that holds lease, position and copy together.

Every write names the epoch of the lease, so a publisher that was replaced while it slept cannot
commit. Times are those of the server.
"""

import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo import ReturnDocument
from pymongo.database import Database

from streams.contract.ids import id_bytes
from streams.errors import CaptureError, LeaseLost, SettingsError
from streams.mongo.client import mongo_errors
from streams.mongo.position import (
    CopyState,
    Position,
    Progress,
    copy_row,
    offsets_update,
    position_row,
    progress_of,
    time_of,
)

_COLLECTION: Final = "positions"
#: Largest id that is kept of a copy: position, token and copy are one document. Behind a larger one
#: the last but one stays, and a copy that resumes publishes a little more again.
_KEPT_BYTES: Final = 1024 * 1024


def position_time(database: Database[dict[str, Any]], tenant: str) -> Timestamp:
    """Return how far a collection is published: the clusterTime of the committed position.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    with mongo_errors("reading the publisher's position"):
        row = database[_COLLECTION].find_one({"_id": tenant}, {"position.cluster_time": 1}) or {}
    return time_of(row) or Timestamp(0, 0)


class Leadership:
    """The lease of one publisher on one collection."""

    def __init__(
        self, database: Database[dict[str, Any]], *, tenant: str, lease_seconds: float
    ) -> None:
        """Keep what is needed.

        Args:
            database: State database, majority writes.
            tenant: `database.collection` that is published.
            lease_seconds: How long a silent publisher keeps the lease.
        """
        self._rows = database[_COLLECTION]
        self._tenant = tenant
        self._lease_ms = int(lease_seconds * 1000)
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.epoch = 0
        #: clusterTime of the position that was last read or kept here; None while there is none.
        self.kept_time: Timestamp | None = None

    def acquire(self) -> bool:
        """Take the lease if it is free or has run out; return whether it is ours.

        Raises:
            SettingsError: The state database is that of another pipeline: its models would be ours.
            StoreUnavailable: MongoDB does not answer.
        """
        is_free = {
            "$or": [
                {"owner": None},
                {"owner": self._owner},
                {"$expr": {"$lt": ["$expires_at", "$$NOW"]}},
            ]
        }
        fields = {
            "owner": self._owner,
            "epoch": {"$add": [{"$ifNull": ["$epoch", 0]}, 1]},
            "expires_at": self._expiry(),
        }
        with mongo_errors("acquiring the publisher's lease"):
            other = self._rows.find_one({"_id": {"$ne": self._tenant}}, {"_id": 1})
            if other is not None:
                raise SettingsError(self._is_taken(other["_id"]))
            self._rows.update_one(
                {"_id": self._tenant}, {"$setOnInsert": {"owner": None}}, upsert=True
            )
            row = self._rows.find_one_and_update(
                {"_id": self._tenant, **is_free},
                [{"$set": fields}],
                return_document=ReturnDocument.AFTER,
            )
        if row is None:  # somebody else holds it
            return False
        self.epoch = int(row["epoch"])
        self.kept_time = time_of(row)
        return True

    def _is_taken(self, other: str) -> str:
        return (
            f"the state database {self._rows.database.name} is that of {other}: set"
            f" CAPTIONSTREAM_MONGO__STATE_DATABASE to another one for {self._tenant}; or, if nobody"
            f" watches {other} any more, remove its document from {self._rows.full_name}"
        )

    def renew(self) -> None:
        """Keep the lease.

        Raises:
            LeaseLost: Somebody else holds it.
            StoreUnavailable: MongoDB does not answer.
        """
        self._write([{"$set": {"expires_at": self._expiry()}}], "renewing the lease")

    def check(self) -> None:
        """Make sure of the lease without keeping it: its keeper may be the one that hangs.

        Raises:
            LeaseLost: It has run out, or somebody else holds it.
            StoreUnavailable: MongoDB does not answer.
        """
        is_held = {"$expr": {"$gt": ["$expires_at", "$$NOW"]}}
        with mongo_errors("looking at the publisher's lease"):
            row = self._rows.find_one({**self._mine(), **is_held}, {"_id": 1})
        if row is None:
            raise self._lost()

    def release(self) -> None:
        """Give the lease away, so that another publisher need not wait.

        Raises:
            LeaseLost: It was lost already.
            StoreUnavailable: MongoDB does not answer.
        """
        self._write({"$set": {"owner": None}}, "releasing the lease")

    def read(self) -> Progress:
        """Return position and copy.

        Raises:
            CaptureError: What is stored is damaged; nothing is guessed.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading the position"):
            row = self._rows.find_one({"_id": self._tenant}) or {}
        try:
            return progress_of(row)
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            msg = (
                f"the position of {self._tenant} is damaged ({exc!r}); remove its document from"
                f" {self._rows.full_name} to copy everything again (finished work is skipped)"
            )
            raise CaptureError(msg) from exc

    def commit(self, position: Position, acknowledged: Mapping[int, int] | None = None) -> None:
        """Keep a position, and how far Kafka has acknowledged each partition by then.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        kept = {"$set": {"position": position_row(position)}}
        self._write(kept | offsets_update(acknowledged or {}), "committing the position")
        self.kept_time = position.cluster_time

    def begin_copy(self, position: Position, copy: CopyState) -> None:
        """Keep that everything is to be copied, and with it where the stream goes on.

        What was acknowledged before no longer counts.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        fields = {
            "copy": {"$literal": copy_row(copy)},
            "copied_at": "$$NOW",
            "position": {"$literal": position_row(position)},
        }
        gone = {"$unset": ["copy", "acknowledged"]}
        self._write([gone, {"$set": fields}], "beginning a copy")
        self.kept_time = position.cluster_time

    def advance_copy(self, copy: CopyState, acknowledged: Mapping[int, int]) -> bool:
        """Keep how far a copy is, and how far Kafka has acknowledged each partition.

        Returns:
            False if another copy has begun meanwhile: then nothing is kept.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        fields: dict[str, Any] = {"copy.is_second_leg": copy.is_second_leg}
        if all(id_bytes(last) <= _KEPT_BYTES for last in copy.last):
            fields["copy.last"] = list(copy.last)
        update = {"$set": fields} | offsets_update(acknowledged)
        return self._write_copy(copy, update, "keeping the state of the copy")

    def end_copy(self, copy: CopyState, acknowledged: Mapping[int, int]) -> bool:
        """Keep that a copy is complete. See `advance_copy`."""
        update = {"$unset": {"copy": 1}} | offsets_update(acknowledged)
        return self._write_copy(copy, update, "ending the copy")

    def _write_copy(self, copy: CopyState, update: Any, doing: str) -> bool:
        with mongo_errors(doing):
            mine = {**self._mine(), "copy.source": copy.source}
            is_kept = self._rows.update_one(mine, update).matched_count > 0
        if not is_kept:
            self.check()
        return is_kept

    def _write(self, update: Any, doing: str) -> None:
        with mongo_errors(doing):
            result = self._rows.update_one(self._mine(), update)
        if result.matched_count == 0:
            raise self._lost()

    def _mine(self) -> dict[str, Any]:
        return {"_id": self._tenant, "owner": self._owner, "epoch": self.epoch}

    def _lost(self) -> LeaseLost:
        msg = f"another publisher holds the lease on {self._tenant} (ours was {self.epoch})"
        return LeaseLost(msg)

    def _expiry(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", self._lease_ms]}
