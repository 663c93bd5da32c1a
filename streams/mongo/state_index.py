"""The state index: counts and scans by state read it alone, never a document.

It is named after its keys, so a pipeline with other keys makes an index of its own. MongoDB builds
it while reads and writes go on.
"""

import hashlib
from typing import Any, Final

import pymongo
from pymongo.collection import Collection
from pymongo.errors import NetworkTimeout
from structlog import get_logger

from streams.contract.pipeline import Pipeline
from streams.errors import StoreRefuses, StoreUnavailable
from streams.mongo.client import mongo_errors

log = get_logger(__name__)

_PREFIX: Final = "captionstream_state"
#: MongoDB's own limit for one collection.
_MOST_INDEXES: Final = 64


def state_keys(pipeline: Pipeline) -> list[tuple[str, int]]:
    """Return the keys of the state index."""
    return [(path, pymongo.ASCENDING) for path in (*pipeline.state_paths, "_id")]


def state_index(pipeline: Pipeline) -> str:
    """Return the name of the state index."""
    keys = repr(state_keys(pipeline)).encode()
    return f"{_PREFIX}_{hashlib.blake2b(keys, digest_size=4).hexdigest()}"


def check_collection(collection: Collection[dict[str, Any]], pipeline: Pipeline) -> None:
    """Find out whether documents can be watched and counted there; reads only.

    Raises:
        StoreRefuses: It is a view or a time-series collection, or cannot have the state index.
        PyMongoError: MongoDB does not answer.
    """
    name, database = collection.full_name, collection.database
    # With just the name and the type, no right is needed.
    found = database.command(
        "listCollections",
        filter={"name": collection.name},
        nameOnly=True,
        authorizedCollections=True,
    )["cursor"]["firstBatch"]
    if found and (kind := found[0]["type"]) != "collection":
        _refuse(
            f"{name} is a {kind}, which has no change events and takes no outputs",
            "set CAPTIONSTREAM_MONGO__COLLECTION to a plain collection",
        )
    indexes = collection.index_information()
    ours, keys = state_index(pipeline), state_keys(pipeline)
    same_keys = [other for other, index in indexes.items() if index["key"] == keys]
    if not same_keys and len(indexes) >= _MOST_INDEXES:
        _refuse(
            f"{name} has {len(indexes)} indexes: MongoDB allows no more, and ours is missing",
            "drop one that nothing uses",
        )
    for other in same_keys:
        if other != ours:
            _refuse(
                f"{name} has the keys of the state index in an index of the name {other}",
                f'drop that one: db.getCollection("{collection.name}").dropIndex("{other}")',
            )
    if indexes.get(ours, {}).get("hidden"):
        _refuse(
            f"the state index of {name} is hidden, so that no scan may use it",
            f'db.getCollection("{collection.name}").unhideIndex("{ours}")',
        )


def build_state_index(collection: Collection[dict[str, Any]], pipeline: Pipeline) -> None:
    """Create the state index if it is not there.

    Raises:
        StoreRefuses: As `check_collection`.
        StoreUnavailable: It is being built, which goes on at the server.
        PyMongoError: MongoDB does not answer, or refuses.
    """
    check_collection(collection, pipeline)
    try:
        collection.create_index(state_keys(pipeline), name=state_index(pipeline))
    except NetworkTimeout as exc:
        msg = (
            f"the state index of {collection.full_name} is being built, which takes its time in a"
            " large collection; documents can be counted and repeated when it is there"
        )
        raise StoreUnavailable(msg) from exc


def drop_old_state_indexes(collection: Collection[dict[str, Any]], pipeline: Pipeline) -> None:
    """Remove the state indexes of other pipelines, if we may.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    with mongo_errors("looking for old state indexes"):
        names = collection.index_information()
    for name in names:
        if name.startswith(_PREFIX) and name != state_index(pipeline):
            try:
                with mongo_errors(f"dropping the old state index {name}"):
                    collection.drop_index(name)
            except StoreRefuses as exc:
                log.warning("an old state index stays", index=name, error=str(exc))


def _refuse(problem: str, remedy: str) -> None:
    msg = f"{problem}; {remedy}"
    raise StoreRefuses(msg)
