"""The state of the pipeline as an operator asks for it: from MongoDB alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo.database import Database

from streams.contract.states import DocumentState
from streams.mongo.client import cluster_time
from streams.mongo.declarations import Stored
from streams.mongo.leadership import position_time
from streams.mongo.processes import Report, read_reports
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry

_PAUSE_SECONDS: Final = 0.5
_PUBLISHER: Final = "publisher"
#: Longer than two reports, so that a record on its way between two stages is seen by one of them.
_IDLE_SECONDS: Final = 2.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Documents by state, and the processes that are alive.

    Attributes:
        documents: Count by state.
        reports: One for each process.
        problems: Why the version that a pointer names does not serve, by model name.
    """

    documents: dict[DocumentState, int]
    reports: list[Report]
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def refused(self) -> list[str]:
        """What each process says of documents in which nothing can be stored."""
        return [
            f"outputs of {report.refused} documents are refused: {report.refusal}"
            for report in self.reports
            if report.refused
        ]

    @property
    def total(self) -> int:
        """All documents."""
        return sum(self.documents.values())

    def as_json(self, stages: tuple[str, ...]) -> dict[str, Any]:
        """Return what `status --json` prints."""
        return {
            "documents": {
                "total": self.total,
                **{state.value: count for state, count in self.documents.items()},
            },
            "stages": {stage: self._stage(stage) for stage in stages},
            "problems": dict(self.problems),
            "refused": self.refused,
        }

    def _stage(self, name: str) -> dict[str, Any]:
        mine = [report for report in self.reports if report.stage == name]
        lags = [report.lag for report in mine]
        by_readiness = sorted(mine, key=lambda report: report.is_ready)  # the ready ones count
        versions = {model: version for r in by_readiness for model, version in r.versions.items()}
        return {
            "processes": len(mine),
            "ready": sum(report.is_ready for report in mine),
            "lag": None if None in lags or not lags else sum(lag or 0 for lag in lags),
            "rate": round(sum(report.rate for report in mine), 2),
            "versions": versions,
            "urls": [report.url for report in mine if report.url],
            "reasons": [report.reason for report in mine if report.reason],
        }


def read_status(store: DocumentStore, state: Database[dict[str, Any]]) -> Status:
    """Return the state of now.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    serving = Registry(state).serving(store.pipeline)
    return Status(
        documents=store.count_states(serving),
        reports=read_reports(state),
        problems=serving.problems,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """How far all processes are at one moment.

    Attributes:
        reports: Those of the processes that are alive.
        published: clusterTime up to which the publisher has got.
        now: clusterTime of this moment.
    """

    reports: Sequence[Report]
    published: Timestamp
    now: Timestamp


def read_progress(state: Database[dict[str, Any]], tenant: str) -> Progress:
    """Return how far all processes are.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    now = cluster_time(state.client)
    published = position_time(state, tenant)
    return Progress(reports=read_reports(state), published=published, now=now)


def standing_still(before: Progress, after: Progress, *, stages: Sequence[str]) -> dict[str, str]:
    """Return what is wrong with each stage that makes no progress.

    No process of it is alive; or it had records waiting at both times and finished none in between;
    or, as for the publisher, it is still behind the first time and has not moved.
    """
    alive = {report.stage for report in after.reports}
    found = {name: "no process runs" for name in stages if name not in alive}
    finished = {report.process: report.documents for report in before.reports}
    moving = {r.stage for r in after.reports if finished.get(r.process, r.documents) != r.documents}
    had_work = {report.process for report in before.reports if _has_work(report)}
    stuck = {r.stage for r in after.reports if _has_work(r) and r.process in had_work}
    if before.published == after.published < before.now:
        stuck.add(_PUBLISHER)
    return {name: "has work and finishes none" for name in sorted(stuck - moving)} | found


def wait_for_progress(
    before: Progress,
    state: Database[dict[str, Any]],
    tenant: str,
    *,
    stages: Sequence[str],
    patience_seconds: float,
) -> dict[str, str]:
    """Return the stages that stand still since `before` and for at least so many seconds more.

    One batch may take longer than what was done meanwhile.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    deadline = time.monotonic() + patience_seconds
    while found := standing_still(before, read_progress(state, tenant), stages=stages):
        if time.monotonic() >= deadline:
            return found
        time.sleep(_PAUSE_SECONDS)
    return {}


def wait_until_followed(
    stored: Stored, state: Database[dict[str, Any]], *, timeout_seconds: float
) -> bool:
    """Wait until all processes work by a declared pipeline; whether that is so.

    Every model of it runs somewhere and no other one, and nobody works by a pipeline of before.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        reports = read_reports(state)
        running = {name for report in reports for name in report.models}
        is_behind = any(report.revision < stored.revision for report in reports)
        if running == set(stored.pipeline.models) and not is_behind:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def wait_until_settled(
    store: DocumentStore,
    state: Database[dict[str, Any]],
    *,
    timeout_seconds: float,
    watch: Callable[[Status], None] = lambda _: None,
) -> bool:
    """Wait until every change made so far is through; whether it is.

    It is not when the time is over, nor when all is idle and documents are left in which nothing
    can be stored.

    A document that was just updated still holds its old outputs and looks finished. So, as long as
    processes report, the publisher must have passed the time of this call, and all stages must
    have been idle for some reports in a row.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    now = cluster_time(state.client)
    deadline = time.monotonic() + timeout_seconds
    idle_since: float | None = None
    while True:
        status = read_status(store, state)
        watch(status)
        if not _is_idle(status, state, store.tenant, now):
            idle_since = None
        elif idle_since is None:
            idle_since = time.monotonic()
        is_idle = idle_since is not None and (
            not status.reports or time.monotonic() - idle_since >= _IDLE_SECONDS
        )
        if is_idle:
            return not status.documents[DocumentState.PENDING]
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def _has_work(report: Report) -> bool:
    return bool(report.lag or report.in_flight)


def _is_idle(status: Status, state: Database[dict[str, Any]], tenant: str, now: Timestamp) -> bool:
    if status.documents[DocumentState.PENDING] and not status.refused:
        return False
    if any(_has_work(report) for report in status.reports):
        return False
    if not any(report.stage == _PUBLISHER for report in status.reports):
        return True
    return position_time(state, tenant) >= now
