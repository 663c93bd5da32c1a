"""The frozen set of documents that every version of a model is measured on.

It lives in MongoDB in chunks; the head is written last, so half a set is never seen.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from pymongo.database import Database

from streams.contract.values import decode_vector, encode_vector
from streams.errors import InvalidValidationSet
from streams.mongo.client import mongo_errors
from trainer.snapshot.columns import Values, hash_texts, hash_values

_HEADS: Final = "validation_sets"
_CHUNKS: Final = "validation_set_chunks"
#: Layout of the two; another one is refused.
_FORMAT: Final = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One document of the set.

    Attributes:
        id: Canonical extended JSON of its `_id`.
        captions: What people wrote; not empty.
        values: What models read and learn of it, by column.
        scene: What a generated picture shows, where the document says it.
    """

    id: str
    captions: tuple[str, ...]
    values: Values
    scene: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ValidationSet:
    """A frozen set.

    Attributes:
        name: Name of the set.
        seed: Seed of the sample.
        versions: The version that made the outputs in it, by name of the model.
        digest: 16 hexadecimal digits of a sha256 over all entries.
        entries: In the order of the sample.
        sample_size: How many were asked for; there may have been fewer.
        chunk_size: Entries that are stored together.
        passed_over: Values in the entries' `captions` that are no captions.
    """

    name: str
    seed: int
    versions: Mapping[str, str]
    digest: str
    entries: tuple[Entry, ...]
    sample_size: int = 0
    chunk_size: int = 0
    passed_over: int = 0


def digest_of(entries: Sequence[Entry]) -> str:
    """Return 16 hexadecimal digits of a sha256 over everything that the entries say."""
    digest = hashlib.sha256()
    for entry in entries:
        scene = json.dumps(entry.scene, sort_keys=True, default=str)
        hash_texts((entry.id, scene, *entry.captions), digest)
        hash_values(entry.values, digest)
    return digest.hexdigest()[:16]


class ValidationSets:
    """The sets in one database."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        """Keep the state database (majority reads and writes)."""
        self._heads = database[_HEADS]
        self._chunks = database[_CHUNKS]

    def names(self) -> list[str]:
        """Return the names of all sets.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("listing validation sets"):
            return sorted(str(head["_id"]) for head in self._heads.find({}, {"_id": 1}))

    def document_ids(self) -> frozenset[str]:
        """Return canonical extended JSON of the `_id` of every document of every set.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading the validation sets"):
            chunks = self._chunks.find({}, {"entries.id": 1})
            return frozenset(
                str(entry.get("id")) for chunk in chunks for entry in chunk.get("entries", ())
            )

    def find(self, name: str) -> ValidationSet | None:
        """Return a set, None when there is none.

        Raises:
            InvalidValidationSet: What is stored is damaged.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading a validation set"):
            head = self._heads.find_one({"_id": name})
            if head is None:
                return None
            query = {"set": name, "digest": head.get("digest")}
            chunks = list(self._chunks.find(query).sort("number", 1))
        try:
            found = ValidationSet(
                name=name,
                seed=head["seed"],
                versions=dict(head["versions"]),
                digest=head["digest"],
                entries=tuple(_entry(row) for chunk in chunks for row in chunk["entries"]),
                sample_size=head["sample_size"],
                chunk_size=head["chunk_size"],
                passed_over=head["passed_over"],
            )
            is_whole = head["format"] == _FORMAT and digest_of(found.entries) == found.digest
        except (KeyError, TypeError, ValueError, AttributeError):
            is_whole = False
        if not is_whole:
            msg = (
                f"validation set {name!r} is damaged, or of another release: remove it from"
                f" {self._heads.full_name} and create it again"
            )
            raise InvalidValidationSet(msg)
        return found

    def get(self, name: str) -> ValidationSet:
        """Return a set.

        Raises:
            InvalidValidationSet: There is none of this name, or it is damaged.
            StoreUnavailable: MongoDB does not answer.
        """
        found = self.find(name)
        if found is None:
            known = ", ".join(self.names()) or "none"
            msg = (
                f"there is no validation set {name!r} (known: {known});"
                " make one by `captionstream-trainer validation-set create`"
            )
            raise InvalidValidationSet(msg)
        return found

    def keep(self, validation_set: ValidationSet) -> None:
        """Store a set, in place of one of the same name.

        Raises:
            StoreUnavailable: MongoDB does not answer; what was there before still is.
        """
        name, digest = validation_set.name, validation_set.digest
        head = {
            "_id": name,
            "seed": validation_set.seed,
            "sample_size": validation_set.sample_size,
            "chunk_size": validation_set.chunk_size,
            "format": _FORMAT,
            "versions": dict(validation_set.versions),
            "digest": digest,
            "entries": len(validation_set.entries),
            "passed_over": validation_set.passed_over,
            "created_at": datetime.now(UTC),
        }
        with mongo_errors("storing a validation set"):
            for number, chunk in enumerate(_chunked(validation_set)):
                key = f"{name}/{digest}/{number}"
                row = {"set": name, "digest": digest, "number": number, "entries": chunk}
                self._chunks.replace_one({"_id": key}, row, upsert=True)
            self._heads.replace_one({"_id": name}, head, upsert=True)
            # Whoever stopped half-way, or a set that was refreshed, left these.
            self._chunks.delete_many({"set": name, "digest": {"$ne": digest}})


def _chunked(validation_set: ValidationSet) -> Iterator[list[dict[str, Any]]]:
    size = max(1, validation_set.chunk_size)
    for start in range(0, len(validation_set.entries), size):
        yield [_row(entry) for entry in validation_set.entries[start : start + size]]


def _row(entry: Entry) -> dict[str, Any]:
    return {
        "id": entry.id,
        "captions": list(entry.captions),
        "values": {
            column: value if isinstance(value, str) else encode_vector(value)
            for column, value in entry.values.items()
        },
        "scene": entry.scene,
    }


def _entry(row: Mapping[str, Any]) -> Entry:
    return Entry(
        id=row["id"],
        captions=tuple(row["captions"]),
        values={
            column: value if isinstance(value, str) else decode_vector(value)
            for column, value in row["values"].items()
        },
        scene=row["scene"],
    )
