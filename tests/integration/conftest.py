"""Running pieces of the pipeline inside a test's own process."""

import threading
from contextlib import ExitStack, closing, contextmanager, suppress
from types import SimpleNamespace

import pytest

from streams.capture.publisher import Publisher
from streams.cli import app
from streams.contract.default_pipeline import DEFAULT
from streams.contract.events import DocumentDeleted
from streams.contract.ids import document_id_of
from streams.contract.pipeline import CHANGES
from streams.contract.wire import decode_event
from streams.errors import CaptionstreamError
from streams.images.pool import DecodePool
from streams.kafka.topic_log import read_topics
from streams.kafka.topics import create_topics, topic_name
from streams.local.broker import Broker, find_broker
from streams.mongo.client import connect, state_database
from streams.mongo.leadership import Leadership
from streams.mongo.store import DocumentStore
from streams.operate.commands import context
from streams.reconcile.copy import Copier
from streams.reconcile.repeats import Repeater
from streams.registry.versions import Registry
from streams.settings import ImageSettings, LocalSettings
from tests.command_line import CommandLine
from tests.ports import free_port
from tests.waiting import DEADLINE_SECONDS, wait_until


@pytest.fixture(scope="session")
def decoders():
    with closing(DecodePool(ImageSettings(), workers=1)) as pool:
        yield pool


@pytest.fixture(autouse=True)
def connections_of_commands(monkeypatch):
    """Close them with their test, not at the end of all: each would wait for a server that is gone.

    A command has a process of its own, and closes its connection when that ends.
    """
    with ExitStack() as opened:
        monkeypatch.setattr(context, "atexit", SimpleNamespace(register=opened.callback))
        yield


@pytest.fixture
def broker(tmp_path):
    """A broker of the test's own that was not started; ended afterwards."""
    made = Broker(
        find_broker(LocalSettings()),
        directory=tmp_path,
        log=tmp_path / "broker.log",
        port=free_port(),
    )
    yield made
    made.kill()


@pytest.fixture
def client(settings):
    create_topics(settings.kafka, DEFAULT)
    with connect(settings.mongo) as connected:
        yield connected


@pytest.fixture
def documents(client, settings):
    return DocumentStore(client, settings.mongo, DEFAULT).collection


@pytest.fixture
def captionstream(settings, monkeypatch, capsys):
    """The command line, against the servers of the test."""
    return CommandLine(app, monkeypatch, capsys, settings)


@contextmanager
def publishing(settings, client, pipeline=DEFAULT, **options):
    """A publisher and its copies, as long as the context lasts; SIGTERM is its end.

    The context begins when the copy that is due is done. Of the reconciler's thread there is only
    what copies: it would build an index while a test renames the collection.
    """
    stop = threading.Event()
    publisher = Publisher(settings, client, pipeline, **options)
    state = state_database(client, settings.mongo)

    def copy():
        store, serving = (
            DocumentStore(client, settings.mongo, DEFAULT),
            (lambda: Registry(state).serving(DEFAULT)),
        )
        repeater = Repeater(settings, store, serving=serving, live_changes=lambda: 0)
        copier = Copier(settings, store, repeater)
        while not stop.wait(0.05):
            with suppress(CaptionstreamError):
                if lease := publisher.lease:
                    copier.go_on(lease, serving(), stop, seconds=60)

    threads = [
        threading.Thread(target=publisher.run, args=(stop,)),
        threading.Thread(target=copy),
    ]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: not publisher.waits_for, doing="the publisher to be ready")
        copying = {"copy": {"$exists": True}}
        wait_until(lambda: not state["positions"].count_documents(copying), doing="the copy")
        yield publisher
    finally:
        stop.set()
        for thread in threads:
            thread.join(timeout=DEADLINE_SECONDS)
        assert not any(thread.is_alive() for thread in threads)


def held_lease(settings, client):
    """The lease on the collection, for as long as a test takes."""
    lease = Leadership(
        state_database(client, settings.mongo), tenant=settings.mongo.tenant, lease_seconds=600
    )
    assert lease.acquire()
    return lease


class Published:
    """What stands in the first topic, or in another."""

    def __init__(self, settings, topic=CHANGES):
        self._settings = settings
        self._topic = topic
        self._tenant = f"{settings.mongo.database}.{settings.mongo.collection}"

    def records(self):
        return [record for _, record in read_topics([self._name], self._settings.kafka)]

    @property
    def _name(self):
        return topic_name(self._topic, self._settings.kafka)

    def events(self):
        return [
            decode_event(record.key, record.value, record.headers, tenant=self._tenant)
            for record in self.records()
        ]

    def of(self, document_id):
        """Return what was published about a document, in order: an origin, or "delete"."""
        found = [event for event in self.events() if event.document_id == document_id]
        return ["delete" if isinstance(e, DocumentDeleted) else e.origin.value for e in found]

    def ids(self):
        return {document_id_of(record.key) for record in self.records()}

    def wait_for(self, document_id, expected):
        def is_there():
            return self.of(document_id)[-len(expected) :] == expected

        wait_until(is_there, doing=f"{expected} of {document_id}")


@pytest.fixture
def published(settings):
    return Published(settings)


@pytest.fixture
def database(settings):
    """The state database of a pipeline of its own; no broker is needed for it."""
    with connect(settings.mongo) as connected:
        yield state_database(connected, settings.mongo)


@pytest.fixture
def registry(database):
    """The model versions in it."""
    return Registry(database)
