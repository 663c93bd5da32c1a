"""An oplog that no longer reaches back to where the publisher was."""

import subprocess

import pytest
from pymongo import MongoClient

from streams import metrics
from streams.local.mongod import Mongod, find_mongod
from streams.local.ports import free_port
from streams.mongo import connect
from streams.settings import MongoSettings, Settings
from streams.store import DocumentStore
from streams.topics import create_topics
from tests.integration.conftest import Published, publishing
from tests.waiting import wait_until


class RollingMongod:
    """A mongod of its own, whose oplog can be cut to its last entry while it is down.

    An oplog of the smallest size rolls over only after a gigabyte and more than a minute; what the
    publisher meets is the same.
    """

    def __init__(self, directory):
        self._binary = find_mongod(Settings().local)
        self._port = free_port()
        self._data = directory / "data"
        self._log = directory / "mongod.log"
        self._server = self._make()
        self._server.start()
        self.uri = self._server.uri

    def _make(self):
        return Mongod(self._binary, data=self._data, log=self._log, port=self._port)

    def forget_the_past(self):
        self._server.stop()
        command = [
            *(str(self._binary), "--dbpath", str(self._data), "--port", str(self._port)),
            *("--bind_ip", "127.0.0.1", "--nounixsocket"),
        ]
        with self._log.open("ab") as log:
            standalone = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            with MongoClient(f"mongodb://127.0.0.1:{self._port}", directConnection=True) as client:
                oplog = client["local"]["oplog.rs"]
                last = oplog.find_one(sort=[("$natural", -1)])
                assert oplog.delete_many({"ts": {"$lt": last["ts"]}}).deleted_count > 1
        finally:
            standalone.terminate()
            standalone.wait()
        self._server = self._make()
        self._server.start()

    def stop(self):
        self._server.stop()


@pytest.fixture
def mongod(tmp_path):
    found = RollingMongod(tmp_path)
    yield found
    found.stop()


def test_oplog_that_rolled_over_makes_a_copy(settings, mongod):
    """Fails without code 286 in `_HISTORY_LOST`: the publisher would try again for ever."""
    mongo = MongoSettings(uri=mongod.uri, database="t")
    settings = settings.model_copy(update={"mongo": mongo})
    create_topics(settings.kafka)
    published = Published(settings)
    lost = metrics.HISTORY_LOST._value.get()
    with connect(mongo) as client:
        documents = DocumentStore(client, mongo).collection
        documents.insert_one({"_id": 0, "img": b"x"})
        with publishing(settings, client):
            published.wait_for(0, ["copy"])
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(1, 30)])
        mongod.forget_the_past()
        with publishing(settings, client):
            wait_until(lambda: published.ids() >= set(range(30)), doing="the copy")
            documents.insert_one({"_id": "later", "img": b"x"})
            published.wait_for("later", ["live"])
        assert [published.of(number) for number in range(1, 30)] == [["copy"]] * 29
    assert metrics.HISTORY_LOST._value.get() == lost + 1
