"""Counting, on the server, which versions have made the outputs that stand in documents."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from streams.contract.pipeline import OUTPUTS
from streams.contract.plan import StoredOutputs
from streams.mongo.client import mongo_errors
from streams.mongo.store import DocumentStore

_INDEX: Final = "captionstream_state"


def count_outputs(store: DocumentStore, paths: Sequence[str]) -> list[StoredOutputs]:
    """Return all documents, by what stands at these paths.

    Where the state index has all of them, it alone is read; otherwise the server reads every
    document, which takes as long as its disk takes. Counts of less than nothing correct others.

    Args:
        store: The documents.
        paths: Below the outputs, as `state_paths` of pipelines.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    with mongo_errors("counting outputs"):
        index = _index_of(store, paths)
        steps: list[dict[str, Any]] = [{"$match": {}}]
        if index is not None:
            steps += [{"$sort": {paths[0]: 1}}]  # lets the index be used
        if paths:
            steps += [{"$project": {"_id": 0, **dict.fromkeys(paths, 1)}}]
        group = f"${OUTPUTS}" if paths else None
        steps += [{"$group": {"_id": group, "count": {"$sum": 1}}}]
        options: dict[str, Any] = {"hint": index} if index is not None else {}
        rows = list(store.collection.aggregate(steps, **options))
    found = [StoredOutputs(document={OUTPUTS: r["_id"]}, count=r["count"]) for r in rows]
    return [*found, *_beside(store, paths)]


def _index_of(store: DocumentStore, paths: Sequence[str]) -> str | None:
    for name, index in store.collection.index_information().items():
        if name.startswith(_INDEX) and paths and {*paths} <= {key for key, _ in index["key"]}:
            return name
    return None


def _beside(store: DocumentStore, paths: Sequence[str]) -> Iterator[StoredOutputs]:
    """Correct for documents whose error stands beside them, because they have no room for it."""
    kept = [row["_id"] for row in store.no_room.errors().values()]
    with mongo_errors("counting outputs"):
        plain = list(store.collection.find({"_id": {"$in": kept}}, dict.fromkeys(paths, 1)))
    for document, with_error in zip(plain, store.no_room.lay_over(plain), strict=True):
        yield StoredOutputs(document=document, count=-1)
        yield StoredOutputs(document=with_error, count=1)
