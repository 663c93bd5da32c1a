"""When outputs were written and when servers were away, as seen from outside of the stack."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from pymongo import MongoClient
from pymongo.errors import OperationFailure, PyMongoError

Span = tuple[float, float]
"""Begin and end, monotonic seconds."""

_FIELDS = {"$objectToArray": {"$ifNull": ["$updateDescription.updatedFields", {}]}}
_IS_OURS = {"$eq": [{"$indexOfCP": ["$$field.k", "_outputs"]}, 0]}


class Writes(threading.Thread):
    """Notes the time of each write of an output. Goes on when mongod was away."""

    def __init__(self, uri: str, database: str, collection: str) -> None:
        super().__init__(name="writes", daemon=True)
        self._uri = uri
        self._database = database
        writes = {"$map": {"input": _FIELDS, "as": "field", "in": _IS_OURS}}
        self._pipeline: list[dict[str, Any]] = [
            {"$match": {"operationType": "update", "ns.coll": collection}},
            {"$match": {"$expr": {"$anyElementTrue": [writes]}}},
            {"$project": {"_id": 1}},
        ]
        self._stop_asked = threading.Event()
        self._token: Any = None
        self.is_open = threading.Event()
        self.times: list[float] = []

    def run(self) -> None:
        """Watch until `finish`."""
        while not self._stop_asked.is_set():
            try:
                self._watch()
            except PyMongoError as exc:
                if isinstance(exc, OperationFailure):
                    self._token = None  # it may be the token that is refused
                self._stop_asked.wait(0.2)

    def finish(self) -> None:
        """Stop."""
        self._stop_asked.set()
        self.join()

    def _watch(self) -> None:
        with (
            MongoClient[dict[str, Any]](self._uri, serverSelectionTimeoutMS=1000) as client,
            client[self._database].watch(
                self._pipeline, resume_after=self._token, max_await_time_ms=200
            ) as stream,
        ):
            self.is_open.set()
            while not self._stop_asked.is_set():
                if stream.try_next() is not None:
                    self.times.append(time.monotonic())
                self._token = stream.resume_token


class Outages:
    """Spans in which a server or the supervisor was away."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    @contextmanager
    def during(self) -> Iterator[None]:
        """Note how long the context lasts."""
        begin = time.monotonic()
        try:
            yield
        finally:
            self.spans.append((begin, time.monotonic()))


def longest_gap(times: Sequence[float], outages: Sequence[Span] = ()) -> float:
    """Return the longest time between two of `times`, in seconds.

    A gap with an outage in it ends where the outage begins: what follows is its price.
    """
    gaps = []
    for begin, end in pairwise(sorted(times)):
        struck = [start for start, over in outages if start < end and over > begin]
        gaps.append(max(0.0, min([end, *struck]) - begin))
    return max(gaps, default=0.0)
