"""Real servers for tests: a private mongod and broker, or those that the environment names.

`CAPTIONSTREAM_TEST_MONGO` (connection string of a replica set) and `CAPTIONSTREAM_TEST_KAFKA`
(host:port) run the same tests against other servers.
"""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from streams.local.broker import Broker, find_broker
from streams.local.mongod import Mongod, find_mongod
from streams.settings import (
    ENVIRONMENT_PREFIX,
    KafkaSettings,
    LocalSettings,
    ModelSettings,
    MongoSettings,
    PublisherSettings,
    ReconcilerSettings,
    Settings,
    StageSettings,
)
from tests.ports import PORTS, free_port

_PORTS = LocalSettings().port_range
_SLICES = 8
_KEPT = (f"{ENVIRONMENT_PREFIX}TEST_", f"{ENVIRONMENT_PREFIX}LOCAL__")


def pytest_configure() -> None:
    """Forget settings of the developer's shell: tests say what they need."""
    for name in list(os.environ):
        if name.startswith(ENVIRONMENT_PREFIX) and not name.startswith(_KEPT):
            del os.environ[name]
    # A port is drawn some time before a server listens there: no two processes draw from the same.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % _SLICES
    first = _PORTS.start + worker * len(_PORTS) // _SLICES
    os.environ[PORTS] = f"{first}-{first + len(_PORTS) // _SLICES - 1}"


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Connection string of a replica set; the private one has `failCommand` enabled."""
    given = os.environ.get("CAPTIONSTREAM_TEST_MONGO")
    if given:
        yield given
        return
    directory = tmp_path_factory.mktemp("mongod")
    mongod = Mongod(
        find_mongod(Settings().local),
        data=directory / "data",
        log=directory / "mongod.log",
        port=free_port(),
        has_test_commands=True,
    )
    mongod.start()
    yield mongod.uri
    mongod.stop()


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a broker, host:port."""
    given = os.environ.get("CAPTIONSTREAM_TEST_KAFKA")
    if given:
        yield given
        return
    directory = tmp_path_factory.mktemp("broker")
    broker = Broker(
        find_broker(Settings().local),
        directory=directory,
        log=directory / "broker.log",
        port=free_port(),
    )
    broker.start()
    yield broker.bootstrap_servers
    broker.stop()


@pytest.fixture(scope="session")
def mongo_client(mongo_uri: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A client of the replica set."""
    with MongoClient[dict[str, Any]](mongo_uri, tz_aware=True) as client:
        yield client


@pytest.fixture
def mongo_database(mongo_client: MongoClient[dict[str, Any]]) -> Iterator[Database[dict[str, Any]]]:
    """A new database of its own; it and its state database are dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:12]}"
    yield mongo_client[name]
    for database in (name, MongoSettings(database=name).state):
        mongo_client.drop_database(database)


@pytest.fixture
def settings(mongo_uri: str, kafka: str, mongo_database: Database[dict[str, Any]]) -> Settings:
    """Settings of a pipeline of its own: own database, own topics and groups, short pauses."""
    return Settings(
        mongo=MongoSettings(
            uri=mongo_uri,  # type: ignore[arg-type]  # pydantic wraps it
            database=mongo_database.name,
        ),
        kafka=KafkaSettings(
            bootstrap_servers=kafka,
            prefix=f"t{uuid.uuid4().hex[:8]}.",
            partitions=2,
            session_timeout_seconds=6.0,
            request_timeout_seconds=10.0,
        ),
        models=ModelSettings(poll_interval_seconds=0.2),
        stage=StageSettings(backoff_initial_seconds=0.05, backoff_max_seconds=0.2),
        publisher=PublisherSettings(
            commit_interval_seconds=0.1, heartbeat_interval_seconds=1.0, lease_seconds=3.0
        ),
        reconciler=ReconcilerSettings(interval_seconds=0.5, grace_seconds=1.0),
    )
