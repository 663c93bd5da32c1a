"""One retraining job at a time: a document with an expiry, renewed by a thread.

A job that is killed stops renewing, and the next one takes over when the lease has run out. Times
are those of the server.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from pymongo import ReturnDocument
from pymongo.database import Database
from structlog import get_logger

from streams.errors import LeaseLost, StoreUnavailable
from streams.following import Follower
from streams.mongo.client import mongo_errors

log = get_logger(__name__)

_COLLECTION: Final = "trainer_lease"
_ID: Final = "job"
#: Renewals within one lease, so that a lost one does not matter.
_RENEWALS: Final = 4


class JobLease:
    """The right to run a retraining job on one state database."""

    def __init__(self, database: Database[dict[str, Any]], *, lease_seconds: float) -> None:
        """Keep what is needed.

        Args:
            database: State database, majority writes.
            lease_seconds: How long a silent job keeps the lease.
        """
        self._rows = database[_COLLECTION]
        self._seconds = lease_seconds
        self._owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._ours_until = 0.0  # of the monotonic clock
        self._is_lost = False

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Take the lease and keep it for the length of the context; False if another job has it.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        if not self._acquire():
            yield False
            return
        self._is_lost = False
        heartbeat = Follower(self._renew, name="job lease", seconds=self._seconds / _RENEWALS)
        heartbeat.start()
        try:
            yield True
        finally:
            heartbeat.stop()
            self._release()

    def check(self) -> None:
        """Make sure that the lease is still ours: to be called before anything is changed.

        Raises:
            LeaseLost: It was not renewed in time, so that another job may have it.
        """
        if time.monotonic() >= self._ours_until:
            msg = (
                f"this job did not renew its lease for {self._seconds:g} s, another may have"
                " started; nothing was published, start it again"
            )
            raise LeaseLost(msg)

    def holder(self) -> str:
        """Return who has the lease, as host and process id; empty when nobody has.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading the job's lease"):
            row = self._rows.find_one({"_id": _ID}) or {}
        return (row.get("owner") or "").rpartition(":")[0]

    def _acquire(self) -> bool:
        is_free = {"$or": [{"owner": None}, {"$expr": {"$lt": ["$expires_at", "$$NOW"]}}]}
        asked = time.monotonic()
        with mongo_errors("acquiring the job's lease"):
            self._rows.update_one({"_id": _ID}, {"$setOnInsert": {"owner": None}}, upsert=True)
            row = self._rows.find_one_and_update(
                {"_id": _ID, **is_free},
                [{"$set": {"owner": self._owner, "expires_at": self._expiry()}}],
                return_document=ReturnDocument.AFTER,
            )
        if row is None:
            return False
        self._ours_until = asked + self._seconds
        return True

    def _renew(self) -> None:
        """Renew, unless somebody else has the lease."""
        if self._is_lost:
            return
        asked = time.monotonic()
        with mongo_errors("renewing the job's lease"):
            result = self._rows.update_one(
                {"_id": _ID, "owner": self._owner},
                [{"$set": {"expires_at": self._expiry()}}],
            )
        if result.matched_count == 0:
            self._ours_until, self._is_lost = 0.0, True
            log.error("lease lost")
            return
        self._ours_until = asked + self._seconds

    def _release(self) -> None:
        """Let the next job start at once; what fails here only makes it wait for the expiry."""
        try:
            with mongo_errors("releasing the job's lease"):
                self._rows.update_one({"_id": _ID, "owner": self._owner}, {"$set": {"owner": None}})
        except StoreUnavailable as exc:
            log.warning("lease not released", reason=str(exc))

    def _expiry(self) -> dict[str, Any]:
        return {"$add": ["$$NOW", int(self._seconds * 1000)]}
