"""Whether a document holds all that its image makes, so that nothing has to be published of it.

What costs what. A document that is unfinished by its versions, or holds an error, is found by its
outputs alone. One that looks finished holds the outputs of *some* image: only the bytes show
which, as nothing else in a document moves with them, so they are read and hashed here; no record,
no stage and no write follows. There is one case in which that is safe without the bytes: when the
stored embedding is of a change at or after the time from which nothing can have been missed
(`since`). It was made from a read that includes that time.

An image behind a URL is never fetched for this: it counts as the one that was fetched from there.

What is not seen: an image that was changed and changed back while the record of the first change is
still on its way through the stages and that of the second was lost. The next copy finds that.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Final

from bson.timestamp import Timestamp

from streams.contract.default_pipeline import (
    CLIP,
    CONDITIONAL_LM,
    MODELS,
)
from streams.contract.documents import (
    IMAGE,
    embedding_from_url,
    fingerprint,
    lookup,
    stored_image,
    stored_output,
    url_of,
)
from streams.contract.ids import DocumentId
from streams.contract.pipeline import (
    OUTPUTS,
)
from streams.contract.states import Serving, pending_model
from streams.mongo.client import Document, mongo_errors
from streams.mongo.store import DocumentStore

_SOURCE: Final = f"{CLIP.path}.source"


def projection(since: Timestamp) -> dict[str, Any]:
    """Return the projection that `is_finished` needs: images only where they have to be hashed."""
    is_older = {
        "$and": [
            {"$eq": [{"$type": f"${_SOURCE}"}, "timestamp"]},
            {"$lt": [f"${_SOURCE}", since]},
        ]
    }
    return {OUTPUTS: 1, IMAGE: {"$cond": [is_older, f"${IMAGE}", "$$REMOVE"]}}


def is_finished(document: Document, serving: Serving, *, since: Timestamp, beam_width: int) -> bool:
    """Whether running the pipeline for a document as it is now would change nothing.

    Args:
        document: Read with `projection(since)`, in a read that includes `since`.
        serving: The versions that serve.
        since: clusterTime from which on no change was missed.
        beam_width: That of the captions that are wanted.
    """
    source = lookup(document, _SOURCE)
    if pending_model(document, serving) is not None or not isinstance(source, Timestamp):
        return False
    return source >= since or _is_of_this_image(document, beam_width)


def find_changed(
    store: DocumentStore, ids: Sequence[DocumentId], serving: Serving, now: Timestamp
) -> Iterator[DocumentId]:
    """Yield those of some documents that look finished, but whose embedding is of another image.

    Of a change that is just on its way, too: publishing it again is harmless.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    query = {"_id": {"$in": list(ids)}}
    with mongo_errors("comparing images with fingerprints"), store.session(now) as session:
        for row in store.collection.find(query, projection(now), session=session):
            made_of = lookup(row, f"{CLIP.path}.input")
            if made_of and pending_model(row, serving) is None and made_of != _digest(row):
                yield row["_id"]


def _is_of_this_image(document: Document, beam_width: int) -> bool:
    digest = _digest(document)
    for model in MODELS:
        if lookup(document, model.path) is None:  # it waits for a version
            continue
        output = stored_output(document, model, digest)
        if output is None or (model is CONDITIONAL_LM and output.beam_width != beam_width):
            return False
    return True


def _digest(document: Document) -> str:
    """Return the fingerprint of the image; "", which no output is of, when there is none."""
    if url_of(document) is not None:
        is_known = embedding_from_url(document) is not None
        return str(lookup(document, f"{CLIP.path}.input")) if is_known else ""
    image = stored_image(document)
    return fingerprint(image) if isinstance(image, bytes) else ""
