"""Access to the watched collection: read images, write outputs under their guard, scan states.

Every failure of MongoDB that waiting can heal becomes `StoreUnavailable`. Knows nothing about
topics or models' insides.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pymongo
from bson.timestamp import Timestamp
from pymongo import MongoClient, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
)
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern

from streams.documents import (
    IMAGE,
    OUTPUTS,
    Model,
    Output,
    OutputError,
    error_fields,
    error_guard,
    output_fields,
    output_guard,
)
from streams.ids import DocumentId, document_key, split_ids
from streams.mongo import Document, mongo_errors
from streams.settings import MongoSettings
from streams.states import STATE_PATHS, DocumentState, Serving, document_state

STATE_INDEX: Final = "captionstream_state"

#: Errors of one write that say something about the server and pass: no primary, interrupted, full.
_PASSING_CODES: Final = frozenset(
    (6, 7, 50, 89, 91, 134, 189, 262, 9001, 10107, 11600, 11601, 11602, 13435, 13436, 14031)
)


@dataclass(frozen=True, kw_only=True, slots=True)
class OutputWrite:
    """One guarded write: an output or an error of one model for one document."""

    document_id: DocumentId
    source: Timestamp
    model: Model
    input: str
    result: Output | OutputError


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteReport:
    """What a bulk write did.

    Attributes:
        written: Outputs that were stored.
        ignored: Outputs that the guard kept away, or whose document is gone.
        rejected: Message by position in the given list, for writes that MongoDB refused.
    """

    written: int
    ignored: int
    rejected: Mapping[int, str]


class DocumentStore:
    """The watched collection. Safe to share between threads."""

    def __init__(self, client: MongoClient[Document], settings: MongoSettings) -> None:
        self._client = client
        self._collection: Collection[Document] = client.get_database(
            settings.database
        ).get_collection(
            settings.collection,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern("majority"),
            read_preference=ReadPreference.PRIMARY,
        )

    @property
    def collection(self) -> Collection[Document]:
        """The collection, with majority reads from the primary and majority writes."""
        return self._collection

    @property
    def tenant(self) -> str:
        """Name of what is watched, in records and positions."""
        return self._collection.full_name

    def prepare(self) -> None:
        """Create the index that makes counting and scanning states cheap.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        keys = [(path, pymongo.ASCENDING) for path in (*STATE_PATHS, "_id")]
        with mongo_errors("creating the state index"):
            self._collection.create_index(keys, name=STATE_INDEX)

    def read_inputs(
        self, document_ids: Sequence[DocumentId], *, after: Timestamp
    ) -> dict[bytes, Document]:
        """Read the image and the outputs of documents, as of `after` or later.

        Args:
            document_ids: `_id` of each document.
            after: clusterTime that the read must include.

        Returns:
            Documents by `document_key`; a document that is gone is absent.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        query = {"_id": {"$in": list(document_ids)}}
        with (
            mongo_errors("reading images"),
            self._client.start_session(causal_consistency=True) as session,
        ):
            # Without this, a primary that was just elected could answer from before the change.
            session.advance_operation_time(after)
            found = self._collection.find(query, {IMAGE: 1, OUTPUTS: 1}, session=session)
            return {document_key(document["_id"]): document for document in found}

    def write_outputs(self, writes: Sequence[OutputWrite]) -> WriteReport:
        """Write outputs and errors, each under its guard, acknowledged by a majority.

        Never inserts a document, never touches anything but the given models' outputs. Repeating a
        call changes nothing.

        Raises:
            StoreUnavailable: MongoDB does not answer; some writes may have been done.
        """
        if not writes:
            return WriteReport(written=0, ignored=0, rejected={})
        requests = [_update(write) for write in writes]
        rejected: dict[int, str] = {}
        with mongo_errors("writing outputs"):
            try:
                written = self._collection.bulk_write(requests, ordered=False).modified_count
            except BulkWriteError as exc:
                written = int(exc.details.get("nModified", 0))
                rejected = _rejections(exc)
        ignored = len(writes) - written - len(rejected)
        return WriteReport(written=written, ignored=ignored, rejected=rejected)

    def count_states(self, serving: Serving) -> dict[DocumentState, int]:
        """Count documents by state, from the state index alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        counts = dict.fromkeys(DocumentState, 0)
        group = {path.replace(".", "/"): f"${path}" for path in STATE_PATHS}
        pipeline: list[dict[str, Any]] = [
            {"$match": {}},
            {"$sort": {STATE_PATHS[0]: 1}},  # lets the index be used, so that no image is read
            {"$project": {"_id": 0, **dict.fromkeys(STATE_PATHS, 1)}},
            {"$group": {"_id": group, "count": {"$sum": 1}}},
        ]
        with mongo_errors("counting documents"):
            for row in self._collection.aggregate(pipeline, hint=STATE_INDEX):
                document = _nest({name.replace("/", "."): v for name, v in row["_id"].items()})
                counts[document_state(document, serving)] += row["count"]
        return counts

    def scan_states(self, document_ids: Iterable[DocumentId]) -> Iterator[Document]:
        """Yield `_id` and the state fields of documents that are there.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        projection = dict.fromkeys((*STATE_PATHS, "_id"), 1)
        for piece in split_ids(document_ids):
            with mongo_errors("scanning documents"):
                yield from self._collection.find({"_id": {"$in": piece}}, projection)


def _update(write: OutputWrite) -> UpdateOne:
    if isinstance(write.result, Output):
        guard = output_guard(
            write.model,
            source=write.source,
            version=write.result.version,
            features=write.result.features,
        )
        fields = output_fields(write.result, source=write.source, input_fingerprint=write.input)
    else:
        guard = error_guard(write.model, source=write.source, version=write.result.version)
        fields = error_fields(write.result, source=write.source)
    return UpdateOne(
        {"_id": {"$eq": write.document_id}, **guard},
        {"$set": {write.model.path: fields}},
        upsert=False,
    )


def _rejections(exc: BulkWriteError) -> dict[int, str]:
    """Return why single documents were refused, by position; raise what is no document's fault."""
    errors = exc.details.get("writeErrors") or []
    if not errors or exc.details.get("writeConcernErrors"):
        raise exc
    if any(error.get("code") in _PASSING_CODES for error in errors):
        raise exc
    return {error["index"]: str(error.get("errmsg")) for error in errors}


def _nest(flat: Mapping[str, Any]) -> Document:
    nested: Document = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        level = nested
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return nested
