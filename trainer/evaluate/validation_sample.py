"""Drawing a validation set from the documents, once."""

import hashlib
import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pymongo import MongoClient

from streams.contract.folds import fold_of
from streams.contract.ids import DocumentId, document_id_of, document_key
from streams.errors import InvalidValidationSet, TooLittleData
from streams.mongo.client import Document, mongo_errors, state_database
from streams.mongo.store import DocumentStore
from streams.registry.versions import Registry
from streams.settings import MongoSettings
from trainer.snapshot.columns import Reads, Wanted, feature_column, wanted_of
from trainer.snapshot.content import Content, content_of, projection_of, query_of
from trainer.snapshot.validation_set import Entry, ValidationSet, ValidationSets, digest_of
from trainer.snapshot.writer import serving_versions

SCENE: Final = "scene"

_BATCH: Final = 1000

#: The pipeline will still give such a document an output; whatever else is missing stays missing.
_NOT_YET: Final = frozenset({"without_output", "other_version"})


@dataclass(frozen=True, kw_only=True, slots=True)
class _Found:
    """One document, and the entry that it makes; None when it can make none."""

    id: str
    entry: Entry | None
    content: Content


def create_validation_set(
    client: MongoClient[Document],
    settings: MongoSettings,
    reads: Reads,
    *,
    name: str = "default",
    sample_size: int = 500,
    chunk_size: int = 100,
    seed: int = 0,
    refresh: bool = False,
) -> ValidationSet:
    """Return the set of this name; draw and keep it if there is none.

    The sample is drawn from documents of the fold `test` that a model can be measured on: no fit
    sees them, not for choosing its epoch either. It follows from the seed and the ids alone. Stored
    outputs are used; no model is run. At a refresh, documents that are gone, failed or without
    captions by now leave the set.

    Args:
        client: Client of the replica set.
        settings: Which collection.
        reads: The models; what any of them reads is in the set, but images are not.
        name: Name of the set.
        sample_size: How many documents; all when there are fewer.
        chunk_size: Entries that are stored together.
        seed: Decides the sample.
        refresh: If versions have changed, or more is read by now, keep the same documents with
            their new outputs.

    Raises:
        TooLittleData: No document can be used, or at a refresh some have no new output yet.
        InvalidValidationSet: One of this name exists with other options or of other versions, or is
            damaged.
        ModelNotFound: No version serves of what is read.
        StoreUnavailable: MongoDB does not answer.
    """
    state = state_database(client, settings)
    sets = ValidationSets(state)
    wanted = wanted_of(reads, serving_versions(Registry(state), reads.pipeline))
    stored = sets.find(name)
    if stored is not None:
        _check_options(stored, sample_size=sample_size, chunk_size=chunk_size, seed=seed)
        if not refresh:
            _check_versions(stored, wanted)
            return stored
        if stored.versions == wanted.feature_versions:
            return stored
    store = DocumentStore(client, settings, reads.pipeline)
    if stored is None:
        ids = _draw(store, wanted, size=sample_size, seed=seed)
        found = list(_read(store, ids, wanted, chunk_size))
    else:
        found = _renewed(store, stored, wanted)
    entries = tuple(document.entry for document in found if document.entry is not None)
    _check_any(entries)
    made = ValidationSet(
        name=name,
        seed=seed,
        versions={n: v for n, v in wanted.feature_versions.items() if _is_in(n, entries)},
        digest=digest_of(entries),
        entries=entries,
        sample_size=sample_size,
        chunk_size=chunk_size,
        passed_over=sum(document.content.passed_over for document in found),
    )
    sets.keep(made)
    return made


def _is_in(model: str, entries: Iterable[Entry]) -> bool:
    return any(feature_column(model) in entry.values for entry in entries)


def _check_options(stored: ValidationSet, **wanted: int) -> None:
    found = {name: getattr(stored, name) for name in wanted}
    if found != wanted:
        values = ", ".join(f"{name} {value}" for name, value in found.items())
        msg = f"validation set {stored.name!r} is frozen with {values}; give another a new --name"
        raise InvalidValidationSet(msg)


def _check_versions(stored: ValidationSet, wanted: Wanted) -> None:
    for name, version in stored.versions.items():
        serving = wanted.feature_versions.get(name, version)
        if serving != version:
            msg = (
                f"validation set {stored.name!r} holds outputs of {name} {version}, and {serving}"
                " serves: `captionstream-trainer validation-set create --refresh` takes the same"
                " documents with their new outputs"
            )
            raise InvalidValidationSet(msg)


def _check_complete(found: Iterable[_Found], stored: ValidationSet, wanted: Wanted) -> None:
    """Refuse a refresh in the middle of a change: the set would lose documents for good."""
    before = {entry.id: entry.values for entry in stored.entries}
    waiting = sum(
        any(
            reason in _NOT_YET and column in before[document.id]
            for column, reason in document.content.missing.items()
        )
        for document in found
        if _can_teach(document.content, wanted)
    )
    if waiting:
        msg = (
            f"{waiting} documents of the validation set have no output of the new versions yet;"
            " try again when `captionstream status` shows nothing pending"
        )
        raise TooLittleData(msg)


def _can_teach(content: Content, wanted: Wanted) -> bool:
    """Whether a document has what is compared with, or will have it."""
    columns = {*content.values, *(c for c, why in content.missing.items() if why in _NOT_YET)}
    return bool(content.captions) or not columns.isdisjoint(wanted.lessons)


def _check_any(entries: Sequence[Entry]) -> None:
    if not entries:
        msg = (
            "no document of the fold `test` has captions and what a model reads: insert some"
            ' with `_fold: "test"`, or wait until they are through the pipeline'
        )
        raise TooLittleData(msg)


def _draw(store: DocumentStore, wanted: Wanted, *, size: int, seed: int) -> list[DocumentId]:
    """Return the ids whose hashes with the seed are smallest: independent of any order."""
    fields = projection_of(wanted, with_values=False)
    with mongo_errors("drawing a validation set"):
        found = (
            (_rank(document["_id"], seed), document["_id"])
            for document in store.collection.find(query_of(wanted), fields).batch_size(_BATCH)
            if fold_of(document) == "test" and _is_promising(document, wanted)
        )
        return [item for _, item in heapq.nsmallest(size, found, key=lambda pair: pair[0])]


def _is_promising(document: Mapping[str, Any], wanted: Wanted) -> bool:
    return content_of(document, wanted, with_values=False).unusable(wanted) is None


def _rank(document_id: DocumentId, seed: int) -> bytes:
    return hashlib.blake2b(
        document_key(document_id), digest_size=16, key=str(seed).encode()
    ).digest()


def _renewed(store: DocumentStore, stored: ValidationSet, wanted: Wanted) -> list[_Found]:
    """Return the same documents with their new outputs, in the same order."""
    ids = [document_id_of(entry.id.encode()) for entry in stored.entries]
    found = list(_read(store, ids, wanted, stored.chunk_size))
    _check_complete(found, stored, wanted)
    return found


def _read(
    store: DocumentStore, ids: Sequence[DocumentId], wanted: Wanted, chunk_size: int
) -> Iterator[_Found]:
    """Yield what is found in the order of the ids; deleted ones are left out."""
    fields = {**projection_of(wanted), SCENE: 1}
    for start in range(0, len(ids), chunk_size):
        chunk = ids[start : start + chunk_size]
        with mongo_errors("reading a validation set's documents"):
            rows = store.collection.find({"_id": {"$in": list(chunk)}}, fields)
            found = {document_key(row["_id"]): row for row in rows}
        for document_id in chunk:
            document = found.get(document_key(document_id))
            if document is not None:
                yield _found(document, wanted)


def _found(document: Mapping[str, Any], wanted: Wanted) -> _Found:
    name, content = document_key(document["_id"]).decode(), content_of(document, wanted)
    scene = document.get(SCENE)
    entry = Entry(
        id=name,
        captions=content.captions,
        values=content.values,
        scene=scene if isinstance(scene, Mapping) else None,
    )
    is_usable = content.unusable(wanted) is None
    return _Found(id=name, entry=entry if is_usable else None, content=content)
