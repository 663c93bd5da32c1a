"""Ways to do harm to what is stored: records, documents, the collection, the registry."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from pymongo.errors import PyMongoError

from streams.contract.events import DOCUMENT_CHANGED, Record
from streams.errors import BrokerUnavailable, CaptionstreamError
from streams.kafka.producer import publish_all
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import topic_name
from streams.mongo.client import state_database
from streams.registry.versions import Registry
from tests.captioner import publish_tiny_captioner, tiny_captioner
from tests.faults.load import picture
from tests.faults.target import INJECTED, Target
from tests.pipelines import CLIP, CONDITIONAL_LM
from tests.waiting import wait_until

#: Keys that break a decoder of extended JSON, that would match other documents, or fail a query.
_HOSTILE_KEYS = (
    b'{"$oid":"f"}',
    b'{"$binary":{}}',
    b"[" * 100_000,
    b'{"$gt":""}',
    b'{"$regularExpression":{"pattern":".","options":""}}',
    b'{"a":' * 200 + b"1" + b"}" * 200,
)
#: Records that one strike takes from a topic and sends again.
_TAKEN = 30
#: Two of these do not fit into one event of 16 MB.
_LARGE_BYTES = 9 << 20


def repeat_records(target: Target) -> str:
    """Old records of a topic come again, late and in another order."""
    topic = target.random.choice(target.pipeline.all_topics)
    name = topic_name(topic, target.settings.kafka)
    with suppress(BrokerUnavailable):
        found = [
            Record(
                key=message.key or b"",
                value=message.value,
                headers=[*message.headers, (INJECTED, b"1")],
            )
            for _, message in read_topics([name], target.settings.kafka)
        ]
        chosen = target.random.sample(found, min(_TAKEN, len(found)))
        publish_all([(topic, record) for record in chosen], target.settings.kafka)
    return f"records of {topic} again"


def send_garbage(target: Target) -> str:
    """What is no event of ours, on every topic."""
    junk = target.random.randbytes(100)
    ours = f"/{target.settings.mongo.tenant}".encode()
    headers = [
        [],
        [("ce_type", b"captionstream.document.changed.v99"), ("ce_source", ours)],
        [("ce_type", DOCUMENT_CHANGED.encode()), ("ce_source", b"/other.collection")],
        [("ce_type", junk), ("ce_clustertime", junk), ("ce_source", junk)],
    ]
    records = [
        (topic, Record(key=target.random.randbytes(8), value=value, headers=chosen))
        for topic in target.pipeline.all_topics
        for chosen in headers
        for value in (junk, None)
    ]
    hostile = [
        ("ce_type", DOCUMENT_CHANGED.encode()),
        ("ce_source", ours),
        ("ce_clustertime", b"1.1"),
    ]
    records += [
        (topic, Record(key=key, value=b'{"origin":"live"}', headers=hostile))
        for topic in target.pipeline.all_topics
        for key in _HOSTILE_KEYS
    ]
    marked = [
        (topic, Record(key=r.key, value=r.value, headers=[*r.headers, (INJECTED, b"1")]))
        for topic, r in records
    ]
    with suppress(BrokerUnavailable):
        publish_all(marked, target.settings.kafka)
    return "garbage on every topic"


def promote_captioner(target: Target) -> str:
    """Another captioner serves, and everything is captioned again."""
    with suppress(PyMongoError, CaptionstreamError):
        info = target.stack.info
        publish_tiny_captioner(info["mongo_uri"], info["database"], seed=next(target.seeds))
    return "promotion"


def tear_registry(target: Target) -> str:
    """A version whose weights are torn is promoted and refused; then it is rolled back."""
    state = state_database(target.stack.client, target.settings.mongo)
    registry = Registry(state)
    name = CONDITIONAL_LM.name
    with suppress(PyMongoError, CaptionstreamError):
        clip = registry.pointer(CLIP.name)
        bundle = tiny_captioner(seed=next(target.seeds), clip_version=clip.version)
        version = registry.publish(bundle)
        row = state["model_versions"].find_one({"version": version})
        state["model_files.chunks"].delete_many({"files_id": row["file_id"]})
        registry.promote(name, version, reason="soak")
        with suppress(AssertionError):  # the process may be away or frozen
            wait_until(lambda: registry.pointer(name).refusal, 15, doing="the refusal")
        insist(lambda: registry.rollback(name, reason="soak"))
    return "torn version promoted, rolled back"


def drop_collection(target: Target) -> str:
    """Every document is gone; the load goes on in a new collection."""
    with target.load.held(), suppress(PyMongoError):
        target.stack.documents.drop()
        target.load.note_dropped()
    return "collection dropped"


def rename_collection(target: Target) -> str:
    """The collection is renamed away, and back onto what may be there by then."""
    documents = target.stack.documents
    aside = documents.database[f"{documents.name}_aside"]
    with target.load.held():
        with suppress(PyMongoError):
            documents.rename(aside.name, dropTarget=True)
        insist(lambda: _rename_if_there(aside, documents.name))
    return "collection renamed, and back"


def insert_large(target: Target) -> str:
    """A document and its change that do not fit into one event together."""
    document_id = f"large {next(target.seeds)}"
    with suppress(PyMongoError):
        for _ in range(2):
            image = picture(target.random) + bytes(_LARGE_BYTES)
            change = {"$set": {"img": image}}
            target.stack.documents.update_one({"_id": document_id}, change, upsert=True)
    return "document of 9 MB"


def _rename_if_there(aside: Any, name: str) -> None:
    if aside.name in aside.database.list_collection_names():
        aside.rename(name, dropTarget=True)


def insist(action: Callable[[], object]) -> None:
    """Do what has to be done, however often MongoDB is away."""

    def is_done() -> bool:
        try:
            action()
        except (PyMongoError, CaptionstreamError):
            return False
        return True

    wait_until(is_done, 120, doing="a change of MongoDB", pause_seconds=0.5)
