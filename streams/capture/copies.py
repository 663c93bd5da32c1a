"""Requests for a copy of the whole collection, for when the broker lost its log.

Whoever finds that out asks; the publisher that leads does it. A lost update cannot be seen in the
documents, so nothing less than everything will do.
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
from streams.kafka.producer import EventProducer
from streams.kafka.topics import topic_name
from streams.mongo.client import mongo_errors
from streams.settings import KafkaSettings

log = get_logger(__name__)

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


#: A new leader of a partition may for a moment know of less than is there.
_CONFIRM_SECONDS: Final = 1.0


class LogWatch:
    """Knows how far the log of changes was acknowledged."""

    def __init__(self, settings: KafkaSettings, producer: EventProducer) -> None:
        """Keep what is needed."""
        self._settings = settings
        self._producer = producer
        self._before: Mapping[int, int] = {}

    def begin(self, acknowledged: Mapping[int, int]) -> None:
        """Go on from what is kept: before this term, or by a copy."""
        self._before = acknowledged

    def forget(self) -> None:
        """Begin anew: everything is going to be published again."""
        self._before = {}
        self._producer.forget_acknowledged()

    @property
    def acknowledged(self) -> dict[int, int]:
        """Offset of the last record that Kafka has acknowledged, by partition."""
        offsets = dict(self._before)
        for number, offset in self._producer.acknowledged(CHANGES).items():
            offsets[number] = max(offset, offsets.get(number, offset))
        return offsets

    def is_cut(self) -> bool:
        """Whether the log does not reach so far any more; counted, and said in the log.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        if not self._is_shorter():
            return False
        time.sleep(_CONFIRM_SECONDS)
        if not self._is_shorter():
            return False
        metrics.LOG_LOST.inc()
        log.error("Kafka lost records that it had acknowledged", acknowledged=self.acknowledged)
        return True

    def _is_shorter(self) -> bool:
        topic = topic_name(CHANGES, self._settings)
        return is_cut(topic, self.acknowledged, self._settings)
