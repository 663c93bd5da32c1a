"""The state of the pipeline as an operator asks for it: from MongoDB alone."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pymongo.database import Database

from streams.documents import DocumentState
from streams.processes import Report, read_reports
from streams.registry import Registry
from streams.store import DocumentStore


@dataclass(frozen=True, kw_only=True, slots=True)
class Status:
    """Documents by state, and the processes that are alive.

    Attributes:
        documents: Count by state.
        reports: One for each process.
    """

    documents: dict[DocumentState, int]
    reports: list[Report]

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
    return Status(documents=store.count_states(serving), reports=read_reports(state))


def wait_until_settled(
    store: DocumentStore,
    state: Database[dict[str, Any]],
    *,
    timeout_seconds: float,
    watch: Callable[[Status], None] = lambda _: None,
    pause_seconds: float = 0.5,
) -> bool:
    """Wait until no document is pending; return False when the time is over before that.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        status = read_status(store, state)
        watch(status)
        if status.documents[DocumentState.PENDING] == 0:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(pause_seconds)
