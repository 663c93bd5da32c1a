"""Counting, on the server, which versions have made the outputs that stand in documents."""

from collections.abc import Iterator
from typing import Any

from streams.contract.ids import split_ids
from streams.contract.pipeline import OUTPUTS
from streams.contract.plan import StoredOutputs
from streams.mongo.client import mongo_errors
from streams.mongo.state_index import state_index
from streams.mongo.store import DocumentStore


def count_outputs(store: DocumentStore) -> list[StoredOutputs]:
    """Return all documents, by what stands at the `state_paths` of the store's pipeline.

    Where its state index is there, that alone is read; otherwise, as for a pipeline that is only
    planned, the server reads every document, which takes as long as its disk takes. Counts of less
    than nothing correct others.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    paths, index = store.pipeline.state_paths, state_index(store.pipeline)
    if not paths:
        return []
    steps: list[dict[str, Any]] = [{"$match": {}}]
    options: dict[str, Any] = {}
    with mongo_errors("counting outputs"):
        if index in store.collection.index_information():
            steps += [{"$sort": {paths[0]: 1}}]  # lets the index be used
            options = {"hint": index}
        steps += [{"$project": {"_id": 0, **dict.fromkeys(paths, 1)}}]
        steps += [{"$group": {"_id": f"${OUTPUTS}", "count": {"$sum": 1}}}]
        rows = list(store.collection.aggregate(steps, **options))
    found = [StoredOutputs(document={OUTPUTS: r["_id"]}, count=r["count"]) for r in rows]
    return [*found, *_beside(store)]


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
