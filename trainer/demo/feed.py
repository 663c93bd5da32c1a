"""A producer, and what it sees: inserts by plain pymongo, captions by a change stream."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Final

from bson import ObjectId
from pymongo.collection import Collection

from streams.contract.default_pipeline import DEFAULT
from streams.contract.documents import (
    lookup,
)
from streams.mongo.client import mongo_errors
from trainer.scenes.scenes import Scene

Documents = Collection[dict[str, Any]]

_CAPTIONER: Final = DEFAULT.models["conditional_lm"]
_EMBEDDED: Final = {
    f"{DEFAULT.models[name].path}.value": {"$type": "binData"}
    for name in ("clip", "clip_projection")
}
CAPTIONED: Final = {f"{_CAPTIONER.path}.value": {"$type": "string"}}
FAILED: Final = {
    "$or": [{f"{model.path}.error": {"$exists": True}} for model in DEFAULT.models.values()]
}
#: What is failed is waited for no longer.
EMBEDDED_OR_FAILED: Final = {"$or": [_EMBEDDED, FAILED]}
CAPTIONED_OR_FAILED: Final = {"$or": [CAPTIONED, FAILED]}


class Feed:
    """Inserts scenes and remembers when; notes when the caption of each can be seen.

    Attributes:
        scenes: What was inserted, by `_id`.
        inserted_at: When, monotonic seconds, by `_id`.
        captioned_at: When the first caption was seen, by `_id`.
    """

    def __init__(self, documents: Documents) -> None:
        """Keep the collection that is fed."""
        self._documents = documents
        self._stop = threading.Event()
        self.scenes: dict[ObjectId, Scene] = {}
        self.inserted_at: dict[ObjectId, float] = {}
        self.captioned_at: dict[ObjectId, float] = {}

    def insert(self, scene: Scene, *, fold: str) -> None:
        """Insert one document, as a producer does."""
        row: dict[str, Any] = {
            "_id": ObjectId(),
            "img": scene.png(),
            "captions": scene.captions(),
            "scene": scene.as_document(),
            "_fold": fold,
        }
        self.scenes[row["_id"]] = scene
        self.inserted_at[row["_id"]] = time.monotonic()
        self._documents.insert_one(row)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note captions as they come, as long as the context lasts.

        Raises:
            StoreUnavailable: Captions could not be watched, from the start or at some time.
        """
        ready = threading.Event()
        with ThreadPoolExecutor(1) as pool:
            watch = pool.submit(self._watch, ready)
            watch.add_done_callback(lambda _: ready.set())  # a failure ends the waiting too
            try:
                ready.wait()
                if watch.done():
                    watch.result()
                yield
            finally:
                self._stop.set()
            watch.result()

    def _watch(self, ready: threading.Event) -> None:
        updates = [{"$match": {"operationType": "update"}}]
        watched = self._documents.watch
        with mongo_errors("watching captions"), watched(updates, max_await_time_ms=200) as stream:
            ready.set()
            while not self._stop.is_set():
                change = stream.try_next()
                if change is not None and _brings_caption(change):
                    self.captioned_at.setdefault(change["documentKey"]["_id"], time.monotonic())


@contextmanager
def trickling(
    feed: Feed, scenes: Iterator[Scene], *, per_second: float, fold: str
) -> Iterator[None]:
    """Insert scenes one by one, as long as the context lasts and there are some left.

    Raises:
        PyMongoError: One could not be inserted.
    """
    stop = threading.Event()

    def insert() -> None:
        # The pause comes first: a scene that is taken is inserted.
        while not stop.wait(1 / per_second):
            scene = next(scenes, None)
            if scene is None:
                return
            feed.insert(scene, fold=fold)

    with ThreadPoolExecutor(1) as pool:
        inserting = pool.submit(insert)
        try:
            yield
        finally:
            stop.set()
        inserting.result()


def wait_for(
    documents: Documents,
    query: Mapping[str, Any],
    count: int,
    *,
    seconds: float,
    on_progress: Callable[[int], None],
) -> bool:
    """Wait until so many documents match; False when the time is over before that."""
    deadline = time.monotonic() + seconds
    while (done := documents.count_documents(query)) < count:
        on_progress(done)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.25)
    on_progress(done)
    return True


def _brings_caption(change: Mapping[str, Any]) -> bool:
    """Whether an update wrote a caption: the output itself, or a field that holds it."""
    wanted = f"{_CAPTIONER.path}.value"
    return any(
        wanted.startswith(f"{name}.")
        and isinstance(lookup(value, wanted.removeprefix(f"{name}.")), str)
        for name, value in change["updateDescription"]["updatedFields"].items()
    )
