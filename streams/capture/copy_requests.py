"""Requests for a copy of the whole collection, for when the broker lost its log.

Whoever finds that out asks; the publisher that leads does it. A lost update cannot be seen in the
documents, so nothing less than everything will do.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database

from streams.mongo.client import mongo_errors

_COLLECTION: Final = "requests"
_ID: Final = "copy"


class CopyRequests:
    """The last request. Asking again before it is done changes nothing but its time."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        """Keep the state database (majority reads and writes)."""
        self._rows = database[_COLLECTION]

    def ask(self) -> None:
        """Ask for a copy; the time is the server's.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("asking for a copy"):
            self._rows.update_one({"_id": _ID}, [{"$set": {"at": "$$NOW"}}], upsert=True)

    def is_open(self, copied_at: datetime | None) -> bool:
        """Whether a copy was asked for since the last one began.

        Args:
            copied_at: When the last copy began; None when there was none.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            ValueError: The request was written by hand, without a time.
        """
        with mongo_errors("reading requests"):
            row: Mapping[str, Any] | None = self._rows.find_one({"_id": _ID})
        if row is None:
            return False
        if not isinstance(row.get("at"), datetime):
            msg = f"the request in {self._rows.full_name} has no date in `at`: {str(row)[:200]}"
            raise ValueError(msg)
        return copied_at is None or bool(row["at"] > copied_at)
