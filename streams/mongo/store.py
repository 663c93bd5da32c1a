"""Access to the watched collection: read images, write outputs under their guard, scan states.

Every failure of MongoDB becomes `StoreUnavailable`, or `StoreRefuses` where waiting alone does not
help. Knows nothing about topics or models' insides; the state index is the matter of
`state_index.py`.
"""

from collections.abc import Collection as Positions
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from bson.timestamp import Timestamp
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import BulkWriteError, OperationFailure
from pymongo.read_concern import ReadConcern
from pymongo.read_preferences import ReadPreference
from pymongo.write_concern import WriteConcern
from structlog import get_logger

from streams.contract.documents import lookup
from streams.contract.ids import DocumentId, document_key, split_ids
from streams.contract.pipeline import OUTPUTS, Pipeline
from streams.contract.states import DocumentState, Serving, document_state
from streams.contract.writes import (
    MEND,
    OutputWrite,
    WriteReport,
    drops_of,
    fields_of,
    malformed,
    update_of,
)
from streams.errors import StoreUnavailable
from streams.mongo.client import Document, cluster_time, mongo_errors, state_database
from streams.mongo.no_room import NoRoom, with_errors
from streams.mongo.rejections import rejections, without_room
from streams.mongo.state_index import build_state_index, check_collection, state_index
from streams.settings import MongoSettings

log = get_logger(__name__)

#: CannotIndexParallelArrays: a document whose `_outputs` is not ours has two.
_PARALLEL_ARRAYS: Final = 171

#: Fields that identify a write.
_MARKS: Final = ("at", "source", "version", "input")

#: InvalidOptions: a read is to include a time that the cluster has not reached.
_AHEAD: Final = 72
#: An old primary that is cut off may be behind a true change, but it steps down long before that.
_MOST_AHEAD_SECONDS: Final = 60


def watched_collection(
    client: MongoClient[Document], settings: MongoSettings
) -> Collection[Document]:
    """Return the watched collection, with majority reads from the primary and majority writes."""
    return client[settings.database].get_collection(
        settings.collection,
        read_concern=ReadConcern("majority"),
        write_concern=WriteConcern("majority"),
        read_preference=ReadPreference.PRIMARY,
    )


class DocumentStore:
    """The watched collection. Safe to share between threads.

    Attributes:
        pipeline: What is declared: whose outputs there are.
        no_room: Errors that do not fit into their documents.
    """

    def __init__(
        self, client: MongoClient[Document], settings: MongoSettings, pipeline: Pipeline
    ) -> None:
        self.pipeline = pipeline
        self._client = client
        self._collection = watched_collection(client, settings)
        self.no_room = NoRoom(state_database(client, settings), settings.collection, pipeline)

    @property
    def collection(self) -> Collection[Document]:
        """The collection, with majority reads from the primary and majority writes."""
        return self._collection

    @property
    def read_fields(self) -> dict[str, int]:
        """Projection to the watched fields and the outputs."""
        return dict.fromkeys((*self.pipeline.watched, OUTPUTS), 1)

    @property
    def tenant(self) -> str:
        """Name of what is watched, in records and positions."""
        return self._collection.full_name

    def prepare(self) -> None:
        """Create the index that makes counting and scanning states cheap, if it is not there.

        On a large collection that takes longer than a connection waits. It goes on at the server
        meanwhile, and calling again joins it.

        Raises:
            StoreUnavailable: MongoDB does not answer, or the index is being built.
            StoreRefuses: The collection cannot have it, or is no collection; the message says why.
        """
        with mongo_errors("creating the state index"):
            try:
                build_state_index(self._collection, self.pipeline)
            except OperationFailure as exc:
                if exc.code != _PARALLEL_ARRAYS or not self.clear_malformed():
                    raise
                build_state_index(self._collection, self.pipeline)

    def check(self) -> None:
        """Find out whether documents of this collection can get outputs and be counted; reads only.

        Raises:
            StoreUnavailable: MongoDB does not answer.
            StoreRefuses: They cannot; the message says why and what to do.
        """
        with mongo_errors("looking at the collection"):
            check_collection(self._collection, self.pipeline)

    def clear_malformed(self, document_ids: Sequence[DocumentId] | None = None) -> int:
        """Remove what a producer has put into `_outputs` so that no output can be stored there.

        Args:
            document_ids: Only these documents; all when None.

        Returns:
            How many documents were changed.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        chosen = {} if document_ids is None else {"_id": {"$in": list(document_ids)}}
        with mongo_errors("removing what is in the way of outputs"):
            return self._collection.update_many(
                malformed(chosen, self.pipeline), MEND
            ).modified_count

    def read_inputs(
        self, document_ids: Sequence[DocumentId], *, after: Timestamp
    ) -> dict[bytes, Document]:
        """Read the watched fields and the outputs of documents, as of `after` or later.

        Args:
            document_ids: `_id` of each document.
            after: clusterTime that the read must include. One that lies ahead of the cluster's own
                by more than a minute is no change's: then everything until now is included.

        Returns:
            Documents by `document_key`; a document that is gone is absent.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        with mongo_errors("reading documents"):
            try:
                return self._read(document_ids, after)
            except OperationFailure as exc:
                now = cluster_time(self._client)
                if exc.code != _AHEAD:
                    raise
                if after.time <= now.time + _MOST_AHEAD_SECONDS:
                    msg = "the primary of MongoDB has not got to the change that is to be read"
                    raise StoreUnavailable(msg) from exc
                return self._read(document_ids, now)

    @contextmanager
    def session(self, after: Timestamp) -> Iterator[ClientSession]:
        """Give a session whose reads include `after`.

        Without it, a primary that was just elected could answer from before the change.
        """
        with self._client.start_session(causal_consistency=True) as session:
            session.advance_operation_time(after)
            yield session

    def _read(self, document_ids: Sequence[DocumentId], after: Timestamp) -> dict[bytes, Document]:
        query = {"_id": {"$in": list(document_ids)}}
        with self.session(after) as session:
            found = self._collection.find(query, self.read_fields, session=session)
            return {document_key(document["_id"]): document for document in found}

    def write_outputs(self, writes: Sequence[OutputWrite]) -> WriteReport:
        """Write outputs and errors, each under its guard, acknowledged by a majority.

        What they do not bear beside them goes: a caption of another image must not stay when no
        version serves that could make the new one.

        Never inserts a document, never touches anything but outputs. Repeating a call changes
        nothing.

        Raises:
            StoreUnavailable: MongoDB does not answer; some writes may have been done.
        """
        if not writes:
            return WriteReport(done=(), kept_away=(), rejected={})
        fields = [fields_of(write) for write in writes]
        requests = [
            update_of(write, f, self.pipeline) for write, f in zip(writes, fields, strict=True)
        ]
        rejected: dict[int, str] = {}
        no_room: set[int] = set()
        with mongo_errors("writing outputs"):
            try:
                written = self._collection.bulk_write(requests, ordered=False).modified_count
            except BulkWriteError as exc:
                written = int(exc.details.get("nModified", 0))
                rejected, no_room = rejections(exc), without_room(exc)
            done = set(range(len(writes))) - rejected.keys()
            if written < len(done):
                # Often none: of finished documents that come again nothing is read back.
                done = self._stored(writes, fields, done) if written else set()
            if outdated := [drop for write in writes for drop in drops_of(write, self.pipeline)]:
                try:
                    self._collection.bulk_write(outdated, ordered=False)
                except BulkWriteError as exc:
                    refused = list(rejections(exc).values())
                    log.error("outputs of images before stay", error=refused[0][:200])
        self.no_room.forget(writes[i] for i in done)
        kept_away = set(range(len(writes))) - done - rejected.keys()
        return WriteReport(done=done, kept_away=kept_away, rejected=rejected, no_room=no_room)

    def write_errors(self, writes: Sequence[OutputWrite]) -> dict[int, str]:
        """Write errors as `write_outputs` does; where there is no room for one, it stays beside.

        Returns:
            Why, by position, of those that MongoDB refused for another reason: they stand nowhere.

        Raises:
            StoreUnavailable: MongoDB does not answer; some writes may have been done.
        """
        report = self.write_outputs(writes)
        for i in report.no_room:
            self.no_room.keep(writes[i])
        return {i: reason for i, reason in report.rejected.items() if i not in report.no_room}

    def _stored(
        self,
        writes: Sequence[OutputWrite],
        fields: Sequence[Mapping[str, Any]],
        positions: Positions[int],
    ) -> set[int]:
        """Return which writes are stored: MongoDB says only how many. Each says when it was."""
        marks = {f"{write.model.path}.{name}": 1 for write in writes for name in _MARKS}
        ids = [writes[i].document_id for i in positions]
        rows = {
            document_key(row["_id"]): row
            for piece in split_ids(ids)
            for row in self._collection.find({"_id": {"$in": piece}}, marks)
        }
        return {
            i
            for i in positions
            if (row := rows.get(document_key(writes[i].document_id))) is not None
            and _is_stored(lookup(row, writes[i].model.path), fields[i])
        }

    def count_states(self, serving: Serving) -> dict[DocumentState, int]:
        """Count documents by state, from the state index alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        counts = dict.fromkeys(DocumentState, 0)
        paths = self.pipeline.state_paths
        group = {path.replace(".", "/"): f"${path}" for path in paths}
        pipeline: list[dict[str, Any]] = [
            {"$match": {}},
            {"$sort": {paths[0]: 1}},  # lets the index be used, so that no image is read
            {"$project": {"_id": 0, **dict.fromkeys(paths, 1)}},
            {"$group": {"_id": group, "count": {"$sum": 1}}},
        ]
        with mongo_errors("counting documents"):
            for row in self._collection.aggregate(pipeline, hint=state_index(self.pipeline)):
                document = _nest({name.replace("/", "."): v for name, v in row["_id"].items()})
                counts[document_state(document, serving)] += row["count"]
        errors = self.no_room.errors()
        for row in self._scan([kept["_id"] for kept in errors.values()]):
            before = document_state(row, serving)
            [laid] = with_errors([row], errors, self.pipeline)
            if counts[before]:
                counts[before] -= 1
                counts[document_state(laid, serving)] += 1
        return counts

    def sample(self, size: int) -> list[DocumentId]:
        """Return ids of at most so many documents, chosen by chance, from the index alone.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        only_ids: list[dict[str, Any]] = [{"$sort": {"_id": 1}}, {"$project": {"_id": 1}}]
        with mongo_errors("choosing documents by chance"):
            rows = self._collection.aggregate([*only_ids, {"$sample": {"size": size}}])
            return [row["_id"] for row in rows]

    def scan_states(self, document_ids: Iterable[DocumentId]) -> Iterator[Document]:
        """Yield `_id`, the state fields and the sources of outputs of documents that are there.

        Errors beside them too.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        for piece in split_ids(document_ids):
            yield from self.no_room.lay_over(list(self._scan(piece)))

    def _scan(self, document_ids: Iterable[DocumentId]) -> Iterator[Document]:
        sources = (f"{model.path}.source" for model in self.pipeline.models.values())
        projection = dict.fromkeys((*self.pipeline.state_paths, *sources, "_id"), 1)
        for piece in split_ids(document_ids):
            with mongo_errors("scanning documents"):
                yield from self._collection.find({"_id": {"$in": piece}}, projection)


def _is_stored(found: Any, fields: Mapping[str, Any]) -> bool:
    at = fields["at"]
    wanted = {**fields, "at": at.replace(microsecond=at.microsecond // 1000 * 1000)}
    return isinstance(found, Mapping) and all(found.get(m) == wanted.get(m) for m in _MARKS)


def _nest(flat: Mapping[str, Any]) -> Document:
    nested: Document = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        level = nested
        for part in parents:
            level = level.setdefault(part, {})
        level[last] = value
    return nested
