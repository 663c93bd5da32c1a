"""A process that only answers /healthz and /readyz; files in its directory make it misbehave.

`NAME.sick`: /healthz is 503. `NAME.unready`: /readyz is 503. `NAME.stubborn`: SIGTERM is ignored.
`NAME.refuse`: it ends with exit code 2 at once. What it does is appended to `events.log`.
"""

import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = sys.argv[1]


def is_told(what: str) -> bool:
    return Path(f"{NAME}.{what}").exists()


def note(event: str) -> None:
    with Path("events.log").open("a") as file:
        file.write(f"{NAME} {event}\n")


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        is_bad = is_told("sick" if self.path == "/healthz" else "unready")
        self.send_response(503 if is_bad else 200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


def end(*_: object) -> None:
    if not is_told("stubborn"):
        note("ends")
        os._exit(0)


if is_told("refuse"):
    print(f"captionstream: {NAME} refuses its settings", file=sys.stderr)
    sys.exit(2)
signal.signal(signal.SIGTERM, end)
server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["CAPTIONSTREAM_HTTP__PORT"])), Handler)
note(f"starts with {os.environ['CAPTIONSTREAM_KAFKA__BOOTSTRAP_SERVERS']}")
server.serve_forever()
