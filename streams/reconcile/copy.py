"""The copy of documents that no change brings: those from before the first start, or lost.

A cursor beside the change stream, which is read on meanwhile: ids and positions of the stream are
acknowledged apart, so neither is ever kept behind something of the other that is not. It publishes
what is not finished (`finished`) in the small chunks in which the reconciler repeats documents
(`repeats`), below live traffic, and goes on behind the last id that Kafka has acknowledged.

It ends, however long it takes: the position of the stream is kept all the time, so the oplog does
not outrun it. What makes everything doubtful while it runs (history or log lost again, a copy asked
for) begins another round, which must look at every document again. That round begins where the
first one was, so that however often this happens, each document is reached once in a round. Nothing
less would do: what was copied before may have changed unseen.
"""

import threading
import time
from contextlib import closing
from dataclasses import replace
from typing import Final, NamedTuple

from pymongo.client_session import ClientSession
from pymongo.cursor import Cursor
from structlog import get_logger

from streams import metrics
from streams.contract.events import DocumentChanged, Origin
from streams.contract.ids import DocumentId, document_key
from streams.contract.pipeline import CHANGES
from streams.contract.states import Serving
from streams.kafka.producer import EventProducer
from streams.mongo.client import Document, mongo_errors
from streams.mongo.leadership import CopyState, Leadership
from streams.mongo.store import DocumentStore
from streams.reconcile.finished import is_finished, projection
from streams.reconcile.repeats import Repeater
from streams.settings import Settings

log = get_logger(__name__)

#: Most documents, and about the longest time, of one look: live changes wait behind one.
_LOOK_DOCUMENTS: Final = 500
_LOOK_SECONDS: Final = 0.25


class Look(NamedTuple):
    """What was found from some place on.

    Attributes:
        unfinished: Ids of documents to be published, in order.
        finished: How many need nothing.
        last: The last id that was looked at; empty when there was none.
        is_end: Whether nothing is left in this leg.
    """

    unfinished: list[DocumentId]
    finished: int
    last: tuple[DocumentId, ...]
    is_end: bool


class Copier:
    """Works on the copy that is under way. One thread at a time."""

    def __init__(self, settings: Settings, store: DocumentStore, repeater: Repeater) -> None:
        """Keep what is needed; `repeater` publishes and throttles."""
        self._kafka = settings.kafka
        self._store = store
        self._repeater = repeater

    def go_on(
        self, lease: Leadership, serving: Serving, stop: threading.Event, *, seconds: float
    ) -> None:
        """Go on with the copy that is under way, if there is one.

        Args:
            lease: Held; knows how far the copy is.
            serving: The versions that serve; ends when others do.
            stop: Ends it.
            seconds: About how long.

        Raises:
            LeaseLost: Another publisher holds the lease.
            StoreUnavailable: MongoDB does not answer.
            BrokerUnavailable: The broker does not answer.
        """
        state = lease.read().copy
        if state is None:
            return
        deadline = time.monotonic() + seconds
        with closing(EventProducer(self._kafka)) as producer:
            is_moving = True
            while state is not None and is_moving and time.monotonic() < deadline:
                following, is_moving = self._step(state, lease, producer, serving, stop)
                kept = lease.read().copy
                # Another copy needs another producer: of this one, offsets of a lost log may be
                # remembered.
                is_same = kept is not None and kept.source == state.source
                state = following if is_same else None

    def _step(
        self,
        state: CopyState,
        lease: Leadership,
        producer: EventProducer,
        serving: Serving,
        stop: threading.Event,
    ) -> tuple[CopyState | None, bool]:
        """Look at some documents and publish those that are not finished.

        Returns:
            Where the copy is then, None at its end; and whether to go on.
        """
        began = time.monotonic()
        look = look_at(self._store, state, serving, self._repeater.size)
        following = behind(state, look)

        def keep() -> None:
            acknowledged = producer.acknowledged(CHANGES)
            if following is not None:
                lease.advance_copy(following, acknowledged)
            elif lease.end_copy(state, acknowledged):
                log.info("collection copied")
            metrics.COPIED.labels("finished").inc(look.finished)
            metrics.COPIED.labels("published").inc(len(look.unfinished))

        self._repeater.leave_to_live(time.monotonic() - began, stop)
        if not look.unfinished:
            keep()
            return following, not stop.is_set()
        entries = [
            (CHANGES, DocumentChanged(document_id=i, source=state.source, origin=Origin.COPY))
            for i in look.unfinished
        ]
        return following, self._repeater.put_through(entries, producer, serving, stop, keep)


def look_at(
    store: DocumentStore,
    state: CopyState,
    serving: Serving,
    most_unfinished: int,
) -> Look:
    """Look at the next documents of a copy, in the order of their ids.

    Documents that are inserted meanwhile may appear or not: the change stream has them.

    Args:
        store: The collection.
        state: Where the copy is.
        serving: The versions that serve.
        most_unfinished: Where to stop.

    Raises:
        StoreUnavailable: MongoDB does not answer.
    """
    unfinished: list[DocumentId] = []
    last, seen = state.last, 0
    until = time.monotonic() + _LOOK_SECONDS
    with (
        mongo_errors("copying the collection"),
        store.session(state.source) as session,
        _cursor(store, state, session, most_unfinished + 1) as rows,
    ):
        for row in rows:
            # Compared as MongoDB compares ids: in Python 1 equals True, {a, b} equals {b, a},
            # and NaN does not equal itself.
            if not seen and last and document_key(row["_id"]) == document_key(last[0]):
                continue
            last, seen = (row["_id"],), seen + 1
            if not is_finished(row, serving, since=state.source):
                unfinished.append(row["_id"])
            if len(unfinished) >= most_unfinished or time.monotonic() > until:
                return Look(unfinished, seen - len(unfinished), last, is_end=False)
    return Look(unfinished, seen - len(unfinished), last, is_end=seen < _LOOK_DOCUMENTS)


def _cursor(
    store: DocumentStore, state: CopyState, session: ClientSession, batch: int
) -> Cursor[Document]:
    # min() on the _id index begins at a key of any type, which $gt does not.
    cursor = store.collection.find({}, projection(state.source, store.pipeline), session=session)
    cursor = cursor.sort("_id", 1).hint([("_id", 1)])
    for first in state.here:
        cursor = cursor.min([("_id", first)])
    if state.is_second_leg:
        for end in state.start:
            cursor = cursor.max([("_id", end)])
    return cursor.limit(_LOOK_DOCUMENTS + 1).batch_size(max(batch, 2))


def behind(state: CopyState, look: Look) -> CopyState | None:
    """Return where a copy is behind a look; None at its end."""
    if not look.is_end:
        return replace(state, last=look.last)
    if state.start and not state.is_second_leg:
        return replace(state, last=(), is_second_leg=True)
    return None
