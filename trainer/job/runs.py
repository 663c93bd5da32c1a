"""What became of each retraining job: a document for each in the state database."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from pymongo.database import Database

from streams.mongo.client import mongo_errors

_COLLECTION: Final = "trainer_runs"


class Outcome(StrEnum):
    """How a job ended."""

    PROMOTED = "promoted"  # a new version serves
    KEPT = "kept"  # a new version was fitted, and was not better
    NOTHING_NEW = "nothing_new"  # the data are those of the last fit
    TOO_LITTLE_DATA = "too_little_data"
    BUSY = "busy"  # another job holds the lease
    FAILED = "failed"


#: The job did all that there was to do.
SUCCESSES: Final = (Outcome.PROMOTED, Outcome.KEPT, Outcome.NOTHING_NEW)
#: It came to a decision about a fitted version.
_FITTED: Final = (Outcome.PROMOTED, Outcome.KEPT)


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One job.

    Attributes:
        model: Name of the model.
        outcome: How it ended.
        reason: Why, in one line for people.
        started_at: When it began.
        seconds: How long it took.
        documents: Documents in the snapshot; 0 when none was taken.
        snapshot_id: The snapshot; None when none was taken.
        content_hash: Hash of the snapshot's content.
        options: All that decides what comes out, beside the data.
        version: The version that was fitted; None when none was.
        compared_with: The version that served then; None when none did, or nothing was compared.
    """

    model: str
    outcome: Outcome
    reason: str
    started_at: datetime
    seconds: float
    documents: int = 0
    snapshot_id: str | None = None
    content_hash: str | None = None
    options: Mapping[str, Any]
    version: str | None = None
    compared_with: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {
            **asdict(self),
            "outcome": self.outcome.value,
            "started_at": self.started_at.isoformat(),
        }


class Runs:
    """All jobs in one database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        """Keep the state database (majority reads and writes)."""
        self._rows = database[_COLLECTION]

    def record(self, run: Run) -> None:
        """Keep a job.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("recording the job"):
            self._rows.insert_one({**asdict(run), "outcome": run.outcome.value})

    def last_success(self, model: str) -> Run | None:
        """Return the latest job that did all that there was to do.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        return self._latest(model, SUCCESSES)

    def last_fitted(self, model: str) -> Run | None:
        """Return the latest job that fitted a version and decided about it.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        return self._latest(model, _FITTED)

    def _latest(self, model: str, outcomes: tuple[Outcome, ...]) -> Run | None:
        query = {"model": model, "outcome": {"$in": [outcome.value for outcome in outcomes]}}
        with mongo_errors("reading earlier jobs"):
            row = self._rows.find_one(query, sort=[("_id", -1)])
        if row is None:
            return None
        fields = {name: value for name, value in row.items() if name != "_id"}
        return Run(**{**fields, "outcome": Outcome(row["outcome"])})
