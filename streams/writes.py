"""Guarded writes of outputs: what is asked of MongoDB, and what its refusals mean. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from bson.timestamp import Timestamp
from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure

from streams.documents import (
    MODELS,
    Model,
    Output,
    OutputError,
    error_fields,
    output_fields,
)
from streams.guards import error_guard, output_guard
from streams.ids import DocumentId
from streams.mongo import PASSING_CODES

#: Refusals of single writes that are not about the document but about everything: no right, a view,
#: a time-series collection.
_ABOUT_ALL: Final = frozenset((13, 72, 166, 263))


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputWrite:
    """One guarded write: an output or an error of one model for one document."""

    document_id: DocumentId
    source: Timestamp
    model: Model
    input: str
    result: Output | OutputError


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteReport:
    """What a bulk write did.

    Attributes:
        written: Outputs that were stored.
        ignored: Outputs that the guard kept away, or whose document is gone.
        rejected: Message by position in the given list, for writes that MongoDB refused.
    """

    written: int
    ignored: int
    rejected: Mapping[int, str]


def update_of(write: OutputWrite) -> UpdateOne:
    """Return the update of one output or error, under its guard."""
    if isinstance(write.result, Output):
        guard = output_guard(write.model, source=write.source, output=write.result)
        fields = output_fields(write.result, source=write.source, input_fingerprint=write.input)
    else:
        guard = error_guard(write.model, source=write.source, version=write.result.version)
        fields = error_fields(write.result, source=write.source)
    return UpdateOne(
        {"_id": {"$eq": write.document_id}, **guard},
        {"$set": {write.model.path: fields}},
        upsert=False,
    )


def drops_of(write: OutputWrite) -> list[UpdateOne]:
    """Return removals of what was made, for an earlier change, of another input than this one."""
    if not isinstance(write.result, Output):
        return []
    return [
        UpdateOne(
            {
                "_id": {"$eq": write.document_id},
                f"{reader.path}.source": {"$lt": write.source},
                f"{reader.path}.input": {"$ne": write.input},
            },
            {"$unset": {reader.path: ""}},
        )
        for reader in MODELS
        if write.model.name in reader.reads
    ]


def rejections(exc: BulkWriteError) -> dict[int, str]:
    """Return why single documents were refused, by position; raise what is no document's fault."""
    errors = exc.details.get("writeErrors") or []
    concerns = exc.details.get("writeConcernErrors") or []
    others = [error for error in errors if error.get("code") in PASSING_CODES | _ABOUT_ALL]
    for error in (*concerns, *others):
        raise OperationFailure(str(error.get("errmsg")), error.get("code"), exc.details) from exc
    return {error["index"]: str(error.get("errmsg")) for error in errors}
