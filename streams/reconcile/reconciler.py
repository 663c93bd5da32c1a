"""The reconciler: finds documents whose outputs are missing or stale and publishes them again.

After a promotion it begins when the stages have loaded the new version. How it keeps below live
traffic stands in `repeats.py` and, for errors that may pass, in `retries.py`. In between its thread
works on a copy (`copy.py`), so that the two together have one chunk under way, not one each.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from pymongo import MongoClient
from structlog import get_logger

from streams import metrics
from streams.contract.ids import DocumentId
from streams.contract.pipeline import Pipeline
from streams.contract.states import DocumentState, Serving
from streams.errors import CaptionstreamError, LeaseLost, StoreUnavailable
from streams.mongo.client import Document, cluster_time, mongo_errors
from streams.mongo.leadership import Leadership
from streams.mongo.state_index import drop_old_state_indexes
from streams.mongo.store import DocumentStore
from streams.reconcile.copy import Copier
from streams.reconcile.finished import find_changed
from streams.reconcile.repeats import Repeater
from streams.reconcile.retries import Retries
from streams.reconcile.scans import scan_failures, scan_unfinished
from streams.reconcile.staleness import Staleness
from streams.settings import Settings

log = get_logger(__name__)

#: Most documents that one scan collects; the next scan follows at once when it was full.
_SCAN_LIMIT: Final = 10_000
#: How long a copy goes on before it is looked what else is to be done.
_COPY_SECONDS: Final = 10.0
#: Documents whose image is compared with its fingerprint by a plain `reconcile`.
_SAMPLE: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconcilePlan:
    """What would be published again.

    Attributes:
        by_model: Documents by the first model that has to run for them.
        retries: Documents whose retryable error is old enough to try again.
        looked_at: Documents, chosen by chance, whose image was compared with the fingerprint of
            the one that their embedding was made of.
        changed: Those of them where it is another one: no change came for it.
    """

    by_model: Mapping[str, int]
    retries: int
    looked_at: int = 0
    changed: Sequence[DocumentId] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self.by_model.values()) + self.retries + len(self.changed)


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
        pipeline: Pipeline,
        *,
        serving: Callable[[], Serving],
        is_loaded: Callable[[Serving], bool] = lambda _: True,
        live_changes: Callable[[], int] = lambda: 0,
        lease: Callable[[], Leadership | None] | None = None,
    ) -> None:
        """Keep what is needed.

        Args:
            settings: All settings.
            client: Client of the replica set.
            pipeline: What is declared.
            serving: Returns the versions that serve now.
            is_loaded: Whether the stages have these versions; what is published before would
                be made by those they had.
            live_changes: Counts the changes published so far.
            lease: Gives the lease while it is held: `run` does nothing without it, and publishes
                nothing that it was about to when it is lost. None for a single `reconcile_now`.
        """
        self._is_loaded = is_loaded
        self._limits = settings.reconciler
        self._client = client
        self._serving = serving
        self._store = DocumentStore(client, settings.mongo, pipeline)
        self._lease = lease
        self._repeater = Repeater(
            settings,
            self._store,
            serving=serving,
            live_changes=live_changes,
            check_lease=self._check_lease,
        )
        self._copier = Copier(settings, self._store, self._repeater)
        self._retries = Retries(self._limits)
        self.broken_since: float | None = None

    def run(self, stop: threading.Event) -> None:
        """Scan again and again, at once when another version serves, until `stop` is set.

        Between scans it goes on with the copy that is under way, if there is one.
        """
        staleness = Staleness(grace_seconds=self._limits.grace_seconds)
        due_at = time.monotonic() + self._limits.interval_seconds
        patient_until = 0.0
        while not stop.wait(min(1.0, self._limits.interval_seconds)):
            try:
                lease = self._lease() if self._lease is not None else None
                if lease is None:
                    self.broken_since = None
                    continue
                serving = self._serving()
                self._copier.go_on(lease, serving, stop, seconds=_COPY_SECONDS)
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
        sample = self._store.sample(_SAMPLE)
        return ReconcilePlan(
            by_model={name: counts[name] for name in serving.pipeline.models if counts[name]},
            retries=len(self._due_retries(serving)),
            looked_at=len(sample),
            changed=list(find_changed(self._store, sample, serving, cluster_time(self._client))),
        )

    def reconcile_now(
        self, changed: Sequence[DocumentId] = (), *, stop: threading.Event | None = None
    ) -> int:
        """Publish everything that `plan` counts, in chunks; return how many documents.

        Args:
            changed: Documents that `plan` has found by comparing images.
            stop: Ends it.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        stop = stop or threading.Event()
        serving = self._serving()
        before = cluster_time(self._client)
        done = self._repeater.published
        ids = [row["_id"] for row, _ in scan_unfinished(self._store, serving)]
        ids += self._due_retries(serving)
        self._repeater.repeat(ids, serving, before, stop)
        self._repeater.repeat(changed, serving, before, stop, is_new_change=True)
        return self._repeater.published - done

    def _check_lease(self) -> None:
        if self._lease is None:
            return
        lease = self._lease()
        if lease is None:
            msg = "this publisher no longer leads"
            raise LeaseLost(msg)
        lease.check()

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
        unfinished, is_all = 0, True
        for row, model in scan_unfinished(self._store, serving):
            unfinished += 1
            if staleness.is_due(row, model, serving):
                ids.append(row["_id"])
            if len(ids) >= _SCAN_LIMIT or staleness.is_full or stop.is_set():
                is_all = False
                break
        staleness.end_scan()
        metrics.RECONCILER_PENDING.set(unfinished if is_all else self._count(serving, unfinished))
        ids.sort(key=staleness.repeats)  # those that never get through must not hold up others
        is_through = self._repeater.repeat(ids, serving, before, stop, staleness.note_repeated)
        if is_through:
            failures = scan_failures(self._store.collection, serving)
            self._repeater.send(self._retries.choose(failures), before)
        if published := self._repeater.published - done:
            log.info("documents published again", documents=published, unfinished=unfinished)
        return is_through and len(ids) >= _SCAN_LIMIT

    def _count(self, serving: Serving, at_least: int) -> int:
        """Return how many documents are unfinished where a scan has not seen all of them."""
        try:
            return max(at_least, self._store.count_states(serving)[DocumentState.PENDING])
        except StoreUnavailable as exc:  # it took too long, perhaps
            log.warning("unfinished documents not counted", at_least=at_least, error=str(exc))
            return at_least

    def _prepare(self) -> bool:
        """Make sure of the state index, which goes with a dropped collection; whether to scan.

        An empty or missing collection is left alone: an index would create it.
        """
        with mongo_errors("looking for documents"):
            if self._store.collection.find_one({}, {"_id": 1}) is None:
                return False
        drop_old_state_indexes(self._store.collection, self._store.pipeline)
        self._store.prepare()
        return True
