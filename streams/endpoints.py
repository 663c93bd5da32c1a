"""HTTP endpoints of every process: /metrics, /healthz, /readyz.

Served from threads of their own, so that a busy process still answers. `/healthz` is 503 when the
process makes no progress although there is work (restart it); `/readyz` is 503 while it cannot work
yet or a neighbour is away (wait).
"""

import json
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from streams.errors import SettingsError
from streams.settings import HttpSettings

#: Requests that are answered at once; a scraper and a supervisor need two.
_MOST_CONNECTIONS: Final = 32
#: How often the server looks whether it is to end.
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Answer of a health question: whether all is well, and why (not)."""

    is_ok: bool
    reason: str = "ok"


@dataclass(kw_only=True, slots=True)
class Answers:
    """Who answers the questions for health and readiness: a process replaces it as it comes up."""

    health: Callable[[], Check]
    readiness: Callable[[], Check]


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """A running HTTP server.

    Attributes:
        url: Base URL for others, without a slash at the end; empty if none is known to lead here.
        close: Stops it.
    """

    url: str
    close: Callable[[], None]


class _QuietHandler(WSGIRequestHandler):
    """Logs nothing: a scrape every few seconds is no news."""

    #: Silence of a client for so long, in seconds, ends its connection.
    timeout = 10.0

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _BoundedServer(ThreadingWSGIServer):
    """A thread for each connection, and never too many: the oldest connection makes room.

    So clients that send slowly, or nothing, can neither use up threads nor shut others out.
    """

    request_queue_size = 64

    def __init__(self, *args: Any, **options: Any) -> None:
        self._open: dict[socket.socket, None] = {}  # oldest first
        self._guard = threading.Lock()
        super().__init__(*args, **options)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open[request] = None
            oldest = next(iter(self._open)) if len(self._open) > _MOST_CONNECTIONS else None
        if oldest is not None:
            with suppress(OSError):  # its thread, which reads it, ends
                oldest.shutdown(socket.SHUT_RDWR)
            self._forget(oldest)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._forget(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: whoever sends garbage, or goes away, writes no traceback into the log."""

    def _forget(self, request: socket.socket) -> None:
        with self._guard:
            self._open.pop(request, None)


def serve_endpoints(settings: HttpSettings, answers: Answers) -> Endpoints:
    """Start serving and return at once.

    Args:
        settings: Address to bind; port 0 takes a free one.
        answers: Asked for /healthz and /readyz.

    Raises:
        SettingsError: The address cannot be bound.
    """
    metrics = make_wsgi_app()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            start_response("405 Method Not Allowed", [("Allow", "GET, HEAD")])
            return []
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            exposition: Iterable[bytes] = metrics(environ, start_response)
            return exposition
        questions = {"/healthz": answers.health, "/readyz": answers.readiness}
        if path not in questions:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /metrics, /healthz or /readyz\n"]
        check = questions[path]()
        status = "200 OK" if check.is_ok else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"ok": check.is_ok, "reason": check.reason}).encode() + b"\n"]

    try:
        server = make_server(
            settings.host, settings.port, application, _BoundedServer, _QuietHandler
        )
    except OSError as exc:
        msg = (
            f"cannot serve metrics on {settings.host}:{settings.port} ({exc});"
            " set CAPTIONSTREAM_HTTP__PORT to a free port, or to 0"
        )
        raise SettingsError(msg) from exc
    threading.Thread(
        target=server.serve_forever, args=(_POLL_SECONDS,), name="http", daemon=True
    ).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    bound, port = server.server_address[:2]
    host = settings.advertised_host or reachable_host(settings.host, str(bound))
    return Endpoints(url=base_url(host, port) if host else "", close=close)


def reachable_host(host: str, bound: str) -> str:
    """Return where others find a server: its host, or an address of this machine if it binds all.

    Args:
        host: What was to be bound.
        bound: The address that was bound.

    Returns:
        A host or an address; empty if it binds all addresses and the machine knows none of its own.
    """
    if not ip_address(bound).is_unspecified:
        return host
    with suppress(OSError):
        for *_, address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET):
            if not ip_address(address[0]).is_loopback and _is_ours(str(address[0])):
                return str(address[0])
    return ""


def base_url(host: str, port: int) -> str:
    """Return the URL of a host and a port."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _is_ours(address: str) -> bool:
    """Whether this machine has an address: a name server may know its name by another's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True
