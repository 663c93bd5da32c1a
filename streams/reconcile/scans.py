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

from streams.contract.documents import (
    lookup,
)
from streams.contract.ids import document_key
from streams.contract.pipeline import Model, Pipeline
from streams.contract.states import Recaption, Serving, pending_model
from streams.mongo.client import Document, mongo_errors
from streams.mongo.no_room import with_errors
from streams.mongo.state_index import state_index
from streams.mongo.store import DocumentStore
from streams.reconcile.retries import Failure

#: The index alone decides each condition; it could not decide "is null".
_IS_TEXT: Final[dict[str, Any]] = {"$gte": ""}
_IS_NO_TEXT: Final = {"$not": _IS_TEXT}
_IS_NO_ERROR: Final = {"$nin": [True, False]}


def scan_unfinished(store: DocumentStore, serving: Serving) -> Iterator[tuple[Document, Model]]:
    """Yield `_id` and the state fields of each unfinished document, and what has to run for it.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    errors = store.no_room.errors()
    pipeline = serving.pipeline
    for model in pipeline.models.values():
        for query in _unfinished(model, serving):
            with mongo_errors("scanning documents"):
                found = store.collection.find(query, _state(pipeline)).hint(state_index(pipeline))
                for row in with_errors(found, errors, pipeline):
                    if pending_model(row, serving) is model:
                        yield row, model


def scan_failures(collection: Collection[Document], serving: Serving) -> Iterator[Failure]:
    """Yield documents that are finished, but for an error that may pass.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    pipeline = serving.pipeline
    for model in pipeline.models.values():
        at, source = f"{model.path}.error.at", f"{model.path}.source"
        query = {f"{model.path}.error.retryable": True}
        with mongo_errors("looking for errors to retry"):
            wanted = {**_state(pipeline), at: 1, source: 1}
            cursor = collection.find(_anything(pipeline) | query, wanted)
            for row in cursor.hint(state_index(pipeline)):
                if _failing(row, pipeline) is model and pending_model(row, serving) is None:
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
    for upstream in serving.pipeline.ancestors(model):
        if not serving.can_run(upstream):
            continue
        # An error stops what reads it.
        no_error = {f"{upstream.path}.error.retryable": _IS_NO_ERROR}
        queries = [no_error | query for query in queries]
    return [_anything(serving.pipeline) | query for query in queries]


def _failing(row: Document, pipeline: Pipeline) -> Model | None:
    """Return the first model with an error that may pass; those that read it fail with it."""
    models = pipeline.models.values()
    return next((m for m in models if lookup(row, f"{m.path}.error.retryable") is True), None)


def _anything(pipeline: Pipeline) -> dict[str, Any]:
    """Match everything: the index is searched only behind a condition on its first field."""
    return {pipeline.state_paths[0]: {"$gte": MinKey()}}


def _state(pipeline: Pipeline) -> dict[str, int]:
    return dict.fromkeys((*pipeline.state_paths, "_id"), 1)
