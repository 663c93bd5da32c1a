"""Reading a collection as it was at one moment, however long the reading takes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from bson.binary import Binary
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from streams.documents import CAPTIONS, CLIP, FOLD, decode_vector, fold_of, lookup
from streams.errors import StoreUnavailable
from streams.ids import document_key
from streams.mongo import Document, mongo_errors
from streams.settings import MongoSettings

#: SnapshotTooOld, SnapshotUnavailable: the server kept no history that long.
_TOO_OLD: Final = frozenset((239, 246))
_BATCH: Final = 1000

Reason = Literal["without_captions", "without_vector", "other_version", "failed", "unreadable"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One document to learn from.

    Attributes:
        id: Canonical extended JSON of `_id`.
        fold: "train" or "valid".
        captions: What people wrote; not empty.
        clip: Stored vector, float32 of shape (D,).
    """

    id: str
    fold: str
    captions: tuple[str, ...]
    clip: np.ndarray


def read_rows(
    client: MongoClient[Document], settings: MongoSettings, *, at: Timestamp, clip_version: str
) -> Iterator[Row | Reason]:
    """Yield every document of the collection at one moment, in the order of `_id`.

    A document that nothing can be learned from is yielded as the reason why. Images are not read.

    Raises:
        StoreUnavailable: MongoDB does not answer, or kept no history since `at`.
    """
    for document in _documents(client, settings, at):
        yield _row(document, clip_version)


def usable_captions(document: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the captions that hold text; what is no text is passed over."""
    stored = document.get(CAPTIONS)
    if not isinstance(stored, list):
        return ()
    return tuple(text for text in stored if isinstance(text, str) and text.strip())


def current_vector(document: Mapping[str, Any], clip_version: str) -> np.ndarray | Reason:
    """Return the stored vector of a CLIP version, or why there is none.

    Images are not read: of one that was replaced a moment ago, the vector is still that of before.
    """
    stored = lookup(document, CLIP.path)
    if not isinstance(stored, Mapping):
        return "without_vector"
    if "error" in stored:
        return "failed"
    if stored.get("version") != clip_version:
        return "other_version"
    value = stored.get("value")
    try:
        vector = decode_vector(value) if isinstance(value, Binary) else None
    except ValueError:
        vector = None
    is_usable = vector is not None and vector.size > 0 and bool(np.isfinite(vector).all())
    return vector if vector is not None and is_usable else "unreadable"


def _row(document: Document, clip_version: str) -> Row | Reason:
    vector = current_vector(document, clip_version)
    if isinstance(vector, str):
        return vector
    captions = usable_captions(document)
    if not captions:
        return "without_captions"
    return Row(
        id=document_key(document["_id"]).decode(),
        fold=fold_of(document),
        captions=captions,
        clip=vector,
    )


def _documents(
    client: MongoClient[Document], settings: MongoSettings, at: Timestamp
) -> Iterator[Document]:
    # The driver's snapshot sessions choose the moment by themselves; a command names it.
    command = {
        "find": settings.collection,
        "projection": {CAPTIONS: 1, FOLD: 1, CLIP.path: 1},
        "sort": {"_id": 1},
        "hint": {"_id": 1},
        "batchSize": _BATCH,
        "readConcern": {"level": "snapshot", "atClusterTime": at},
    }
    with mongo_errors("reading the snapshot"):
        try:
            with client[settings.database].cursor_command(command) as cursor:
                cursor.batch_size(_BATCH)  # the command's own size is that of the first batch only
                yield from cursor
        except OperationFailure as exc:
            if exc.code not in _TOO_OLD:
                raise
            msg = (
                "MongoDB forgot the moment of the snapshot before all was read: raise the server's"
                " parameter minSnapshotHistoryWindowInSeconds (300 by default) and try again"
            )
            raise StoreUnavailable(msg) from exc
