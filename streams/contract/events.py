"""What happens to documents, as events. How they look on topics is the matter of `wire.py`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

from bson.timestamp import Timestamp

from streams.contract.documents import Output
from streams.contract.ids import DocumentId

Headers = Sequence[tuple[str, bytes]]

#: CloudEvents types. The number of the format is part of the type: an incompatible change makes a
#: new type, and a process refuses those that it does not know.
DOCUMENT_CHANGED: Final = "captionstream.document.changed.v1"
DOCUMENT_DELETED: Final = "captionstream.document.deleted.v1"
MODEL_APPLIED: Final = "captionstream.model.applied.v1"


class Origin(StrEnum):
    """Why an event was published."""

    LIVE = "live"  # a change, just now
    COPY = "copy"  # the document was there before the first start
    RECONCILE = "reconcile"  # its outputs were missing or stale
    REPLAY = "replay"  # an operator replayed a dead letter


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One record, as it is given to a producer.

    Attributes:
        key: Canonical extended JSON of the document's `_id`.
        value: Data, or None for a tombstone.
        headers: CloudEvents attributes.
    """

    key: bytes
    value: bytes | None
    headers: Headers


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentChanged:
    """A document may need new outputs.

    Attributes:
        document_id: `_id` of the document.
        source: clusterTime of the change.
        origin: Why it was published.
        changed_at: When the change was written, by the primary's clock, in milliseconds; None for
            what is no change, and before MongoDB 6.
    """

    document_id: DocumentId
    source: Timestamp
    origin: Origin = Origin.LIVE
    changed_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentDeleted:
    """A document is gone; whatever is in flight for it is to be dropped."""

    document_id: DocumentId
    source: Timestamp


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelApplied:
    """A model was applied to a document.

    Attributes:
        document_id: `_id` of the document.
        source: clusterTime of the change that caused it.
        origin: Why that change was published.
        model: Name of the model that was applied last.
        outputs: Outputs made of this document so far that somebody behind may need, by name of the
            model; contains `model`. Those of models that a process does not know are carried along.
        changed_at: When that change was written, as in `DocumentChanged`.
        stored: Names of those outputs that stand in the document as they are, for this change or a
            newer one: there is nothing to write.
    """

    document_id: DocumentId
    source: Timestamp
    origin: Origin
    model: str
    outputs: Mapping[str, Output]
    changed_at: datetime | None = None
    stored: frozenset[str] = frozenset()


Event = DocumentChanged | DocumentDeleted | ModelApplied
