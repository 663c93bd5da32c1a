"""Scans for unfinished documents and for failures: MongoDB leaves out what is done.

`states.pending_model` says what is unfinished. The queries here say it once more in MongoDB's
words, one condition for each field of the state index, so that a scan skips what is done however
much that is, and reads no document.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from bson import MinKey
from pymongo.collection import Collection

from streams.contract.default_pipeline import MODEL_BY_NAME, MODELS
from streams.contract.documents import (
    lookup,
)
from streams.contract.ids import document_key
from streams.contract.pipeline import (
    Model,
)
from streams.contract.states import STATE_PATHS, Recaption, Serving, pending_model
from streams.mongo.client import Document, mongo_errors
from streams.mongo.no_room import with_errors
from streams.mongo.state_index import STATE_INDEX
from streams.mongo.store import DocumentStore
from streams.reconcile.retries import Failure

#: The index alone decides each condition; it could not decide "is null".
_IS_TEXT: Final[dict[str, Any]] = {"$gte": ""}
_IS_NO_TEXT: Final = {"$not": _IS_TEXT}
_IS_NO_ERROR: Final = {"$nin": [True, False]}
#: Matches everything. Conditions are looked up in the index only behind one on its first field.
_ANYTHING: Final = {STATE_PATHS[0]: {"$gte": MinKey()}}
_STATE: Final = dict.fromkeys((*STATE_PATHS, "_id"), 1)


def scan_unfinished(store: DocumentStore, serving: Serving) -> Iterator[tuple[Document, Model]]:
    """Yield `_id` and the state fields of each unfinished document, and what has to run for it.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    errors = store.no_room.errors()
    for model in MODELS:
        for query in _unfinished(model, serving):
            with mongo_errors("scanning documents"):
                found = store.collection.find(query, _STATE).hint(STATE_INDEX)
                for row in with_errors(found, errors):
                    if pending_model(row, serving) is model:
                        yield row, model


def scan_failures(collection: Collection[Document], serving: Serving) -> Iterator[Failure]:
    """Yield documents that are finished, but for an error that may pass.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    for model in MODELS:
        at, source = f"{model.path}.error.at", f"{model.path}.source"
        query = {f"{model.path}.error.retryable": True}
        with mongo_errors("looking for errors to retry"):
            cursor = collection.find(_ANYTHING | query, {**_STATE, at: 1, source: 1})
            for row in cursor.hint(STATE_INDEX):
                if _failing(row) is model and pending_model(row, serving) is None:
                    time = lookup(row, at)
                    yield Failure(
                        document_id=row["_id"],
                        key=document_key(row["_id"]),
                        at=time if isinstance(time, datetime) else datetime.fromtimestamp(0, UTC),
                        source=lookup(row, source),
                    )


def _unfinished(model: Model, serving: Serving) -> list[dict[str, Any]]:
    """Return queries: where `pending_model` names this model, one of them matches.

    They may match more, and two of them a document with a strange `retryable`. A document with an
    array where we write objects or texts does not count: MongoDB would store no output there.
    """
    if not serving.can_run(model):
        return []
    version, error = f"{model.path}.version", f"{model.path}.error.retryable"
    serves = serving.versions[model.name]
    queries: list[dict[str, Any]]
    kept: dict[str, Any]
    match serving.recaption.get(model.name, Recaption.ALL):
        case Recaption.ALL:
            queries, kept = [{version: {"$ne": serves}}], {version: serves}
        case Recaption.STALE:
            old_error = {version: _IS_TEXT | {"$ne": serves}, error: {"$ne": None}}
            queries, kept = [{version: _IS_NO_TEXT}, old_error], {version: _IS_TEXT}
        case Recaption.NONE:
            queries, kept = [{version: _IS_NO_TEXT}], {version: serves}
    queries += [
        {**kept, error: _IS_NO_ERROR, f"{model.path}.features.{name}": {"$ne": made_from}}
        for name in model.reads
        for made_from in [serving.versions.get(name)]
    ]
    for upstream in (MODEL_BY_NAME[name] for name in model.ancestors):
        if not serving.can_run(upstream):
            continue
        # An error stops what reads it.
        no_error = {f"{upstream.path}.error.retryable": _IS_NO_ERROR}
        queries = [no_error | query for query in queries]
    return [_ANYTHING | query for query in queries]


def _failing(row: Document) -> Model | None:
    """Return the first model with an error that may pass; those that read it fail with it."""
    return next((m for m in MODELS if lookup(row, f"{m.path}.error.retryable") is True), None)
