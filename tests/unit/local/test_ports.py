import json
import socket
from pathlib import Path

import pytest
from pydantic import ValidationError

from streams.errors import SettingsError
from streams.local.ports import PortBook, free_port, is_free
from streams.settings import LocalSettings

PORTS = LocalSettings().port_range


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", free_port(PORTS))) as server:
        assert server.getsockname()[1] > 0


def test_only_ports_of_the_range_are_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        with pytest.raises(SettingsError, match="CAPTIONSTREAM_LOCAL__PORTS"):
            free_port(range(taken, taken + 1))


@pytest.mark.parametrize("ports", ["80-90", "5000-4000", "60000-70000", "5000"])
def test_range_that_is_none_is_refused(ports: str) -> None:
    with pytest.raises(ValidationError, match="ports"):
        LocalSettings(ports=ports)


def test_a_book_remembers_ports_between_starts(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = PortBook(path, PORTS)
    ports = {name: first.port(name) for name in ("mongod", "broker", "sink")}
    assert len(set(ports.values())) == 3
    second = PortBook(path, PORTS)
    assert {name: second.port(name) for name in ports} == ports


def test_a_remembered_port_that_was_taken_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        path.write_text(json.dumps({"mongod": taken}))
        assert PortBook(path, PORTS).port("mongod") != taken


@pytest.mark.parametrize("content", [b"{not json", b"\xff"])
def test_a_damaged_book_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """Fails with `JSONDecodeError` in `PortBook`: bytes that are no text."""
    path = tmp_path / "ports.json"
    path.write_bytes(content)
    assert PortBook(path, PORTS).port("mongod") > 0


def test_a_book_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Fails with `FileNotFoundError` in `PortBook`, and without `except` in `_write`."""
    book = PortBook(tmp_path, PORTS)
    with pytest.raises(SettingsError, match=r"cannot remember ports: .*another --data-dir"):
        book.port("mongod")
