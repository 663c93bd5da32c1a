"""The quarantine of one stage: events that may be poison messages, kept in the state database.

A model that hangs ends its process, since a thread cannot be stopped from outside; one that crashes
does so by itself. So each process notes what it has in hand. What another process has noted and did
not finish is quarantined: it runs alone. One that hangs alone, or that ends two processes alone, is
a poison message, and is run no more. A quarantine is for one version of the model and one change of
the document; a replay of the document ends it.

Knows no model and runs nothing: `watchdog` does.
"""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from pymongo import timeout
from pymongo.database import Database
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from streams.contract.ids import DocumentId, document_key
from streams.contract.wire import format_source
from streams.mongo.client import mongo_errors
from streams.stages.outcome import Input

_NOTES: Final = "in_hand"
_QUARANTINE: Final = "quarantine"
#: Processes end for other reasons, too; that two do so just while it runs alone is no coincidence.
_CRASHES: Final = 2
#: A note that takes longer is done without: a process that is to end must not wait for it.
_NOTE_SECONDS: Final = 2.0
_KEPT_SECONDS: Final = 7 * 24 * 3600


class Standing(Enum):
    """What is known of an event; the last two are poison messages."""

    FREE = "free"
    QUARANTINED = "quarantined"
    HANGS = "hangs"
    CRASHES = "crashes"


class Quarantine:
    """The quarantined events of one stage. Safe to use from several threads."""

    def __init__(self, database: Database[dict[str, Any]], stage: str) -> None:
        """Keep what is needed; nothing is read."""
        # Written for each batch, so it must be quick; one that is lost costs another restart.
        self._notes = database.get_collection(
            _NOTES, write_concern=WriteConcern(w=1, j=False), read_concern=ReadConcern("local")
        )
        self._rows = database[_QUARANTINE]
        self._stage = stage
        self._process = uuid.uuid4().hex
        self._known: Mapping[str, Standing] = {}

    def prepare(self) -> None:
        """Have MongoDB forget after a week what nobody came back to.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("preparing the notes of what is in hand"):
            for rows in (self._notes, self._rows):
                rows.create_index("at", expireAfterSeconds=_KEPT_SECONDS)

    def refresh(self) -> None:
        """Read what any process of this stage has noted.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        others = {"stage": self._stage, "_id": {"$ne": self._process}}
        with mongo_errors("reading the quarantine"):
            notes = list(self._notes.find(others))
            rows = list(self._rows.find({"stage": self._stage}))
        known = {event: Standing.QUARANTINED for note in notes for event in note["events"]}
        self._known = known | {row["_id"]: self._standing(row) for row in rows}

    def standing(self, event: Input, versions: Mapping[str, str]) -> Standing:
        """Return what is known of an event, for these versions of the model."""
        if not self._known:  # nearly always, so that nothing is hashed
            return Standing.FREE
        return self._known.get(self._id(event, versions), Standing.FREE)

    def take(self, events: Sequence[Input], versions: Mapping[str, str]) -> None:
        """Note what this process has in hand, instead of what it had.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        ids = [self._id(event, versions) for event in events]
        note = {"stage": self._stage, "events": ids, "at": "$$NOW"}
        with mongo_errors("noting what is in hand"), timeout(_NOTE_SECONDS):
            self._notes.update_one({"_id": self._process}, [{"$set": note}], upsert=True)

    def put_down(self) -> None:
        """Note that nothing is in hand.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("noting that nothing is in hand"), timeout(_NOTE_SECONDS):
            self._notes.delete_one({"_id": self._process})

    def begin_alone(self, event: Input, versions: Mapping[str, str]) -> None:
        """Note that an event is about to run alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        self._update(event, versions, {"$addToSet": {"run_by": self._process}})

    def undo_alone(self, event: Input, versions: Mapping[str, str]) -> None:
        """Take `begin_alone` back: the model has not run.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        self._update(event, versions, {"$pull": {"run_by": self._process}})

    def mark_hanging(self, event: Input, versions: Mapping[str, str]) -> None:
        """Note that the model hangs on an event that it has alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        self._update(event, versions, {"$set": {"hangs": True}})

    def release(self, event: Input, versions: Mapping[str, str]) -> None:
        """End the quarantine of an event that has run.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        name = self._id(event, versions)
        with mongo_errors("releasing an event from quarantine"):
            self._rows.delete_one({"_id": name})
            self._notes.update_many({"events": name}, {"$pull": {"events": name}})
        self._known = {key: value for key, value in self._known.items() if key != name}

    def release_document(self, document_id: DocumentId) -> None:
        """End the quarantine of all events of a document, so that every process runs them again.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("releasing a document from quarantine"):
            self._rows.delete_many({"stage": self._stage, "document": _digest(document_id)})

    def _update(self, event: Input, versions: Mapping[str, str], change: Mapping[str, Any]) -> None:
        about = {"stage": self._stage, "document": _digest(event.document_id)}
        update = {**change, "$setOnInsert": about, "$currentDate": {"at": True}}
        with mongo_errors("writing to the quarantine"), timeout(_NOTE_SECONDS):
            self._rows.update_one({"_id": self._id(event, versions)}, update, upsert=True)

    def _standing(self, row: Mapping[str, Any]) -> Standing:
        if row.get("hangs"):
            return Standing.HANGS
        ended = set(row.get("run_by", ())) - {self._process}
        return Standing.CRASHES if len(ended) >= _CRASHES else Standing.QUARANTINED

    def _id(self, event: Input, versions: Mapping[str, str]) -> str:
        source = format_source(event.source) if event.source is not None else ""
        parts = (self._stage, _digest(event.document_id), source, repr(sorted(versions.items())))
        return hashlib.blake2b("\n".join(parts).encode(), digest_size=16).hexdigest()


def _digest(document_id: DocumentId) -> str:
    """An `_id` may be megabytes long, or contain whatever an `_id` may."""
    return hashlib.blake2b(document_key(document_id), digest_size=16).hexdigest()
