"""Whether a document holds all that its fields make, so that nothing has to be published of it.

What costs what. A document that is unfinished by its versions, or holds an error, is found by its
outputs alone. One that looks finished holds the outputs of *some* image: only the bytes show
which, as nothing else in a document moves with them, so they are read and hashed here; no record,
no stage and no write follows. There is one case in which that is safe without the bytes: when the
stored outputs are of changes at or after the time from which nothing can have been missed
(`since`). It was made from a read that includes that time.

An image behind a URL is never fetched for this: it counts as the one that was fetched from there.

What is not seen: an image that was changed and changed back while the record of the first change is
still on its way through the stages and that of the second was lost. The next copy finds that.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from bson.timestamp import Timestamp

from streams.contract.documents import current_inputs, lookup, stored_output
from streams.contract.ids import DocumentId
from streams.contract.pipeline import OUTPUTS, Pipeline
from streams.contract.states import Serving, pending_model
from streams.mongo.client import Document, mongo_errors
from streams.mongo.store import DocumentStore


def projection(since: Timestamp, pipeline: Pipeline) -> dict[str, Any]:
    """Return the projection that `is_finished` needs: fields only where they are compared."""
    is_older = {"$or": [_is_older(path, since) for path in _sources(pipeline)]}
    fields = {name: {"$cond": [is_older, f"${name}", "$$REMOVE"]} for name in pipeline.watched}
    return {OUTPUTS: 1, **fields}


def is_finished(document: Document, serving: Serving, *, since: Timestamp) -> bool:
    """Whether running the pipeline for a document as it is now would change nothing.

    Args:
        document: Read with `projection(since)`, in a read that includes `since`.
        serving: The versions that serve.
        since: clusterTime from which on no change was missed.
    """
    if pending_model(document, serving) is not None:
        return False
    found = [lookup(document, path) for path in _sources(serving.pipeline)]
    sources = [source for source in found if source is not None]
    if not sources or not all(isinstance(source, Timestamp) for source in sources):
        return False
    return min(sources) >= since or _is_of_these_inputs(document, serving.pipeline)


def find_changed(
    store: DocumentStore, ids: Sequence[DocumentId], serving: Serving, now: Timestamp
) -> Iterator[DocumentId]:
    """Yield those of some documents that look finished, but hold outputs of another content.

    Of a change that is just on its way, too: publishing it again is harmless.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    query, pipeline = {"_id": {"$in": list(ids)}}, serving.pipeline
    with mongo_errors("comparing documents with fingerprints"), store.session(now) as session:
        for row in store.collection.find(query, projection(now, pipeline), session=session):
            if pending_model(row, serving) is None and _has_other_inputs(row, pipeline):
                yield row["_id"]


def _is_of_these_inputs(document: Document, pipeline: Pipeline) -> bool:
    """Whether every stored output is of the fields as they are now.

    An error names no inputs, so it is not.
    """
    inputs = current_inputs(document, pipeline)
    return all(
        stored_output(document, model, inputs) is not None
        for model in pipeline.models.values()
        if lookup(document, model.path) is not None
    )


def _has_other_inputs(document: Document, pipeline: Pipeline) -> bool:
    inputs = current_inputs(document, pipeline)
    return any(
        stored_output(document, model, {}) is not None
        and stored_output(document, model, inputs) is None
        for model in pipeline.models.values()
    )


def _sources(pipeline: Pipeline) -> list[str]:
    return [f"{model.path}.source" for model in pipeline.models.values()]


def _is_older(path: str, since: Timestamp) -> dict[str, Any]:
    return {"$and": [{"$eq": [{"$type": f"${path}"}, "timestamp"]}, {"$lt": [f"${path}", since]}]}
