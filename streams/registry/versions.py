"""Model versions and which of them serves: GridFS for weights, one pointer document for each model.

A version appears when all of it is stored, and never changes. A pointer is moved by
compare-and-set, and every move is kept. CLIP's weights do not live here; it is only announced, and
the operator says which announced version serves.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final

from gridfs import GridFS, NoFile
from gridfs.errors import CorruptGridFile
from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from streams.contract.manifest import WEIGHTS, Bundle, parse_manifest
from streams.contract.pipeline import Pipeline
from streams.contract.states import Recaption, Serving
from streams.contract.versions import (
    FORMAT,
    VersionInfo,
    check_version_format,
    version_info,
    weights_version,
)
from streams.errors import InvalidBundle, ModelNotFound, PointerConflict
from streams.mongo.client import mongo_errors
from streams.registry.pointers import FoundPointers, Pointer, Pointers
from streams.registry.serving import serving_of

_VERSIONS: Final = "model_versions"
_FILES: Final = "model_files"
#: Golden outputs of an announced version are read by those who announce it, and long.
_WITHOUT_GOLDEN: Final = {"details.golden": 0}


class Registry:
    """Versions and pointers in one database. Safe to share between threads."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        """Keep the state database (majority reads and writes)."""
        self._versions = database[_VERSIONS]
        self._pointers = Pointers(database)
        self._files = GridFS(database, collection=_FILES)

    def publish(self, bundle: Bundle) -> str:
        """Store a bundle and return its version. Repeating it only heals damaged weights.

        Raises:
            InvalidBundle: The bundle is damaged.
            UnknownFormat: Another release has published it, in a format of its own.
            StoreUnavailable: MongoDB does not answer; nothing is visible then.
        """
        bundle.check_hash()
        name, version = bundle.manifest.name, bundle.version
        key = _key(name, version)
        with mongo_errors(f"publishing {name} {version}"):
            stored = self._versions.find_one({"_id": key})
            if stored is not None:
                check_version_format(stored)
            if stored is not None and self._weights(stored) == bundle.weights:
                return version
            # The version's document comes last: a half-done upload is never seen.
            file_id = self._files.put(bundle.weights, filename=f"{key}/{WEIGHTS}")
            if stored is not None:
                self._versions.update_one({"_id": key}, {"$set": {"file_id": file_id}})
                self._files.delete(stored["file_id"])
                return version
            row = {
                "_id": key,
                "format": FORMAT,
                "name": name,
                "version": version,
                "created_at": datetime.now(UTC),
                "manifest": bundle.manifest.canonical().decode(),
                "file_id": file_id,
                "details": {},
            }
            try:
                self._versions.insert_one(row)
            except DuplicateKeyError:  # somebody published the same at the same moment
                self._files.delete(file_id)
        return version

    def announce(self, name: str, version: str, details: Mapping[str, Any]) -> VersionInfo:
        """Record a version whose weights live elsewhere; the first of its model serves at once.

        Any other one waits to be promoted. What is returned are the details with which this version
        was announced first, by whichever process.

        Raises:
            UnknownFormat: Another release has announced it, or moved the pointer, in a format of
                its own.
            StoreUnavailable: MongoDB does not answer.
        """
        row = {
            "format": FORMAT,
            "name": name,
            "version": version,
            "created_at": datetime.now(UTC),
            "manifest": None,
            "details": dict(details),
        }
        with mongo_errors(f"announcing {name}"):
            stored: dict[str, Any] = self._versions.find_one_and_update(  # type: ignore[assignment]
                {"_id": _key(name, version)},
                {"$setOnInsert": row},
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
        check_version_format(stored)
        with suppress(PointerConflict):  # a version serves already
            self._pointers.move(
                name, version, reason="the first that was announced", expected_revision=0
            )
        return version_info(stored)

    def fetch(self, name: str, version: str) -> Bundle:
        """Return a version with its weights, checked against its manifest and its id.

        Raises:
            ModelNotFound: There is no such version, or its weights do not live here.
            InvalidBundle: What is stored is damaged.
            UnknownFormat: What is stored is of another format.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors(f"reading {name} {version}"):
            row = self._versions.find_one({"_id": _key(name, version)})
            if row is not None:
                check_version_format(row)
            if row is None or row.get("file_id") is None:
                raise self._not_found(name, version)
            weights = self._weights(row)
        if weights is None:
            msg = f"{name} {version}: its weights are missing or incomplete; publish it again"
            raise InvalidBundle(msg)
        bundle = Bundle(manifest=parse_manifest(row["manifest"]), weights=weights)
        if bundle.version != version or bundle.manifest.name != name:
            msg = (
                f"{name} {version}: the stored manifest is that of"
                f" {bundle.manifest.name} {bundle.version}"
            )
            raise InvalidBundle(msg)
        try:
            bundle.check_hash()
        except InvalidBundle as exc:
            msg = f"{version}: {exc}; publish it again"
            raise InvalidBundle(msg) from exc
        return bundle

    def _weights(self, row: Mapping[str, Any]) -> bytes | None:
        """Return stored weights, None when a part of them is lost. Waiting would not heal that."""
        try:
            weights: bytes = self._files.get(row["file_id"]).read()
        except (NoFile, CorruptGridFile):
            return None
        return weights

    def versions(self, name: str | None = None) -> list[VersionInfo]:
        """Return the versions of one model or of all, oldest first.

        One that cannot be read, as of a later release, is among them with the reason.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        query = {} if name is None else {"name": name}
        with mongo_errors("listing model versions"):
            found = self._versions.find(query, _WITHOUT_GOLDEN)
            rows = list(found.sort([("name", 1), ("created_at", 1)]))
        return [version_info(row) for row in rows]

    def describe(self, name: str, version: str) -> VersionInfo:
        """Return one version, by its id as outputs name it, or by a unique beginning of it.

        Raises:
            ModelNotFound: None or more than one begins so.
            InvalidBundle: Its manifest cannot be read.
            UnknownFormat: It is of another format.
            StoreUnavailable: MongoDB does not answer.
        """
        version = weights_version(version)
        found = [info for info in self.versions(name) if info.version.startswith(version)]
        exact = [info for info in found if info.version == version]
        chosen = exact or found
        if not version or len(chosen) != 1:
            raise self._not_found(name, version)
        if (problem := chosen[0].problem) is not None:
            msg = f"{name} {chosen[0].version}: {problem}"
            raise type(problem)(msg)
        return chosen[0]

    def pointer(self, name: str) -> Pointer | None:
        """Return which version of a model serves.

        Raises:
            UnknownFormat: Another release has moved the pointer, in a format of its own.
            StoreUnavailable: MongoDB does not answer.
        """
        return self._pointers.get(name)

    def pointers(self) -> FoundPointers:
        """Return every pointer that can be read, and why the others cannot.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        return self._pointers.find()

    def promote(
        self,
        name: str,
        version: str,
        *,
        reason: str,
        recaption: Recaption = Recaption.ALL,
        expected_revision: int | None = None,
    ) -> Pointer:
        """Let a version serve, and return the new pointer.

        Args:
            name: Name of the model.
            version: Version, as outputs name it, or a unique beginning of one.
            reason: Kept in the history.
            recaption: What happens to outputs that other versions have made.
            expected_revision: Move only if the pointer has this revision (0: there is none).

        Raises:
            ModelNotFound: There is no such version.
            InvalidBundle: Its manifest cannot be read.
            UnknownFormat: It, or the pointer, is of another format.
            PointerConflict: The pointer has another revision.
            StoreUnavailable: MongoDB does not answer.
        """
        wanted = self.describe(name, version).version
        return self._pointers.move(
            name, wanted, reason=reason, recaption=recaption, expected_revision=expected_revision
        )

    def rollback(self, name: str, *, reason: str, recaption: Recaption = Recaption.ALL) -> Pointer:
        """Let the version serve that served before; doing it twice goes back two versions.

        Args:
            name: Name of the model.
            reason: Kept in the history.
            recaption: What happens to outputs that other versions have made.

        Raises:
            ModelNotFound: There is nothing to go back to.
            PointerConflict: The pointer was moved meanwhile.
            StoreUnavailable: MongoDB does not answer.
        """
        pointer = self._pointers.move_back(name, reason=reason, recaption=recaption)
        if pointer is None:
            msg = f"{name} has no earlier version to go back to"
            raise ModelNotFound(msg)
        return pointer

    def refuse(self, pointer: Pointer, *, reason: str, serving: str | None) -> Pointer:
        """Note that a process has refused the version of a move. See `Pointers.refuse`.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        return self._pointers.refuse(pointer, reason=reason, serving=serving)

    def history(self, name: str) -> list[Pointer]:
        """Return every move of a model's pointer, oldest first.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        return self._pointers.history(name)

    def serving(self, pipeline: Pipeline) -> Serving:
        """Return the versions that serve, and what they were fitted on. See `serving_of`.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        found = self.pointers()
        serving = {name: p.serving for name, p in found.readable.items() if p.serving is not None}
        return serving_of(pipeline, found, self._infos(serving))

    def forget(self, name: str) -> int:
        """Remove a model's pointer, history and versions; repeating it goes on where it stopped.

        Returns:
            How many versions were removed.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        self._pointers.forget(name)
        removed = 0
        with mongo_errors(f"removing the versions of {name}"):
            for row in list(self._versions.find({"name": name}, {"file_id": 1})):
                if row.get("file_id") is not None:
                    self._files.delete(row["file_id"])
                removed += self._versions.delete_one({"_id": row["_id"]}).deleted_count
        return removed

    def _infos(self, versions: Mapping[str, str]) -> dict[str, VersionInfo]:
        keys = [_key(name, version) for name, version in versions.items()]
        with mongo_errors("reading serving versions"):
            rows = list(self._versions.find({"_id": {"$in": keys}}, _WITHOUT_GOLDEN))
        return {row["name"]: version_info(row) for row in rows}

    def _not_found(self, name: str, version: str) -> ModelNotFound:
        known = ", ".join(info.version for info in self.versions(name)[-5:]) or "none"
        return ModelNotFound(
            f"no single version of {name!r} begins with {version!r} (known: {known});"
            " see `captionstream models list`"
        )


def _key(name: str, version: str) -> str:
    return f"{name}/{version}"
