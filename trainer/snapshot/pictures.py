"""The pictures of documents, by the ids that snapshots and validation sets hold."""

from collections.abc import Sequence
from typing import Any

from pymongo import MongoClient

from streams.contract.ids import document_id_of, document_key
from streams.contract.pipeline import IMAGE
from streams.mongo.client import mongo_errors
from streams.mongo.store import watched_collection
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
    query = {"_id": {"$in": [document_id_of(text.encode()) for text in ids]}}
    with mongo_errors("reading pictures"):
        return {
            document_key(document["_id"]).decode(): document[IMAGE]
            for document in watched_collection(client, settings).find(query, {IMAGE: 1})
            if IMAGE in document
        }
