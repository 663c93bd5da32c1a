"""When everything has to be copied because the broker lost its log, or a part of it.

A lost update cannot be seen in the documents, so nothing less than everything will do. Whoever
finds out asks for a copy; the publisher that leads begins it, and finds out by itself, too.
"""

import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database
from structlog import get_logger

from streams import metrics
from streams.contract.pipeline import CHANGES
from streams.kafka.offsets import is_cut
from streams.kafka.topics import topic_name
from streams.mongo.client import mongo_errors
from streams.settings import KafkaSettings

log = get_logger(__name__)

_COLLECTION: Final = "requests"
_ID: Final = "copy"
#: A new leader of a partition may for a moment know of less than is there.
_CONFIRM_SECONDS: Final = 1.0


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


def has_lost_log(acknowledged: Mapping[int, int], settings: KafkaSettings) -> bool:
    """Whether Kafka's log of changes is shorter than it was; counted, and said in the log.

    Args:
        acknowledged: Offset of the last record that Kafka has acknowledged, by partition.
        settings: Where the broker is.

    Raises:
        BrokerUnavailable: The broker does not answer.
    """
    topic = topic_name(CHANGES, settings)
    if not is_cut(topic, acknowledged, settings):
        return False
    time.sleep(_CONFIRM_SECONDS)
    if not is_cut(topic, acknowledged, settings):
        return False
    metrics.LOG_LOST.inc()
    log.error("Kafka lost records that it had acknowledged", acknowledged=dict(acknowledged))
    return True
