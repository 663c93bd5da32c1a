"""The copy of documents that no change will tell of: those of before the first start."""

import threading
from collections.abc import Iterator
from itertools import islice
from typing import Final

from pymongo.collection import Collection
from structlog import get_logger

from streams.capture.position import CopyState
from streams.ids import DocumentId, document_key, id_bytes
from streams.mongo import Document, mongo_errors

log = get_logger(__name__)

CHUNK: Final = 500
_KEPT_BYTES: Final = 1024 * 1024


def copy_chunks(
    collection: Collection[Document], state: CopyState, stop: threading.Event
) -> Iterator[list[DocumentId]]:
    """Yield the ids of the collection in ascending order, some hundred at a time.

    Begins behind `state.last_id`. Documents that are inserted meanwhile may appear or not: the
    change stream tells of them.

    Raises:
        StoreUnavailable: MongoDB does not answer; begin again with the last id that was kept.
    """
    last_id, has_begun = state.last_id, state.has_begun
    while not stop.is_set():
        ids = _next_ids(collection, last_id, has_begun=has_begun)
        if not ids:
            return
        yield ids
        last_id, has_begun = ids[-1], True


def resume_point(ids: list[DocumentId]) -> list[DocumentId]:
    """Return, as a list of one, the last of a chunk's ids that may be kept; else none.

    A large one has no room in the publisher's position, which is one document and may hold a token
    that is as large. A copy that resumes copies it again.
    """
    small = (i for i in reversed(ids) if id_bytes(i) <= _KEPT_BYTES)
    return list(islice(small, 1))


def _next_ids(
    collection: Collection[Document], last_id: DocumentId, *, has_begun: bool
) -> list[DocumentId]:
    # min() on the _id index begins at a key of any type, which $gt does not.
    with mongo_errors("copying the collection"):
        cursor = collection.find({}, {"_id": 1}).sort("_id", 1).hint([("_id", 1)])
        if has_begun:
            cursor = cursor.min([("_id", last_id)])
        ids = [row["_id"] for row in cursor.limit(CHUNK + 1)]
    # Compared as MongoDB tells ids apart: in Python 1 equals True, {a, b} equals {b, a}, and NaN
    # does not equal itself.
    if has_begun and ids and document_key(ids[0]) == document_key(last_id):
        ids = ids[1:]
    return ids[:CHUNK]
