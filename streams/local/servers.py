"""The database and the broker of a stack: embedded ones, or addresses that were given."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pydantic import SecretStr
from pymongo import MongoClient

from streams.backoff import Backoff
from streams.capture.copies import CopyRequests
from streams.contract.pipeline import Pipeline
from streams.errors import SettingsError, Unavailable
from streams.kafka.topics import create_topics, read_topic_states, warning_of_copies
from streams.local.broker import Broker, find_broker
from streams.local.mongod import Mongod, find_mongod
from streams.local.ports import PortBook
from streams.local.stack import BROKER, MONGOD
from streams.mongo.client import Document, connect, mongo_errors, state_database
from streams.mongo.declarations import Declarations
from streams.mongo.store import DocumentStore
from streams.settings import MongoSettings, Settings

_ASK_TIMEOUT_SECONDS: Final = 3.0
#: The embedded broker looks for new records twice in a fetch's wait.
_FETCH_WAIT_SECONDS: Final = 0.1


class Servers:
    """The two servers. Starting one again keeps its address."""

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        mongo_uri: str | None,
        kafka: str | None,
        say: Callable[[str], None],
    ) -> None:
        """Find programs and ports; nothing is started.

        Args:
            settings: Where the programs are, names of databases and topics.
            directory: Data directory of the stack.
            mongo_uri: Replica set to use; None for an embedded mongod.
            kafka: Broker to use, host:port; None for an embedded one.
            say: Takes lines for the user.

        Raises:
            SettingsError: A program is missing.
        """
        ports = PortBook(directory / "ports.json", settings.local.port_range)
        logs = directory / "logs"
        self._say = say
        self.mongod: Mongod | None = None
        self.broker: Broker | None = None
        mongod = find_mongod(settings.local) if mongo_uri is None else None
        tansu = find_broker(settings.local) if kafka is None else None
        if mongod is not None:
            self.mongod = Mongod(
                mongod,
                data=directory / "mongod",
                log=logs / "mongod.log",
                port=ports.port("mongod"),
            )
            mongo_uri = self.mongod.uri
        if tansu is not None:
            self.broker = Broker(
                tansu, directory=directory, log=logs / "broker.log", port=ports.port("broker")
            )
            kafka = self.broker.bootstrap_servers
        uri = {"uri": SecretStr(mongo_uri or "")}
        mongo = settings.mongo if self.mongod is None else settings.mongo.without_security()
        broker = settings.kafka if self.broker is None else settings.kafka.without_security()
        address: dict[str, object] = {"bootstrap_servers": kafka}
        if self.broker is not None:
            address["fetch_wait_seconds"] = min(_FETCH_WAIT_SECONDS, broker.fetch_wait_seconds)
        self.settings = settings.model_copy(
            update={
                "mongo": mongo.model_copy(update=uri),
                "kafka": broker.model_copy(update=address),
            }
        )

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of the embedded servers."""
        servers = {MONGOD: self.mongod, BROKER: self.broker}
        return {name: s.pid for name, s in servers.items() if s is not None and s.pid is not None}

    def start(self) -> None:
        """Start what is embedded, check what was given, create the topics.

        Raises:
            SettingsError: The given MongoDB is no replica set.
            StoreUnavailable: MongoDB does not answer.
            StoreRefuses: Documents of the collection cannot get outputs.
            BrokerUnavailable: The broker does not answer.
        """
        self.start_mongod()
        is_first = self._check_mongo()
        self.start_broker()
        if self.broker is not None and not is_first:
            # An embedded broker forgets: what was under way when it last ended must be repeated.
            self.request_copy()

    def start_mongod(self) -> None:
        """Start the embedded mongod, if there is one, and wait until it takes writes."""
        if self.mongod is not None:
            self._say("starting mongod ...")
            self.mongod.start()

    def start_broker(self) -> None:
        """Start the embedded broker, if there is one, and create the topics."""
        if self.broker is not None:
            self._say("starting broker ...")
            self.broker.start()
        self.create_topics(self.read_pipeline())

    def create_topics(self, pipeline: Pipeline) -> None:
        """Create the topics of a pipeline that are missing.

        Raises:
            BrokerUnavailable: The broker does not answer.
        """
        create_topics(self.settings.kafka, pipeline)
        if self.broker is None and (
            warning := warning_of_copies(read_topic_states(self.settings.kafka, pipeline))
        ):
            self._say(warning)

    def stop(self) -> None:
        """End the broker, then mongod."""
        if self.broker is not None and self.broker.is_alive():
            self._say("stopping broker ...")
            self.broker.stop()
        if self.mongod is not None and self.mongod.is_alive():
            self._say("stopping mongod ...")
            self.mongod.stop()

    def request_copy(self) -> None:
        """Ask the publisher to publish every document again.

        Raises:
            StoreUnavailable: MongoDB does not answer.
        """
        limits = {"timeout_seconds": _ASK_TIMEOUT_SECONDS}
        mongo = self.settings.mongo.model_copy(update=limits)
        with connect(mongo) as client:
            CopyRequests(state_database(client, mongo)).ask()

    def read_pipeline(self) -> Pipeline:
        """Return the pipeline that is declared now.

        Raises:
            InvalidPipeline: It is of another release.
            StoreUnavailable: MongoDB does not answer.
        """
        mongo = self.settings.mongo
        with connect(mongo) as client:
            return _declared(client, mongo)

    def _check_mongo(self) -> bool:
        """Return whether nothing of ours is in the database yet.

        Raises:
            SettingsError: MongoDB is not a replica set.
            StoreUnavailable: It does not answer.
            StoreRefuses: Documents of the collection cannot get outputs.
        """
        mongo = self.settings.mongo
        with connect(mongo) as client, mongo_errors("looking for the replica set"):
            hello = client.admin.command("hello")
            if "setName" not in hello and hello.get("msg") != "isdbgrid":
                msg = (
                    "the given MongoDB is a single server without change streams: start it with"
                    " --replSet and run rs.initiate(), or leave --mongo-uri away"
                )
                raise SettingsError(msg)
            DocumentStore(client, mongo, _declared(client, mongo)).check()
            return not state_database(client, mongo).list_collection_names()


def _declared(client: MongoClient[Document], mongo: MongoSettings) -> Pipeline:
    return Declarations(state_database(client, mongo), mongo.tenant).read().pipeline


def insist(
    action: Callable[[], None],
    *,
    is_stopping: Callable[[], bool],
    backoff: Backoff,
    say: Callable[[str], None],
) -> bool:
    """Repeat `action`, ever more slowly, until it succeeds; return False when asked to stop."""
    attempt = 0
    while not is_stopping():
        try:
            action()
        except Unavailable as exc:
            attempt += 1
            pause = backoff.pause(attempt)
            say(f"{exc}; next attempt in {pause:g} s")
        else:
            return True
        until = time.monotonic() + pause
        while time.monotonic() < until and not is_stopping():
            time.sleep(0.05)
    return False
