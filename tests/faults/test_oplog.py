"""An oplog that no longer reaches back to where the publisher was."""

import pytest
from pymongo import MongoClient

from streams import metrics
from streams.contract.default_pipeline import DEFAULT
from streams.kafka.topics import create_topics
from streams.local.mongod import Mongod
from streams.mongo.client import connect
from streams.mongo.store import DocumentStore
from streams.settings import MongoSettings
from tests.faults.programs import write_mongod
from tests.integration.conftest import Published, publishing
from tests.ports import free_port
from tests.waiting import wait_until

#: More than the oplog holds; what is older than the last checkpoint is dropped.
_OPLOG_MB = 16
_BLOCK = b"x" * (1 << 20)


def outrun(uri):
    """Write until the oplog no longer holds what stands in it now."""
    with MongoClient(uri) as client:
        oplog = client["local"]["oplog.rs"]
        last = oplog.find_one(sort=[("$natural", -1)])["ts"]

        def is_gone():
            client.other.filler.insert_one({"block": _BLOCK})
            return oplog.find_one(sort=[("$natural", 1)])["ts"] > last

        wait_until(is_gone, doing="the oplog to roll over", pause_seconds=0)


@pytest.fixture
def mongod(tmp_path):
    """A mongod of its own that soon forgets: a small oplog, a checkpoint every second."""
    server = Mongod(
        write_mongod(tmp_path, "--syncdelay", "1"),
        data=tmp_path / "data",
        log=tmp_path / "mongod.log",
        port=free_port(),
        oplog_mb=_OPLOG_MB,
    )
    server.start()
    yield server
    server.stop()


def test_oplog_that_rolled_over_makes_a_copy(settings, mongod):
    """Fails without code 286 in `_HISTORY_LOST`: the publisher would try again for ever."""
    mongo = MongoSettings(uri=mongod.uri, database="t")
    settings = settings.model_copy(update={"mongo": mongo})
    create_topics(settings.kafka, DEFAULT)
    published = Published(settings)
    lost = metrics.HISTORY_LOST._value.get()
    with connect(mongo) as client:
        documents = DocumentStore(client, mongo, DEFAULT).collection
        documents.insert_one({"_id": 0, "img": b"x"})
        with publishing(settings, client):
            published.wait_for(0, ["copy"])
        documents.insert_many([{"_id": number, "img": b"x"} for number in range(1, 30)])
        outrun(mongod.uri)
        with publishing(settings, client):
            wait_until(lambda: published.ids() >= set(range(30)), doing="the copy")
            documents.insert_one({"_id": "later", "img": b"x"})
            published.wait_for("later", ["live"])
        assert [published.of(number) for number in range(1, 30)] == [["copy"]] * 29
    assert metrics.HISTORY_LOST._value.get() == lost + 1
