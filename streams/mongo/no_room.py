"""Errors of documents that have no room for them: they stand beside, in the state database.

MongoDB's limit of 16 MB holds for a document with its outputs. An image may leave no room for an
output, nor for the error that says so. In the same places as in the document, such an error is laid
over it wherever somebody asks how far the document has come.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo import UpdateOne
from pymongo.database import Database
from structlog import get_logger

from streams.contract.documents import lookup
from streams.contract.ids import DocumentId, document_key, split_ids
from streams.contract.pipeline import Pipeline
from streams.contract.writes import OutputWrite, fields_of
from streams.mongo.client import Document, mongo_errors

log = get_logger(__name__)

#: Longest key of a document whose error may stand beside it; some have an `_id` of 16 MB.
_MOST_KEY_BYTES: Final = 1 << 20


class NoRoom:
    """The errors that stand beside their documents. Safe to share between threads."""

    def __init__(self, state: Database[Document], collection: str, pipeline: Pipeline) -> None:
        """Keep the state database, with majority reads and writes, and whose errors there are."""
        self._rows = state[f"no_room.{collection}"]
        self._pipeline = pipeline

    def keep(self, write: OutputWrite) -> None:
        """Keep an error that MongoDB does not store in its document.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        if len(document_key(write.document_id)) > _MOST_KEY_BYTES:
            log.error("document without the error that says why", error=str(write.result)[:300])
            return
        update = {"$set": {write.model.path: fields_of(write)}}
        with mongo_errors("keeping the error of a document without room"):
            self._rows.update_one({"_id": {"$eq": write.document_id}}, update, upsert=True)

    def forget(self, writes: Iterable[OutputWrite]) -> None:
        """Drop the errors in whose place something is stored by now.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        places = [(write.document_id, write.model.path) for write in writes]
        kept = self.errors([document_id for document_id, _ in places])
        drops = [
            UpdateOne({"_id": {"$eq": document_id}}, {"$unset": {path: ""}})
            for document_id, path in places
            if document_key(document_id) in kept
        ]
        if drops:
            with mongo_errors("dropping errors that are over"):
                self._rows.bulk_write(drops)

    def remove(self, paths: Iterable[str]) -> None:
        """Remove the errors that stand at these paths.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("removing errors of documents without room"):
            self._rows.update_many({}, {"$unset": dict.fromkeys(paths, "")})

    def errors(self, document_ids: Sequence[DocumentId] | None = None) -> dict[bytes, Document]:
        """Return the errors of some documents, or of all, by `document_key`; few have any.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading errors of documents without room"):
            if document_ids is None:
                rows = list(self._rows.find())
            else:
                pieces = split_ids(document_ids)
                rows = [row for ids in pieces for row in self._rows.find({"_id": {"$in": ids}})]
        return {document_key(row["_id"]): row for row in rows}

    def lay_over(self, documents: Sequence[Document]) -> list[Document]:
        """Return documents with their errors, wherever these stand.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        errors = self.errors([document["_id"] for document in documents])
        return list(with_errors(documents, errors, self._pipeline))


def with_errors(
    documents: Iterable[Document], errors: Mapping[bytes, Document], pipeline: Pipeline
) -> Iterator[Document]:
    """Yield documents, each with its errors among these in their places."""
    for document in documents:
        kept = errors.get(document_key(document["_id"])) if errors else None
        yield document if kept is None else _laid_over(document, kept, pipeline)


def _laid_over(document: Document, kept: Document, pipeline: Pipeline) -> Document:
    laid: dict[str, Any] = dict(document)
    for model in pipeline.models.values():
        error = lookup(kept, model.path)
        if error is None:
            continue
        level = laid
        *parents, last = model.path.split(".")
        for part in parents:
            below = level.get(part)
            level[part] = dict(below) if isinstance(below, Mapping) else {}
            level = level[part]
        level[last] = error
    return laid
