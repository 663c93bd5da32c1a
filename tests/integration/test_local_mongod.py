import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from pymongo import MongoClient

from streams.errors import SettingsError, StoreUnavailable
from streams.local.mongod import Mongod, find_mongod
from streams.settings import LocalSettings
from tests.ports import free_port

Make = Callable[[int], Mongod]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Make servers on the same data; all are ended afterwards."""
    made: list[Mongod] = []
    binary = find_mongod(LocalSettings())

    def make_one(port: int) -> Mongod:
        made.append(Mongod(binary, data=tmp_path / "data", log=tmp_path / "mongod.log", port=port))
        return made[-1]

    yield make_one
    for mongod in made:
        mongod.kill()


def test_a_started_mongod_takes_majority_writes_and_has_change_streams(make: Make) -> None:
    mongod = make(free_port())
    mongod.start()
    with MongoClient(mongod.uri) as client, client.db.things.watch() as stream:
        client.db.things.insert_one({"_id": 1})
        assert next(stream)["documentKey"] == {"_id": 1}


def test_data_survive_a_restart_on_another_port(make: Make) -> None:
    first = make(free_port())
    first.start()
    with MongoClient(first.uri, w="majority") as client:
        client.db.things.insert_one({"_id": "kept"})
    first.stop()
    assert not first.is_alive()

    second = make(free_port())
    assert second.port != first.port
    second.start()
    with MongoClient(second.uri, w="majority") as client:
        assert client.db.things.find_one() == {"_id": "kept"}
        client.db.things.insert_one({"_id": "new"})


def test_data_survive_sigkill_and_a_restart_on_the_same_port(make: Make) -> None:
    mongod = make(free_port())
    mongod.start()
    with MongoClient(mongod.uri, w="majority") as client:
        client.db.things.insert_one({"_id": "kept"})
        mongod.kill()
        mongod.start()
        assert client.db.things.find_one() == {"_id": "kept"}


def test_stop_leaves_no_process(make: Make) -> None:
    mongod = make(free_port())
    mongod.start()
    pid = mongod.pid
    assert pid is not None
    mongod.stop()
    assert not psutil.pid_exists(pid)


def test_a_taken_port_is_named(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(StoreUnavailable, match=f"port {port} is taken"):
            make(port).start()


def test_a_mongod_that_ends_says_why_in_one_line(tmp_path: Path, make: Make) -> None:
    """Fails when its log is printed."""
    first = make(free_port())
    first.start()
    second = make(free_port())  # on the same data
    with pytest.raises(
        StoreUnavailable, match=r"ended with code.*DBPathInUse: .*\(log: "
    ) as caught:
        second.start()
    message = str(caught.value)
    assert message.endswith(f"(log: {tmp_path / 'mongod.log'})")
    assert "\n" not in message
    assert '"s":"E"' not in message
    assert not second.is_alive()


def test_a_missing_binary_of_the_settings_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"CAPTIONSTREAM_LOCAL__MONGOD.*nowhere"):
        find_mongod(LocalSettings(mongod=str(tmp_path / "nowhere")))


def test_without_any_binary_the_remedies_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("streams.local.programs._in_wheel", lambda *_: None)
    with pytest.raises(SettingsError, match=r"captionstream\[local\].*--mongo-uri"):
        find_mongod(LocalSettings())
