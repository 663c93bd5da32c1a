"""Trying whether a collection takes what we write, and leaving nothing behind."""

from collections.abc import Iterator, Sequence

import numpy as np
from bson.timestamp import Timestamp
from pymongo.errors import BulkWriteError

from streams.contract.documents import (
    Output,
    OutputError,
)
from streams.contract.ids import DocumentId
from streams.contract.pipeline import Model, Pipeline
from streams.contract.values import Value
from streams.contract.writes import (
    MEND,
    OutputWrite,
    fields_of,
    malformed,
    update_of,
)
from streams.errors import StoreRefuses
from streams.mongo.client import cluster_time, mongo_errors
from streams.mongo.rejections import SCHEMA, rejections
from streams.mongo.store import DocumentStore


def rehearse(store: DocumentStore) -> bool:
    """Write outputs and errors into the newest document, in a transaction that is given up.

    Returns:
        Whether there is a document to try it with.

    Raises:
        StoreUnavailable: MongoDB does not answer.
        StoreRefuses: It would refuse them; the message says why and what to do.
    """
    documents = store.collection
    client = documents.database.client
    with mongo_errors("trying to write outputs"), client.start_session() as session:
        newest = documents.find_one({}, {"_id": 1}, sort=[("_id", -1)])
        if newest is None:
            return False
        chosen = {"_id": {"$eq": newest["_id"]}}
        session.start_transaction()
        try:
            documents.update_many(malformed(chosen, store.pipeline), MEND, session=session)
            for write in _writes(newest["_id"], cluster_time(client), store.pipeline):
                update = update_of(write, fields_of(write), store.pipeline)
                documents.bulk_write([update], session=session)
        except BulkWriteError as exc:
            reasons = [reason for reason in rejections(exc).values() if SCHEMA in reason]
            if reasons:  # else it is about this document alone
                msg = f"MongoDB refuses outputs: {reasons[0]}"
                raise StoreRefuses(msg) from exc
        finally:
            session.abort_transaction()
    return True


def _writes(document_id: DocumentId, source: Timestamp, pipeline: Pipeline) -> list[OutputWrite]:
    """Return outputs of all sorts and an error of every model, with every field they can have."""
    values: tuple[Value, ...] = (np.zeros(8, np.float32), "a text", {"a": [1]})
    error = OutputError(type="t", message="m", attempts=1, is_retryable=False, version="another")
    return [
        OutputWrite(document_id=document_id, source=source, model=model, result=result)
        for model in pipeline.models.values()
        for result in _results(values, model, error)
    ]


def _results(
    values: Sequence[Value], model: Model, error: OutputError
) -> Iterator[Output | OutputError]:
    inputs = dict.fromkeys(model.inputs, "rehearsal")
    for number, value in enumerate(values):
        yield Output(value=value, version=f"v{number}", inputs=inputs, score=0.0, url="u")
    yield error
