"""The declared pipeline, kept in the state database: one document for each watched collection.

    { _id: "<database>.<collection>", format: 1, revision, models: [...], reason, at }

It is moved by compare-and-set, and every revision before it is kept. What does not compile is never
stored. Without the document the default pipeline holds, as revision 0.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import bson
from bson.errors import InvalidDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from streams.contract.declaration import Declaration, parse_declarations
from streams.contract.default_pipeline import DEFAULT
from streams.contract.pipeline import Pipeline, compile_pipeline
from streams.errors import InvalidPipeline, PointerConflict
from streams.mongo.client import mongo_errors

#: What this release reads and writes.
FORMAT: Final = 1
_PIPELINES: Final = "pipeline"
_HISTORY: Final = "pipeline_history"
#: Far more than any pipeline has, far less than MongoDB takes.
_MOST_BYTES: Final = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A pipeline as it was declared.

    Attributes:
        revision: Counts the changes, from 1; 0 for the default pipeline that nobody has changed.
        pipeline: What follows from it.
        reason: Why it was declared.
        at: When; None for revision 0.
    """

    revision: int
    pipeline: Pipeline
    reason: str
    at: datetime | None


#: What holds where nothing was declared.
_UNDECLARED: Final = Stored(revision=0, pipeline=DEFAULT, reason="the default pipeline", at=None)


class Declarations:
    """The declared pipeline of one collection. Safe to share between threads."""

    def __init__(self, database: Database[dict[str, Any]], tenant: str) -> None:
        """Keep the state database (majority reads and writes), and whose pipeline it is."""
        self._rows = database[_PIPELINES]
        self._history = database[_HISTORY]
        self._tenant = tenant

    def read(self) -> Stored:
        """Return the pipeline of now.

        Raises:
            InvalidPipeline: It is of another release, which this process cannot read.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading the declared pipeline"):
            row = self._rows.find_one({"_id": self._tenant})
        return _UNDECLARED if row is None else self._stored(row)

    def history(self) -> list[Stored]:
        """Return every revision that can be read, oldest first; the last one holds.

        Raises:
            InvalidPipeline: The one of now is of another release.
            StoreUnavailable: MongoDB does not answer.
        """
        now = self.read()
        if now.revision == 0:
            return [now]
        query: dict[str, Any] = {"_id.tenant": self._tenant, "format": FORMAT}
        query |= {"_id.revision": {"$lt": now.revision}}
        with mongo_errors("reading the history of the pipeline"):
            rows = list(self._history.find(query).sort("_id.revision", 1))
        return [_UNDECLARED, *map(self._stored, rows), now]

    def replace(
        self, declarations: Sequence[Declaration], *, expected_revision: int, reason: str
    ) -> Stored:
        """Declare another pipeline, and return it.

        1. Compile it.
        2. Keep the one before.
        3. Put it there, if the one before is still there. A crash before that loses nothing: the
           history is what was kept, up to the revision of now.

        Raises:
            InvalidPipeline: The declarations make no pipeline; nothing is stored then.
            PointerConflict: The pipeline has another revision than the expected one.
            StoreUnavailable: MongoDB does not answer.
        """
        pipeline = compile_pipeline(declarations)  # 1
        row = {
            "_id": self._tenant,
            "format": FORMAT,
            "revision": expected_revision + 1,
            "models": [declaration.model_dump(mode="json") for declaration in declarations],
            "reason": reason,
            "at": datetime.now(UTC),
        }
        _check_size(row)
        if self.read().revision != expected_revision:
            raise self._conflict()
        with mongo_errors("storing the declared pipeline"):
            try:
                if expected_revision == 0:
                    self._rows.insert_one(row)
                    return self._stored(row, pipeline)
                self._keep(expected_revision)  # 2
            except DuplicateKeyError as exc:
                raise self._conflict() from exc
            key = {"_id": self._tenant, "revision": expected_revision}
            if not self._rows.replace_one(key, row).matched_count:  # 3
                raise self._conflict()
        return self._stored(row, pipeline)

    def _keep(self, revision: int) -> None:
        row = self._rows.find_one({"_id": self._tenant, "revision": revision})
        if row is None:
            raise self._conflict()
        key = {"tenant": row.pop("_id"), "revision": revision}
        self._history.replace_one({"_id": key}, row, upsert=True)

    def _stored(self, row: Mapping[str, Any], pipeline: Pipeline | None = None) -> Stored:
        if row.get("format") != FORMAT:
            msg = (
                f"the pipeline of {self._tenant} is stored in format {row.get('format')!r:.20} and"
                f" this release reads {FORMAT}: upgrade this process to the release that wrote it"
            )
            raise InvalidPipeline(msg)
        return Stored(
            revision=row["revision"],
            pipeline=pipeline or compile_pipeline(parse_declarations(row["models"])),
            reason=row["reason"],
            at=row["at"],
        )

    def _conflict(self) -> PointerConflict:
        return PointerConflict(
            f"the pipeline of {self._tenant} was changed by somebody else meanwhile; look at it"
            " with `captionstream pipeline show` and try again"
        )


def _check_size(row: Mapping[str, Any]) -> None:
    try:
        size = len(bson.encode(row))
    except (InvalidDocument, OverflowError, UnicodeEncodeError) as exc:
        msg = f"MongoDB cannot store these declarations: {exc}; look at their options"
        raise InvalidPipeline(msg) from exc
    if size > _MOST_BYTES:
        msg = f"these declarations have {size} bytes, at most {_MOST_BYTES}: shorten their options"
        raise InvalidPipeline(msg)
