"""Reading a collection as it was at one moment, however long the reading takes."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from bson.binary import Binary
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from streams.contract.default_pipeline import (
    CLIP,
)
from streams.contract.documents import (
    CAPTIONS,
    decode_vector,
    lookup,
    usable_captions,
)
from streams.contract.folds import FOLD, fold_of
from streams.contract.ids import document_key
from streams.errors import StoreUnavailable
from streams.mongo.client import Document, mongo_errors
from streams.settings import MongoSettings

#: SnapshotTooOld, SnapshotUnavailable: the server kept no history that long.
_TOO_OLD: Final = frozenset((239, 246))
_BATCH: Final = 1000

Reason = Literal[
    "held_out",
    "unknown_fold",
    "without_captions",
    "without_vector",
    "other_version",
    "failed",
    "unreadable",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One document to learn from.

    Attributes:
        id: Canonical extended JSON of `_id`.
        fold: Its fold; one of "test" is no row.
        captions: What people wrote; not empty.
        clip: Stored vector, float32 of shape (D,).
        passed_over: Values in `captions` that are no captions.
    """

    id: str
    fold: Literal["train", "valid"]
    captions: tuple[str, ...]
    clip: np.ndarray
    passed_over: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """One document that nothing is to be learned from.

    Attributes:
        reason: Why.
        passed_over: Values in `captions` that are no captions.
    """

    reason: Reason
    passed_over: int = 0


def read_rows(
    client: MongoClient[Document],
    settings: MongoSettings,
    *,
    at: Timestamp,
    clip_version: str,
    held_out: Collection[str] = (),
) -> Iterator[Row | LeftOut]:
    """Yield every document of the collection at one moment, in the order of `_id`.

    Images are not read.

    Args:
        client: Client of the replica set.
        settings: Which collection.
        at: The moment.
        clip_version: Version of the vectors to read.
        held_out: Canonical extended JSON of the `_id`s that no fit may see, whatever their fold.

    Raises:
        StoreUnavailable: MongoDB does not answer, or kept no history since `at`.
    """
    for document in _documents(client, settings, at):
        yield _row(document, clip_version, held_out)


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


def _row(document: Document, clip_version: str, held_out: Collection[str]) -> Row | LeftOut:
    vector = current_vector(document, clip_version)
    if isinstance(vector, str):
        return LeftOut(reason=vector)
    captions, passed_over = usable_captions(document.get(CAPTIONS))
    if not captions:
        return LeftOut(reason="without_captions", passed_over=passed_over)
    name, fold = document_key(document["_id"]).decode(), fold_of(document)
    if fold is None:
        return LeftOut(reason="unknown_fold", passed_over=passed_over)
    if fold == "test" or name in held_out:
        return LeftOut(reason="held_out", passed_over=passed_over)
    return Row(id=name, fold=fold, captions=captions, clip=vector, passed_over=passed_over)


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
