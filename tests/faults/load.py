"""Inserts, updates, replaces and deletes, with broken images among them, and a ledger of it."""

import http.server
import io
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from PIL import Image
from pymongo.collection import Collection
from pymongo.errors import PyMongoError


def picture(generator: random.Random) -> bytes:
    """Return a small picture of one random colour."""
    data = io.BytesIO()
    colour = tuple(generator.randrange(256) for _ in range(3))
    Image.new("RGB", (80, 60), colour).save(data, "PNG")
    return data.getvalue()


@contextmanager
def web() -> Iterator[str]:
    """A web server with a picture at every path, but for those that begin with `missing`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(404 if self.path.startswith("/missing") else 200)
            self.end_headers()
            self.wfile.write(picture(random.Random(self.path)))  # noqa: S311 - no secret

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def image(generator: random.Random, url: str) -> object:
    """Return what a producer may put into `img`: of twenty, one is no image, one is a URL."""
    if generator.random() < 0.9:
        return picture(generator)
    whole = picture(generator)
    if generator.random() < 0.5:
        return {"url": f"{url}/{generator.choice(['', 'missing'])}{generator.randrange(1000)}"}
    return generator.choice([b"", b"no image", whole[: len(whole) // 2], "text", 7, None])


#: Documents of one transaction; and what keeps their ids apart from the others.
_SOME, _MANY = 20, 10**6


class Load(threading.Thread):
    """Changes documents until it is told to stop. Ids are numbers; some are used again."""

    def __init__(self, documents: Collection[Any], seed: int, url: str) -> None:
        super().__init__(name="load", daemon=True)
        self._documents = documents
        self._url = url
        self._random = random.Random(seed)  # noqa: S311 - pictures, no secret
        self._live: list[int] = []
        self._stop_asked = threading.Event()
        self._lock = threading.Lock()
        self.deleted: set[int] = set()
        self.changes = 0
        self.used_again = 0
        self.dropped = 0

    def run(self) -> None:
        """One change about every 30 ms; one that MongoDB did not confirm is in doubt."""
        number = 0
        while not self._stop_asked.wait(0.03):
            number += 1
            with self._lock:
                try:
                    self._change(number)
                except PyMongoError:
                    continue  # it happened or not: `verify` looks at what is there
                self.changes += 1

    def finish(self) -> None:
        """Stop, and wait for the change under way."""
        self._stop_asked.set()
        self.join()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Change nothing as long as the context lasts."""
        with self._lock:
            yield

    def note_dropped(self) -> None:
        """Take note, while held, that the collection is gone."""
        self.dropped += len(self._live)
        self.deleted |= set(self._live)
        self._live.clear()

    def risen(self) -> set[int]:
        """Return documents that were deleted, which MongoDB confirmed, and are there again."""
        found = self._documents.find({"_id": {"$in": list(self.deleted)}}, {"_id": 1})
        return {row["_id"] for row in found}

    def _image(self) -> object:
        return image(self._random, self._url)

    def _change(self, number: int) -> None:
        kind = self._random.random()
        if kind < 0.02:
            self._change_together(number)
        elif kind < 0.5 or len(self._live) < 20:
            self._live.append(number)
            self._documents.insert_one({"_id": number, "img": self._image()})
        else:
            self._change_one(self._random.choice(self._live), kind)

    def _change_together(self, number: int) -> None:
        """Insert several in one transaction: one clusterTime, whose events a kill may tear."""
        rows = [{"_id": number * _MANY + offset, "img": self._image()} for offset in range(_SOME)]
        client = self._documents.database.client
        with client.start_session() as session, session.start_transaction():
            self._documents.insert_many(rows, session=session)
        self._live += [row["_id"] for row in rows]

    def _change_one(self, chosen: int, kind: float) -> None:
        if kind < 0.75:
            new = {"$set": {"img": self._image()}}
            self._documents.update_one({"_id": chosen}, new)
        elif kind < 0.9:
            self._documents.replace_one({"_id": chosen}, {"img": self._image()})
        else:
            self._live.remove(chosen)
            self._documents.delete_one({"_id": chosen})
            self.deleted.add(chosen)
            if kind > 0.97:
                self._use_again(chosen)

    def _use_again(self, chosen: int) -> None:
        """Insert another document under the id of a deleted one."""
        self.deleted.remove(chosen)
        self._live.append(chosen)
        self._documents.insert_one({"_id": chosen, "img": self._image()})
        self.used_again += 1
