"""Why MongoDB refused single writes of a bulk, and what to do about it."""

from collections.abc import Mapping
from typing import Any, Final

from pymongo.errors import BulkWriteError, OperationFailure

from streams.contract.pipeline import (
    OUTPUTS,
)
from streams.mongo.client import PASSING_CODES

#: Refusals of single writes that are not about the document but about everything: no right, a view,
#: a time-series collection.
_ABOUT_ALL: Final = frozenset((13, 72, 166, 263))

#: BSONObjectTooLarge, and an update that makes a document larger than 16 MB.
_TOO_LARGE: Final = frozenset((10334, 17419))

#: DocumentValidationFailure: the collection has a schema that does not allow what we write.
VALIDATION: Final = 121
SCHEMA: Final = (
    f': its schema does not allow {OUTPUTS}; add {OUTPUTS}: {{bsonType: "object"}} to `properties`'
    " of the collection's $jsonSchema (collMod), with no more about what is in it"
)


def rejections(exc: BulkWriteError) -> dict[int, str]:
    """Return why single documents were refused, by position; raise what is no document's fault."""
    errors = exc.details.get("writeErrors") or []
    concerns = exc.details.get("writeConcernErrors") or []
    others = [error for error in errors if error.get("code") in PASSING_CODES | _ABOUT_ALL]
    for error in (*concerns, *others):
        raise OperationFailure(str(error.get("errmsg")), error.get("code"), exc.details) from exc
    return {error["index"]: _reason(error) for error in errors}


def without_room(exc: BulkWriteError) -> set[int]:
    """Return the positions of writes that would make their document too large."""
    errors = exc.details.get("writeErrors") or []
    return {error["index"] for error in errors if error.get("code") in _TOO_LARGE}


def _reason(error: Mapping[str, Any]) -> str:
    return f"{error.get('errmsg')}{SCHEMA if error.get('code') == VALIDATION else ''}"
