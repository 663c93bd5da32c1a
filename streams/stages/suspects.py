"""Events on which a model did not finish, remembered for the process that takes them again.

A thread cannot be stopped from outside, so a hanging model ends its process. What that process had
in hand is suspected: the next one runs each of these events alone, and one that hangs alone is
guilty. With another version of the model it is another matter.
"""

import hashlib
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from pymongo import UpdateOne
from pymongo.database import Database

from streams.ids import document_key
from streams.mongo import mongo_errors
from streams.stages.outcome import Input
from streams.wire import format_source

_COLLECTION: Final = "suspects"


class Standing(Enum):
    """What is known of an event."""

    GOOD = "good"
    SUSPECTED = "suspected"
    GUILTY = "guilty"


class Suspects:
    """The suspected events of one stage. Safe to use from several threads."""

    def __init__(self, database: Database[dict[str, Any]], stage: str) -> None:
        """Keep what is needed; nothing is read."""
        self._rows = database[_COLLECTION]
        self._stage = stage
        self._known: Mapping[str, Standing] = {}

    def refresh(self) -> None:
        """Read what any process of this stage has noted.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading suspects"):
            rows = list(self._rows.find({"stage": self._stage}))
        self._known = {row["_id"]: Standing(row["standing"]) for row in rows}

    def standing(self, event: Input, versions: Mapping[str, str]) -> Standing:
        """Return what is known of an event, for these versions of the model."""
        return self._known.get(self._id(event, versions), Standing.GOOD)

    def accuse(self, events: Sequence[Input], versions: Mapping[str, str]) -> None:
        """Note events that were in hand when the model hung; a single one is guilty.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        standing = Standing.GUILTY if len(events) == 1 else Standing.SUSPECTED
        row = {"stage": self._stage, "standing": standing.value}
        with mongo_errors("noting suspects"):
            self._rows.bulk_write(
                [
                    UpdateOne({"_id": self._id(event, versions)}, {"$set": row}, upsert=True)
                    for event in events
                ]
            )

    def clear(self, event: Input, versions: Mapping[str, str]) -> None:
        """Forget an event that was finished.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        name = self._id(event, versions)
        with mongo_errors("forgetting a suspect"):
            self._rows.delete_one({"_id": name})
        self._known = {key: value for key, value in self._known.items() if key != name}

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
