"""The state of the pipeline as an operator asks for it: from MongoDB alone."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo.database import Database

from streams.capture.leadership import position_time
from streams.mongo import cluster_time
from streams.processes import Report, read_reports
from streams.registry import Registry
from streams.states import DocumentState
from streams.store import DocumentStore

_PAUSE_SECONDS: Final = 0.5
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
        }

    def _stage(self, name: str) -> dict[str, Any]:
        mine = [report for report in self.reports if report.stage == name]
        lags = [report.lag for report in mine]
        versions = {model: version for r in mine for model, version in r.versions.items()}
        return {
            "processes": len(mine),
            "ready": sum(report.is_ready for report in mine),
            "lag": None if None in lags or not lags else sum(lag or 0 for lag in lags),
            "rate": round(sum(report.rate for report in mine), 2),
            "versions": versions,
            "urls": [report.url for report in mine],
            "reasons": [report.reason for report in mine if report.reason],
        }


def read_status(store: DocumentStore, state: Database[dict[str, Any]]) -> Status:
    """Return the state of now.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    serving = Registry(state).serving()
    return Status(
        documents=store.count_states(serving),
        reports=read_reports(state),
        problems=serving.problems,
    )


def standing_still(before: Sequence[Report], after: Sequence[Report]) -> list[str]:
    """Return the stages that had records waiting at both times and finished none in between."""
    finished = {report.url: report.documents for report in before if _has_work(report)}
    stuck = {r.stage for r in after if _has_work(r) and finished.get(r.url) == r.documents}
    moving = {r.stage for r in after if r.url in finished and finished[r.url] != r.documents}
    return sorted(stuck - moving)


def wait_until_settled(
    store: DocumentStore,
    state: Database[dict[str, Any]],
    *,
    timeout_seconds: float,
    watch: Callable[[Status], None] = lambda _: None,
) -> bool:
    """Wait until every change made so far is through; False when the time is over before that.

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
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)


def _has_work(report: Report) -> bool:
    return bool(report.lag or report.in_flight)


def _is_idle(status: Status, state: Database[dict[str, Any]], tenant: str, now: Timestamp) -> bool:
    if status.documents[DocumentState.PENDING]:
        return False
    if any(_has_work(report) for report in status.reports):
        return False
    if not any(report.stage == "publisher" for report in status.reports):
        return True
    return position_time(state, tenant) >= now
