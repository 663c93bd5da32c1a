"""HTTP endpoints of every process: /metrics, /healthz, /readyz.

Served from threads of their own, so that a busy process still answers. `/healthz` is 503 when the
process makes no progress although there is work (restart it); `/readyz` is 503 while it cannot work
yet or a neighbour is away (wait).
"""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

from prometheus_client import make_wsgi_app
from prometheus_client.exposition import ThreadingWSGIServer

from streams.errors import SettingsError
from streams.settings import HttpSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """Answer of a health question: whether all is well, and why (not)."""

    is_ok: bool
    reason: str = "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class Endpoints:
    """A running HTTP server.

    Attributes:
        url: Base URL, without a slash at the end.
        close: Stops it.
    """

    url: str
    close: Callable[[], None]


class _QuietHandler(WSGIRequestHandler):
    """Logs nothing: a scrape every few seconds is no news."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


def serve_endpoints(
    settings: HttpSettings, *, health: Callable[[], Check], readiness: Callable[[], Check]
) -> Endpoints:
    """Start serving and return at once.

    Args:
        settings: Address to bind; port 0 takes a free one.
        health: Asked for /healthz.
        readiness: Asked for /readyz.

    Raises:
        SettingsError: The address cannot be bound.
    """
    metrics = make_wsgi_app()

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if path == "/metrics":
            exposition: Iterable[bytes] = metrics(environ, start_response)
            return exposition
        questions = {"/healthz": health, "/readyz": readiness}
        if path not in questions:
            start_response("404 Not Found", [("Content-Type", "text/plain")])
            return [b"try /metrics, /healthz or /readyz\n"]
        check = questions[path]()
        status = "200 OK" if check.is_ok else "503 Service Unavailable"
        start_response(status, [("Content-Type", "application/json")])
        return [json.dumps({"ok": check.is_ok, "reason": check.reason}).encode() + b"\n"]

    try:
        server = make_server(
            settings.host, settings.port, application, ThreadingWSGIServer, _QuietHandler
        )
    except OSError as exc:
        msg = (
            f"cannot serve metrics on {settings.host}:{settings.port} ({exc});"
            " set CAPTIONSTREAM_HTTP__PORT to a free port, or to 0"
        )
        raise SettingsError(msg) from exc
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()

    def close() -> None:
        server.shutdown()
        server.server_close()

    return Endpoints(url=f"http://{settings.host}:{server.server_port}", close=close)
