"""Drawing a validation set from the documents, once."""

import hashlib
import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from pymongo import MongoClient

from streams.contract.default_pipeline import (
    CLIP,
)
from streams.contract.documents import (
    CAPTIONS,
    usable_captions,
)
from streams.contract.folds import FOLD, fold_of
from streams.contract.ids import DocumentId, document_id_of, document_key
from streams.errors import InvalidValidationSet, TooLittleData
from streams.mongo.client import Document, mongo_errors, state_database
from streams.mongo.store import DocumentStore
from streams.settings import MongoSettings
from trainer.snapshot.reader import Reason, current_vector
from trainer.snapshot.validation_set import Entry, ValidationSet, ValidationSets, digest_of
from trainer.snapshot.writer import serving_clip

SCENE: Final = "scene"

_BATCH: Final = 1000

#: The pipeline will still give such a document a vector; whatever else is missing stays missing.
_NOT_YET: Final = frozenset({"without_vector", "other_version"})

_Found = tuple[Entry | Reason, int]
"""An entry, or why there is none; and how many values in `captions` are no captions."""


def create_validation_set(
    client: MongoClient[Document],
    settings: MongoSettings,
    *,
    name: str = "default",
    sample_size: int = 500,
    chunk_size: int = 100,
    seed: int = 0,
    refresh: bool = False,
) -> ValidationSet:
    """Return the set of this name; draw and keep it if there is none.

    The sample is drawn from documents of the fold `test` that have captions and a current CLIP
    vector: no fit sees them, not for choosing its epoch either. It follows from the seed and the
    ids alone. Stored vectors are used; CLIP is not run. At a refresh, documents that are gone,
    failed or without captions by now leave the set.

    Args:
        client: Client of the replica set.
        settings: Which collection.
        name: Name of the set.
        sample_size: How many documents; all when there are fewer.
        chunk_size: Entries that are stored together.
        seed: Decides the sample.
        refresh: If the CLIP version has changed, keep the same documents with their new vectors.

    Raises:
        TooLittleData: No document can be used, or at a refresh some have no new vector yet.
        InvalidValidationSet: One of this name exists with other options or of another CLIP version,
            or is damaged.
        ModelNotFound: No CLIP version serves.
        StoreUnavailable: MongoDB does not answer.
    """
    sets = ValidationSets(state_database(client, settings))
    clip_version = serving_clip(client, settings)
    stored = sets.find(name)
    if stored is not None:
        _check_options(stored, sample_size=sample_size, chunk_size=chunk_size, seed=seed)
        if stored.clip_version == clip_version:
            return stored
        _check_refresh(stored, clip_version, refresh=refresh)
    store = DocumentStore(client, settings)
    if stored is None:
        ids = _draw(store, clip_version, size=sample_size, seed=seed)
        found = list(_read(store, ids, clip_version, chunk_size))
    else:
        found = _renewed(store, stored, clip_version)
    entries = tuple(entry for entry, _ in found if isinstance(entry, Entry))
    _check_any(entries)
    made = ValidationSet(
        name=name,
        seed=seed,
        clip_version=clip_version,
        digest=digest_of(entries),
        entries=entries,
        sample_size=sample_size,
        chunk_size=chunk_size,
        passed_over=sum(passed_over for _, passed_over in found),
    )
    sets.keep(made)
    return made


def _check_options(stored: ValidationSet, **wanted: int) -> None:
    found = {name: getattr(stored, name) for name in wanted}
    if found != wanted:
        values = ", ".join(f"{name} {value}" for name, value in found.items())
        msg = f"validation set {stored.name!r} is frozen with {values}; give another a new --name"
        raise InvalidValidationSet(msg)


def _check_refresh(stored: ValidationSet, clip_version: str, *, refresh: bool) -> None:
    if not refresh:
        msg = (
            f"validation set {stored.name!r} holds vectors of CLIP {stored.clip_version}, and"
            f" {clip_version} serves: `captionstream-trainer validation-set create --refresh` takes"
            " the same documents with their new vectors"
        )
        raise InvalidValidationSet(msg)


def _check_complete(found: Sequence[_Found]) -> None:
    """Refuse a refresh in the middle of a change of CLIP: the set would lose documents for good."""
    waiting = sum(entry in _NOT_YET for entry, _ in found if isinstance(entry, str))
    if waiting:
        msg = (
            f"{waiting} documents of the validation set have no vector of the new CLIP"
            " version yet; try again when `captionstream status` shows nothing pending"
        )
        raise TooLittleData(msg)


def _check_any(entries: Sequence[Entry]) -> None:
    if not entries:
        msg = (
            "no document of the fold `test` has captions and a current CLIP vector: insert some"
            ' with `_fold: "test"`, or wait until they are featurized'
        )
        raise TooLittleData(msg)


def _draw(store: DocumentStore, clip_version: str, *, size: int, seed: int) -> list[DocumentId]:
    """Return the ids whose hashes with the seed are smallest: independent of any order."""
    with mongo_errors("drawing a validation set"):
        fields = {CAPTIONS: 1, FOLD: 1, f"{CLIP.path}.version": 1}
        query = {
            f"{CLIP.path}.version": clip_version,
            f"{CLIP.path}.error": None,
            CAPTIONS: {"$type": "string"},
        }
        found = (
            (_rank(document["_id"], seed), document["_id"])
            for document in store.collection.find(query, fields).batch_size(_BATCH)
            if fold_of(document) == "test" and usable_captions(document.get(CAPTIONS))[0]
        )
        return [item for _, item in heapq.nsmallest(size, found, key=lambda pair: pair[0])]


def _rank(document_id: DocumentId, seed: int) -> bytes:
    return hashlib.blake2b(
        document_key(document_id), digest_size=16, key=str(seed).encode()
    ).digest()


def _renewed(store: DocumentStore, stored: ValidationSet, clip_version: str) -> list[_Found]:
    """Return the same documents with their new vectors, in the same order."""
    ids = [document_id_of(entry.id.encode()) for entry in stored.entries]
    found = list(_read(store, ids, clip_version, stored.chunk_size))
    _check_complete(found)
    return found


def _read(
    store: DocumentStore, ids: Sequence[DocumentId], clip_version: str, chunk_size: int
) -> Iterator[_Found]:
    """Yield an entry, or why there is none, in the order of the ids; deleted ones are left out."""
    fields = {CAPTIONS: 1, SCENE: 1, CLIP.path: 1}
    for start in range(0, len(ids), chunk_size):
        chunk = ids[start : start + chunk_size]
        with mongo_errors("reading a validation set's documents"):
            rows = store.collection.find({"_id": {"$in": list(chunk)}}, fields)
            found = {document_key(row["_id"]): row for row in rows}
        for document_id in chunk:
            document = found.get(document_key(document_id))
            if document is not None:
                yield _entry(document, clip_version)


def _entry(document: Mapping[str, Any], clip_version: str) -> _Found:
    captions, passed_over = usable_captions(document.get(CAPTIONS))
    vector = current_vector(document, clip_version)
    if not captions:
        return "without_captions", passed_over
    if isinstance(vector, str):
        return vector, passed_over
    scene = document.get(SCENE)
    entry = Entry(
        id=document_key(document["_id"]).decode(),
        captions=captions,
        clip=vector,
        scene=scene if isinstance(scene, Mapping) else None,
    )
    return entry, passed_over
