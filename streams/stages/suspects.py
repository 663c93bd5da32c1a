"""Events that a model did not survive, remembered for the process that takes them again.

A model that hangs ends its process, since a thread cannot be stopped from outside; one that crashes
does so by itself. So each process notes what it has in hand. What another process has noted and did
not finish is suspected, and runs alone. One that hangs alone, or that ends two processes alone, is
guilty. With another version of the model it is another matter.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from streams.ids import document_key
from streams.mongo import mongo_errors
from streams.stages.outcome import Input
from streams.wire import format_source

_NOTES: Final = "in_hand"
_TRIED: Final = "suspects"
#: Processes end for other reasons, too; that two do so just while it runs alone is no accident.
_CRASHES: Final = 2
_NOTES_KEPT_SECONDS: Final = 24 * 3600


class Standing(Enum):
    """What is known of an event."""

    GOOD = "good"
    SUSPECTED = "suspected"
    HANGS = "hangs"
    CRASHES = "crashes"


class Suspects:
    """The suspected events of one stage. Safe to use from several threads."""

    def __init__(self, database: Database[dict[str, Any]], stage: str) -> None:
        """Keep what is needed; nothing is read."""
        # Written for each batch, so it must be quick; one that is lost costs another restart.
        self._notes = database.get_collection(
            _NOTES, write_concern=WriteConcern(w=1, j=False), read_concern=ReadConcern("local")
        )
        self._tried = database[_TRIED]
        self._stage = stage
        self._process = uuid.uuid4().hex
        self._known: Mapping[str, Standing] = {}

    def prepare(self) -> None:
        """Have MongoDB forget notes that nobody came back to.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("preparing the notes of what is in hand"):
            self._notes.create_index("at", expireAfterSeconds=_NOTES_KEPT_SECONDS)

    def refresh(self) -> None:
        """Read what any process of this stage has noted.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        others = {"stage": self._stage, "_id": {"$ne": self._process}}
        with mongo_errors("reading suspects"):
            notes = list(self._notes.find(others))
            tried = list(self._tried.find({"stage": self._stage}))
        known = {event: Standing.SUSPECTED for note in notes for event in note["events"]}
        self._known = known | {row["_id"]: self._standing(row) for row in tried}

    def standing(self, event: Input, versions: Mapping[str, str]) -> Standing:
        """Return what is known of an event, for these versions of the model."""
        return self._known.get(self._id(event, versions), Standing.GOOD)

    def take(self, events: Sequence[Input], versions: Mapping[str, str]) -> None:
        """Note what this process has in hand, instead of what it had.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        ids = [self._id(event, versions) for event in events]
        note = {"stage": self._stage, "events": ids, "at": "$$NOW"}
        with mongo_errors("noting what is in hand"):
            self._notes.update_one({"_id": self._process}, [{"$set": note}], upsert=True)

    def put_down(self) -> None:
        """Note that nothing is in hand.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("noting that nothing is in hand"):
            self._notes.delete_one({"_id": self._process})

    def try_alone(self, event: Input, versions: Mapping[str, str]) -> None:
        """Note that an event is about to run alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        change = {"$set": {"stage": self._stage}, "$addToSet": {"tried_by": self._process}}
        with mongo_errors("noting that a suspect runs alone"):
            self._tried.update_one({"_id": self._id(event, versions)}, change, upsert=True)

    def convict(self, event: Input, versions: Mapping[str, str]) -> None:
        """Note that the model hangs on an event that it has alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        change = {"$set": {"stage": self._stage, "hangs": True}}
        with mongo_errors("noting a hanging event"):
            self._tried.update_one({"_id": self._id(event, versions)}, change, upsert=True)

    def clear(self, event: Input, versions: Mapping[str, str]) -> None:
        """Forget an event that was finished, or not tried at all.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        name = self._id(event, versions)
        with mongo_errors("forgetting a suspect"):
            self._tried.delete_one({"_id": name})
            self._notes.update_many({"events": name}, {"$pull": {"events": name}})
        self._known = {key: value for key, value in self._known.items() if key != name}

    def _standing(self, row: Mapping[str, Any]) -> Standing:
        if row.get("hangs"):
            return Standing.HANGS
        ended = set(row.get("tried_by", ())) - {self._process}
        return Standing.CRASHES if len(ended) >= _CRASHES else Standing.SUSPECTED

    def _id(self, event: Input, versions: Mapping[str, str]) -> str:
        source = format_source(event.source) if event.source is not None else ""
        parts = (
            self._stage.encode(),
            document_key(event.document_id),
            source.encode(),
            repr(sorted(versions.items())).encode(),
        )
        digest = hashlib.blake2b(digest_size=16)
        for part in parts:
            digest.update(len(part).to_bytes(4) + part)
        return digest.hexdigest()
