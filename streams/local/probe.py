"""Asks the processes of a stack how they are, from a thread. Decides nothing."""

import http.client
import json
import time
from dataclasses import dataclass
from typing import Final

from streams.following import Follower

_PAUSE_SECONDS: Final = 0.3
_TIMEOUT_SECONDS: Final = 3.0
_OK: Final = 200
#: Of an answer, so much is read.
_MOST_BYTES: Final = 4096


@dataclass(kw_only=True, slots=True)
class Health:
    """What one run of a process has answered so far. Times are of the monotonic clock.

    Attributes:
        host: Where it serves.
        port: Where it serves.
        started_at: When it was started.
        answered_at: When it answered for the first time, in whatever way.
        healthy_at: When /healthz was last 200.
        is_ready: Whether /readyz was 200 when it was last asked.
        reason: Why it was not; "" when it was, or said nothing.
        reason_since: Since when it gives that reason.
    """

    host: str
    port: int
    started_at: float
    answered_at: float | None = None
    healthy_at: float | None = None
    is_ready: bool = False
    reason: str = ""
    reason_since: float = 0.0

    def unhealthy_since(self) -> float | None:
        """Return since when it has not been healthy; None before its first answer."""
        return self.answered_at if self.healthy_at is None else self.healthy_at


class Prober:
    """Keeps the `Health` of every watched process up to date until it is closed."""

    def __init__(self) -> None:
        self._watched: dict[str, Health] = {}
        self._follower = Follower(self._ask_all, name="health", seconds=_PAUSE_SECONDS)

    def start(self) -> None:
        """Begin to ask."""
        self._follower.start()

    def close(self) -> None:
        """Stop asking, if it ever began."""
        self._watched.clear()
        self._follower.stop()

    def watch(self, name: str, host: str, port: int) -> Health:
        """Forget what an earlier run of this process answered and watch a new one."""
        health = Health(host=host, port=port, started_at=time.monotonic())
        self._watched[name] = health
        return health

    def forget(self, name: str) -> None:
        """Ask this process no more."""
        self._watched.pop(name, None)

    def _ask_all(self) -> None:
        for name in list(self._watched):
            if (health := self._watched.get(name)) is not None:
                _ask(health)


def _ask(health: Health) -> None:
    status, _ = _answer(health, "/healthz")
    if status is None:
        health.is_ready = False
        return
    now = time.monotonic()
    if status == _OK:
        health.healthy_at = now
    if health.answered_at is None:
        health.answered_at = now
    readiness, reason = _answer(health, "/readyz")
    health.is_ready = status == readiness == _OK
    reason = "" if health.is_ready else reason
    if reason != health.reason:
        health.reason, health.reason_since = reason, now


def _answer(health: Health, path: str) -> tuple[int | None, str]:
    """Return the HTTP status, None without an answer, and the reason that is given for it.

    No proxy of the environment is asked.
    """
    connection = http.client.HTTPConnection(health.host, health.port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, _reason(response.read(_MOST_BYTES))
    except (OSError, http.client.HTTPException):
        return None, ""
    finally:
        connection.close()


def _reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["reason"])
    except (ValueError, KeyError, TypeError):
        return ""
