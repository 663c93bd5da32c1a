"""Documents whose error may pass, and when each is to be tried again."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, Final

from streams.documents import MODELS
from streams.ids import DocumentId, document_key
from streams.mongo import mongo_errors
from streams.settings import ReconcilerSettings
from streams.store import STATE_INDEX, DocumentStore

#: Most documents of one model that are looked at in one go.
_SCAN_LIMIT: Final = 10_000


class Retries:
    """Chooses documents to retry.

    An error that comes again leaves the stored one as it is, its time included, and a stored error
    looks settled: so neither tells when a document was retried last, nor throttles. This does.
    """

    def __init__(self, store: DocumentStore, limits: ReconcilerSettings) -> None:
        """Keep what is needed."""
        self._store = store
        self._limits = limits
        self._retried: dict[bytes, float] = {}

    def due(self) -> Iterator[DocumentId]:
        """Yield documents whose retryable error is old enough, or of a clock that went ahead.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        now = datetime.now(UTC)
        limit = now - timedelta(seconds=self._limits.retry_after_seconds)
        found: dict[bytes, DocumentId] = {}
        for model in MODELS:
            query: dict[str, Any] = {
                f"{model.path}.error.retryable": True,
                f"{model.path}.error.at": {"$not": {"$gte": limit, "$lte": now}},
            }
            with mongo_errors("looking for errors to retry"):
                cursor = self._store.collection.find(query, {"_id": 1}).hint(STATE_INDEX)
                for row in cursor.limit(_SCAN_LIMIT):
                    found[document_key(row["_id"])] = row["_id"]
        yield from found.values()

    def take_chunk(self) -> list[DocumentId]:
        """Return one chunk of those that were not taken lately.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        now = time.monotonic()
        limit = now - self._limits.retry_after_seconds
        self._retried = {key: at for key, at in self._retried.items() if at > limit}
        found = (i for i in self.due() if document_key(i) not in self._retried)
        chosen = list(islice(found, self._limits.chunk_size))
        self._retried.update((document_key(i), now) for i in chosen)
        return chosen
