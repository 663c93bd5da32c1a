"""Documents that the pipeline has finished with, without the pipeline: what a snapshot reads."""

import numpy as np
from bson.timestamp import Timestamp

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    Output,
)
from streams.contract.writes import OutputWrite
from streams.mongo.client import state_database
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry
from tests.captioner import serve_clip
from tests.pipelines import CLIP
from trainer.snapshot.columns import Reads

CLIP_VERSION = "clip-test-1"
SOURCE = Timestamp(100, 1)
#: What the default pipeline reads.
READS = Reads(pipeline=DEFAULT)


def announce_clip(client, settings, version=CLIP_VERSION):
    """Let a CLIP version serve."""
    serve_clip(Registry(state_database(client, settings.mongo)), version)
    return version


def clip_write(document_id, vector, *, version=CLIP_VERSION, source=SOURCE):
    """Return the write of a CLIP output."""
    result = Output(value=np.asarray(vector, np.float32), version=version, inputs={"img": "ab"})
    return OutputWrite(document_id=document_id, source=source, model=CLIP, result=result)


def seed_documents(client, settings, count, *, dimension=4, fold=None, first_id=0):
    """Insert documents with captions and a current vector; return their ids."""
    announce_clip(client, settings)
    store = DocumentStore(client, settings.mongo, DEFAULT)
    ids = list(range(first_id, first_id + count))
    folds = {} if fold is None else {"_fold": fold}
    store.collection.insert_many(
        [{"_id": i, "captions": [f"a picture of number {i}", "a number"], **folds} for i in ids]
    )
    store.write_outputs(
        [clip_write(i, np.random.default_rng(i).standard_normal(dimension)) for i in ids]
    )
    return ids
