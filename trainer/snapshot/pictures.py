"""The pictures of documents, by the ids that snapshots and validation sets hold."""

from collections.abc import Sequence
from typing import Any

from pymongo import MongoClient

from streams.contract.documents import IMAGE
from streams.contract.ids import document_id_of, document_key
from streams.mongo.client import cluster_time
from streams.mongo.store import DocumentStore
from streams.settings import MongoSettings


def read_pictures(
    client: MongoClient[dict[str, Any]], settings: MongoSettings, ids: Sequence[str]
) -> dict[str, object]:
    """Return the value of `img` by id; a document that is gone, or has none, is absent.

    Args:
        client: Where the documents are.
        settings: Which collection they are in.
        ids: Canonical extended JSON of each `_id`. All pictures are in memory at once.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    store = DocumentStore(client, settings)
    wanted = [document_id_of(text.encode()) for text in ids]
    found = store.read_inputs(wanted, after=cluster_time(client))
    return {
        document_key(document["_id"]).decode(): document[IMAGE]
        for document in found.values()
        if IMAGE in document
    }
