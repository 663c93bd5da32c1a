"""A lease: one process at a time may do something, for as long as it renews.

A lease is one document with an owner, an expiry and an epoch. A process that is killed stops
renewing, and the next one takes over when the lease has run out. The epoch grows with each owner,
and a write that names it cannot be that of a process that was replaced while it slept. Times are
those of the server. `format` is the number of the layout of a lease and of what is kept under it.
"""

import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.collection import Collection
from structlog import get_logger

from streams.contract.formats import format_problem
from streams.errors import LeaseLost, StoreUnavailable, UnknownFormat
from streams.following import Follower
from streams.mongo.client import Document, mongo_errors

log = get_logger(__name__)

#: Layout of a lease's document.
FORMAT: Final = 1
#: Renewals within one lease, so that a lost one does not matter.
_RENEWALS: Final = 4


def check_lease_format(row: Document, rows: Collection[Document]) -> None:
    """Check that the document of a lease, with what is kept under it, is of our format.

    Raises:
        UnknownFormat: It is not.
    """
    otherwise = f"remove its document from {rows.full_name}, and everything begins anew"
    what = f"the lease on {row['_id']}"
    if problem := format_problem(what, row.get("format"), reads=FORMAT, otherwise=otherwise):
        raise UnknownFormat(problem)


class Lease:
    """The lease of one process. Whatever is kept under it may stand in the same document."""

    def __init__(
        self, rows: Collection[Document], name: str, *, seconds: float, lost: str = "it is lost"
    ) -> None:
        """Keep what is needed.

        Args:
            rows: Where leases are kept; majority writes.
            name: What the lease is on: the `_id` of its document.
            seconds: How long a silent process keeps the lease.
            lost: What `LeaseLost` says, with the remedy.
        """
        self._rows = rows
        self._name = name
        self._milliseconds = int(seconds * 1000)
        self._lost = lost
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self.epoch = 0

    def acquire(self) -> Document | None:
        """Take the lease if it is free or has run out.

        Returns:
            Its document; None if another process holds the lease.

        Raises:
            UnknownFormat: Another release had it, in a format of its own.
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
        with mongo_errors("acquiring the lease"):
            self._rows.update_one(
                {"_id": self._name},
                {"$setOnInsert": {"format": FORMAT, "owner": None}},
                upsert=True,
            )
            row = self._rows.find_one_and_update(
                {"_id": self._name, "format": FORMAT, **is_free},
                [{"$set": fields}],
                return_document=ReturnDocument.AFTER,
            )
            held = self._rows.find_one({"_id": self._name}) if row is None else None
        if row is not None:
            self.epoch = int(row["epoch"])
        elif held is not None:
            check_lease_format(held, self._rows)
        return row

    def renew(self) -> None:
        """Keep the lease.

        Raises:
            LeaseLost: Another process holds it.
            StoreUnavailable: MongoDB does not answer.
        """
        self.write([{"$set": {"expires_at": self._expiry()}}], "renewing the lease")

    def check(self) -> None:
        """Make sure of the lease without keeping it: its keeper may be the one that hangs.

        Raises:
            LeaseLost: It has run out, or another process holds it.
            StoreUnavailable: MongoDB does not answer.
        """
        is_held = {"$expr": {"$gt": ["$expires_at", "$$NOW"]}}
        with mongo_errors("looking at the lease"):
            row = self._rows.find_one({**self._mine(), **is_held}, {"_id": 1})
        if row is None:
            raise self._error()

    def release(self) -> None:
        """Give the lease away, so that the next process need not wait.

        Raises:
            LeaseLost: It was lost already.
            StoreUnavailable: MongoDB does not answer.
        """
        self.write({"$set": {"owner": None}}, "releasing the lease")

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Take the lease and renew it from a thread until the context ends.

        Yields False if another process holds it. Before anything is changed, `check`.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        if self.acquire() is None:
            yield False
            return
        renewing = Follower(
            self._renew_quietly,
            name=f"lease-{self._name}",
            seconds=self._milliseconds / 1000 / _RENEWALS,
        )
        renewing.start()
        try:
            yield True
        finally:
            renewing.stop()
            try:
                self.release()
            except (LeaseLost, StoreUnavailable) as exc:  # then the next one waits for the expiry
                log.warning("lease not released", lease=self._name, reason=str(exc))

    def holder(self) -> str:
        """Return who holds the lease, as host and process id; "" when nobody does.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading the lease"):
            row = self._rows.find_one({"_id": self._name}, {"owner": 1}) or {}
        return (row.get("owner") or "").rpartition(":")[0]

    def write(self, update: Any, doing: str) -> None:
        """Change the lease's document, provided that the lease is ours: one write does both.

        Raises:
            LeaseLost: Another process holds it; nothing was changed.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors(doing):
            result = self._rows.update_one(self._mine(), update)
        if result.matched_count == 0:
            raise self._error()

    def _renew_quietly(self) -> None:
        """What is held is not stopped by a loss: it looks before it changes anything."""
        try:
            self.renew()
        except LeaseLost as exc:
            log.warning("lease lost", lease=self._name, error=str(exc))

    def _mine(self) -> dict[str, Any]:
        return {"_id": self._name, "owner": self._owner, "epoch": self.epoch}

    def _error(self) -> LeaseLost:
        return LeaseLost(f"{self._lost} (ours was of epoch {self.epoch})")

    def _expiry(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", self._milliseconds]}
