"""Outputs of one model version on demand, for documents and image files. Writes nothing, anywhere.

Knows neither topics nor stages. A document's stored features are used where they are those that the
version reads; else, and for a file, they are computed from the image.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streams.contract.documents import (
    Output,
    fingerprint,
    output_from_url,
    stored_image,
    stored_output,
    url_of,
)
from streams.contract.ids import DocumentId
from streams.contract.manifest import Feature
from streams.contract.pipeline import IMAGE, OUTPUTS
from streams.contract.versions import output_version
from streams.errors import DocumentError, FeatureMismatch, InvalidImage, ModelNotFound
from streams.images.fetcher import Fetcher
from streams.images.image import image_bytes
from streams.images.pool import DecodePool
from streams.models.clip import ClipEncoder
from streams.models.kinds.find import load
from streams.models.kinds.items import item_of
from streams.models.kinds.kind import Made
from streams.mongo.client import mongo_errors
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry
from streams.settings import Settings


class OnDemand:
    """One version of one model, ready to be applied."""

    def __init__(
        self,
        name: str,
        version: str | None,
        settings: Settings,
        registry: Registry,
        store: DocumentStore,
        *,
        decoders: DecodePool,
    ) -> None:
        """Load the version. CLIP is loaded when an image has to be encoded.

        Args:
            name: Name of the model.
            version: Version, or a unique beginning of one; None for the one that serves.
            settings: Which CLIP there is, limits of images, batch size.
            registry: Where versions are.
            store: Where documents are.
            decoders: Decode images, whatever these do to them.

        Raises:
            ModelNotFound: There is no such model or version.
            InvalidBundle: The version is damaged.
            SettingsError: CLIP cannot be had.
            StoreUnavailable: MongoDB does not answer.
        """
        models = store.pipeline.models
        if name not in models:
            msg = f"no active model is called {name!r}; choose one of {', '.join(models)}"
            raise ModelNotFound(msg)
        self._model = models[name]
        self._root = models[(*self._model.ancestors, name)[0]]
        self._settings = settings
        self._registry = registry
        self._store = store
        self._decoders = decoders
        self._feature: Feature | None = None
        if self._model is self._root:
            self.version = self._encoder.version
            if version is not None and not self.version.startswith(version):
                msg = f"clip {version} is not the one of these settings, which is {self.version}"
                raise ModelNotFound(msg)
            return
        bundle = registry.fetch(name, self._choose(name, version))
        self.version = output_version(self._model.declaration, bundle.version)
        self._feature = bundle.manifest.features.get(self._root.name)
        self._predictor = load(self._model.declaration, bundle)

    def apply(self, inputs: Sequence[Path | DocumentId]) -> Iterator[Output | DocumentError]:
        """Yield what comes of each input, in order; one that fails, fails alone.

        Args:
            inputs: Image files, and ids of documents.

        Raises:
            SettingsError: CLIP cannot be had.
            StoreUnavailable: MongoDB does not answer.
        """
        size = self._settings.stage.batch_size
        for start in range(0, len(inputs), size):
            yield from self._apply_batch(inputs[start : start + size])

    def _apply_batch(self, inputs: Sequence[Path | DocumentId]) -> list[Output | DocumentError]:
        """Apply to one batch.

        1. Read the documents and files.
        2. Find or compute the embedding of each.
        3. Apply the model to those that have one.
        """
        embeddings = self._embed([self._read(item) for item in inputs])  # 1, 2
        if self._feature is None:
            return embeddings
        made = [item for item in embeddings if isinstance(item, Output)]
        declaration, predict = self._model.declaration, self._predictor.predict
        fields = declaration.features
        items = [item_of(declaration, dict.fromkeys(fields, item.value)) for item in made]
        results = iter(predict([self._predictor.preprocess(item) for item in items]))
        return [
            self._output(item, next(results)) if isinstance(item, Output) else item  # 3
            for item in embeddings
        ]

    def _output(self, embedding: Output, made: Made | DocumentError) -> Output | DocumentError:
        if isinstance(made, DocumentError):
            return made
        features = {self._root.name: embedding.version}
        return Output(value=made.value, version=self.version, features=features, score=made.score)

    def _read(self, item: Path | DocumentId) -> Mapping[str, Any] | DocumentError:
        if isinstance(item, Path):
            return self._read_file(item)
        with mongo_errors("reading a document"):
            document = self._store.collection.find_one(
                {"_id": {"$eq": item}}, {IMAGE: 1, OUTPUTS: 1}
            )
        if document is None:
            return InvalidImage(f"there is neither a file nor a document {item}")
        return document

    def _read_file(self, path: Path) -> Mapping[str, Any] | DocumentError:
        try:
            if path.stat().st_size > self._settings.image.max_bytes:
                return InvalidImage(f"{path} is larger than CAPTIONSTREAM_IMAGE__MAX_BYTES")
            return {IMAGE: path.read_bytes()}
        except OSError as exc:
            return InvalidImage(f"cannot read {path}: {exc.strerror}")

    def _embed(
        self, documents: Sequence[Mapping[str, Any] | DocumentError]
    ) -> list[Output | DocumentError]:
        """Return the embedding of each document: the stored one if it is right, else a new one."""
        found = [
            item if isinstance(item, DocumentError) else self._stored_or_pixels(item)
            for item in documents
        ]
        todo = [item for item in found if isinstance(item, torch.Tensor)]
        rows = iter(self._encoder.encode(torch.stack(todo)) if todo else ())
        return [
            self._checked(Output(value=next(rows), version=self._encoder.version))
            if isinstance(item, torch.Tensor)
            else item
            for item in found
        ]

    def _stored_or_pixels(
        self, document: Mapping[str, Any]
    ) -> Output | torch.Tensor | DocumentError:
        """Return the stored embedding if it is right, also of a URL that is dead by now."""
        url, stored = url_of(document), output_from_url(document, self._root)
        try:
            if stored is not None and self._reads(stored):
                return self._checked(stored)
            image = stored_image(document) if url is None else self._fetcher.fetch(url)
            data = image_bytes(image, self._settings.image)
            stored = stored_output(document, self._root, {IMAGE: fingerprint(data)})
            if stored is not None and self._reads(stored):
                return self._checked(stored)
            return self._encoder.preprocess(self._decoders.decode(data))
        except DocumentError as exc:
            return exc

    def _reads(self, embedding: Output) -> bool:
        """Whether the version reads embeddings of that CLIP; CLIP itself reads none."""
        if self._feature is None:
            return False
        return embedding.version == (self._feature.version or self._serving_clip)

    def _checked(self, embedding: Output) -> Output | DocumentError:
        """Return the embedding if the version reads such ones."""
        feature, value = self._feature, np.asarray(embedding.value)
        if not np.isfinite(value).all():
            return FeatureMismatch(f"clip {embedding.version} gives numbers that are not finite")
        if feature is None:
            return embedding
        if feature.version not in (None, embedding.version):
            msg = (
                f"{self.version} was fitted on clip {feature.version}, the settings give"
                f" {embedding.version}; set CAPTIONSTREAM_CLIP__MODEL and __PRETRAINED"
            )
            return FeatureMismatch(msg)
        if value.shape != (feature.dimension,):
            msg = f"clip has shape {value.shape}, {self.version} reads ({feature.dimension},)"
            return FeatureMismatch(msg)
        return embedding

    @cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self._settings.fetch, max_bytes=self._settings.image.max_bytes)

    @cached_property
    def _encoder(self) -> ClipEncoder:
        return ClipEncoder(self._settings.clip)

    @cached_property
    def _serving_clip(self) -> str | None:
        pointer = self._registry.pointer(self._root.name)
        return pointer.serving if pointer else None

    def _choose(self, name: str, version: str | None) -> str:
        if version is not None:
            return self._registry.describe(name, version).version
        pointer = self._registry.pointer(name)
        if pointer is None or pointer.serving is None:
            msg = f"no version of {name} serves; name one with --version"
            raise ModelNotFound(msg)
        return pointer.serving
