"""Counting which versions have made the outputs that stand in documents."""

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import bson

from streams.contract.ids import split_ids
from streams.contract.pipeline import OUTPUTS
from streams.contract.plan import StoredOutputs
from streams.mongo.client import Document, mongo_errors
from streams.mongo.state_index import state_index
from streams.mongo.store import DocumentStore

#: Documents of one answer: even if all are as large as can be, it comes before a connection ends.
_BATCH: Final = 100


def count_outputs(store: DocumentStore) -> list[StoredOutputs]:
    """Return all documents, by what stands at the `state_paths` of the store's pipeline.

    Where its state index is there, that alone is read; otherwise, as for a pipeline that is only
    planned, the server reads every document, which takes as long as its disk takes. Counts of less
    than nothing correct others.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    with mongo_errors("counting outputs"):
        if state_index(store.pipeline) in store.collection.index_information():
            found = list(_from_index(store))
        else:
            found = list(_from_documents(store))
    return [*found, *_beside(store)]


def _from_index(store: DocumentStore) -> Iterator[StoredOutputs]:
    paths = store.pipeline.state_paths
    steps: list[dict[str, Any]] = [
        {"$match": {}},
        {"$sort": {paths[0]: 1}},  # lets the index be used
        {"$project": {"_id": 0, **dict.fromkeys(paths, 1)}},
        {"$group": {"_id": f"${OUTPUTS}", "count": {"$sum": 1}}},
    ]
    for row in store.collection.aggregate(steps, hint=state_index(store.pipeline)):
        yield StoredOutputs(document={OUTPUTS: row["_id"]}, count=row["count"])


def _from_documents(store: DocumentStore) -> Iterator[StoredOutputs]:
    """Count here: on the server it would be one answer, for which no connection waits."""
    fields = {"_id": 0, **dict.fromkeys(store.pipeline.state_paths, 1)}
    rows: dict[bytes, Document] = {}
    counts: Counter[bytes] = Counter()
    for row in store.collection.find({}, fields, batch_size=_BATCH):
        key = bson.encode(row)
        rows[key] = row
        counts[key] += 1
    for key, row in rows.items():
        yield StoredOutputs(document=row, count=counts[key])


def _beside(store: DocumentStore) -> Iterator[StoredOutputs]:
    """Correct for documents whose error stands beside them, because they have no room for it."""
    kept = [row["_id"] for row in store.no_room.errors().values()]
    fields = dict.fromkeys(store.pipeline.state_paths, 1)
    with mongo_errors("counting outputs"):
        plain = [
            row
            for piece in split_ids(kept)
            for row in store.collection.find({"_id": {"$in": piece}}, fields)
        ]
    for document, with_error in zip(plain, store.no_room.lay_over(plain), strict=True):
        yield StoredOutputs(document=document, count=-1)
        yield StoredOutputs(document=with_error, count=1)
