"""The reconciler: finds documents whose outputs are missing or stale and publishes them again.

Below live traffic: it puts one small chunk into the pipeline, waits until those documents are
settled, and only then takes the next. So it needs no lag, and a live change waits behind one chunk
at most; while live changes come in, it leaves the pipeline to them for most of the time. After a
promotion it begins when the stages have loaded the new version. When nothing of a chunk gets
through, something is down: from then on it sends one document for each scan, until one gets
through.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from bson.timestamp import Timestamp
from pymongo import MongoClient
from structlog import get_logger

from streams import events, metrics
from streams.capture.producer import EventProducer
from streams.capture.retries import Retries
from streams.capture.staleness import Staleness
from streams.documents import CLIP, MODELS, lookup
from streams.errors import CaptionstreamError
from streams.events import ImageChanged, Origin
from streams.ids import DocumentId
from streams.mongo import Document, cluster_time, mongo_errors
from streams.settings import Settings
from streams.states import Serving, pending_model
from streams.store import DocumentStore
from streams.wire import encode_event

log = get_logger(__name__)

#: Most documents that one scan collects; the next scan follows at once when it was full.
_SCAN_LIMIT: Final = 10_000
_POLL_SECONDS: Final = 0.1
#: Bounds a pause after a chunk that was slow because something was down.
_LONGEST_PAUSE_SECONDS: Final = 30.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcilePlan:
    """What would be published again.

    Attributes:
        by_model: Documents by the first model that has to run for them.
        retries: Documents whose retryable error is old enough to try again.
    """

    by_model: Mapping[str, int]
    retries: int

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_model.values()) + self.retries


class Reconciler:
    """Repeats unfinished documents of one collection."""

    def __init__(
        self,
        settings: Settings,
        client: MongoClient[Document],
        *,
        serving: Callable[[], Serving],
        is_loaded: Callable[[Serving], bool] = lambda _: True,
        live_changes: Callable[[], int] = lambda: 0,
    ) -> None:
        """Keep what is needed.

        Args:
            settings: All settings.
            client: Client of the replica set.
            serving: Tells the versions that serve now.
            is_loaded: Tells whether the stages have these versions; what is published before would
                be made by those they had.
            live_changes: Counts the changes published so far.
        """
        self._live_changes = live_changes
        self._live_seen = live_changes()
        self._is_loaded = is_loaded
        self._settings = settings
        self._limits = settings.reconciler
        self._client = client
        self._serving = serving
        self._store = DocumentStore(client, settings.mongo)
        self._tenant = settings.mongo.tenant
        self._size = self._limits.chunk_size
        self._retries = Retries(self._store, self._limits)

    def run(self, stop: threading.Event, *, is_leading: Callable[[], bool]) -> None:
        """Scan again and again, at once when another version serves, until `stop` is set.

        Args:
            stop: Ends it.
            is_leading: Only the publisher that holds the lease reconciles.
        """
        staleness = Staleness(grace_seconds=self._limits.grace_seconds)
        due_at = time.monotonic() + self._limits.interval_seconds
        patient_until = 0.0
        while not stop.wait(min(1.0, self._limits.interval_seconds)):
            try:
                if not is_leading():
                    continue
                serving = self._serving()
                now = time.monotonic()
                if staleness.notice(serving):
                    due_at, patient_until = now, now + self._limits.chunk_timeout_seconds
                if now < due_at or (now < patient_until and not self._is_loaded(serving)):
                    continue
                patient_until = 0.0
                is_more = self._pass(serving, staleness, stop)
                pause = 0.0 if is_more else self._limits.interval_seconds
                due_at = time.monotonic() + pause
            except CaptionstreamError as exc:  # a version that cannot be read, too: try again
                log.warning("reconciler waits", error=str(exc))
                due_at = time.monotonic() + self._limits.interval_seconds

    def plan(self) -> ReconcilePlan:
        """Return what is unfinished now, work that is under way included.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        serving = self._serving()
        models = (pending_model(row, serving) for row in self._store.scan_states())
        counts = Counter(model.name for model in models if model is not None)
        return ReconcilePlan(
            by_model={m.name: counts[m.name] for m in MODELS if counts[m.name]},
            retries=len(list(self._retries.due())),
        )

    def reconcile_now(self, stop: threading.Event | None = None) -> int:
        """Publish everything that `plan` counts, in chunks; return how many documents.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        serving = self._serving()
        before = cluster_time(self._client)
        rows = self._store.scan_states()
        ids = [row["_id"] for row in rows if pending_model(row, serving) is not None]
        chosen = [*ids, *self._retries.due()]
        return self._publish(chosen, serving, before, stop or threading.Event())

    def _pass(self, serving: Serving, staleness: Staleness, stop: threading.Event) -> bool:
        """Do one scan and publish what it found; return whether there is more."""
        if not self._prepare():
            return False
        before = cluster_time(self._client)
        ids: list[DocumentId] = []
        unfinished = 0
        for row in self._store.scan_states():
            model = pending_model(row, serving)
            if model is None:
                continue
            unfinished += 1
            if staleness.is_due(row, model, serving):
                ids.append(row["_id"])
            if len(ids) >= _SCAN_LIMIT or stop.is_set():
                break
        staleness.end_scan()
        metrics.RECONCILER_PENDING.set(unfinished)
        is_full = len(ids) >= _SCAN_LIMIT
        ids.sort(key=staleness.repeats)  # those that never get through must not hold up others
        ids += self._retries.take_chunk()
        if not ids:
            return False
        published = self._publish(ids, serving, before, stop, staleness.note_repeated)
        log.info("documents published again", documents=published, unfinished=unfinished)
        return is_full and published == len(ids)

    def _publish(
        self,
        ids: Sequence[DocumentId],
        serving: Serving,
        before: Timestamp,
        stop: threading.Event,
        note: Callable[[Sequence[DocumentId]], None] = lambda _: None,
    ) -> int:
        if not ids:
            return 0
        producer = EventProducer(self._settings.kafka)
        published = 0
        try:
            start = 0
            while start < len(ids):
                chunk = ids[start : start + self._size]
                began = time.monotonic()
                start += len(chunk)
                records = [
                    encode_event(event, event_type=events.IMAGE_CHANGED, tenant=self._tenant)
                    for event in self._events(chunk, before)
                ]
                published += producer.publish(events.IMAGE_CHANGED, records)
                metrics.RECONCILED.inc(len(records))
                note(chunk)
                if stop.is_set() or not self._settle(chunk, serving, stop):
                    break
                if start < len(ids):
                    stop.wait(self._pause_for_live_changes(time.monotonic() - began))
        finally:
            producer.close()
        return published

    def _pause_for_live_changes(self, seconds: float) -> float:
        """Return how long to leave the pipeline alone after a chunk that took so many seconds.

        A change that comes while a chunk is under way shares its batches and so its latency.
        """
        before, self._live_seen = self._live_seen, self._live_changes()
        if before == self._live_seen:
            return 0.0
        return min(seconds * (1 / self._limits.live_share - 1), _LONGEST_PAUSE_SECONDS)

    def _events(self, ids: Sequence[DocumentId], before: Timestamp) -> Iterator[ImageChanged]:
        """A repeat carries the source of what is stored, so that it can never beat a newer change.

        Its own outputs pass the guard all the same: they are missing, or of another version, or
        errors. A document without any output gets the time before the scan: every change that the
        scan could not see is newer.
        """
        path = f"{CLIP.path}.source"
        with mongo_errors("reading sources"):
            rows = list(self._store.collection.find({"_id": {"$in": list(ids)}}, {path: 1}))
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
            stuck = [row["_id"] for row in rows if pending_model(row, serving) is not None]
            if stuck and time.monotonic() <= deadline:
                continue
            is_moving = len(stuck) < len(ids)
            self._size = self._limits.chunk_size if is_moving else 1
            if stuck:
                log.warning("repeated documents do not get through", stuck=len(stuck), of=len(ids))
            return is_moving
        return False

    def _prepare(self) -> bool:
        """Make sure of the state index, which goes with a dropped collection; whether to scan.

        An empty or missing collection is left alone: an index would create it.
        """
        with mongo_errors("looking for documents"):
            if self._store.collection.find_one({}, {"_id": 1}) is None:
                return False
        self._store.prepare()
        return True
