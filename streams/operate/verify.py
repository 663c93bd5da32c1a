"""The promise, checked from outside: every live document holds what its fields give now.

Writes nothing and fetches nothing: what was made of an image behind a URL is checked by its URL;
all else is computed again. What looks wrong may be on its way, so it is looked at again before it
is reported.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from streams.contract.documents import unread_format
from streams.contract.ids import DocumentId, split_ids
from streams.contract.pipeline import Pipeline
from streams.contract.states import Serving, pending_model
from streams.images.pool import DecodePool
from streams.mongo.client import Document, mongo_errors
from streams.mongo.store import DocumentStore
from streams.operate.checks import Recomputer
from streams.operate.computing import Computing
from streams.operate.dead_letter_log import DeadLetterLog
from streams.operate.reported import errors_of, unreported
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
    """Compares documents with what their fields give. One thread at a time."""

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
        self._pipeline = store.pipeline
        self._recomputer = Recomputer(Computing(settings, registry, decoders), store.pipeline)

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
            SettingsError: CLIP, or a user's class, cannot be had.
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
        """Check one batch; what is known to be wrong is not computed again."""
        serving = self._registry.serving(self._pipeline)
        kept = self._settings.kafka.dead_letter_retention_hours
        problems = [
            _unreadable(document, self._pipeline)
            or _unfinished(document, serving)
            or unreported(document, letters, self._pipeline, kept_hours=kept)
            for document in documents
        ]
        todo = [i for i, problem in enumerate(problems) if not problem]
        found = self._recomputer.problems([documents[i] for i in todo], serving)
        for i, problem in zip(todo, found, strict=True):
            problems[i] = problem
        return [
            Finding(document_id=document["_id"], problem=problem)
            for document, problem in zip(documents, problems, strict=True)
            if problem
        ]

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


def _unreadable(document: Document, pipeline: Pipeline) -> str:
    """Return which output or error is of another format, with the remedy; "" when none is."""
    return next(filter(None, (unread_format(document, m) for m in pipeline.models.values())), "")


def _unfinished(document: Document, serving: Serving) -> str:
    """Return which model has to run yet; "" when none has."""
    model = pending_model(document, serving)
    return f"{model.name} has to run" if model is not None else ""
