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

from streams.capture.position import (
    Position,
    Progress,
    offsets_row,
    position_row,
    progress_of,
    time_of,
)
from streams.errors import CaptureError, LeaseLost, SettingsError
from streams.ids import DocumentId
from streams.mongo import mongo_errors

_COLLECTION: Final = "positions"


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
        fields = {"position": position_row(position), **offsets_row(acknowledged)}
        self._write({"$set": fields}, "committing the position")
        self.kept_time = position.cluster_time

    def begin_copy(self, position: Position, source: Timestamp) -> None:
        """Keep that everything is to be copied, and with it where the stream goes on afterwards.

        What was acknowledged before no longer counts.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        fields = {
            "copy": {"source": source},
            "copied_at": "$$NOW",
            "position": {"$literal": position_row(position)},
        }
        gone = {"$unset": ["copy", "acknowledged"]}
        self._write([gone, {"$set": fields}], "beginning a copy")
        self.kept_time = position.cluster_time

    def advance_copy(
        self, last_id: DocumentId, acknowledged: Mapping[int, int] | None = None
    ) -> None:
        """Keep how far the copy is, and how far Kafka has acknowledged each partition.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        fields = {"copy.last_id": last_id, **offsets_row(acknowledged)}
        self._write({"$set": fields}, "keeping the state of the copy")

    def end_copy(self) -> None:
        """Keep that the copy is complete.

        Raises:
            LeaseLost: Somebody else holds the lease.
            StoreUnavailable: MongoDB does not answer.
        """
        self._write({"$unset": {"copy": 1}}, "ending the copy")

    def _write(self, update: Any, doing: str) -> None:
        with mongo_errors(doing):
            result = self._rows.update_one(
                {"_id": self._tenant, "owner": self._owner, "epoch": self.epoch}, update
            )
        if result.matched_count == 0:
            msg = f"another publisher holds the lease on {self._tenant} (ours was {self.epoch})"
            raise LeaseLost(msg)

    def _expiry(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", self._lease_ms]}
