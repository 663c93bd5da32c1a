"""The aggregation pipeline of the change stream: drops our own writes, keeps keys and names only.

Values never leave the server, so an event cannot outgrow the 16 MB limit, however large a document.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from bson import json_util

from streams.contract.pipeline import (
    IMAGE,
    OUTPUTS,
)

Change = Mapping[str, Any]
"""A projected change: `_id`, `operationType`, `documentKey`, `ns`, `to`, `clusterTime`, `paths`,
and `wallTime` since MongoDB 6."""

_UPDATE: Final = "$updateDescription"
_UPDATED: Final = {"$objectToArray": {"$ifNull": [f"{_UPDATE}.updatedFields", {}]}}
_REMOVED: Final = {"$ifNull": [f"{_UPDATE}.removedFields", []]}
_TRUNCATED: Final = {"$ifNull": [f"{_UPDATE}.truncatedArrays", []]}
#: Changes of documents; others (drop, rename, ...) concern whole collections.
DOCUMENT_OPERATIONS: Final = ("insert", "update", "replace", "delete")


def build_pipeline(collection: str) -> list[dict[str, Any]]:
    """Return the pipeline for a stream on the database.

    A stream on the database survives a drop, rename or re-creation of the collection.
    """
    is_ours = {
        "$or": [
            {"ns.coll": collection},
            {"operationType": "rename", "to.coll": collection},
            {"operationType": "invalidate"},
        ]
    }
    return [
        {"$match": {"$and": [is_ours, _foreign_writes()]}},
        {
            "$project": {
                "operationType": 1,
                "documentKey": 1,
                "ns": 1,
                "to": 1,
                "clusterTime": 1,
                "wallTime": 1,
                "paths": {
                    "$concatArrays": [
                        {"$map": {"input": _UPDATED, "as": "f", "in": "$$f.k"}},
                        _REMOVED,
                        {"$map": {"input": _TRUNCATED, "as": "f", "in": "$$f.field"}},
                    ]
                },
            }
        },
    ]


def pipeline_hash(pipeline: list[dict[str, Any]]) -> str:
    """Return a hash of a pipeline: a token of one may not be resumed with another."""
    return hashlib.sha256(json_util.dumps(pipeline).encode()).hexdigest()[:16]


def brings_documents(change: Change, collection: str) -> bool:
    """Whether another collection became ours: its documents were never inserted here."""
    return change["operationType"] == "rename" and bool(change["to"]["coll"] == collection)


def touches_image(change: Change) -> bool:
    """Whether the change may need new outputs: an update counts only if it touches `img`."""
    if change["operationType"] != "update":
        return True
    paths = change.get("paths") or []
    # An update without a description changes nothing we know of; better once too often.
    return not paths or any(path == IMAGE or path.startswith(f"{IMAGE}.") for path in paths)


def _foreign_writes() -> dict[str, Any]:
    """Match everything but updates whose paths all lie under our own field."""
    is_empty = [{"$eq": [{"$size": part}, 0]} for part in (_UPDATED, _REMOVED, _TRUNCATED)]
    return {
        "$or": [
            {"operationType": {"$ne": "update"}},
            {
                "$expr": {
                    "$or": [
                        _any_foreign(_UPDATED, "$$f.k"),
                        _any_foreign(_REMOVED, "$$f"),
                        _any_foreign(_TRUNCATED, "$$f.field"),
                        {"$and": is_empty},
                    ]
                }
            },
        ]
    }


def _any_foreign(paths: dict[str, Any], path: str) -> dict[str, Any]:
    own = {"$or": [{"$eq": [path, OUTPUTS]}, {"$eq": [{"$indexOfCP": [path, f"{OUTPUTS}."]}, 0]}]}
    return {"$anyElementTrue": [{"$map": {"input": paths, "as": "f", "in": {"$not": [own]}}}]}
