"""Publishing documents again, in chunks, below live traffic.

Puts one small chunk into the pipeline, waits until those documents are settled, and only then takes
the next. So it needs no lag, and a live change waits behind one chunk at most; while live changes
come in, it leaves the pipeline to them for most of the time. When nothing of a chunk gets through,
something is down: from then on it sends one document for each call, until one gets through.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Final

from bson.timestamp import Timestamp
from structlog import get_logger

from streams import events, metrics
from streams.capture.producer import EventProducer
from streams.capture.refusals import note_refused
from streams.documents import CLIP, lookup
from streams.events import ImageChanged, Origin
from streams.ids import DocumentId, split_ids
from streams.mongo import mongo_errors
from streams.settings import Settings
from streams.states import Serving, pending_model
from streams.store import DocumentStore
from streams.wire import encode_event

log = get_logger(__name__)

_POLL_SECONDS: Final = 0.1
#: Bounds a pause after a chunk that was slow because something was down.
_LONGEST_PAUSE_SECONDS: Final = 30.0


class Repeater:
    """Publishes documents of one collection again.

    Attributes:
        published: How many so far.
    """

    def __init__(
        self,
        settings: Settings,
        store: DocumentStore,
        *,
        serving: Callable[[], Serving],
        live_changes: Callable[[], int],
    ) -> None:
        """Keep what is needed.

        Args:
            settings: All settings.
            store: The collection.
            serving: Tells the versions that serve now.
            live_changes: Counts the changes published so far.
        """
        self._settings = settings
        self._limits = settings.reconciler
        self._store = store
        self._serving = serving
        self._live_changes = live_changes
        self._live_seen = live_changes()
        self._size = self._limits.chunk_size
        self.published = 0

    def repeat(
        self,
        ids: Sequence[DocumentId],
        serving: Serving,
        before: Timestamp,
        stop: threading.Event,
        note: Callable[[Sequence[DocumentId]], None] = lambda _: None,
    ) -> bool:
        """Publish documents chunk by chunk; False when there is no use in going on.

        Args:
            ids: The documents.
            serving: What they were chosen for; another version ends it.
            before: clusterTime from before they were chosen.
            stop: Ends it.
            note: Called with each chunk that was published.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        if not ids:
            return True
        with closing(EventProducer(self._settings.kafka)) as producer:
            start = 0
            while start < len(ids):
                chunk = ids[start : start + self._size]
                began = time.monotonic()
                start += len(chunk)
                self._send(chunk, before, producer)
                note(chunk)
                if stop.is_set() or not self._settle(chunk, serving, stop):
                    return False
                if start < len(ids):
                    stop.wait(self._pause_for_live_changes(time.monotonic() - began))
        return True

    def send(self, ids: Sequence[DocumentId], before: Timestamp) -> None:
        """Publish documents at once, and wait for the broker only.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        if ids:
            with closing(EventProducer(self._settings.kafka)) as producer:
                self._send(ids, before, producer)

    def _send(self, ids: Sequence[DocumentId], before: Timestamp, producer: EventProducer) -> None:
        tenant = self._settings.mongo.tenant
        changes = list(self._events(ids, before))
        records = [
            encode_event(change, event_type=events.IMAGE_CHANGED, tenant=tenant)
            for change in changes
        ]
        refused = producer.publish(events.IMAGE_CHANGED, records)
        self.published += len(records) - len(refused)
        metrics.RECONCILED.inc(len(records) - len(refused))
        note_refused([changes[i] for i in refused], store=self._store, serving=self._serving)

    def _events(self, ids: Sequence[DocumentId], before: Timestamp) -> Iterator[ImageChanged]:
        """A repeat carries the source of what is stored, so that it can never beat a newer change.

        Its own outputs pass the guard all the same: they are missing, or of another version, or
        errors. A document without any output gets the time before the scan: every change that the
        scan could not see is newer.
        """
        path = f"{CLIP.path}.source"
        for some in split_ids(ids):
            with mongo_errors("reading sources"):
                rows = list(self._store.collection.find({"_id": {"$in": some}}, {path: 1}))
            for row in rows:
                stored = lookup(row, path)
                source = stored if isinstance(stored, Timestamp) else before
                yield ImageChanged(document_id=row["_id"], source=source, origin=Origin.RECONCILE)

    def _settle(self, ids: Sequence[DocumentId], serving: Serving, stop: threading.Event) -> bool:
        """Wait until a chunk is through; False when there is no use in going on.

        That is so when another version serves now, and when in all the time nothing of the chunk
        got through: something is down.
        """
        deadline = time.monotonic() + self._limits.chunk_timeout_seconds
        while not stop.wait(_POLL_SECONDS):
            if self._serving() != serving:
                return False
            rows = self._store.scan_states(ids)
            stuck = sum(pending_model(row, serving) is not None for row in rows)
            if stuck and time.monotonic() <= deadline:
                continue
            is_moving = stuck < len(ids)
            self._size = self._limits.chunk_size if is_moving else 1
            if stuck:
                log.warning("repeated documents do not get through", stuck=stuck, of=len(ids))
            return is_moving
        return False

    def _pause_for_live_changes(self, seconds: float) -> float:
        """Return how long to leave the pipeline alone after a chunk that took so many seconds.

        A change that comes while a chunk is under way shares its batches and so its latency.
        """
        before, self._live_seen = self._live_seen, self._live_changes()
        if before == self._live_seen:
            return 0.0
        return min(seconds * (1 / self._limits.live_share - 1), _LONGEST_PAUSE_SECONDS)
