"""The endpoints answer whatever else is sent to them."""

import socket
import threading
from contextlib import ExitStack

import pytest

from streams.endpoints import Answers, Check, serve_endpoints
from streams.settings import HttpSettings
from tests.integration.test_endpoints import get
from tests.waiting import wait_until

HOSTILE = {
    "garbage": bytes(range(256)) * 64,
    "nothing": b"",
    "zeros": b"\0" * 100_000,
    "a path of 10 MB": b"GET /" + b"a" * 10_000_000 + b" HTTP/1.1\r\n\r\n",
    "a header of 10 MB": b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 10_000_000 + b"\r\n\r\n",
    "100,000 headers": b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
    "an unknown method": b"DESTROY /healthz HTTP/1.1\r\n\r\n",
    "a body that never comes": b"POST /metrics HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
    "a negative length": b"POST /metrics HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    "an unknown version": b"GET /healthz HTTP/99.9\r\n\r\n",
    "a way out": b"GET /../../../../etc/passwd HTTP/1.0\r\n\r\n",
    "TLS": bytes.fromhex("160301020001000001fc0303") + b"\0" * 508,
}


@pytest.fixture(scope="module")
def served():
    def ok():
        return Check(is_ok=True)

    endpoints = serve_endpoints(HttpSettings(), Answers(health=ok, readiness=ok))
    yield endpoints
    endpoints.close()


def connection(endpoints):
    host, _, port = endpoints.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=20)


def answer(endpoints, data):
    with connection(endpoints) as client:
        try:
            client.sendall(data)
            client.shutdown(socket.SHUT_WR)
            return client.recv(65536)
        except OSError:  # refused before it was all sent
            return b""


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_request_is_refused_and_the_next_is_answered(served, data, capfd):
    """Fails without the check of the method in `application`."""
    assert b"200 OK" not in answer(served, data)
    assert get(f"{served.url}/healthz")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_clients_that_send_nothing_shut_nobody_out(served):
    """Fails without the limit in `process_request`: a thread for each of them."""
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(300):
            client = stack.enter_context(connection(served))
            client.sendall(b"GET /healthz HTTP/1.1\r\nX:")
            assert threading.active_count() - before < 100
        assert get(f"{served.url}/healthz")[0] == 200
        wait_until(lambda: threading.active_count() - before <= 33, doing="threads to end")


def test_it_is_reached_from_this_machine_only(served):
    assert HttpSettings().host == "127.0.0.1"
    assert served.url.startswith("http://127.0.0.1:")
