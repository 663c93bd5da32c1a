"""What the gate decided, kept for ever: who compared what with what, and what came of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final, Literal

from pymongo.database import Database

from streams.mongo.client import mongo_errors

_COLLECTION: Final = "model_decisions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """One passage through the gate.

    Attributes:
        model: Name of the model.
        candidate: Version that wanted to serve.
        serving: Version that served; None when none did.
        metric: Name of the metric that decided.
        candidate_value: Its value for the candidate.
        serving_value: Its value for the serving version; None when it could not be measured.
        min_gain: By how much the candidate had to be better.
        validation_set: Name of the set that both were measured on.
        digest: Digest of the set's content.
        options: Options of the model's declaration that both were measured with.
        outcome: Whether the pointer was moved.
        reason: Why, in one line.
        at: When.
    """

    model: str
    candidate: str
    serving: str | None
    metric: str
    candidate_value: float
    serving_value: float | None
    min_gain: float
    validation_set: str
    digest: str
    options: Mapping[str, Any]
    outcome: Literal["promoted", "kept"]
    reason: str
    at: datetime

    def as_json(self) -> dict[str, Any]:
        """Return all of it for programs."""
        return {**asdict(self), "at": self.at.isoformat()}


class Decisions:
    """All decisions in one database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        """Keep the state database (majority reads and writes)."""
        self._rows = database[_COLLECTION]

    def record(self, decision: Decision) -> None:
        """Keep a decision.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("recording the gate's decision"):
            self._rows.insert_one(asdict(decision))

    def list(self, model: str | None = None, *, limit: int = 50) -> list[Decision]:
        """Return the latest decisions about one model or all, oldest first.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        query = {} if model is None else {"model": model}
        with mongo_errors("listing decisions"):
            rows = list(self._rows.find(query).sort("_id", -1).limit(limit))
        return [_decision(row) for row in reversed(rows)]


def _decision(row: Mapping[str, Any]) -> Decision:
    return Decision(**{name: value for name, value in row.items() if name != "_id"})
