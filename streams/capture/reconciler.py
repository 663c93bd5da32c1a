"""The reconciler: finds documents whose outputs are missing or stale and publishes them again.

After a promotion it begins when the stages have loaded the new version. How it keeps below live
traffic stands in `repeats.py` and, for errors that may pass, in `retries.py`.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from pymongo import MongoClient
from structlog import get_logger

from streams import metrics
from streams.capture.repeats import Repeater
from streams.capture.retries import Retries
from streams.capture.scans import scan_failures, scan_unfinished
from streams.capture.staleness import Staleness
from streams.documents import MODELS
from streams.errors import CaptionstreamError
from streams.ids import DocumentId
from streams.mongo import Document, cluster_time, mongo_errors
from streams.settings import Settings
from streams.state_index import drop_old_state_indexes
from streams.states import Serving
from streams.store import DocumentStore

log = get_logger(__name__)

#: Most documents that one scan collects; the next scan follows at once when it was full.
_SCAN_LIMIT: Final = 10_000


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
    """Repeats unfinished documents of one collection.

    Attributes:
        broken_since: When its scans began to fail for no reason that passes, monotonic seconds;
            None while they do not.
    """

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
        self._is_loaded = is_loaded
        self._limits = settings.reconciler
        self._client = client
        self._serving = serving
        self._store = DocumentStore(client, settings.mongo)
        self._repeater = Repeater(settings, self._store, serving=serving, live_changes=live_changes)
        self._retries = Retries(self._limits)
        self.broken_since: float | None = None

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
                    self.broken_since = None
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
                self.broken_since = None
            except CaptionstreamError as exc:  # a version that cannot be read, too: try again
                log.warning("reconciler waits", error=str(exc))
                pause, self.broken_since = self._limits.interval_seconds, None
            except Exception:  # a thread that ends would repeat nothing ever again
                log.exception("reconciler failed")
                pause = self._limits.interval_seconds
                self.broken_since = self.broken_since or time.monotonic()
            due_at = time.monotonic() + pause

    def plan(self) -> ReconcilePlan:
        """Return what is unfinished now, work that is under way included.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        serving = self._serving()
        found = scan_unfinished(self._store, serving)
        counts = Counter(model.name for _, model in found)
        return ReconcilePlan(
            by_model={m.name: counts[m.name] for m in MODELS if counts[m.name]},
            retries=len(self._due_retries(serving)),
        )

    def reconcile_now(self, stop: threading.Event | None = None) -> int:
        """Publish everything that `plan` counts, in chunks; return how many documents.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        serving = self._serving()
        before = cluster_time(self._client)
        done = self._repeater.published
        ids = [row["_id"] for row, _ in scan_unfinished(self._store, serving)]
        ids += self._due_retries(serving)
        self._repeater.repeat(ids, serving, before, stop or threading.Event())
        return self._repeater.published - done

    def _due_retries(self, serving: Serving) -> list[DocumentId]:
        due = self._retries.due(scan_failures(self._store.collection, serving))
        return [failure.document_id for *_, failure in due]

    def _pass(self, serving: Serving, staleness: Staleness, stop: threading.Event) -> bool:
        """Do one scan and publish what it found; return whether there is more."""
        if not self._prepare():
            return False
        before = cluster_time(self._client)
        done = self._repeater.published
        ids: list[DocumentId] = []
        unfinished = 0
        for row, model in scan_unfinished(self._store, serving):
            unfinished += 1
            if staleness.is_due(row, model, serving):
                ids.append(row["_id"])
            if len(ids) >= _SCAN_LIMIT or staleness.is_full or stop.is_set():
                break
        staleness.end_scan()
        metrics.RECONCILER_PENDING.set(unfinished)
        ids.sort(key=staleness.repeats)  # those that never get through must not hold up others
        is_through = self._repeater.repeat(ids, serving, before, stop, staleness.note_repeated)
        if is_through:
            failures = scan_failures(self._store.collection, serving)
            self._repeater.send(self._retries.choose(failures), before)
        if published := self._repeater.published - done:
            log.info("documents published again", documents=published, unfinished=unfinished)
        return is_through and len(ids) >= _SCAN_LIMIT

    def _prepare(self) -> bool:
        """Make sure of the state index, which goes with a dropped collection; whether to scan.

        An empty or missing collection is left alone: an index would create it.
        """
        with mongo_errors("looking for documents"):
            if self._store.collection.find_one({}, {"_id": 1}) is None:
                return False
        drop_old_state_indexes(self._store.collection)
        self._store.prepare()
        return True
