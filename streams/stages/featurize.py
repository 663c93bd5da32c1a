"""The step of a model that reads images: from a changed document to its CLIP embedding.

Finds the images (they never travel on Kafka), decodes them side by side in processes of their own,
encodes them as one batch. An image that cannot be decoded fails alone, also if it kills its
decoder. An image behind a URL is fetched while other events are handled.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from bson.timestamp import Timestamp

from streams import metrics
from streams.contract.documents import (
    Output,
    lookup,
    stored_output,
)
from streams.contract.events import DocumentChanged, DocumentDeleted, ModelApplied
from streams.contract.ids import document_key
from streams.contract.pipeline import IMAGE, Model, Pipeline
from streams.errors import DocumentError, InvalidEvent, InvalidImage, ModelFailed
from streams.images.find import AwaitedImage, Found, FoundImage, ImageSource, Postponed
from streams.images.pool import DecodePool
from streams.models.clip import ClipEncoder
from streams.stages.outcome import Failed, Input, Ok, Outcome, Result, Waiting


class Featurize:
    """CLIP over the images of a batch of changed documents."""

    def __init__(
        self,
        model: Model,
        pipeline: Pipeline,
        images: ImageSource,
        encoder: ClipEncoder,
        decoders: DecodePool,
    ) -> None:
        """Keep what is needed; each worker of `decoders` has a thread here that prepares tensors.

        So at most as many decoded images are in memory as there are workers.
        """
        self._model = model
        self._pipeline = pipeline
        self._images = images
        self._encoder = encoder
        self._decoders = decoders
        self._threads = ThreadPoolExecutor(decoders.workers, thread_name_prefix="decode")

    def run(self, events: Sequence[Input]) -> list[Outcome]:
        """Return one outcome for each event. See `Step.run`."""
        changes = [event for event in events if isinstance(event, DocumentChanged)]
        found = self._images.find(changes, version=self._encoder.version)
        outcomes = [self._without_model(event, found) for event in events]
        todo = [i for i, outcome in enumerate(outcomes) if outcome is None]
        images = [cast(FoundImage, found[document_key(events[i].document_id)]) for i in todo]
        for i, outcome in zip(todo, self._encode([events[i] for i in todo], images), strict=True):
            outcomes[i] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    def self_test(self) -> bool:
        """Whether the encoder still encodes its test image to finite numbers."""
        return self._encoder.self_test()

    def versions(self) -> Mapping[str, str]:
        """Return the version of the encoder."""
        return {self._model.name: self._encoder.version}

    def _without_model(self, event: Input, found: Mapping[bytes, Found]) -> Outcome | None:
        """Return the outcome if no model is needed for it, else None."""
        if isinstance(event, DocumentDeleted):
            return Ok(event=event, result=Result.DELETED)
        if not isinstance(event, DocumentChanged):
            return Failed(error=InvalidEvent(f"{self._model.name} got a {type(event).__name__}"))
        image = found.get(document_key(event.document_id))
        if not isinstance(image, FoundImage):
            return self._without_image(image)
        stored = stored_output(image.document, self._model, {IMAGE: image.digest})
        if stored is None or stored.version != self._encoder.version:
            return None
        output = replace(stored, url=image.url)
        return Ok(event=self._applied(event, image, output), result=Result.REUSED)

    def _without_image(self, instead: DocumentError | AwaitedImage | Postponed | None) -> Outcome:
        if instead is None:
            return Ok(event=None, result=Result.DELETED)
        if isinstance(instead, AwaitedImage):
            return Waiting(event=instead, until=instead.fetched)
        if isinstance(instead, Postponed):
            return Ok(event=None, result=Result.POSTPONED)
        return Failed(error=instead, version=self._encoder.version)

    def _encode(self, events: Sequence[Input], images: Sequence[FoundImage]) -> list[Outcome]:
        prepared = list(self._threads.map(self._prepare, images))
        tensors = [item for item in prepared if isinstance(item, torch.Tensor)]
        vectors: Iterator[np.ndarray] = iter(())
        if tensors:
            vectors = iter(self._encoder.encode(torch.stack(tensors)))  # (B, 3, H, W) -> (B, D)
            metrics.MODEL_CALLS.labels(self._model.name).inc(len(tensors))
        return [
            Failed(error=item, version=self._encoder.version)
            if isinstance(item, InvalidImage)
            else self._outcome(event, image, next(vectors))
            for event, image, item in zip(events, images, prepared, strict=True)
        ]

    def _prepare(self, image: FoundImage) -> torch.Tensor | InvalidImage:
        try:
            return self._encoder.preprocess(self._decoders.decode(image.content))  # (3, H, W)
        except InvalidImage as exc:
            return exc

    def _outcome(self, event: Input, image: FoundImage, vector: np.ndarray) -> Outcome:
        if not np.isfinite(vector).all():
            error = ModelFailed("CLIP returned numbers that are not finite; check its weights")
            return Failed(error=error, version=self._encoder.version)
        output = Output(
            value=vector,
            version=self._encoder.version,
            inputs={IMAGE: image.digest},
            url=image.url,
        )
        return Ok(event=self._applied(event, image, output), result=Result.DONE)

    def _applied(self, event: Input, image: FoundImage, output: Output) -> ModelApplied:
        """Carry the new embedding, and what is stored downstream for the same image."""
        assert isinstance(event, DocumentChanged)  # noqa: S101 - `_without_model` sorted the rest
        outputs = {self._model.name: output}
        for model in self._pipeline.models.values():
            stored = stored_output(image.document, model, {IMAGE: image.digest})
            if stored is not None:
                outputs.setdefault(model.name, stored)
        return ModelApplied(
            document_id=event.document_id,
            source=self._source(event, image),
            origin=event.origin,
            model=self._model.name,
            outputs=outputs,
            changed_at=event.changed_at,
        )

    def _source(self, event: DocumentChanged, image: FoundImage) -> Timestamp:
        """Return the change that was read: that of the event, or the earliest that may follow it.

        What is stored was made for the event's change of another image, so there is a later change,
        whose event is lost or still to come. A late record of the other image must not win over
        this one, nor this one over what is made for the later change.
        """
        stored = lookup(image.document, self._model.path) or {}
        made_of = lookup(stored, f"input.{IMAGE}")
        if lookup(stored, "source") != event.source or made_of in (None, image.digest):
            return event.source
        return Timestamp(event.source.time, event.source.inc + 1)
