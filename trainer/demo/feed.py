"""A producer, and what it sees: inserts by plain pymongo, captions by a change stream."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from bson import ObjectId
from pymongo.collection import Collection

from streams.local.scenes import Scene

Documents = Collection[dict[str, Any]]

#: Fields of one finished stage; a document's outputs land in any order.
EMBEDDED: Final = {
    f"_outputs.img.{model}.version": {"$gt": ""} for model in ("clip", "clip_projection")
}
CAPTIONED: Final = {"_outputs._base.conditional_lm.version": {"$gt": ""}}


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

    def insert(self, scene: Scene, *, fold: str | None = None) -> None:
        """Insert one document, as a producer does."""
        row: dict[str, Any] = {
            "_id": ObjectId(),
            "img": scene.png(),
            "captions": scene.captions(),
            "scene": scene.as_document(),
        }
        if fold is not None:
            row["_fold"] = fold
        self.scenes[row["_id"]] = scene
        self.inserted_at[row["_id"]] = time.monotonic()
        self._documents.insert_one(row)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Note captions as they come, as long as the context lasts."""
        ready = threading.Event()
        thread = threading.Thread(target=self._watch, args=(ready,), daemon=True)
        thread.start()
        ready.wait()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _watch(self, ready: threading.Event) -> None:
        updates = [{"$match": {"operationType": "update"}}]
        with self._documents.watch(updates, max_await_time_ms=200) as stream:
            ready.set()
            while not self._stop.is_set():
                change = stream.try_next()
                if change is not None and _brings_caption(change):
                    self.captioned_at.setdefault(change["documentKey"]["_id"], time.monotonic())


@contextmanager
def trickling(
    feed: Feed, scenes: Iterable[Scene], *, per_second: float, fold: str
) -> Iterator[None]:
    """Insert scenes one by one, as long as the context lasts and there are some left."""
    stop = threading.Event()

    def insert() -> None:
        for scene in scenes:
            if stop.wait(1 / per_second):
                return
            feed.insert(scene, fold=fold)

    thread = threading.Thread(target=insert, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


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
    fields = change["updateDescription"]["updatedFields"]
    if any(name.startswith("_outputs._base") for name in fields):
        return True
    return "_base" in fields.get("_outputs", {})
