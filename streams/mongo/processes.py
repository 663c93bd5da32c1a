"""What every running process says of itself, kept in the state database.

Each process replaces its own report every second; a report that is no longer renewed is dead. So
the state of the whole pipeline can be asked with MongoDB alone, wherever the processes run.
"""

import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from pymongo import timeout
from pymongo.database import Database
from structlog import get_logger

from streams.errors import StoreUnavailable
from streams.following import Follower
from streams.mongo.client import mongo_errors

log = get_logger(__name__)

#: Layout of a report; those of another one are not seen.
FORMAT: Final = 1
REPORT_SECONDS: Final = 1.0
#: A report older than this comes from a dead process. Generous: a busy machine delays threads.
_STALE_AFTER_MS: Final = 15_000
_FORGOTTEN_AFTER_MS: Final = 24 * 3600 * 1000
_COLLECTION: Final = "processes"
_RATE_WINDOW_SECONDS: Final = 30.0
#: A process that ends does not wait longer for MongoDB: the report is stale soon anyway.
_FAREWELL_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One process at one moment.

    Attributes:
        stage: Name of the stage, or `publisher`.
        url: Base URL of its HTTP endpoints, for others; empty if it has none that they can reach.
        is_ready: Whether it can work.
        reason: Why it is not ready.
        lag: Records that wait in its input; None while unknown.
        documents: Documents finished since it started.
        rate: Documents per second over the last half minute.
        versions: Version of each model it serves, by name.
        models: Names of the models that it applies, with a version or without; none while it is
            itself the reason that it is not ready.
        in_flight: Records taken and not acknowledged.
        refused: Documents, of those it had lately, in which MongoDB lets it store neither outputs
            nor errors.
        refusal: What MongoDB says of the latest of them, and the remedy.
        revision: Latest revision of the declared pipeline by which it works: what was declared in
            between has changed nothing for it.
        process: Id of this life of the process; set by its `Reporter`.
    """

    stage: str
    url: str
    is_ready: bool
    reason: str = ""
    lag: int | None = None
    documents: int = 0
    rate: float = 0.0
    versions: Mapping[str, str] = field(default_factory=dict)
    models: Sequence[str] = ()
    in_flight: int = 0
    refused: int = 0
    refusal: str = ""
    revision: int = 0
    process: str = ""


class Reporter:
    """Writes a process's report every second from a thread of its own, until it is stopped."""

    def __init__(self, database: Database[dict[str, Any]], describe: Callable[[], Report]) -> None:
        self._reports = database[_COLLECTION]
        self._describe = describe
        #: Of this life of the process: host and process id are the same in many containers.
        self._id = uuid.uuid4().hex
        self._follower = Follower(self._report, name="report", seconds=REPORT_SECONDS, at_once=True)
        self._is_first = True

    def start(self) -> None:
        """Begin to report."""
        self._follower.start()

    def stop(self) -> None:
        """Stop reporting and withdraw the report."""
        self._follower.stop()
        try:
            with mongo_errors("withdrawing the process report"), timeout(_FAREWELL_SECONDS):
                self._reports.delete_one({"_id": self._id})
        except StoreUnavailable as exc:
            log.warning("process report not withdrawn", error=str(exc))

    def _report(self) -> None:
        report = replace(self._describe(), process=self._id)
        row = {"$literal": {"_id": self._id, "format": FORMAT, **asdict(report)}}
        with mongo_errors("reporting"):
            self._reports.update_one(
                {"_id": self._id},
                [{"$replaceWith": {"$mergeObjects": [row, {"at": "$$NOW"}]}}],
                upsert=True,
            )
        if self._is_first:
            self._forget_the_dead()
            self._is_first = False

    def _forget_the_dead(self) -> None:
        """Remove reports that killed processes left behind long ago."""
        oldest = {"$subtract": ["$$NOW", _FORGOTTEN_AFTER_MS]}
        with mongo_errors("removing old process reports"):
            self._reports.delete_many({"$expr": {"$lt": ["$at", oldest]}})


class Rate:
    """Documents per second over the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, count: int) -> float:
        """Note the count of now and return the rate."""
        now = time.monotonic()
        self._seen.append((now, count))
        while now - self._seen[0][0] > _RATE_WINDOW_SECONDS:
            self._seen.popleft()
        first_time, first_count = self._seen[0]
        return (count - first_count) / (now - first_time) if now > first_time else 0.0


def is_loaded(versions: Mapping[str, str], reports: Sequence[Report]) -> bool:
    """Whether every process that applies a model has the version that serves.

    Args:
        versions: Serving version by model name.
        reports: Of the processes that are alive.
    """
    return all(
        report.versions.get(model) == versions.get(model)
        for report in reports
        for model in report.models
    )


def rates_of(reports: Sequence[Report]) -> dict[str, float]:
    """Return the documents a second of each model that is at work, over all its processes."""
    rates: dict[str, float] = {}
    for report in reports:
        for name in report.models:
            rates[name] = rates.get(name, 0.0) + report.rate
    return rates


def read_reports(database: Database[dict[str, Any]]) -> list[Report]:
    """Return the report of every process that is alive, by the clock of the server.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    oldest = {"$subtract": ["$$NOW", _STALE_AFTER_MS]}
    query = {"format": FORMAT, "$expr": {"$gte": ["$at", oldest]}}
    with mongo_errors("reading process reports"):
        rows = list(database[_COLLECTION].find(query))
    names = Report.__dataclass_fields__
    return [Report(**{key: value for key, value in row.items() if key in names}) for row in rows]
