import json
import socket
from pathlib import Path

import pytest

from streams.errors import SettingsError
from streams.local import ports
from streams.local.ports import PortBook, free_port, is_free


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not is_free(server.getsockname()[1])


def test_a_free_port_can_be_bound() -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        assert server.getsockname()[1] > 0


def test_a_book_remembers_ports_between_starts(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = PortBook(path)
    ports = {name: first.port(name) for name in ("mongod", "broker", "sink")}
    assert len(set(ports.values())) == 3
    second = PortBook(path)
    assert {name: second.port(name) for name in ports} == ports


def test_a_remembered_port_that_was_taken_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        path.write_text(json.dumps({"mongod": taken}))
        assert PortBook(path).port("mongod") != taken


@pytest.mark.parametrize("content", [b"{not json", b"\xff"])
def test_a_damaged_book_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    """Fails with `JSONDecodeError` in `PortBook`: bytes that are no text."""
    path = tmp_path / "ports.json"
    path.write_bytes(content)
    assert PortBook(path).port("mongod") > 0


def test_a_book_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """Fails with `FileNotFoundError` in `PortBook`, and without `except` in `_write`."""
    book = PortBook(tmp_path)
    with pytest.raises(SettingsError, match=r"cannot remember ports: .*another --data-dir"):
        book.port("mongod")


def test_want_of_a_free_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails with `OSError` in `free_port`."""
    monkeypatch.setattr(ports, "is_free", lambda _: False)
    with pytest.raises(SettingsError, match="no free port"):
        free_port()
