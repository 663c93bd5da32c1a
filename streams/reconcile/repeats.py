"""Publishing documents below live traffic, in chunks: repeats of the reconciler, and copies.

Puts one small chunk into the pipeline, waits until those documents are settled, and only then takes
the next. So it needs no lag, and a live change waits behind one chunk at most; while live changes
come in, it leaves the pipeline to them for most of the time. When nothing of a chunk gets through,
something is down: from then on it sends one document for each call, until one gets through.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import Final

from bson.timestamp import Timestamp
from structlog import get_logger

from streams import metrics
from streams.contract.events import DocumentChanged, ModelApplied
from streams.contract.ids import DocumentId, document_key, split_ids
from streams.contract.pipeline import CHANGES, OUTPUTS
from streams.contract.states import Serving, pending_model
from streams.contract.wire import encode_event
from streams.kafka.producer import EventProducer
from streams.mongo.client import mongo_errors
from streams.mongo.store import DocumentStore
from streams.reconcile.entry import Entry, change_of, entry_of, stored_source
from streams.reconcile.oversized import note_refused
from streams.settings import Settings

log = get_logger(__name__)

_POLL_SECONDS: Final = 0.1
#: Bounds a pause after a chunk that was slow because something was down.
_LONGEST_PAUSE_SECONDS: Final = 30.0


class Repeater:
    """Publishes documents of one collection below live traffic.

    Attributes:
        size: Most documents of the next chunk.
        published: How many documents so far.
    """

    def __init__(
        self,
        settings: Settings,
        store: DocumentStore,
        *,
        serving: Callable[[], Serving],
        live_changes: Callable[[], int],
        check_lease: Callable[[], None] = lambda: None,
    ) -> None:
        """Keep what is needed.

        Args:
            settings: All settings.
            store: The collection.
            serving: Returns the versions that serve now.
            live_changes: Counts the changes published so far.
            check_lease: Raises `LeaseLost` when nothing more is to be published.
        """
        self._settings = settings
        self._limits = settings.reconciler
        self._store = store
        self._serving = serving
        self._live_changes = live_changes
        self._live_seen = live_changes()
        self._check_lease = check_lease
        self.size = self._limits.chunk_size
        self.published = 0

    def repeat(
        self,
        ids: Sequence[DocumentId],
        serving: Serving,
        before: Timestamp,
        stop: threading.Event,
        note: Callable[[Sequence[DocumentId]], None] = lambda _: None,
        *,
        is_new_change: bool = False,
    ) -> bool:
        """Publish documents chunk by chunk; False when there is no use in going on.

        Args:
            ids: The documents.
            serving: What they were chosen for; another version ends it.
            before: clusterTime from before they were chosen.
            stop: Ends it.
            note: Called with each chunk that was published.
            is_new_change: Whether they have another image than the one that was published: then
                what is made now is newer than what is stored.

        Raises:
            LeaseLost: Another publisher holds the lease.
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        if not ids:
            return True
        start = 0
        with closing(EventProducer(self._settings.kafka)) as producer:
            while start < len(ids):
                chunk = ids[start : start + self.size]
                start += len(chunk)
                entries = list(self._entries(chunk, serving, before, is_new_change=is_new_change))
                if not self.put_through(entries, producer, serving, stop, partial(note, chunk)):
                    return False
        return True

    def put_through(
        self,
        entries: Sequence[Entry],
        producer: EventProducer,
        serving: Serving,
        stop: threading.Event,
        note: Callable[[], None],
    ) -> bool:
        """Publish one chunk, wait until it is through, and leave the pipeline to live changes.

        Args:
            entries: At most `size`.
            producer: Connected.
            serving: What they were chosen for.
            stop: Ends it.
            note: Called when the broker has all of them.

        Returns:
            False when there is no use in going on. See `repeat`.
        """
        began = time.monotonic()
        self._publish(entries, producer)
        note()
        if stop.is_set() or not self._settle(entries, serving, stop):
            return False
        self.leave_to_live(time.monotonic() - began, stop)
        return True

    def send(self, ids: Sequence[DocumentId], before: Timestamp) -> None:
        """Publish documents at once, and wait for the broker only. See `repeat`."""
        if ids:
            with closing(EventProducer(self._settings.kafka)) as producer:
                self._publish(list(self._entries(ids, self._serving(), before)), producer)

    def leave_to_live(self, seconds: float, stop: threading.Event) -> None:
        """Leave everything to live changes after work that took so many seconds, if any came.

        A change that comes while a chunk is under way shares its batches and so its latency.
        """
        before, self._live_seen = self._live_seen, self._live_changes()
        if before != self._live_seen:
            stop.wait(min(seconds * (1 / self._limits.live_share - 1), _LONGEST_PAUSE_SECONDS))

    def _publish(self, entries: Sequence[Entry], producer: EventProducer) -> None:
        self._check_lease()
        by_topic: dict[str, list[Entry]] = {}
        for entry in entries:
            by_topic.setdefault(entry[0], []).append(entry)
        refused = [e for topic, some in by_topic.items() for e in self._send(topic, some, producer)]
        again = [
            change_of(e.document_id, e.source) for _, e in refused if isinstance(e, ModelApplied)
        ]
        if again:
            refused += self._send(CHANGES, [(CHANGES, change) for change in again], producer)
        changes = [event for _, event in refused if isinstance(event, DocumentChanged)]
        note_refused(changes, store=self._store, serving=self._serving)

    def _send(self, topic: str, entries: Sequence[Entry], producer: EventProducer) -> list[Entry]:
        """Publish to one topic, and return what is too large for Kafka."""
        tenant = self._settings.mongo.tenant
        records = [encode_event(event, tenant=tenant) for _, event in entries]
        refused = producer.publish(topic, records)
        self.published += len(records) - len(refused)
        for position, (_, event) in enumerate(entries):
            if position not in refused:
                metrics.PUBLISHED.labels(event.origin.value).inc()
        return [entries[position] for position in refused]

    def _entries(
        self,
        ids: Sequence[DocumentId],
        serving: Serving,
        before: Timestamp,
        *,
        is_new_change: bool = False,
    ) -> Iterator[Entry]:
        for some in split_ids(ids):
            with mongo_errors("reading outputs"):
                rows = list(self._store.collection.find({"_id": {"$in": some}}, {OUTPUTS: 1}))
            for row in self._store.no_room.lay_over(rows):
                if is_new_change:
                    yield CHANGES, change_of(row["_id"], before)
                else:
                    yield entry_of(row, serving, before)

    def _settle(self, entries: Sequence[Entry], serving: Serving, stop: threading.Event) -> bool:
        """Wait until a chunk is through; False when there is no use in going on.

        That is so when another version serves now, and when in all the time nothing of the chunk
        got through: something is down.
        """
        sources = {document_key(event.document_id): event.source for _, event in entries}
        deadline = time.monotonic() + self._limits.chunk_timeout_seconds
        while not stop.wait(_POLL_SECONDS):
            if self._serving() != serving:
                return False
            rows = self._store.scan_states([event.document_id for _, event in entries])
            stuck = sum(
                not _is_through(row, sources[document_key(row["_id"])], serving) for row in rows
            )
            if stuck and time.monotonic() <= deadline:
                continue
            is_moving = stuck < len(entries)
            self.size = self._limits.chunk_size if is_moving else 1
            if stuck:
                log.warning("documents do not get through", stuck=stuck, of=len(entries))
            return is_moving
        return False


def _is_through(row: dict[str, object], source: Timestamp, serving: Serving) -> bool:
    """Whether nothing has to run, and what is stored is of this event or a newer one."""
    stored = stored_source(row, serving.pipeline)
    return stored is not None and stored >= source and pending_model(row, serving) is None
