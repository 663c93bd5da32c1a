"""Outputs of one model version on demand, for documents and image files. Writes nothing, anywhere.

Knows neither topics nor stages. What a document holds of upstream models is used where it is what
their versions would make now; else, and for a file, it is computed first.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from streams.contract.documents import (
    Output,
    current_inputs,
    fingerprint,
    lineage,
    stored_image,
    stored_output,
    url_of,
)
from streams.contract.ids import DocumentId
from streams.contract.pipeline import IMAGE, Model
from streams.errors import DocumentError, InvalidImage, ModelNotFound
from streams.images.fetcher import Fetcher
from streams.images.image import image_bytes
from streams.images.pool import DecodePool
from streams.models.kinds.kind import Predictor
from streams.mongo.client import Document, mongo_errors
from streams.mongo.store import DocumentStore
from streams.operate.computing import Computing
from streams.operate.versions_wanted import WantedVersions
from streams.registry.versions import Registry
from streams.settings import Settings


@dataclass(kw_only=True, slots=True)
class _Case:
    """One input on its way through the chain.

    Attributes:
        document: The document, or a file as one.
        inputs: Fingerprint of each field that models read.
        content: The encoded image, if one has to be read.
        url: Where that was fetched.
        todo: Models that have to be computed.
        outputs: What is stored and right, and what was computed.
        error: Why nothing more comes of it.
    """

    document: Document
    inputs: dict[str, str]
    content: bytes = b""
    url: str | None = None
    todo: frozenset[str] = frozenset()
    outputs: dict[str, Output] = field(default_factory=dict)
    error: DocumentError | None = None


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
        """Load the version. What it reads of other models is loaded when it has to be computed.

        Args:
            name: Name of the model.
            version: Version, or a unique beginning of one; None for the one that serves.
            settings: Which CLIP there is, limits of images, batch size.
            registry: Where versions are.
            store: Where documents are.
            decoders: Decode images, whatever these do to them.

        Raises:
            ModelNotFound: There is no such model or version, or one that it reads has none.
            ModelError: The version is damaged, or cannot be loaded here.
            SettingsError: CLIP, or a user's class, cannot be had.
            StoreUnavailable: MongoDB does not answer.
        """
        models = store.pipeline.models
        if name not in models:
            msg = f"no active model is called {name!r}; choose one of {', '.join(models)}"
            raise ModelNotFound(msg)
        self._model = models[name]
        self._way = (*store.pipeline.ancestors(self._model), self._model)
        self._settings = settings
        self._store = store
        self._computing = Computing(settings, registry, decoders)
        self._wanted = WantedVersions(self._way, version, registry, self._computing)
        self.version = self._wanted.versions[name]
        self._computing.predictor(self._model, self.version)

    def apply(self, inputs: Sequence[Path | DocumentId]) -> Iterator[Output | DocumentError]:
        """Yield what comes of each input, in order; one that fails, fails alone.

        Args:
            inputs: Image files, and ids of documents.

        Raises:
            ModelError: A version that has to compute what is read cannot be loaded here.
            SettingsError: CLIP, or a user's class, cannot be had.
            StoreUnavailable: MongoDB does not answer.
        """
        size = self._settings.stage.batch_size
        for start in range(0, len(inputs), size):
            yield from self._apply_batch(inputs[start : start + size])

    def _apply_batch(self, inputs: Sequence[Path | DocumentId]) -> list[Output | DocumentError]:
        """Apply to one batch: find what is there already, then compute the rest, upstream first."""
        cases = [self._case(item) for item in inputs]
        found = [case for case in cases if isinstance(case, _Case)]
        for model in self._way:
            chosen = [case for case in found if model.name in case.todo and case.error is None]
            if chosen:
                self._run(model, chosen)
        return [
            case
            if isinstance(case, DocumentError)
            else case.error or case.outputs[self._model.name]
            for case in cases
        ]

    def _case(self, item: Path | DocumentId) -> _Case | DocumentError:
        """Return an input with what is known of it; an image is fetched if it has to be read."""
        try:
            document = self._read_file(item) if isinstance(item, Path) else self._read(item)
            inputs = current_inputs(document, self._store.pipeline)
            case = self._planned(_Case(document=document, inputs=inputs))
            if any(model.has_image and model.name in case.todo for model in self._way):
                self._read_image(case)
        except DocumentError as exc:
            return exc
        return case

    def _planned(self, case: _Case) -> _Case:
        """Decide what has to be computed: the model itself, and what of its way is not there."""
        needed, todo, outputs = {self._model.name}, set(), {}
        for model in reversed(self._way):
            if model.name not in needed:
                continue
            stored = None if model is self._model else self._stored(model, case)
            if stored is not None:
                outputs[model.name] = stored
            else:
                todo.add(model.name)
                needed.update(model.reads)
        case.todo, case.outputs = frozenset(todo), outputs
        return case

    def _stored(self, model: Model, case: _Case) -> Output | None:
        """Return the stored output if the version that is wanted has made it of what is wanted."""
        output = stored_output(case.document, model, case.inputs)
        versions = self._wanted.versions
        if output is None or output.version != versions.get(model.name):
            return None
        made_of = {name: versions.get(name) for name in model.ancestors}
        return output if dict(output.features) == made_of else None

    def _read_image(self, case: _Case) -> None:
        """Read the image; what is stored counts only if it was made of the same one.

        Raises:
            DocumentError: There is none.
        """
        case.url = url_of(case.document)
        image = self._fetcher.fetch(case.url) if case.url else stored_image(case.document)
        case.content = image_bytes(image, self._settings.image)
        case.inputs[IMAGE] = fingerprint(case.content)
        self._planned(case)

    def _read(self, document_id: DocumentId) -> Document:
        with mongo_errors("reading a document"):
            document = self._store.collection.find_one(
                {"_id": {"$eq": document_id}}, self._store.read_fields
            )
        if document is None:
            msg = f"there is neither a file nor a document {document_id}"
            raise InvalidImage(msg)
        return document

    def _read_file(self, path: Path) -> Document:
        others = [name for name in self._model.inputs if name != IMAGE]
        if others:
            msg = (
                f"{path}: {self._model.name} depends on the field {others[0]!r}, which a file does"
                " not have: insert a document, and name its id"
            )
            raise DocumentError(msg)
        try:
            if path.stat().st_size > self._settings.image.max_bytes:
                msg = f"{path} is larger than CAPTIONSTREAM_IMAGE__MAX_BYTES"
                raise InvalidImage(msg)
            return {IMAGE: path.read_bytes()}
        except OSError as exc:
            msg = f"cannot read {path}: {exc.strerror}"
            raise InvalidImage(msg) from exc

    def _run(self, model: Model, cases: Sequence[_Case]) -> None:
        """Let a model compute a batch; what fails gets its error."""
        version = self._wanted.version_to_compute(model)
        predictor = self._computing.predictor(model, version)
        prepared = [self._prepared(model, predictor, case) for case in cases]
        made_of_all = self._computing.compute(model, predictor, prepared)
        for case, made in zip(cases, made_of_all, strict=True):
            if isinstance(made, DocumentError):
                case.error = made
                continue
            case.outputs[model.name] = Output(
                value=made.value,
                version=version,
                features=lineage(model, case.outputs),
                inputs={name: case.inputs[name] for name in model.inputs},
                score=made.score,
                url=case.url if model.has_image else None,
            )

    def _prepared(self, model: Model, predictor: Predictor, case: _Case) -> Any:
        try:
            self._wanted.check(model, case.outputs)
            image = self._computing.decode(case.content) if model.has_image else None
        except DocumentError as exc:
            return exc
        return self._computing.prepare(model, predictor, case.document, case.outputs, image)

    @cached_property
    def _fetcher(self) -> Fetcher:
        return Fetcher(self._settings.fetch, max_bytes=self._settings.image.max_bytes)
