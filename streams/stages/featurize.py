"""The step of `featurize`: from a changed document to its CLIP embedding.

Reads the images from MongoDB (they never travel on Kafka) or fetches them, decodes them side by
side in processes of their own, encodes them as one batch. An image that cannot be decoded fails
alone, also if it kills its decoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import cast

import numpy as np
import torch

from streams import metrics
from streams.decoding.pool import DecodePool
from streams.documents import (
    CLIP,
    IMAGE,
    MODELS,
    Output,
    document_key,
    fingerprint,
    stored_output,
    url_of,
)
from streams.errors import DocumentError, InvalidEvent, InvalidImage, ModelFailed
from streams.events import DocumentDeleted, ImageChanged, ModelApplied
from streams.fetching.fetcher import Fetcher
from streams.models.clip import ClipEncoder
from streams.models.image import image_bytes
from streams.mongo import Document
from streams.settings import ImageSettings
from streams.stages.outcome import Failed, Input, Ok, Outcome, Result
from streams.store import DocumentStore

Fetched = Document | DocumentError
"""A document with its image's bytes, or why they cannot be had."""


class Featurize:
    """CLIP over the images of a batch of changed documents."""

    def __init__(
        self,
        store: DocumentStore,
        encoder: ClipEncoder,
        limits: ImageSettings,
        decoders: DecodePool,
        fetcher: Fetcher,
    ) -> None:
        """Keep what is needed; each worker of `decoders` has a thread here that prepares tensors.

        So at most as many decoded images are in memory as there are workers.
        """
        self._store = store
        self._encoder = encoder
        self._limits = limits
        self._decoders = decoders
        self._fetcher = fetcher
        self._threads = ThreadPoolExecutor(decoders.workers, thread_name_prefix="decode")

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`."""
        documents = self._fetch(
            self._read([event for event in events if isinstance(event, ImageChanged)])
        )
        outcomes = [self._without_model(event, documents) for event in events]
        todo = [i for i, outcome in enumerate(outcomes) if outcome is None]
        images = [cast(Document, documents[document_key(events[i].document_id)]) for i in todo]
        for i, outcome in zip(todo, self._encode([events[i] for i in todo], images), strict=True):
            outcomes[i] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def self_test(self) -> bool:
        """Whether the encoder still encodes its test image to finite numbers."""
        return self._encoder.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version of the encoder."""
        return {CLIP.name: self._encoder.version}

    def _read(self, events: Sequence[ImageChanged]) -> Mapping[bytes, Document]:
        if not events:
            return {}
        newest = max(event.source for event in events)
        return self._store.read_inputs([event.document_id for event in events], after=newest)

    def _fetch(self, documents: Mapping[bytes, Document]) -> Mapping[bytes, Fetched]:
        """Put bytes in the place of URLs. Each is fetched anew: what is there may have changed."""
        urls = {key: url for key, document in documents.items() if (url := url_of(document))}
        if not urls:
            return documents
        contents = self._fetcher.fetch_all(set(urls.values()))
        found: dict[bytes, Fetched] = dict(documents)
        for key, url in urls.items():
            content = contents[url]
            if isinstance(content, bytes):
                found[key] = {**documents[key], IMAGE: content}
            else:
                found[key] = content
        return found

    def _without_model(self, event: Input, documents: Mapping[bytes, Fetched]) -> Outcome | None:
        """Return the outcome if no model is needed for it, else None."""
        if isinstance(event, DocumentDeleted):
            return Ok(event=event, result=Result.DELETED)
        if not isinstance(event, ImageChanged):
            return Failed(error=InvalidEvent(f"featurize got a {type(event).__name__}"))
        document = documents.get(document_key(event.document_id))
        if document is None:
            return Ok(event=None, result=Result.DELETED)
        try:
            if isinstance(document, DocumentError):
                raise document
            digest = fingerprint(image_bytes(document.get(IMAGE), self._limits))
        except DocumentError as exc:
            return Failed(error=exc, version=self._encoder.version)
        stored = stored_output(document, CLIP, digest)
        if stored is None or stored.version != self._encoder.version:
            return None
        return Ok(event=_applied(event, document, digest, stored), result=Result.REUSED)

    def _encode(self, events: Sequence[Input], documents: Sequence[Document]) -> list[Outcome]:
        prepared = list(self._threads.map(self._prepare, documents))
        tensors = [item for item in prepared if isinstance(item, torch.Tensor)]
        vectors: Iterator[np.ndarray] = iter(())
        if tensors:
            vectors = iter(self._encoder.encode(torch.stack(tensors)))  # (B, 3, H, W) -> (B, D)
            metrics.MODEL_CALLS.labels(CLIP.name).inc(len(tensors))
        return [
            Failed(error=item, version=self._encoder.version)
            if isinstance(item, InvalidImage)
            else self._outcome(event, document, next(vectors))
            for event, document, item in zip(events, documents, prepared, strict=True)
        ]

    def _prepare(self, document: Document) -> torch.Tensor | InvalidImage:
        try:
            image = self._decoders.decode(image_bytes(document.get(IMAGE), self._limits))
            return self._encoder.preprocess(image)  # (3, H, W)
        except InvalidImage as exc:
            return exc

    def _outcome(self, event: Input, document: Document, vector: np.ndarray) -> Outcome:
        if not np.isfinite(vector).all():
            error = ModelFailed("CLIP returned numbers that are not finite; check its weights")
            return Failed(error=error, version=self._encoder.version)
        digest = fingerprint(image_bytes(document.get(IMAGE), self._limits))
        output = Output(value=vector, version=self._encoder.version)
        return Ok(event=_applied(event, document, digest, output), result=Result.DONE)


def _applied(event: Input, document: Document, digest: str, output: Output) -> ModelApplied:
    """Carry the new embedding, and what is stored downstream for the same image."""
    assert isinstance(event, ImageChanged)  # noqa: S101 - `_without_model` has sorted the rest out
    outputs = {CLIP.name: output}
    for model in MODELS:
        stored = stored_output(document, model, digest)
        if stored is not None:
            outputs.setdefault(model.name, stored)
    return ModelApplied(
        document_id=event.document_id,
        source=event.source,
        origin=event.origin,
        input=digest,
        model=CLIP.name,
        outputs=outputs,
    )
