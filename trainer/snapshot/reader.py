"""Reading a collection as it was at one moment, however long the reading takes."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.errors import OperationFailure

from streams.contract.documents import lookup
from streams.contract.folds import fold_of
from streams.contract.ids import document_key
from streams.errors import StoreUnavailable
from streams.mongo.client import Document, mongo_errors
from streams.settings import MongoSettings
from trainer.snapshot.columns import Values, Wanted, served_by
from trainer.snapshot.content import Reason, content_of, projection_of, readable

#: SnapshotTooOld, SnapshotUnavailable: the server kept no history that long.
_TOO_OLD: Final = frozenset((239, 246))
_BATCH: Final = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One document to learn from.

    Attributes:
        id: Canonical extended JSON of `_id`.
        fold: Its fold; one of "test" is no row.
        captions: What people wrote; may be empty where something else is learned.
        values: What models read and learn, by column.
        passed_over: Values in `captions` that are no captions.
    """

    id: str
    fold: Literal["train", "valid"]
    captions: tuple[str, ...]
    values: Values
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
    wanted: Wanted,
    held_out: Collection[str] = (),
) -> Iterator[Row | LeftOut]:
    """Yield every document of the collection at one moment, in the order of `_id`.

    Images are not read.

    Args:
        client: Client of the replica set.
        settings: Which collection.
        at: The moment.
        wanted: What to read.
        held_out: Canonical extended JSON of the `_id`s that no fit may see, whatever their fold.

    Raises:
        StoreUnavailable: MongoDB does not answer, or kept no history since `at`.
    """
    for document in _find(client, settings, at, projection=projection_of(wanted)):
        yield _row(document, wanted, held_out)


def dimensions_of(
    client: MongoClient[Document], settings: MongoSettings, *, at: Timestamp, wanted: Wanted
) -> dict[str, int | None]:
    """Return the length of the vectors of each output that is read; None where it is no vector.

    One that no document holds at the moment is absent.

    Raises:
        StoreUnavailable: MongoDB does not answer, or kept no history since `at`.
    """
    found: dict[str, int | None] = {}
    for name, model in wanted.features.items():
        query = {f"{model.path}.version": wanted.versions[name], f"{model.path}.error": None}
        for document in _find(client, settings, at, projection={model.path: 1}, query=query):
            value = readable(lookup(document, model.path))
            if value is not None:
                found[name] = value.size if isinstance(value, np.ndarray) else None
                break
    return found


def _row(document: Document, wanted: Wanted, held_out: Collection[str]) -> Row | LeftOut:
    content = content_of(document, wanted)
    passed_over = content.passed_over
    reason = content.unusable(wanted)
    if reason is not None:
        # Whoever has no vector is not asked for captions.
        has_model = bool(served_by(wanted, content.values))
        return LeftOut(reason=reason, passed_over=passed_over if has_model else 0)
    name, fold = document_key(document["_id"]).decode(), fold_of(document)
    if fold is None:
        return LeftOut(reason="unknown_fold", passed_over=passed_over)
    if fold == "test" or name in held_out:
        return LeftOut(reason="held_out", passed_over=passed_over)
    return Row(
        id=name,
        fold=fold,
        captions=content.captions,
        values=content.values,
        passed_over=passed_over,
    )


def _find(
    client: MongoClient[Document],
    settings: MongoSettings,
    at: Timestamp,
    *,
    projection: Mapping[str, int],
    query: Mapping[str, Any] | None = None,
) -> Iterator[Document]:
    # The driver's snapshot sessions choose the moment by themselves; a command names it.
    command = {
        "find": settings.collection,
        "filter": dict(query or {}),
        "projection": dict(projection),
        # A probe may use what index it likes.
        **({} if query else {"sort": {"_id": 1}, "hint": {"_id": 1}}),
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
