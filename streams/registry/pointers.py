"""Which version of each model serves: one pointer document for each, moved by compare-and-set.

Every move is kept as history. Knows nothing about what a version is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from pymongo import ReturnDocument
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from streams.contract.formats import format_problem
from streams.contract.states import Recaption
from streams.errors import PointerConflict, UnknownFormat
from streams.mongo.client import mongo_errors

#: Layout of a pointer, and of a move that is kept.
FORMAT: Final = 1
_POINTERS: Final = "model_pointers"
_HISTORY: Final = "model_history"
_ROLLBACK: Final = "rollback: "
#: Tries to move a pointer when no revision was expected and others move it too.
_ATTEMPTS: Final = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """That a process has refused the version that a pointer names. It holds for all processes.

    Attributes:
        reason: What does not hold.
        serving: The version that serves on; None when there is none.
        at: When.
    """

    reason: str
    serving: str | None
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Pointer:
    """Which version of a model serves.

    Attributes:
        name: Name of the model.
        version: The version.
        revision: Counts the moves, from 1.
        previous: The version before, None for the first.
        reason: Why it was moved.
        at: When.
        recaption: What this move means for the outputs that were stored before it.
        refusal: Why the version does not serve after all; None when it does.
    """

    name: str
    version: str
    revision: int
    previous: str | None
    reason: str
    at: datetime
    recaption: Recaption = Recaption.ALL
    refusal: Refusal | None = None

    @property
    def serving(self) -> str | None:
        """The version that really serves: the one that served on if this one was refused."""
        return self.version if self.refusal is None else self.refusal.serving

    @property
    def state(self) -> tuple[int, bool]:
        """Changes whenever anything happens to the pointer."""
        return self.revision, self.refusal is not None


class FoundPointers(NamedTuple):
    """All pointers.

    Attributes:
        readable: Those of our format, by the name of their model.
        problems: Why the others cannot be read, with the remedy, by the name of their model.
    """

    readable: Mapping[str, Pointer]
    problems: Mapping[str, str]


class Pointers:
    """All pointers in one database. Safe to share between threads."""

    def __init__(self, database: Database[dict[str, Any]]) -> None:
        """Keep the state database (majority reads and writes)."""
        self._pointers = database[_POINTERS]
        self._history = database[_HISTORY]

    def find(self) -> FoundPointers:
        """Return every pointer that can be read, and why the others cannot.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading model pointers"):
            rows = list(self._pointers.find())
        problems = {row["_id"]: problem for row in rows if (problem := _unread(row))}
        readable = {row["_id"]: _pointer(row) for row in rows if row["_id"] not in problems}
        return FoundPointers(readable, problems)

    def get(self, name: str) -> Pointer | None:
        """Return the pointer of a model; None when it was never moved.

        Raises:
            UnknownFormat: It is of another format.
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors(f"reading the pointer of {name}"):
            row = self._pointers.find_one({"_id": name})
        if row is not None and (problem := _unread(row)):
            raise UnknownFormat(problem)
        return None if row is None else _pointer(row)

    def move(
        self,
        name: str,
        version: str,
        *,
        reason: str,
        recaption: Recaption = Recaption.ALL,
        expected_revision: int | None = None,
    ) -> Pointer:
        """Move a pointer, and return it.

        Raises:
            PointerConflict: The pointer has another revision than the expected one.
            UnknownFormat: It is of another format.
            StoreUnavailable: MongoDB does not answer.
        """
        for _ in range(_ATTEMPTS):
            before = self.get(name)
            revision = before.revision if before else 0
            if expected_revision is not None and expected_revision != revision:
                break
            moved = self._compare_and_set(name, version, before, reason, recaption)
            if moved is not None:
                return moved
        msg = (
            f"pointer of {name} was moved by somebody else; look at it with"
            f" `captionstream models show {name}` and try again"
        )
        raise PointerConflict(msg)

    def move_back(
        self, name: str, *, reason: str, recaption: Recaption = Recaption.ALL
    ) -> Pointer | None:
        """Move a pointer to where it stood before; None when there is no such place.

        A version that was refused is no such place. Doing it twice goes back two versions: moves
        back do not count as places of their own.

        Raises:
            PointerConflict: The pointer was moved meanwhile.
            StoreUnavailable: MongoDB does not answer.
        """
        moves = self.history(name)
        places = _places(moves)
        if moves and moves[-1].refusal is None:
            places.pop()  # where it stands now
        if not places:
            return None
        return self.move(
            name,
            places[-1],
            reason=_ROLLBACK + reason,
            recaption=recaption,
            expected_revision=moves[-1].revision,
        )

    def refuse(self, pointer: Pointer, *, reason: str, serving: str | None) -> Pointer:
        """Note that the version of this move does not serve, and return the pointer of now.

        The first refusal of a move counts; one of a move that is over changes nothing.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        refusal = {"reason": reason, "serving": serving, "at": datetime.now(UTC)}
        key = {**_of_move(pointer), "refusal": None}
        with mongo_errors(f"noting a refusal of {pointer.name}"):
            self._pointers.update_one(key, {"$set": {"refusal": refusal}})
        return self.get(pointer.name) or pointer

    def history(self, name: str) -> list[Pointer]:
        """Return every move of a model's pointer that can be read, oldest first.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        pointer = self.get(name)
        if pointer is None:
            return []
        query = {"_id.name": name, "_id.revision": {"$lt": pointer.revision}, "format": FORMAT}
        with mongo_errors("reading the pointer's history"):
            rows = list(self._history.find(query).sort("_id.revision", 1))
        return [*(_pointer({**row, "_id": name}) for row in rows), pointer]

    def forget(self, name: str) -> None:
        """Remove a model's pointer and its history.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors(f"removing the pointer of {name}"):
            self._pointers.delete_one({"_id": name})
            self._history.delete_many({"_id.name": name})

    def _compare_and_set(
        self,
        name: str,
        version: str,
        before: Pointer | None,
        reason: str,
        recaption: Recaption,
    ) -> Pointer | None:
        """Move the pointer if it still is as it was; None when it is not."""
        row = {
            "format": FORMAT,
            "version": version,
            "revision": (before.revision if before else 0) + 1,
            "previous": before.version if before else None,
            "reason": reason,
            "at": datetime.now(UTC),
            "recaption": recaption.value,
            "refusal": None,
        }
        with mongo_errors(f"moving the pointer of {name}"):
            if before is None:
                try:
                    self._pointers.insert_one({"_id": name, **row})
                except DuplicateKeyError:
                    return None
            else:
                self._archive(before)
                found = self._pointers.find_one_and_update(
                    _of_move(before),
                    {"$set": row},
                    return_document=ReturnDocument.AFTER,
                )
                if found is None:
                    return None
        return _pointer({"_id": name, **row})

    def _archive(self, pointer: Pointer) -> None:
        """Keep a move before the pointer, which holds the newest one, is overwritten.

        A crash between the two loses nothing: the history is what is kept here and the pointer.
        """
        row = asdict(pointer) | {"format": FORMAT, "recaption": pointer.recaption.value}
        key = {"name": row.pop("name"), "revision": pointer.revision}
        try:
            self._history.insert_one({"_id": key, **row})
        except DuplicateKeyError:  # kept already, by a mover that then lost the race
            return


def _places(moves: Sequence[Pointer]) -> list[str]:
    """Return the versions that one can go back through, the one that serves now included.

    A move back takes the last one away; a version that is refused is taken away wherever it stood.
    """
    places: list[str] = []
    for move in moves:
        if move.refusal is not None:
            places = [place for place in places if place != move.version]
        elif move.reason.startswith(_ROLLBACK) and places[-2:-1] == [move.version]:
            places.pop()
        elif not places or places[-1] != move.version:
            places.append(move.version)
    return places


def _unread(row: Mapping[str, Any]) -> str:
    otherwise = f"remove its document from {_POINTERS} and promote a version"
    what = f"the pointer of {row['_id']}"
    return format_problem(what, row.get("format"), reads=FORMAT, otherwise=otherwise)


def _of_move(pointer: Pointer) -> dict[str, Any]:
    """Match the pointer if it still is as it was read."""
    return {"_id": pointer.name, "revision": pointer.revision, "format": FORMAT}


def _pointer(row: Mapping[str, Any]) -> Pointer:
    refusal = row["refusal"]
    return Pointer(
        name=row["_id"],
        version=row["version"],
        revision=row["revision"],
        previous=row["previous"],
        reason=row["reason"],
        at=row["at"],
        recaption=Recaption(row["recaption"]),
        refusal=Refusal(**refusal) if refusal else None,
    )
