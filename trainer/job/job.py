"""The retraining job: snapshot, fit, evaluate, publish; one at a time, and only when worth it.

Knows the order and the reasons to stop; the steps come bound to their servers and options.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from pymongo.database import Database
from structlog import get_logger

from streams.contract.manifest import Bundle
from streams.errors import TooLittleData, bounded
from streams.mongo.lease import Lease
from streams.registry.pointers import Pointer
from trainer.job.publish import Publication
from trainer.job.runs import Outcome, Run, Runs
from trainer.snapshot.files import Snapshot
from trainer.snapshot.validation_set import ValidationSet

log = get_logger(__name__)


def job_lease(database: Database[dict[str, Any]], *, seconds: float) -> Lease:
    """Return the lease of the one job that may run on a state database.

    Args:
        database: State database, majority writes.
        seconds: How long a silent job keeps the lease.
    """
    lost = (
        f"this job did not renew its lease for {seconds:g} s, another may have started; nothing was"
        " published, start it again"
    )
    return Lease(database["trainer_lease"], "job", seconds=seconds, lost=lost)


@dataclass(frozen=True, kw_only=True, slots=True)
class Steps:
    """What the job does, in this order.

    Attributes:
        remove_old: Remove what earlier jobs left and nobody needs.
        take_snapshot: Read the documents.
        pointer: Return which version serves now; None when there never was one.
        validation_set: Return the frozen set; create or refresh it if that is needed.
        fit: Fit the model on a snapshot.
        publish: Evaluate, and let the version serve if it is better.
    """

    remove_old: Callable[[], None]
    take_snapshot: Callable[[], Snapshot]
    pointer: Callable[[], Pointer | None]
    validation_set: Callable[[Snapshot], ValidationSet]
    fit: Callable[[Snapshot], Bundle]
    publish: Callable[[Bundle, ValidationSet], Publication]


class Job:
    """One retraining of one model.

    Attributes:
        ended: What came of it; None while it runs. There is one after a failure too.
    """

    def __init__(
        self,
        model: str,
        steps: Steps,
        *,
        lease: Lease,
        runs: Runs,
        options: Mapping[str, Any],
        min_documents: int,
        is_forced: bool = False,
    ) -> None:
        """Keep what is needed.

        Args:
            model: Name of the model.
            steps: What to do.
            lease: The right to do it.
            runs: Where jobs are recorded.
            options: All that decides what comes out, beside the data; JSON values.
            min_documents: With fewer usable documents nothing is fitted.
            is_forced: Fit even if the data are those of the last fit.
        """
        self._steps = steps
        self._lease = lease
        self._runs = runs
        self._min_documents = min_documents
        self._is_forced = is_forced
        self.ended: Run | None = None
        self._begun = time.monotonic()
        self._run = Run(
            model=model,
            outcome=Outcome.FAILED,
            reason="",
            started_at=datetime.now(UTC),
            seconds=0.0,
            options=json.loads(json.dumps(options)),  # as MongoDB will give it back
        )

    def run(self) -> Run:
        """Do it and return what came of it, recorded unless another job is running.

        1. Take the lease, or end: another job runs.
        2. Remove old files, take a snapshot; end if it holds too little, or nothing new.
        3. Have the validation set ready: without it a fit would be for nothing.
        4. Fit.
        5. Make sure that the lease is still ours, and publish.

        A failure is recorded too, and raised again.

        Raises:
            LeaseLost: The job slept so long that another may have begun; nothing was published.
            StoreUnavailable: MongoDB does not answer.
        """
        with self._lease.held() as is_ours:  # 1
            if not is_ours:
                holder = self._lease.holder() or "unknown"
                return self._ended(Outcome.BUSY, f"another job is running ({holder})")
            try:
                run = self._work()
            except TooLittleData as exc:  # a step's own word
                run = self._ended(Outcome.TOO_LITTLE_DATA, str(exc))
            except (KeyboardInterrupt, SystemExit):
                self._record_failure("stopped by a signal")
                raise
            except BaseException as exc:
                self._record_failure(bounded(f"{type(exc).__name__}: {exc}"))
                raise
            self._runs.record(run)
            return run

    def _work(self) -> Run:
        self._steps.remove_old()  # 2
        snapshot = self._steps.take_snapshot()
        manifest = snapshot.manifest
        for remark in manifest.counts.remarks():
            log.warning(remark, snapshot=manifest.snapshot_id)
        self._run = replace(
            self._run,
            documents=sum(manifest.models.get(self._run.model, {}).values()),
            snapshot_id=manifest.snapshot_id,
            content_hash=manifest.content_hash,
        )
        reason = self._too_little(snapshot)
        if reason is not None:
            return self._ended(Outcome.TOO_LITTLE_DATA, reason)
        last = self._runs.last_fitted(self._run.model)
        if last is not None and self._is_same(last) and not self._is_forced:
            done = f"{last.started_at:%Y-%m-%d %H:%M} UTC ({last.outcome.value} {last.version})"
            return self._ended(Outcome.NOTHING_NEW, f"same data and options as the fit of {done}")
        validation_set = self._steps.validation_set(snapshot)  # 3
        bundle = self._steps.fit(snapshot)  # 4
        self._lease.check()  # 5
        publication = self._steps.publish(bundle, validation_set)
        decision = publication.decision
        self._run = replace(self._run, version=decision.candidate, compared_with=decision.serving)
        outcome = Outcome.PROMOTED if publication.is_promoted else Outcome.KEPT
        return self._ended(outcome, decision.reason)

    def _too_little(self, snapshot: Snapshot) -> str | None:
        manifest = snapshot.manifest
        folds = manifest.models.get(self._run.model, {})
        found = sum(folds.values())
        left_out = manifest.counts.left_out()
        told = f" ({left_out})" if left_out else ""
        if found < self._min_documents:
            return f"{found} usable documents, at least {self._min_documents} are needed{told}"
        empty = [fold for fold in ("train", "valid") if not folds.get(fold)]
        return f"no usable document in fold {empty[0]}{told}" if empty else None

    def _is_same(self, last: Run) -> bool:
        """Whether all that decides a job is as it was, what the version had to beat included."""
        mine = (self._run.content_hash, self._run.options)
        return (last.content_hash, last.options) == mine and self._still_holds(last)

    def _still_holds(self, last: Run) -> bool:
        """Whether what was decided then says something about what serves now.

        It does if the version of then serves, or what it was compared with: whoever rolled back to
        that did so knowing. One that was refused may hold by now.
        """
        pointer = self._steps.pointer()
        if pointer is None or (pointer.refusal is not None and pointer.version == last.version):
            return False
        return pointer.serving in (last.version, last.compared_with)

    def _ended(self, outcome: Outcome, reason: str) -> Run:
        seconds = round(time.monotonic() - self._begun, 3)
        log.info("job ended", model=self._run.model, outcome=outcome.value, reason=reason)
        self.ended = replace(self._run, outcome=outcome, reason=reason, seconds=seconds)
        return self.ended

    def _record_failure(self, reason: str) -> None:
        """Record it if MongoDB still answers; the failure itself is what must be seen."""
        try:
            self._runs.record(self._ended(Outcome.FAILED, reason))
        except Exception as exc:  # whatever it is, it must not hide the failure
            log.warning("failure not recorded", reason=str(exc))
