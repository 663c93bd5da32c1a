"""The promise, checked from outside: every live document holds what its current image gives.

Writes nothing and fetches nothing: of images behind URLs the embedding is checked by its URL, not
by its numbers. What looks wrong may be on its way, so it is looked at again before it is reported.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import torch

from streams.contract.documents import (
    stored_image,
    url_of,
)
from streams.contract.ids import DocumentId, split_ids
from streams.errors import InvalidImage
from streams.images.image import image_bytes
from streams.images.pool import DecodePool
from streams.mongo.client import Document, mongo_errors
from streams.mongo.store import DocumentStore
from streams.operate.checks import (
    Recomputer,
    current_outputs,
    errors_of,
    problem_of_errors,
    root_of,
    unfinished,
    unreadable,
)
from streams.operate.dead_letter_log import DeadLetterLog
from streams.registry.versions import Registry
from streams.settings import Settings

_PAUSE_SECONDS: Final = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One document that is not as it should be."""

    document_id: DocumentId
    problem: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a check found.

    Attributes:
        checked: Number of documents looked at.
        findings: Those that are wrong, and stayed so.
        errors: Number of documents that carry an error, right or wrong, by its type.
    """

    checked: int
    findings: Sequence[Finding]
    errors: Mapping[str, int]


class Verifier:
    """Compares documents with what their images give. One thread at a time."""

    def __init__(
        self, settings: Settings, store: DocumentStore, registry: Registry, decoders: DecodePool
    ) -> None:
        """Keep what is needed.

        Args:
            settings: As the stages have them: which CLIP, limits of images.
            store: The documents.
            registry: Versions, and which of them serve.
            decoders: Decode images, whatever these do to them.
        """
        self._settings = settings
        self._store = store
        self._registry = registry
        self._decoders = decoders
        self._pipeline = store.pipeline
        self._recomputer = Recomputer(settings, registry, store.pipeline)

    def verify(
        self,
        sample: int | None = None,
        *,
        patience_seconds: float = 30.0,
        watch: Callable[[int], None] = lambda _: None,
    ) -> Verification:
        """Check documents.

        Args:
            sample: How many, drawn at random; all when None.
            patience_seconds: How long a document may stay wrong before it is reported.
            watch: Called with the number of documents checked so far.

        Raises:
            SettingsError: CLIP cannot be had.
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The dead letters cannot be read.
        """
        checked = 0
        errors: Counter[str] = Counter()
        findings: list[Finding] = []
        with closing(DeadLetterLog(self._settings.kafka, self._pipeline.topics)) as letters:
            letters.refresh()
            for batch in self._batches(self._read(sample)):
                findings += self._check(batch, letters)
                errors.update(
                    kind for row in batch for kind in {*errors_of(row, self._pipeline).values()}
                )
                checked += len(batch)
                watch(checked)
            deadline = time.monotonic() + patience_seconds
            while findings and time.monotonic() < deadline:
                time.sleep(_PAUSE_SECONDS)
                letters.refresh()
                again = self._read_again([finding.document_id for finding in findings])
                findings = [f for b in self._batches(again) for f in self._check(b, letters)]
        return Verification(checked=checked, findings=findings, errors=errors)

    def _check(self, documents: Sequence[Document], letters: DeadLetterLog) -> list[Finding]:
        """Check one batch.

        1. Compare everything but the embeddings, document by document.
        2. Compare the embeddings that are left, as one batch.
        """
        serving = self._registry.serving(self._pipeline)
        root = root_of(self._pipeline).name
        images = [self._pixels(document) for document in documents]
        problems = [  # 1
            unreadable(document, self._pipeline)
            or unfinished(document, serving)
            or self._problem(document, image, letters)
            for document, image in zip(documents, images, strict=True)
        ]
        todo = {
            i: (image, embedding)
            for i, image in enumerate(images)
            if isinstance(image, torch.Tensor)  # no URL
            and not problems[i]
            and (embedding := current_outputs(documents[i], self._pipeline).get(root)) is not None
        }
        found = self._recomputer.compare_embeddings(
            [image for image, _ in todo.values()], [embedding for _, embedding in todo.values()]
        )
        for i, problem in zip(todo, found, strict=True):  # 2
            problems[i] = problem
        return [
            Finding(document_id=document["_id"], problem=problem)
            for document, problem in zip(documents, problems, strict=True)
            if problem
        ]

    def _problem(
        self,
        document: Document,
        image: torch.Tensor | InvalidImage | None,
        letters: DeadLetterLog,
    ) -> str:
        """Return what is wrong with a finished document, its embedding's numbers aside."""
        kept = self._settings.kafka.dead_letter_retention_hours
        return problem_of_errors(
            document, image, letters, self._pipeline, kept_hours=kept
        ) or self._recomputer.problem_of_outputs(document)

    def _pixels(self, document: Document) -> torch.Tensor | InvalidImage | None:
        """Return the image; None for one behind a URL, where other bytes may be by now."""
        if url_of(document) is not None:
            return None
        try:
            image = self._decoders.decode(image_bytes(stored_image(document), self._settings.image))
            return self._recomputer.encoder.preprocess(image)  # (3, H, W)
        except InvalidImage as exc:
            return exc

    def _read(self, sample: int | None) -> Iterator[Document]:
        stages: list[dict[str, Any]] = [{"$project": self._store.read_fields}]
        if sample is not None:
            stages.insert(0, {"$sample": {"size": sample}})
        with mongo_errors("reading documents"):
            yield from self._store.collection.aggregate(stages)

    def _read_again(self, ids: Sequence[DocumentId]) -> Iterator[Document]:
        for piece in split_ids(ids):
            query = {"_id": {"$in": piece}}
            with mongo_errors("reading documents"):
                yield from self._store.collection.find(query, self._store.read_fields)

    def _batches(self, documents: Iterable[Document]) -> Iterator[list[Document]]:
        rest = iter(documents)
        while batch := list(islice(rest, self._settings.stage.batch_size)):
            yield self._store.no_room.lay_over(batch)
